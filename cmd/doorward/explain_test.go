package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
	"github.com/doorward/doorward/internal/view"
)

// explanation is one with everything: a door that lets in, one that does not, and one of
// which nobody knows.
func explanation() control.Explanation {
	yes, no := true, false
	return control.Explanation{
		Time: noon, Source: "192.0.2.7", Config: "/etc/doorward/doorward.toml",
		Unread:  "read the audit trail: input/output error",
		Pending: &control.Pending{ID: 7, Until: noon.Add(41 * time.Second), By: "operator alice (uid 1000)"},
		Doors: []control.ExplainedFor{
			{Door: "ssh", Ports: []string{"22/tcp"}, State: "open", GetsIn: &yes, WouldKnock: true, Until: after(28 * time.Second),
				Obstacles: []control.Obstacle{}, Refusals: []audit.Record{},
				By: []control.Cover{{Source: "192.0.2.7", By: "touch", Until: after(28 * time.Second)}}},
			{Door: "web", Ports: []string{"443/tcp"}, State: "dark", GetsIn: &no, WouldKnock: false, By: []control.Cover{},
				Obstacles: []control.Obstacle{
					{Code: control.ObstacleNoGrant, Message: "nothing lets it in: neither it nor a prefix that contains it has a grant or is in always",
						Hint: "doorward open web --source 192.0.2.7"},
					{Code: control.ObstaclePenalty, Message: "the knock touch ignores it: touched \x1b59001", Until: after(26 * time.Hour), Knock: "touch",
						Hint: "doorward arm web --source 192.0.2.7"},
				},
				Refusals: []audit.Record{
					{Time: noon.Add(-time.Minute), Source: "192.0.2.7", Reason: "touched a port that must be left alone; penalised 9 times in a row"},
					{Time: noon.Add(-36 * time.Hour), Source: "192.0.2.0/24", Reason: "14 more in 1m0s from 3 addresses"},
				}},
			{Door: "mail", Ports: []string{"25/tcp"}, State: "open", WouldKnock: true, By: []control.Cover{{Source: "192.0.2.0/24", By: "always"}},
				Refusals: []audit.Record{}, Obstacles: []control.Obstacle{{Code: control.ObstacleListening, Hint: "ss -ltn",
					Message: "nothing on this machine listens on 25/tcp: unless that is forwarded, a connection is refused"}}},
		},
	}
}

// explain runs one command line, with what other firewalls do made up.
func explain(t *testing.T, b *controltest.Backend, vars map[string]string, look lookAtFirewalls, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	path, _ := controltest.Serve(t, b)
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(name string) string { return vars[name] },
		now: func() time.Time { return noon }}
	c := newExplainWith(e, look)
	addControlFlag(c)
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(append([]string{"--control", path}, args...))
	code = report(e, c.ExecuteContext(t.Context()))
	return code, out.String(), errs.String()
}

func notRoot(x *control.Explanation, _ bool) string {
	return "that takes root\nsudo doorward explain " + x.Source
}

func looked(x *control.Explanation, _ bool) string { x.Firewall = true; return "" }

// The file's knocks are not those that the daemon hears once the file has been changed.
func TestExplainWithAnotherFile(t *testing.T) {
	for _, differs := range []bool{false, true} {
		b := controltest.New(control.Status{ConfigDiffers: differs})
		explain(t, b, nil, func(x *control.Explanation, inUse bool) string {
			if inUse == differs {
				t.Errorf("the file differs from what is in use: %v; what looks at firewalls is told that it is in use: %v", differs, inUse)
			}
			return ""
		}, "192.0.2.7")
	}
}

func TestExplainForPeople(t *testing.T) {
	b := controltest.New(guarded())
	b.OnExplain(func(netip.Addr, string) (control.Explanation, error) { return explanation(), nil })
	code, stdout, stderr := explain(t, b, nil, notRoot, "192.0.2.7")
	if code != 1 || stderr != "" {
		t.Errorf("status %d, %q; want 1 and nothing", code, stderr)
	}
	golden(t, "explain.txt", stdout)
	if _, stdout, _ = explain(t, b, nil, looked, "192.0.2.7"); strings.Contains(stdout, "other firewalls") {
		t.Errorf("other firewalls were looked at, and it says\n%s", stdout)
	}
	hostile := explanation()
	spoil(&hostile)
	for width := 24; width < 160; width += 7 {
		v := view.View{Now: noon, Width: width}
		legibleOnly(t, "explain", strings.Join(v.Explanation(hostile, ""), "\n"))
	}
}

