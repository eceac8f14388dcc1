package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

// chained are n records that follow one another.
func chained(t *testing.T, n int) (all []audit.Record) {
	t.Helper()
	var ends audit.Ends
	for i := range n {
		r, _, err := ends.Chain(audit.Record{ID: uint64(i + 1), Time: noon.Add(time.Duration(i-n) * time.Minute), Door: "ssh",
			Event: []string{audit.EventGranted, audit.EventRefused}[i%2], Source: "192.0.2.7", Reason: "<\u202e\u2028\x7f>"})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestLogUsage(t *testing.T) {
	b := controltest.New(guarded())
	path, _ := controltest.Serve(t, b)
	const events = "alarm, applied, armed, dark, error, expired, failsafe, granted, keys, login, opened, refused, repaired, revoked, started, stopped"
	const when = `: allowed are a time such as "2026-11-24 03:00", "2026-11-24", "03:00" (of today), today, yesterday, now, "-2h" or "2h ago", and one as in RFC 3339`
	for args, want := range map[string]string{
		"--limit 0":                      `--limit "0": allowed are 1 to 10000, and all; with --follow 0, too`,
		"--limit -1":                     `--limit "-1": allowed are 1 to 10000, and all; with --follow 0, too`,
		"--after -1":                     `--after "-1": allowed is the id of a record, as --json prints it, and 0 for all`,
		"-n 10001":                       `--limit "10001": allowed are 1 to 10000, and all; with --follow 0, too`,
		"-n ALL":                         `--limit "ALL": allowed are 1 to 10000, and all; with --follow 0, too`,
		"-n 5 --after 3 --follow":        "--limit cannot be combined with both --after and --follow: everything after it is printed",
		"--source=":                      "--source is empty: give a value, or leave it out",
		"--event refuse":                 `--event "refuse": allowed are ` + events,
		"--event=":                       "--event is empty: allowed are " + events,
		"--since x":                      `--since "x"` + when,
		"--since 23:00":                  `--since "23:00" is 2026-11-24 23:00:00 +0000, which is in the future: a time without a date is of today`,
		"--since now --until -1h":        `--until "-1h" is 2026-11-24 11:00:00 +0000, which is not after --since, 2026-11-24 12:00:00 +0000`,
		"--until now --follow":           "--until cannot be combined with --follow, which has no end",
		"--verify --source any":          "--source cannot be combined with --verify, which needs every record",
		"--verify -n all":                "--limit cannot be combined with --verify, which needs every record",
		"--verify --utc ssh --control x": "--utc cannot be combined with --verify, which needs every record",
	} {
		code, stdout, stderr := operate(t, nil, append([]string{"--control", path, "log"}, strings.Fields(args)...)...)
		if code != 2 || stdout != "" || !strings.HasPrefix(stderr, "doorward: error: "+want+"\ndoorward: hint: doorward log --help\n") {
			t.Errorf("%s: got %d %q %q, want 2 and %s", args, code, stdout, stderr, want)
		}
	}
	if asked := b.Queries(); len(asked) > 0 {
		t.Errorf("the daemon was asked for %+v", asked)
	}
}

// What the flags mean, as the daemon is asked.
func TestLogQueries(t *testing.T) {
	b := controltest.New(guarded())
	b.Append(trailOf()...)
	path, _ := controltest.Serve(t, b)
	since := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		args string
		want control.LogQuery
	}{
		{"", control.LogQuery{Limit: 100}}, {"-n 7", control.LogQuery{Limit: 7}}, {"-n all", control.LogQuery{Oldest: true, Limit: 1000}},
		{"--after 0", control.LogQuery{Oldest: true, Limit: 1000}}, {"--after 2 -n 2", control.LogQuery{After: 2, Oldest: true, Limit: 2}},
		{"--since yesterday", control.LogQuery{Since: since, Oldest: true, Limit: 1000}},
		{"--since yesterday -n 3", control.LogQuery{Since: since, Limit: 3}},
		{"--until yesterday", control.LogQuery{Until: since, Oldest: true, Limit: 1000}},
		{"ssh --event refused,error --event dark", control.LogQuery{Door: "ssh", Events: []string{"refused", "error", "dark"}, Limit: 100}},
	} {
		code, _, stderr := operate(t, nil, append([]string{"--control", path, "log"}, strings.Fields(tt.args)...)...)
		asked := b.Queries()
		if d := cmp.Diff(tt.want, asked[len(asked)-1]); code != 0 || d != "" {
			t.Errorf("%s: %d %s (-want +got):\n%s", tt.args, code, stderr, d)
		}
	}
	if code, stdout, stderr := operate(t, nil, "--control", path, "log", "nosuch"); code != 0 || stdout != "" || stderr != "doorward: no records match\n" {
		t.Errorf("nothing: got %d %q %q, want a message", code, stdout, stderr)
	}
	if code, stdout, stderr := operate(t, nil, "--control", path, "log", "nosuch", "--json"); code != 0 || stdout+stderr != "" {
		t.Errorf("nothing, in JSON: got %d %q %q, want nothing", code, stdout, stderr)
	}
}

// Times are printed in the local zone, or with --utc in UTC.
func TestLogTimes(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zone database:", err)
	}
	b := controltest.New(guarded())
	b.Append(audit.Record{ID: 1, Time: noon})
	path, _ := controltest.Serve(t, b)
	for args, want := range map[string]string{"log": "2026-11-24 13:00:00 +0100", "log --utc": "2026-11-24 12:00:00 +0000"} {
		var out strings.Builder
		e := &env{stdout: &out, stderr: &out, getenv: func(string) string { return "" }, now: func() time.Time { return noon.In(berlin) }}
		if code := run(t.Context(), e, append([]string{"--control", path}, strings.Fields(args)...)); code != 0 || !strings.HasPrefix(out.String(), want) {
			t.Errorf("%s: got %d %q, want %s", args, code, out.String(), want)
		}
	}
}

