//go:build linux

package presence

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

// programs are the files of testdata/logs: what real programs wrote about two logins of
// root through a real sshd, or about one where sshd itself wrote the file. The first line
// of each says which program in which version wrote it, and how it was configured.
var programs = map[string]struct {
	last string // the last login's time; "" for none that counts
	odd  string // a part of the only warning; "" for none
}{
	"rsyslog-5424":     {last: "2026-11-26T21:24:56.843222Z"},
	"rsyslog-file":     {last: "2026-11-26T21:24:56.843222Z"},
	"rsyslog-trad":     {last: "2026-11-26T21:24:56Z"},
	"busybox-plain":    {last: "2026-11-26T21:24:59Z"},
	"busybox-authpriv": {last: "2026-11-26T21:25:11Z"},
	"busybox-S":        {odd: "name no host"},
	"inetutils":        {last: "2026-11-26T21:25:13Z"},
	"sshd-E":           {odd: "have no stamp"},
	"sshd-De":          {odd: "have no stamp"},
	"syslogng-default": {last: "2026-11-26T21:25:18Z"},
	"syslogng-frac":    {last: "2026-11-26T21:25:18Z"},
	"syslogng-iso":     {last: "2026-11-26T21:25:18Z"},
	"syslogng-full":    {odd: "stamp is in no known form"},
	"syslogng-unix":    {odd: "stamp is in no known form"},
	"syslogng-5424":    {last: "2026-11-26T21:25:18Z"},
}

func TestRealPrograms(t *testing.T) {
	found, err := os.ReadDir("testdata/logs")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != len(programs) {
		t.Errorf("testdata/logs has %d files, want %d", len(found), len(programs))
	}
	for name, want := range programs {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata/logs", name))
			if err != nil {
				t.Fatal(err)
			}
			d := newLogDir(t)
			d.now = time.Date(2026, 11, 26, 22, 0, 0, 0, time.UTC)
			head, text, _ := bytes.Cut(text, []byte("\n"))
			d.write("log", string(text))
			l := d.log("log")
			got, ok, err := l.Last(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w := l.Warnings()
			switch {
			case want.last == "" && ok:
				t.Errorf("%s: %+v, want no login", head, got)
			case want.last == "" && (len(w) != 1 || !strings.Contains(w[0], want.odd)):
				t.Errorf("%s: warnings %q, want one with %q", head, w, want.odd)
			case want.last != "" && (!ok || got.Time.Format(time.RFC3339Nano) != want.last ||
				got.User != "root" || got.Method != "publickey" || got.Source != netip.MustParseAddr("192.0.2.7")):
				t.Errorf("%s: %+v (%v), want root's from 192.0.2.7 at %s", head, got, ok, want.last)
			case want.last != "" && len(w) != 0:
				t.Errorf("%s: warnings %q, want none", head, w)
			}
		})
	}
}

// unknownHeaders are logins with headers that cannot be distinguished from those of other
// programs, or that do not have the time, and a part of the warning about each.
var unknownHeaders = map[string]struct{ line, odd string }{
	"no stamp, no program":             {accepted, "have no stamp"},
	"sshd -E":                          {accepted + "\r", "have no stamp"},
	"no host":                          {"Nov 24 07:50:01 sshd[1]: " + accepted, "name no host"},
	"no host, ISO":                     {"2026-11-24T07:50:01Z sshd-session[1]: " + accepted, "name no host"},
	"no number":                        {"Nov 24 07:50:01 gate sshd: " + accepted, "no process number"},
	"no number, Busybox":               {"Nov 24 07:50:01 gate auth.info sshd-session: " + accepted, "no process number"},
	"no number, no host":               {"Nov 24 07:50:01 sshd: " + accepted, "no process number"},
	"no number, RFC 5424":              {"<38>1 2026-11-24T07:50:01Z gate sshd - - -  " + accepted, "no process number"},
	"no number, unknown stamp":         {"2026/11/24 07:50:01 sshd: " + accepted, "no process number"},
	"metalog":                          {"Nov 24 07:50:01 [sshd] " + accepted, "no process number"},
	"metalog, OpenSSH 9.8":             {"Nov 24 07:50:01 [sshd-session] " + accepted, "no process number"},
	"docker, sshd -D -e":               {`{"log":"` + accepted + `\r\n","stream":"stderr","time":"2026-11-24T07:50:01.123456789Z"}`, "container"},
	"docker, a syslog daemon's output": {`{"log":"Nov 24 07:50:01 gate sshd[1]: ` + accepted + `\n","stream":"stdout","time":"2026-11-24T07:50:01.123456789Z"}`, "container"},
	"docker, spaces":                   {`{ "stream": "stderr", "log": "` + accepted + `\n" }`, "container"},
	"containerd":                       {"2026-11-24T07:50:01.123456789Z stderr F " + accepted, "container"},
	"no stamp, RFC 5424":               {"<38>1 - gate sshd 32 - -  " + accepted, "stamp is in no known form"},
	"a priority and a stamp":           {"<38>Nov 24 07:50:01 gate sshd[1]: " + accepted, "stamp is in no known form"},
	"no stamp":                         {"gate sshd[1]: " + accepted, "stamp is in no known form"},
	"program only":                     {"sshd[1]: " + accepted, "stamp is in no known form"},
	"cut by sshd":                      {"Nov 24 07:50:01 gate sshd[1]: " + long(500), "cut"},
}

// long returns a login's message of n bytes, as if sshd had cut it.
func long(n int) string {
	s := "Accepted publickey for root from 203.0.113.1 port 22 ssh2: ED25519-CERT SHA256:abc ID "
	return s + strings.Repeat("x", n-len(s))
}

