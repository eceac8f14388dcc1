package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

// With --json, whatever fails says so in one object on standard output, and its code
// agrees with the exit status. The words for people are where they always are.
func TestFailuresAsJSON(t *testing.T) {
	dir := t.TempDir()
	missing, there := filepath.Join(dir, "s"), filepath.Join(dir, "there.toml")
	if err := os.WriteFile(there, []byte("[door.ssh]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	down := "no daemon answers at " + missing + ": there is no such socket"
	where := "systemctl restart doorward (grants and sessions stay), or --control SOCKET if it listens elsewhere"
	no := filepath.Join(dir, "no.toml")
	noFile := "read configuration: open " + no + ": no such file or directory"
	for _, tt := range []struct {
		args string
		code int
		want failure
	}{
		{"status --json", 3, failure{1, down, "daemon_down", where}},
		{"status --watch --json", 3, failure{1, down, "daemon_down", where}},
		{"log --json", 3, failure{1, down, "daemon_down", where}},
		{"log --follow --json", 3, failure{1, down, "daemon_down", where}},
		{"open ssh --source any --json -q", 3, failure{1, down, "daemon_down", where}},
		{"close ssh --json", 3, failure{1, down, "daemon_down", where}},
		{"arm --json=true", 3, failure{1, down, "daemon_down", where}},
		{"apply --json", 3, failure{1, down, "daemon_down", where}},
		{"closs --json", 2, failure{1, `command "closs" is not known`, "usage", "doorward close"}},
		{"close --json", 2, failure{1, "DOOR is missing: the door's name, as doorward status lists it", "usage", "doorward close --help"}},
		{"close ssh web --json", 2, failure{1, `"web": one DOOR only`, "usage", "doorward close --help"}},
		{"close ssh --sauce any --json", 2, failure{1, "unknown flag: --sauce", "usage", "doorward close --help"}},
		{"close ssh --source 192.0.2.7/24 --json", 2, failure{1, `source "192.0.2.7/24": host bits are set after the first 24: ` +
			`write "192.0.2.7" for the one address, or "192.0.2.0/24" for the whole prefix`, "usage", ""}},
		{"close ssh --source 192.0.2.7 --source=192.0.2.8 --json", 2, failure{1, `invalid argument "192.0.2.8" for "--source" flag: ` +
			`it is 192.0.2.7 already: one source only`, "usage", "doorward close --help"}},
		{"close ssh --timeout 4h --json", 2, failure{1, "--timeout 4h: allowed is 1s to 3h", "usage", "doorward close --help"}},
		{"open ssh --source any --for 721h --json", 2, failure{1, `for "721h0m0s": allowed is a duration from "1s" to "720h", ` +
			`such as "30s", "10m" or "8h"`, "usage", ""}},
		{"check " + no + " --json", 1, failure{1, noFile, "failed", ""}},
		{"polkit " + no + " --json", 1, failure{1, noFile, "failed", "doorward check " + no}},
		{"init --json --door ssh --output " + there, 1, failure{Code: "failed"}},
		{"init --json --output -", 2, failure{1, "--json goes with neither --ask nor --output -: standard output is theirs", "usage", "doorward init --help"}},
		{"share --json -c " + no, 1, failure{1, noFile, "failed", "doorward check " + no}},
		{"rotate --json -c " + no, 1, failure{1, noFile, "failed", "doorward check " + no}},
		{"doctor more --json", 2, failure{1, `"more": no argument is expected`, "usage", "doorward doctor --help"}},
		{"knock h --touch 59000, 59002 --json", 2, failure{1, `"59002": the ports of --touch are one word: --touch 59000,59002, without blanks`, "usage", "doorward knock --help"}},
		{"knock --json", 2, failure{1, "whom to knock at is missing: a PROFILE (doorward profiles lists them), or a HOST with --touch", "usage", "doorward knock --help"}},
		{"knock localhost --json --touch 1 -- true --json=false", 125, failure{1, "--json goes with neither --stdio nor a command: standard output is theirs",
			"usage", "doorward knock --help"}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			code, stdout, stderr := operate(t, map[string]string{"DOORWARD_CONTROL": missing}, strings.Fields(tt.args)...)
			var got failure
			dec := json.NewDecoder(strings.NewReader(stdout))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&got); err != nil || dec.More() {
				t.Fatalf("standard output is not one failure: %v\n%s", err, stdout)
			}
			if code != tt.code {
				t.Errorf("exit status %d, want %d", code, tt.code)
			}
			if want := tt.want; want.Error != "" && got != want {
				t.Errorf("(-want +got):\n%s", cmp.Diff(want, got))
			}
			if got.API != control.APIVersion || got.Code != tt.want.Code || !strings.HasPrefix(stderr, "doorward: error: "+got.Error+"\n") {
				t.Errorf("%+v, and standard error %q", got, stderr)
			}
		})
	}
}

