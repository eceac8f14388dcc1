//go:build linux

package export

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/legible"
)

// parsed is a message of RFC 5424.
type parsed struct {
	Priority                         string
	Time                             time.Time
	Host, App, Process, ID, Elements string
	Params                           map[string]string
	Message                          string
}

var (
	first = regexp.MustCompile(`^<(0|[1-9][0-9]{0,2})>1 ([^ ]+) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) `)
	stamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$`)
	begin = regexp.MustCompile(`^\[([!#-<>-\\^-~]{1,32})`)
	param = regexp.MustCompile(`^ ([!#-<>-\\^-~]{1,32})="((?:[^"\\\]]|\\["\\\]])*)"`)
)

// parse reads a message as strictly as its grammar is (RFC 5424, 6).
func parse(b []byte) (p parsed, err error) {
	if !utf8.Valid(b) {
		return p, errors.New("not UTF-8")
	}
	h := first.FindStringSubmatch(string(b))
	if h == nil {
		return p, fmt.Errorf("no header: %q", b)
	}
	p = parsed{Priority: h[1], Host: h[3], App: h[4], Process: h[5], ID: h[6], Params: map[string]string{}}
	if !stamp.MatchString(h[2]) {
		return p, fmt.Errorf("no time: %q", h[2])
	}
	if p.Time, err = time.Parse(time.RFC3339Nano, h[2]); err != nil {
		return p, err
	}
	rest := string(b)[len(h[0]):]
	start := begin.FindStringSubmatch(rest)
	if start == nil {
		return p, fmt.Errorf("no structured data: %q", rest)
	}
	p.Elements, rest = start[1], rest[len(start[0]):]
	for !strings.HasPrefix(rest, "]") {
		m := param.FindStringSubmatch(rest)
		if m == nil {
			return p, fmt.Errorf("no parameter: %q", rest)
		}
		p.Params[m[1]] = strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\]`, `]`).Replace(m[2])
		rest = rest[len(m[0]):]
	}
	message, ok := strings.CutPrefix(rest, "] ")
	if !ok {
		return p, fmt.Errorf("no message: %q", rest)
	}
	p.Message = message
	text, marked := strings.CutPrefix(message, "\ufeff")
	if ascii := !strings.ContainsFunc(text, func(r rune) bool { return r > '~' }); marked == ascii {
		return p, fmt.Errorf("byte order mark %t before %q", marked, text)
	}
	p.Message = text
	return p, nil
}

var at = time.Date(2026, 11, 27, 3, 0, 0, 123456789, time.UTC)

func TestForms(t *testing.T) {
	until := at.Add(time.Hour)
	uid := uint32(1000)
	for _, tt := range []struct {
		name    string
		record  audit.Record
		journal string
		syslog  string
	}{
		{"a grant", audit.Record{ID: 7, Time: at, Door: "ssh", Event: audit.EventGranted, Source: "192.0.2.7", By: "touch", Until: &until},
			"MESSAGE=door ssh: granted 192.0.2.7 by touch\nPRIORITY=6\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=doorwardd\n" +
				"DOORWARD_BY=touch\nDOORWARD_DOOR=ssh\nDOORWARD_EVENT=granted\nDOORWARD_ID=7\nDOORWARD_SOURCE=192.0.2.7\n" +
				"DOORWARD_TIME=2026-11-27T03:00:00.123456789Z\nDOORWARD_UNTIL=2026-11-27T04:00:00.123456789Z\n",
			`<86>1 2026-11-27T03:00:00.123456Z host doorwardd 42 granted [doorward@32473 by="touch" door="ssh" event="granted" ` +
				`id="7" source="192.0.2.7" time="2026-11-27T03:00:00.123456789Z" until="2026-11-27T04:00:00.123456789Z"] ` +
				"door ssh: granted 192.0.2.7 by touch"},
		{"what strangers wrote", audit.Record{ID: 8, Time: at, Event: audit.EventError, Reason: "a\"b\\c]d\ne\x1b[31m é"},
			"MESSAGE=error: a\"b\\c]d\ufffde\ufffd[31m é\nPRIORITY=3\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=doorwardd\n" +
				"DOORWARD_EVENT=error\nDOORWARD_ID=8\nDOORWARD_REASON=a\"b\\c]d\ufffde\ufffd[31m é\nDOORWARD_TIME=2026-11-27T03:00:00.123456789Z\n",
			`<83>1 2026-11-27T03:00:00.123456Z host doorwardd 42 error [doorward@32473 event="error" id="8" ` +
				`reason="a\"b\\c\]d` + "\ufffde\ufffd" + `[31m é" time="2026-11-27T03:00:00.123456789Z"] ` +
				"\ufefferror: a\"b\\c]d\ufffde\ufffd[31m é"},
		{"an object and a list", audit.Record{Time: at, Event: audit.EventApplied,
			Operator: &audit.Operator{UID: 0, LoginUID: &uid, PID: 12},
			Config:   &audit.Config{Before: "aa", After: "ab", Salt: "ac", Changed: []string{"door.ssh.idle", "gateway.state"}}},
			"MESSAGE=applied\nPRIORITY=6\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=doorwardd\n" +
				"DOORWARD_BY_LOGIN=1000\nDOORWARD_BY_PID=12\nDOORWARD_BY_UID=0\n" +
				"DOORWARD_CONFIG_CHANGED=door.ssh.idle gateway.state\nDOORWARD_EVENT=applied\nDOORWARD_TIME=2026-11-27T03:00:00.123456789Z\n",
			`<86>1 2026-11-27T03:00:00.123456Z host doorwardd 42 applied [doorward@32473 by_login="1000" by_pid="12" by_uid="0" ` +
				`config_changed="door.ssh.idle gateway.state" event="applied" time="2026-11-27T03:00:00.123456789Z"] applied`},
	} {
		if d := cmp.Diff(tt.journal, string(journalMessage(tt.record))); d != "" {
			t.Errorf("%s, for the journal (-want +got):\n%s", tt.name, d)
		}
		got := syslogMessage(tt.record, "host", 42)
		if d := cmp.Diff(tt.syslog, string(got)); d != "" {
			t.Errorf("%s, for syslog (-want +got):\n%s", tt.name, d)
		}
		p, err := parse(got)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if want := at.Truncate(time.Microsecond); !p.Time.Equal(want) || p.Message != sentence(tt.record) {
			t.Errorf("%s: read %v and %q, want %v and %q", tt.name, p.Time, p.Message, want, sentence(tt.record))
		}
		for _, f := range fields(tt.record) {
			if p.Params[f.name] != f.value {
				t.Errorf("%s: %s is read as %q, want %q", tt.name, f.name, p.Params[f.name], f.value)
			}
		}
	}
}

// However long a record is, what is sent is short enough for receivers, and valid text.
func TestLongRecordsAreCut(t *testing.T) {
	long := audit.Record{ID: 1, Time: at, Event: audit.EventError, Reason: strings.Repeat("é]", 20000)}
	got := syslogMessage(long, strings.Repeat("h", 300), 42)
	p, err := parse(got)
	if err != nil || len(p.Host) != 255 || len(got) > mostSyslog || !strings.HasSuffix(p.Params["reason"], "…") || !strings.HasSuffix(p.Message, "…") {
		t.Errorf("a long record is %d bytes with a host of %d: %v", len(got), len(p.Host), err)
	}
	for line := range strings.Lines(string(journalMessage(long))) {
		if _, value, _ := strings.Cut(line, "="); len(value) > 8<<10+1 || !utf8.ValidString(value) {
			t.Errorf("a field of %d bytes, want at most %d", len(value), 8<<10)
		}
	}
}

// Whatever a record contains, what is sent can be parsed, and has all of the record that
// can be printed.
func TestAnyRecordCanBeRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune("a ]\"\\=\n\x00\u2028é"))),
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		r := audit.Record{ID: rapid.Uint64().Draw(t, "id"), Time: at, Door: text.Draw(t, "door"), Event: text.Draw(t, "event"),
			Source: text.Draw(t, "source"), By: text.Draw(t, "by"), Reason: text.Draw(t, "reason")}
		p, err := parse(syslogMessage(r, text.Draw(t, "host"), 1))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(journalMessage(r)), "\n"), "\n")
		all := fields(r)
		if len(p.Params) != len(all) || len(lines) != 4+len(all) {
			t.Fatalf("of %d fields there are %d parameters and %d lines", len(all), len(p.Params), len(lines)-4)
		}
		for i, f := range all {
			if want := legible.Clip(f.value, mostParam); p.Params[f.name] != want || legible.Text(f.value) != f.value {
				t.Errorf("%s is read as %q, want %q", f.name, p.Params[f.name], want)
			}
			if want := "DOORWARD_" + strings.ToUpper(f.name) + "=" + legible.Clip(f.value, 8<<10); lines[4+i] != want {
				t.Errorf("the journal gets %q, want %q", lines[4+i], want)
			}
		}
	})
}

// The names of hosts and events may be anything; the header is plain ASCII all the same.
func TestHeaderIsPlain(t *testing.T) {
	r := audit.Record{Time: at, Event: "läuft\nab und noch viel länger als erlaubt ist"}
	p, err := parse(syslogMessage(r, "höst 1\n", 1))
	if err != nil || p.Host != "h?st?1?" || p.ID != "l?uft?ab?und?noch?viel?l?nger?al" {
		t.Errorf("host %q, message %q, %v", p.Host, p.ID, err)
	}
	if p, err := parse(syslogMessage(audit.Record{Time: at}, "", 1)); err != nil || p.Host != "-" || p.ID != "-" {
		t.Errorf("without a name and an event: host %q, message %q, %v", p.Host, p.ID, err)
	}
}

// All keys of a record are names of fields and parameters.
func TestKeysAreNames(t *testing.T) {
	r := audit.Record{ID: 1, Time: at}
	fill(reflect.ValueOf(&r).Elem())
	all := fields(r)
	if len(all) < 10 {
		t.Errorf("a record with every key has %d fields, want at least 10", len(all))
	}
	for _, f := range all {
		if !regexp.MustCompile(`^[a-z][a-z_]{0,31}$`).MatchString(f.name) {
			t.Errorf("%q is not a valid name", f.name)
		}
	}
}

// fill gives every field of a struct a value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(at))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Uint64, reflect.Uint32, reflect.Uint16:
		v.SetUint(1)
	case reflect.Int32:
		v.SetInt(1)
	}
}