// Everything is exported page by page, and if records are gone meanwhile the command
// fails.
func TestLogExports(t *testing.T) {
	b := controltest.New(guarded())
	all := chained(t, 2500)
	b.Append(all...)
	path, _ := controltest.Serve(t, b)
	code, stdout, stderr := operate(t, nil, "--control", path, "log", "--json", "-n", "all")
	if n := strings.Count(stdout, "\n"); code != 0 || n != 2500 || stderr != "" {
		t.Errorf("all: got %d, %d lines, %q, want 2500", code, n, stderr)
	}
	b.Drop(1000)
	code, stdout, stderr = operate(t, nil, "--control", path, "log", "--json", "--after", "700")
	want := "doorward: warning: records between 700 and 1000 were deleted to make room for newer ones; all others are printed\n"
	if n := strings.Count(stdout, "\n"); code != 1 || n != 1500 || stderr != want {
		t.Errorf("after 700: got %d, %d lines, %q, want 1, 1500 lines and %s", code, n, stderr, want)
	}
	code, _, stderr = operate(t, nil, "--control", path, "log", "--after", "9999")
	want = "doorward: error: the audit trail has no record 9999 as it was read before: the trail ends with record 2500; the trail was started over, or its end was lost\n" +
		"doorward: hint: doorward log --after 0 reads the trail as it is from its beginning\n"
	if code != 1 || stderr != want {
		t.Errorf("after 9999: got %d %q, want 1 %q", code, stderr, want)
	}
}

// A follow waits for a daemon that restarts, says so, and goes on.
func TestLogFollowsOverARestart(t *testing.T) {
	for _, args := range []string{"log --follow --json", "log --follow"} {
		b := controltest.New(guarded())
		all := chained(t, 6)
		b.Append(all[:2]...)
		path, stop := controltest.Serve(t, b)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var step atomic.Int32
		out := &lineWriter{wrote: func(text string) {
			switch n := strings.Count(text, "\n"); {
			case n == 2 && step.CompareAndSwap(0, 1):
				go func() { stop(); b.Append(all[2:4]...) }()
			case n == 4 && step.CompareAndSwap(2, 3):
				b.Append(all[4:]...)
			case n == 6:
				cancel()
			}
		}}
		errs := &lineWriter{wrote: func(text string) {
			if strings.Contains(text, "waiting") && step.CompareAndSwap(1, 2) {
				go controltest.ServeAt(t, b, path)
			}
		}}
		e := &env{stdout: out, stderr: errs, getenv: func(string) string { return "" }, now: func() time.Time { return noon }}
		code := run(ctx, e, append([]string{"--control", path}, strings.Fields(args)...))
		want := "doorward: no daemon answers at " + path + ": there is no such socket; waiting for it to come back\ndoorward: the daemon is back\n"
		if code != 0 || errs.String() != want || strings.Count(out.String(), "\n") != 6 {
			t.Errorf("%s: got %d %q %q, want six records and %q", args, code, out.String(), errs.String(), want)
		}
	}
}