// Without --json, and behind "--", nothing is printed but words.
func TestFailuresInWords(t *testing.T) {
	for args, want := range map[string]int{"close": 2, "close --json=false": 2, "knock localhost --touch 1,1 -- x --json": 125} {
		if code, stdout, stderr := operate(t, nil, strings.Fields(args)...); code != want || stdout != "" || stderr == "" {
			t.Errorf("%s: got %d, %q and %q, want %d and words on standard error alone", args, code, stdout, stderr, want)
		}
	}
}

// An order that was carried out and does not keep its source out fails, and its reply
// says what is wrong.
func TestClosingWhoIsStillLetIn(t *testing.T) {
	b := controltest.New(guarded())
	b.OnDo(func(context.Context, controltest.Given) (control.Reply, error) {
		return control.Reply{Message: "192.0.2.7 can STILL connect", Door: "ssh", Source: "192.0.2.7", State: "open", Changed: true, Covered: []control.Cover{
			{Source: "192.0.2.0/24", By: control.CoverAlways},
			{Source: "any", By: "touch", Until: after(0)}, {Source: "any", By: "operator bob (uid 1001)", Until: after(0)},
		}}, nil
	})
	path, _ := controltest.Serve(t, b)
	const hint = "take 192.0.2.0/24 out of the door's always, and doorward apply --confirm 60s; doorward close ssh --source any"
	for _, quiet := range []string{"", " -q"} {
		code, stdout, stderr := operate(t, nil, strings.Fields("--control "+path+" close ssh --source 192.0.2.7"+quiet)...)
		if want := "doorward: error: 192.0.2.7 can STILL connect\ndoorward: hint: " + hint + "\n"; code != 6 || stdout != "" || stderr != want {
			t.Errorf("got %d, %q and %q, want 6 and %q", code, stdout, stderr, want)
		}
		code, stdout, _ = operate(t, nil, strings.Fields("--control "+path+" close ssh --source 192.0.2.7 --json"+quiet)...)
		var got struct {
			control.Reply
			Error, Code, Hint string
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatalf("%v: %s", err, stdout)
		}
		if code != 6 || len(got.Covered) != 3 || got.Error != got.Message || got.Code != "refused" || got.Hint != hint || !got.Changed || !strings.HasPrefix(stdout, "{\n  \"api\": 1,\n") {
			t.Errorf("got %d and %s", code, stdout)
		}
	}
	// The whole door is dark, whatever its always is.
	if code, stdout, _ := operate(t, nil, strings.Fields("--control "+path+" close ssh")...); code != 0 || stdout == "" {
		t.Errorf("the whole door: got %d and %q, want 0 and what was done", code, stdout)
	}
}

// A stream that fails ends with the object, on a line. A log that is followed waits for
// the daemon.
func TestStreamsFailWithALine(t *testing.T) {
	for _, args := range []string{"status --watch --json"} {
		b := controltest.New(guarded())
		b.Append(trailOf()...)
		path, stop := controltest.Serve(t, b)
		out := &lineWriter{wrote: func(string) { stop() }}
		e := &env{stdin: strings.NewReader(""), stdout: out, stderr: &bytes.Buffer{}, getenv: func(string) string { return "" }}
		code := run(t.Context(), e, append([]string{"--control", path}, strings.Fields(args)...))
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		want := fmt.Sprintf(`{"api":1,"error":"the daemon at %s closed the connection","code":"daemon_down","hint":"systemctl status doorward"}`, path)
		if last := lines[len(lines)-1]; code != 3 || last != want || len(lines) < 2 {
			t.Errorf("%s: got %d and, last of %d lines, %s\nwant 3 and %s", args, code, len(lines), last, want)
		}
	}
}