// There is one warning of each kind for a file, however many lines there are, and it does
// not change with the next line.
func TestUnknownHeadersAreSaid(t *testing.T) {
	for name, test := range unknownHeaders {
		t.Run(name, func(t *testing.T) {
			d := newLogDir(t)
			d.write("auth.log", in("06:00", "alice")+test.line+"\n"+test.line+"\n")
			l := d.log("auth.log")
			last(t, l, "alice", "06:00")
			said := l.Warnings()
			if len(said) != 1 || !strings.HasPrefix(said[0], d.path("auth.log")+": ") ||
				!strings.Contains(said[0], test.odd) || !strings.Contains(said[0], "not count") {
				t.Fatalf("%q: warnings %q, want one with %q", test.line, said, test.odd)
			}
			if byStamp := strings.Contains(test.odd, "stamp is"); strings.Contains(said[0], "root") != byStamp {
				t.Errorf("%q: warnings %q: want a line shown if its header is certainly sshd's, and no other", test.line, said)
			}
			d.write("auth.log", strings.Replace(test.line, "root", "toor", 1)+"\n"+in("07:00", "carol"))
			last(t, l, "carol", "07:00")
			if again := l.Warnings(); len(again) != 1 || again[0] != said[0] {
				t.Errorf("after another such line: warnings %q, want the same %q", again, said)
			}
		})
	}
}

// Lines that strangers can bring into a log, and other lines of sshd, are neither logins nor
// reasons for a warning.
func TestForgedLinesAreNotWarnedAbout(t *testing.T) {
	d := newLogDir(t)
	for _, line := range forgedLines {
		d.write("auth.log", line+"\n")
	}
	l := d.log("auth.log")
	last(t, l, "", "")
	quiet(t, l)
}

// If there are warnings of all kinds, they always have the same order.
func TestWarningsAreInOrder(t *testing.T) {
	d := newLogDir(t)
	for _, test := range unknownHeaders {
		d.write("auth.log", test.line+"\n")
	}
	l := d.log("auth.log")
	last(t, l, "", "")
	first := l.Warnings()
	if len(first) != 6 {
		t.Errorf("%d warnings, want one for each of 6 kinds: %q", len(first), first)
	}
	for range 5 {
		last(t, l, "", "")
		if again := l.Warnings(); strings.Join(again, "\n") != strings.Join(first, "\n") {
			t.Fatalf("warnings %q, want %q", again, first)
		}
	}
}

// A login over loopback did not come in through a door, and does not hide another login.
func TestLoginsOverLoopbackDoNotCount(t *testing.T) {
	d := newLogDir(t)
	for _, source := range []string{"127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"} {
		d.write("auth.log", "Nov 24 07:50:01 gate sshd[9]: Accepted password for root from "+source+" port 22 ssh2\n")
		if got, ok := entryLogin(`{` + realtime + trusted + `"MESSAGE":"Accepted password for root from ` + source + ` port 22 ssh2"}`); ok {
			t.Errorf("%s in the journal: %+v, want no login", source, got)
		}
	}
	l := d.log("auth.log")
	last(t, l, "", "")
	quiet(t, l)
	d.write("auth.log", in("07:00", "alice"))
	last(t, l, "alice", "07:00")
}

// The cost of a line depends only on its length, whatever is in it: its parts are not
// copied, so that four times the text does not take more allocations.
func TestALineCostsItsLength(t *testing.T) {
	header := "Nov 24 07:50:01 gate sshd[1]: "
	for name, line := range map[string]func(n int) string{
		"sources": func(n int) string {
			return header + "Accepted a for x" + strings.Repeat(" from 192.0.2.7 port 1 ssh2 ", n)
		},
		"no sources": func(n int) string { return header + "Accepted a for x" + strings.Repeat(" from from", n) },
		"words":      func(n int) string { return strings.Repeat("x ", n) + "sshd[1]: " + accepted },
		"structured data": func(n int) string {
			return "<38>1 2026-11-24T07:50:01Z g sshd 1 - [a" + strings.Repeat(` b="\\\]"`, n) + "] " + accepted
		},
		"elements": func(n int) string {
			return "<38>1 2026-11-24T07:50:01Z g sshd 1 - " + strings.Repeat(`[a b="c"]`, n) + " " + accepted
		},
		"names": func(n int) string {
			return "<38>1 2026-11-24T07:50:01Z g sshd 1 - [" + strings.Repeat("a ", n) + accepted
		},
		"a container's": func(n int) string { return `{"log":"` + strings.Repeat("x ", n) + accepted + `"}` },
	} {
		cost := func(n int) float64 {
			text := line(n)
			return testing.AllocsPerRun(10, func() { parseLine(text, eight) })
		}
		if few, many := cost(50), cost(200); many > few+1 {
			t.Errorf("%s: %v allocations for 50, %v for 200", name, few, many)
		}
	}
}

// A login from one of the machine's own addresses does not count either.
func TestLoginsOfTheMachineItselfDoNotCount(t *testing.T) {
	n, _ := nstest.Gate(t)
	j := newFakeJournal(t)
	j.write("auth.log", in("07:40", "alice")+strings.ReplaceAll(in("07:50", "root"), "192.0.2.7", "192.0.2.1"))
	j.add("07:40", by("alice"))
	j.add("07:50", strings.ReplaceAll(by("root"), "192.0.2.7", "192.0.2.1"))
	for name, l := range map[string]*Log{"auth.log": j.logDir.log("auth.log"), "journal": j.log()} {
		n.Do(func() error {
			got, _, err := l.Last(t.Context())
			if got.User != "alice" {
				t.Errorf("%s: the last login is %+v, want alice's", name, got)
			}
			return err
		})
	}
}