// Scripts have the verdict as the exit status, and all of it as JSON.
func TestExplainForScripts(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		in   []*bool
		code int
	}{{[]*bool{&yes}, 0}, {[]*bool{&yes, &yes}, 0}, {[]*bool{&yes, &no}, 1}, {[]*bool{nil}, 1}, {nil, 0}} {
		b := controltest.New(guarded())
		want := explanation()
		want.Doors = want.Doors[:0]
		for _, in := range tt.in {
			want.Doors = append(want.Doors, control.ExplainedFor{Door: "ssh", GetsIn: in})
		}
		b.OnExplain(func(netip.Addr, string) (control.Explanation, error) { return want, nil })
		code, stdout, stderr := explain(t, b, nil, notRoot, "192.0.2.7", "--json")
		var got control.Explanation
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != tt.code || stderr != "" {
			t.Errorf("%v: status %d, %v, %q; want %d", tt.in, code, err, stderr, tt.code)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

// What stands on the command line, in the environment or in neither is who is asked
// about.
func TestExplainWhoWhere(t *testing.T) {
	ssh := map[string]string{"SSH_CONNECTION": "198.51.100.9 50022 198.51.100.1 22"}
	const usage = "doorward: hint: explain --help\n"
	for _, tt := range []struct {
		args   string
		vars   map[string]string
		asked  string
		code   int
		stderr string
	}{
		{"192.0.2.7", nil, "192.0.2.7 ", 0, ""},
		{"192.0.2.7", ssh, "192.0.2.7 ", 0, ""},
		{"2001:db8::7 web", nil, "2001:db8::7 web", 0, ""},
		{"", ssh, "198.51.100.9 ", 0, ""},
		{"web", ssh, "198.51.100.9 web", 0, ""},
		{"web", nil, "", 2, "doorward: error: no SOURCE, and SSH_CONNECTION does not say where you logged in from (sudo removes it)\n" +
			"doorward: hint: doorward explain ADDRESS\n"},
		{"192.0.2.300", ssh, "", 2, "doorward: error: \"192.0.2.300\" is neither an address, such as 192.0.2.7 or 2001:db8::7, nor can it be a door's name\n" + usage},
		{"192.0.2.0/24 web", nil, "", 2, "doorward: error: SOURCE \"192.0.2.0/24\": allowed is one address, such as 192.0.2.7 or 2001:db8::7\n" + usage},
		{"192.0.2.7 web ssh", nil, "", 2, "doorward: error: \"ssh\": one SOURCE and one DOOR only\n" + usage},
		{"192.0.2.7 ''", nil, "", 2, "doorward: error: DOOR is empty: a door's name, as doorward status lists it, or none for all doors\n" + usage},
		{"''", ssh, "", 2, "doorward: error: \"\" is neither an address, such as 192.0.2.7 or 2001:db8::7, nor can it be a door's name\n" + usage},
		{"0.0.0.0", nil, "", 2, "doorward: error: source \"0.0.0.0\": allowed is one address, such as 192.0.2.7 or 2001:db8::7\n"},
		{"fe80::7%eth0", nil, "", 2, "doorward: error: source \"fe80::7%eth0\": zones are not supported: leave out \"%eth0\"\n"},
		{"192.0.2.7 nix", nil, "192.0.2.7 nix", 5, "doorward: error: there is no door \"nix\": the doors are ssh\ndoorward: hint: doorward status\n"},
	} {
		b := controltest.New(guarded())
		asked := ""
		b.OnExplain(func(source netip.Addr, door string) (control.Explanation, error) {
			if asked = source.String() + " " + door; door == "nix" {
				return control.Explanation{}, &control.Error{Code: control.CodeNoDoor, Message: "there is no door \"nix\": the doors are ssh", Hint: "doorward status"}
			}
			return control.Explanation{Time: noon, Source: source.String()}, nil
		})
		args := strings.Fields(tt.args)
		for i := range args {
			args[i] = strings.Trim(args[i], "'")
		}
		code, _, stderr := explain(t, b, tt.vars, looked, args...)
		if code != tt.code || stderr != tt.stderr || asked != tt.asked {
			t.Errorf("explain %s: asked %q, status %d\n%swant %q, %d\n%s", tt.args, asked, code, stderr, tt.asked, tt.code, tt.stderr)
		}
	}
}

func TestExplainCompletion(t *testing.T) {
	path, _ := controltest.Serve(t, controltest.New(guarded()))
	for args, want := range map[string][]string{
		"":           {"admin\tfailsafe", "ssh\topen", "192.0.2.7\thas a grant", "198.51.100.23\tport 59001", "vpn\tdark"},
		"192.0.2.7 ": {"admin\tfailsafe", "ssh\topen", "vpn\tdark"},
		"1 2 ":       nil,
	} {
		words := append([]string{"__complete", "--control", path, "explain"}, strings.Split(args, " ")...)
		code, stdout, _ := operate(t, nil, words...)
		lines := strings.Split(strings.TrimSpace(stdout), "\n")
		got := lines[:len(lines)-1]
		if len(got) == 0 {
			got = nil
		}
		if d := cmp.Diff(want, got); code != 0 || d != "" || lines[len(lines)-1] != ":4" {
			t.Errorf("%q: status %d (-want +got):\n%s", args, code, d)
		}
	}
}