// What is empty is a variable that was not set, and no order.
func TestNothingIsEmpty(t *testing.T) {
	b := controltest.New(guarded())
	path, _ := controltest.Serve(t, b)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"close", "web", "--source", ""}, "--source is empty: give a value, or leave it out"},
		{[]string{"close", "web", "--source="}, "--source is empty: give a value, or leave it out"},
		{[]string{"arm", "--source", ""}, "--source is empty: give a value, or leave it out"},
		{[]string{"open", "web", "--source", ""}, "--source is empty: give a value, or leave it out"},
		{[]string{"log", "--source", ""}, "--source is empty: give a value, or leave it out"},
		{[]string{"arm", ""}, "DOOR is empty: it must be a door's name, as doorward status lists it"},
		{[]string{"close", ""}, "DOOR is empty: it must be a door's name, as doorward status lists it"},
		{[]string{"status", ""}, "DOOR is empty: it must be a door's name, as doorward status lists it"},
		{[]string{"check", ""}, "an argument is empty: give a value, or leave it out"},
		{[]string{"open", "web", "--source", "any", "--for", ""}, `invalid argument "" for "--for" flag: time: invalid duration ""`},
		{[]string{"apply", "--confirm", ""}, `invalid argument "" for "--confirm" flag: time: invalid duration ""`},
	} {
		code, _, stderr := operate(t, map[string]string{"SSH_CONNECTION": "192.0.2.7 1 192.0.2.1 22"}, append([]string{"--control", path}, tt.args...)...)
		if want := "doorward: error: " + tt.want + "\ndoorward: hint: doorward " + tt.args[0] + " --help\n"; code != 2 || stderr != want {
			t.Errorf("%q: got %d %q, want 2 %q", tt.args, code, stderr, want)
		}
	}
	if given := b.Given(); len(given) > 0 {
		t.Errorf("the daemon received %+v", given)
	}
}

// Each code has its exit status, whatever an error is wrapped in.
func TestExitStatuses(t *testing.T) {
	for code, want := range map[string]int{
		control.CodeUsage: 2, control.CodeDown: 3, control.CodePermission: 4, control.CodeNoDoor: 5, control.CodeRefused: 6,
		control.CodeTimeout: 7, control.CodeFailed: 1, control.CodeInternal: 1, "": 6,
	} {
		told := &control.Error{Code: code, Message: "no"}
		for _, err := range []error{told, fmt.Errorf("apply: %w", told), withHint(told, "x"), errors.Join(told, nil)} {
			if got := report(&env{stderr: &bytes.Buffer{}, getenv: func(string) string { return "" }}, err); got != want {
				t.Errorf("%q in a %T: exit status %d, want %d", code, err, got, want)
			}
		}
	}
	if got := report(&env{stderr: &bytes.Buffer{}}, errors.New("x")); got != 1 {
		t.Errorf("another error: exit status %d, want 1", got)
	}
}

// All commands that ask the daemon have --timeout and --quiet; the others are named
// here.
func TestOperatorFlags(t *testing.T) {
	others := []string{"accept", "check", "completion", "connect", "doctor", "forward", "help", "hold", "init", "knock", "man", "polkit", "probe", "profiles", "proxy", "rotate", "run", "share", "ssh-config", "version"}
	silent := []string{"completion", "connect", "forward", "help", "man", "proxy", "run"} // standard output is others', or has nothing
	for _, c := range newRoot(&env{getenv: func(string) string { return "" }}).Commands() {
		operators := c.Flags().Lookup("quiet") != nil && c.Flags().Lookup("timeout") != nil
		if other := slices.Contains(others, c.Name()); operators == other {
			t.Errorf("%s: --quiet and --timeout there: %v, and one of the others: %v", c.Name(), operators, other)
		}
		if !slices.Contains(silent, c.Name()) && c.Flags().Lookup("json") == nil {
			t.Errorf("%s has no --json", c.Name())
		}
	}
}