// Nothing of what there was is printed with --limit 0.
func TestLogFollowsWhatIsNew(t *testing.T) {
	b := controltest.New(guarded())
	all := chained(t, 4)
	b.Append(all[:3]...)
	path, _ := controltest.Serve(t, b)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out := &lineWriter{wrote: func(string) { cancel() }}
	e := &env{stdout: out, stderr: out, getenv: func(string) string { return "" }, now: func() time.Time { return noon }}
	go func() {
		for len(b.Queries()) < 2 {
			time.Sleep(time.Millisecond)
		}
		b.Append(all[3:]...)
	}()
	code := run(ctx, e, []string{"--control", path, "log", "--follow", "-n", "0", "--json"})
	if code != 0 || !strings.Contains(out.String(), `"id":4,`) || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("got %d %q, want record 4", code, out.String())
	}
}

func TestLogVerify(t *testing.T) {
	b := controltest.New(guarded())
	all := chained(t, 10)
	b.Append(all...)
	path, _ := controltest.Serve(t, b)
	end := "the last refusal: 10, " + all[9].Hash + "\nthe last of the others: 9, " + all[8].Hash + "\n"
	sound := "10 records, from 1 to 10, are intact\n" + end
	check := func(what string, args []string, code int, stdout, stderr string) {
		t.Helper()
		gotCode, out, errs := operate(t, nil, append([]string{"--control", path, "log", "--verify"}, args...)...)
		if gotCode != code || out != stdout || errs != stderr {
			t.Errorf("%s: got %d %q %q\nwant %d %q %q", what, gotCode, out, errs, code, stdout, stderr)
		}
	}
	check("the daemon's", nil, 0, sound, "")
	_, text, _ := operate(t, nil, "--control", path, "log", "--json", "-n", "all")
	file := filepath.Join(t.TempDir(), "trail.json")
	write := func(text string) []string {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{file}
	}
	check("a file", write(text), 0, sound, "")
	lines := strings.SplitAfter(text, "\n")
	check("a file without one", write(strings.Join(append(lines[:4:4], lines[5:]...), "")), 1,
		"record 5 is missing: record 6 comes after it\n9 records, from 1 to 10\n"+end, "doorward: error: the audit trail was changed, or is incomplete: 1 fault\n")
	check("a file with the line of a failure", write(strings.Join(lines[:5], "")+`{"api":1,"error":"no daemon answers","code":"daemon_down","hint":""}`+"\n"+strings.Join(lines[5:], "")), 0, sound, "")
	none := "doorward: error: no records in " + file + ": each is a JSON object on a line of its own\ndoorward: hint: doorward log --json --limit all prints them\n"
	check("an empty file", write("\n"), 1, "", none)
	check("a file that was set out for people", write(strings.ReplaceAll(lines[0], ",", ",\n")), 1, "", none)
	check("a file with ends of lines and spaces as others have them", write(" \r\n"+strings.ReplaceAll(text, "\n", "\r\n")+"  "), 0, sound, "")
	check("a file of one long line", write(strings.Repeat("x", longestLine+1)), 1, "",
		fmt.Sprintf("doorward: error: read the records in %s, after line 0: a line has more than %d bytes, so it is not a record\n", file, longestLine))
	check("no file", []string{file + "x"}, 1, "", "doorward: error: read the records to verify: open "+file+"x: no such file or directory\n")
	check("an old file", write(`{"id":1,"event":"granted"}`), 0,
		"1 record, from 1 to 1, are intact; 1 record without a hash, of older versions, which cannot be verified\n", "")
	b.Append(audit.Record{ID: 12, Event: audit.EventError, Reason: "\x1b[2J"})
	check("the daemon's, with one that has none", nil, 1, `record 12 has no hash, although those before it do: "\x1b[2J"`+"\n11 records, from 1 to 12\n"+end,
		"doorward: error: the audit trail was changed, or is incomplete: 1 fault\n")
	var v audit.Verification
	code, out, _ := operate(t, nil, "--control", path, "log", "--verify", "--json")
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 1 || v.Sound || v.FaultsTotal != 1 || v.Faults[0].ID != 12 || v.Decided.Hash != all[8].Hash {
		t.Errorf("in JSON: %d, %v, %s", code, err, out)
	}
	var errs strings.Builder
	e := &env{stdin: strings.NewReader(text), stdout: &errs, stderr: &errs, getenv: func(string) string { return "" }}
	if code := run(t.Context(), e, []string{"log", "--verify", "-"}); code != 0 || errs.String() != sound {
		t.Errorf("standard input: got %d %q, want %q", code, errs.String(), sound)
	}
}

// The records in docs/howto/audit.md are as it says.
func TestTheDocumentedHashes(t *testing.T) {
	text, err := os.ReadFile("../../docs/howto/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	var w audit.Verifier
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, `{"id":`) {
			w.Add([]byte(line))
		}
	}
	if v := w.End(0); v.Records != 2 || !v.Sound || v.Visits == nil || v.Visits.ID != 2 {
		t.Errorf("got %+v, want two records that follow one another", v)
	}
}