// With --quiet nothing but errors is printed.
func TestQuiet(t *testing.T) {
	b := controltest.New(guarded())
	b.Append(audit.Record{ID: 1})
	path, _ := controltest.Serve(t, b)
	for _, args := range []string{"status -q", "status ssh --quiet", "log -q", "close ssh -q", "arm --json -q", "apply -q"} {
		code, stdout, stderr := operate(t, nil, append([]string{"--control", path}, strings.Fields(args)...)...)
		if code != 0 || stdout != "" || stderr != "" {
			t.Errorf("%s: got %d, %q and %q, want 0 and nothing", args, code, stdout, stderr)
		}
	}
	code, stdout, stderr := operate(t, nil, "--control", path, "status", "nix", "-q")
	if code != 5 || stdout != "" || !strings.HasPrefix(stderr, `doorward: error: door "nix" is not known`) {
		t.Errorf("no such door: got %d, %q and %q", code, stdout, stderr)
	}
}

// Whoever stops waiting for a door learns that the order still stands.
func TestInterruptedWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := controltest.New(guarded())
	b.OnDo(func(ctx context.Context, _ controltest.Given) (control.Reply, error) {
		cancel()
		<-ctx.Done()
		return control.Reply{}, ctx.Err()
	})
	path, _ := controltest.Serve(t, b)
	code, _, stderr := operateUntil(t, ctx, nil, "--control", path, "open", "ssh", "--source", "192.0.2.7")
	want := "doorward: error: interrupted while waiting; the order still stands\n" +
		"doorward: hint: doorward status ssh; doorward close ssh --source 192.0.2.7 takes it back\n"
	if code != 1 || stderr != want {
		t.Errorf("got %d %q, want 1 %q", code, stderr, want)
	}
}

// A failure is in the object that a command prints, and the last line
// of a stream.
func TestPrinted(t *testing.T) {
	object := func(p *printed) error { return printJSON(p, map[string]any{"ok": false}) }
	failed := withHint(errors.New("not open"), "try again")
	const keys = "\"error\": \"not open\",\n  \"code\": \"failed\",\n  \"hint\": \"try again\"\n}\n"
	const line = `{"api":1,"error":"not open","code":"failed","hint":"try again"}` + "\n"
	for _, tt := range []struct {
		name        string
		print       func(p *printed) error
		err         error
		want, quiet string
	}{
		{"an object", object, nil, "{\n  \"api\": 1,\n  \"ok\": false\n}\n", ""},
		{"an object, failed", object, failed, "{\n  \"api\": 1,\n  \"ok\": false,\n  " + keys, "{\n  \"api\": 1,\n  \"ok\": false,\n  " + keys},
		{"an object, a status of its own", object, &statusError{code: 3}, "{\n  \"api\": 1,\n  \"ok\": false\n}\n", ""},
		{"nothing", func(*printed) error { return nil }, nil, "", ""},
		{"nothing, failed", func(*printed) error { return nil }, failed, "{\n  \"api\": 1,\n  " + keys, "{\n  \"api\": 1,\n  " + keys},
		{"a stream", func(p *printed) error { return printJSONLine(p, map[string]int{"id": 1}) }, nil, "{\"api\":1,\"id\":1}\n", ""},
		{"a stream, failed", func(p *printed) error { return printJSONLine(p, map[string]int{"id": 1}) }, failed, "{\"api\":1,\"id\":1}\n" + line, line},
	} {
		for quiet, want := range map[bool]string{false: tt.want, true: tt.quiet} {
			var out bytes.Buffer
			p := &printed{w: &out, quiet: quiet}
			if err := errors.Join(tt.print(p), p.end(tt.err)); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			if d := cmp.Diff(want, out.String()); d != "" {
				t.Errorf("%s, quiet %v (-want +got):\n%s", tt.name, quiet, d)
			}
		}
	}
}
