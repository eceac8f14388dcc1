package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
	"github.com/doorward/doorward/internal/door"
)

// noon is the fixed time of these tests.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) *time.Time {
	t := noon.Add(d)
	return &t
}

// guarded is a snapshot with something everywhere.
func guarded() control.Status {
	return control.Status{
		API: 1, Time: noon.Add(-time.Minute), Version: "0.1.0", Started: noon.Add(-26 * time.Hour),
		Config:   "/etc/doorward/doorward.toml",
		Warnings: []string{"door admin is in failsafe and ignores knocks: no log data"},
		Ended:    []control.Settled{},
		Problems: []control.Problem{},
		Fence:    control.Fence{Up: true, Owned: true, Repairs: 1},
		Events:   map[string]uint64{audit.EventGranted: 2},
		Doors: []control.Door{
			{
				Name: "admin", State: "failsafe", Since: noon.Add(-3 * time.Minute), Reason: "no log data",
				Ports: []string{"8443/tcp"}, Service: "admin.service",
				Grants: []control.Grant{}, Penalties: []control.Penalty{}, Refusals: []audit.Record{},
			},
			{
				Name: "ssh", State: "open", Since: noon.Add(-14 * time.Minute), Reason: "knock by 192.0.2.7",
				Ports: []string{"22/tcp", "60000-61000/udp"}, Service: "ssh.service", Running: true,
				LastSeen: after(-3 * time.Second), DarkAt: after(59*time.Minute + 57*time.Second), Sessions: 2, Refused: 1204,
				Grants: []control.Grant{
					{Source: "192.0.2.7", Expires: noon.Add(28 * time.Second), For: []string{"touch"}},
					{Source: "2001:db8:1::/64", Expires: noon.Add(8 * time.Hour), For: []string{"operator alice (uid 1000)", "touch"}},
				},
				GrantsTotal: 2, PenaltiesTotal: 1,
				Penalties: []control.Penalty{{Source: "198.51.100.23", Knock: "touch", Until: noon.Add(250 * time.Second), Reason: "port 59001"}},
				Refusals: []audit.Record{
					{Time: noon.Add(-50 * time.Second), Door: "ssh", Source: "198.51.100.23", Reason: "port \x1b[31m59001\u202e"},
				},
			},
			{
				Name: "vpn", State: "dark", Since: noon.Add(-26 * time.Hour), Running: true, Ports: []string{"51820/udp"},
				Grants: []control.Grant{}, Penalties: []control.Penalty{},
				Refusals: []audit.Record{{Time: noon.Add(-36 * time.Hour), Door: "vpn", Source: "203.0.113.4", Reason: "unfinished"}},
			},
		},
	}
}

// A door that never goes dark by itself says so while it is open.
func TestStatusOfADoorThatNeverGoesDark(t *testing.T) {
	for state, want := range map[string]string{"open": "never", "dark": "-"} {
		lines := view{now: noon}.doors([]control.Door{{Name: "vpn", State: state, Reason: "right"}})
		if f := strings.Fields(lines[len(lines)-1]); f[len(f)-2] != want {
			t.Errorf("%s: %q, want dark in %s", state, lines[len(lines)-1], want)
		}
	}
}

// operate runs one command line in-process, with vars as its environment.
func operate(t *testing.T, vars map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return operateUntil(t, t.Context(), vars, args...)
}

func operateUntil(t *testing.T, ctx context.Context, vars map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	e := &env{
		stdin: strings.NewReader(""), stdout: &out, stderr: &errs,
		getenv: func(name string) string { return vars[name] },
		now:    func() time.Time { return noon },
	}
	code = run(ctx, e, args)
	return code, out.String(), errs.String()
}

// golden compares got with a file of testdata/golden; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", "golden", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got; UPDATE_GOLDEN=1 writes it):\n%s", name, d)
	}
}

// trailOf is an audit trail.
func trailOf() []audit.Record {
	return []audit.Record{
		{ID: 1, Time: noon.Add(-26 * time.Hour), Event: audit.EventStarted, Reason: "3 doors"},
		{
			ID: 2, Time: noon.Add(-50 * time.Minute), Door: "ssh", Event: audit.EventRefused, Source: "198.51.100.23",
			By: "touch", Reason: "port 59001 was to be left alone", Until: after(-45 * time.Minute),
		},
		{ID: 3, Time: noon.Add(-14 * time.Minute), Door: "ssh", Event: audit.EventOpened, Source: "192.0.2.7", By: "touch"},
		{
			ID: 4, Time: noon.Add(-14 * time.Minute), Door: "ssh", Event: audit.EventGranted, Source: "2001:db8:1::/64",
			By: "operator alice (uid 1000)", Until: after(20 * time.Hour),
		},
		{ID: 5, Time: noon.Add(-3 * time.Minute), Door: "admin", Event: audit.EventFailsafe, Reason: "no \x07log data"},
	}
}

// TestOperatorOutput holds what people read to golden files.
func TestOperatorOutput(t *testing.T) {
	full, quiet, crowded := guarded(), guarded(), guarded()
	full.Pending = &control.Pending{Until: noon.Add(41 * time.Second), By: "operator alice (uid 1000)"}
	full.Fence.Up = false
	quiet.Warnings, quiet.Doors, quiet.Fence = nil, quiet.Doors[2:], control.Fence{Up: true}
	quiet.Doors[0].Refusals = nil
	many := guarded()
	many.Doors[1].GrantsTotal, many.Doors[1].PenaltiesTotal = 1_000_000, 65_536
	for range 25 {
		crowded.Doors[1].Grants = append(crowded.Doors[1].Grants, crowded.Doors[1].Grants[0])
	}
	for _, tt := range []struct {
		golden string
		status control.Status
		args   []string
	}{
		{"status.txt", guarded(), []string{"status"}},
		{"status_all.txt", full, []string{"status"}},
		{"status_quiet.txt", quiet, []string{"status"}},
		{"status_crowded.txt", crowded, []string{"status"}},
		{"status_door.txt", crowded, []string{"status", "ssh"}},
		{"status_many.txt", many, []string{"status", "ssh"}},
		{"status_none.txt", control.Status{Fence: control.Fence{Up: true}, Started: noon}, []string{"status"}},
		{"status.json", guarded(), []string{"status", "--json"}},
		{"log.txt", guarded(), []string{"log"}},
		{"log_door.txt", guarded(), []string{"log", "ssh", "--source", "192.0.2.7"}},
		{"log.json", guarded(), []string{"log", "--limit", "2", "--json"}},
	} {
		t.Run(tt.golden, func(t *testing.T) {
			b := controltest.New(tt.status)
			b.Append(trailOf()...)
			path, _ := controltest.Serve(t, b)
			code, stdout, stderr := operate(t, map[string]string{"DOORWARD_CONTROL": path}, tt.args...)
			if code != 0 || stderr != "" {
				t.Errorf("got status %d, stderr %q, want 0 and nothing", code, stderr)
			}
			golden(t, tt.golden, stdout)
		})
	}
}

// TestStatusJSON is the promise to scripts: what is printed is the snapshot.
func TestStatusJSON(t *testing.T) {
	path, _ := controltest.Serve(t, controltest.New(guarded()))
	_, stdout, _ := operate(t, nil, "--control", path, "status", "--json")
	var got control.Status
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(guarded(), got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestOrdersFromTheCommandLine sees each command line become an order.
func TestOrdersFromTheCommandLine(t *testing.T) {
	const usage = 2
	ssh := map[string]string{"SSH_CONNECTION": "192.0.2.7 50022 198.51.100.1 22"}
	client := map[string]string{"SSH_CLIENT": "fe80::7%eth0 50022 22"}
	for _, tt := range []struct {
		args   string
		vars   map[string]string
		order  any // nil: none
		code   int
		stdout string
		stderr string
	}{
		{"open ssh", ssh, control.Open{Door: "ssh", Source: one("192.0.2.7"), Wait: 3 * time.Hour}, 0, "done (until 12:10:00)\n", ""},
		{"open ssh --no-wait", ssh, control.Open{Door: "ssh", Source: one("192.0.2.7")}, 0, "done (until 12:10:00)\n", ""},
		{"open ssh --timeout 20s -q", ssh, control.Open{Door: "ssh", Source: one("192.0.2.7"), Wait: 20 * time.Second}, 0, "", ""},
		{"open ssh", client, control.Open{Door: "ssh", Source: one("fe80::7"), Wait: 3 * time.Hour}, 0, "done (until 12:10:00)\n", ""},
		{"open ssh --source any --for 8h", ssh, control.Open{Door: "ssh", Source: door.Any, For: 8 * time.Hour, Wait: 3 * time.Hour}, 0, "done (until 12:10:00)\n", ""},
		{"open ssh --source 192.0.2.7 --json", nil, control.Open{Door: "ssh", Source: one("192.0.2.7"), Wait: 3 * time.Hour}, 0,
			"{\n  \"api\": 1,\n  \"message\": \"done\",\n  \"until\": \"2026-11-24T12:10:00Z\",\n  \"door\": \"ssh\",\n  \"source\": \"\",\n" +
				"  \"state\": \"open\",\n  \"changed\": true\n}\n", ""},
		{"open ssh", nil, nil, usage, "", "doorward: error: no --source, and SSH_CONNECTION does not say where you came from (sudo drops it)\n" +
			"doorward: hint: --source ADDRESS, or --source any for everybody\n"},
		{"open", ssh, nil, usage, "", "doorward: error: DOOR is missing: the door's name, as doorward status lists it\n" +
			"doorward: hint: doorward open --help\n"},
		{"open ssh vpn", ssh, nil, usage, "", "doorward: error: \"vpn\": one DOOR only\ndoorward: hint: doorward open --help\n"},
		{"open ssh --source here", nil, nil, usage, "", "doorward: error: source \"here\": allowed are an address (192.0.2.7), a prefix (2001:db8::/64) and \"any\"\n"},
		{"open ssh --for 10", ssh, nil, usage, "", "doorward: error: invalid argument \"10\" for \"--for\" flag: time: missing unit in duration \"10\"\n" +
			"doorward: hint: doorward open --help\n"},
		{"open ssh --for 721h", ssh, nil, usage, "", "doorward: error: for \"721h0m0s\": allowed is a duration from \"1s\" to \"720h\", such as \"30s\", \"10m\" or \"8h\"\n"},
		{"close ssh", nil, control.Close{Door: "ssh"}, 0, "done (until 12:10:00)\n", ""},
		{"close ssh --source 192.0.2.7", nil, control.Close{Door: "ssh", Source: one("192.0.2.7")}, 0, "done (until 12:10:00)\n", ""},
		{"close nix", nil, control.Close{Door: "nix"}, 5, "", "doorward: error: there is no door \"nix\"\ndoorward: hint: doorward status\n"},
		{"arm", nil, control.Arm{}, 0, "done (until 12:10:00)\n", ""},
		{"arm ssh --source 192.0.2.9", nil, control.Arm{Door: "ssh", Source: one("192.0.2.9")}, 0, "done (until 12:10:00)\n", ""},
		{"apply", nil, control.ApplyRequest{Action: "apply"}, 0, "done (until 12:10:00)\n", ""},
		{"apply --confirm 60s", nil, control.ApplyRequest{Action: "apply", Confirm: "1m0s"}, 0,
			"done\nIt goes back by itself at 12:10:00, in 10m 00s, unless kept: doorward apply --keep\n", ""},
		{"apply --keep", nil, control.ApplyRequest{Action: "keep"}, 0, "done (until 12:10:00)\n", ""},
		{"apply --undo", nil, control.ApplyRequest{Action: "undo"}, 0, "done (until 12:10:00)\n", ""},
		{"apply --force", nil, control.ApplyRequest{Action: "apply", Force: true}, 0, "done (until 12:10:00)\n", ""},
		{"apply --keep --id 7", nil, control.ApplyRequest{Action: "keep", ID: 7}, 0, "done (until 12:10:00)\n", ""},
		{"apply --undo --id 7", nil, control.ApplyRequest{Action: "undo", ID: 7}, 0, "done (until 12:10:00)\n", ""},
		{"apply --undo --force", nil, nil, usage, "", "doorward: error: --force does not go with --keep and --undo\ndoorward: hint: doorward apply --help\n"},
		{"apply --id 7", nil, nil, usage, "", "doorward: error: --id goes with --keep and --undo\ndoorward: hint: doorward apply --help\n"},
		{"diff ssh", nil, nil, usage, "", "doorward: error: \"ssh\": no argument is expected\ndoorward: hint: doorward diff --help\n"},
		{"apply --undo --keep", nil, nil, usage, "", "doorward: error: --confirm, --keep and --undo exclude one another\ndoorward: hint: doorward apply --help\n"},
		{"apply --confirm 0s", nil, nil, usage, "", "doorward: error: --confirm 0s: allowed is 1s and more\ndoorward: hint: doorward apply --help\n"},
		{"apply now", nil, nil, usage, "", "doorward: error: \"now\": no argument is expected\ndoorward: hint: doorward apply --help\n"},
		{"aplly", nil, nil, usage, "", "doorward: error: command \"aplly\" is not known\ndoorward: hint: doorward apply\n"},
		{"zzz", nil, nil, usage, "", "doorward: error: command \"zzz\" is not known\ndoorward: hint: doorward --help lists the commands\n"},
		{"status nix", nil, nil, 5, "", "doorward: error: door \"nix\" is not known: the doors are admin, ssh, vpn\ndoorward: hint: doorward status\n"},
		{"close evil", nil, control.Close{Door: "evil"}, 6, "", "doorward: error: a\ufffd[2Jb\nc\ndoorward: hint: \ufffdx\n"},
		{"log --limit 20000", nil, nil, 2, "", "doorward: error: --limit \"20000\": allowed are 1 to 10000, and all; with --follow 0, too\ndoorward: hint: doorward log --help\n"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			b := controltest.New(guarded())
			b.OnDo(func(_ context.Context, g controltest.Given) (control.Reply, error) {
				if (g.Order == control.Close{Door: "nix"}) {
					return control.Reply{}, &control.Error{Code: control.CodeNoDoor, Message: "there is no door \"nix\"", Hint: "doorward status"}
				}
				if (g.Order == control.Close{Door: "evil"}) {
					return control.Reply{}, &control.Error{Message: "a\x1b[2Jb\nc", Hint: "\ax"}
				}
				return control.Reply{Message: "done", Until: after(10 * time.Minute), Door: "ssh", State: "open", Changed: true}, nil
			})
			path, _ := controltest.Serve(t, b)
			args := append([]string{"--control", path}, strings.Fields(tt.args)...)
			code, stdout, stderr := operate(t, tt.vars, args...)
			if code != tt.code || stdout != tt.stdout || stderr != tt.stderr {
				t.Errorf("got %d\n%s%s\nwant %d\n%s%s", code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
			}
			var got any
			if given := b.Given(); len(given) > 0 {
				got = given[0].Order
			}
			if d := cmp.Diff(tt.order, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Errorf("order (-want +got):\n%s", d)
			}
		})
	}
}

// one is the source of one address.
func one(address string) netip.Prefix { return door.Source(netip.MustParseAddr(address)) }

func TestNoDaemonAnswers(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "s")
	want := "doorward: error: no daemon answers at " + missing + ": connect: no such file or directory\n" +
		"doorward: hint: systemctl status doorward, or --control SOCKET if it listens elsewhere\n"
	for _, args := range []string{"status", "status --watch", "log", "close ssh", "arm", "apply --keep"} {
		code, _, stderr := operate(t, map[string]string{"DOORWARD_CONTROL": missing}, strings.Fields(args)...)
		if code != 3 || stderr != want {
			t.Errorf("%s: got %d %q, want 3 %q", args, code, stderr, want)
		}
	}
}

// lineWriter hands each write on, and ends the command when told.
type lineWriter struct {
	strings.Builder
	wrote func(all string)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n, err := w.Builder.Write(p)
	w.wrote(w.String())
	return n, err
}

// TestStreams runs the endless commands without a terminal until their user
// has seen enough, which is success.
func TestStreams(t *testing.T) {
	change := func(b *controltest.Backend) {
		b.Change(func(s *control.Status) {
			s.Warnings = nil
			s.Doors = append([]control.Door{}, s.Doors...)
			s.Doors[1].State, s.Doors[1].Reason, s.Doors[1].Grants, s.Doors[1].GrantsTotal = "closing", "idle for 1h", nil, 0
		})
	}
	record := func(b *controltest.Backend) {
		b.Append(audit.Record{ID: 6, Time: noon, Door: "vpn", Event: audit.EventArmed, By: "operator alice (uid 1000)"})
	}
	for _, tt := range []struct {
		golden, args string
		change       func(*controltest.Backend)
		first, last  string // what stands in the output before the change, and at the end
	}{
		{"watch.txt", "status --watch", change, "vpn dark", "no more: warning"},
		{"watch_door.txt", "status ssh --watch", change, "ssh open", "no more: warning"},
		{"watch.json", "status ssh --watch --json", change, "open", "closing"},
		{"follow.txt", "log --follow", record, "log data", "armed"},
		{"follow.json", "log --follow --json --limit 1", record, "log data", "armed"},
	} {
		t.Run(tt.golden, func(t *testing.T) {
			b := controltest.New(guarded())
			b.Append(trailOf()...)
			path, _ := controltest.Serve(t, b)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			changed := false
			out := &lineWriter{wrote: func(all string) {
				switch {
				case !changed && strings.Contains(all, tt.first):
					changed = true
					tt.change(b)
				case strings.Contains(all, tt.last):
					cancel()
				}
			}}
			e := &env{stdin: strings.NewReader(""), stdout: out, stderr: io.Discard,
				getenv: func(string) string { return "" }, now: func() time.Time { return noon }}
			if code := run(ctx, e, append([]string{"--control", path}, strings.Fields(tt.args)...)); code != 0 {
				t.Errorf("got status %d, want 0", code)
			}
			golden(t, tt.golden, out.String())
		})
	}
}

// TestStreamsEndWithTheDaemon: what its user did not end is an error.
func TestStreamsEndWithTheDaemon(t *testing.T) {
	for _, args := range []string{"status --watch"} {
		b := controltest.New(guarded())
		b.Append(trailOf()...)
		path, stop := controltest.Serve(t, b)
		var errs bytes.Buffer
		out := &lineWriter{wrote: func(string) { stop() }}
		e := &env{stdin: strings.NewReader(""), stdout: out, stderr: &errs, getenv: func(string) string { return "" }}
		code := run(t.Context(), e, append([]string{"--control", path}, strings.Fields(args)...))
		want := "doorward: error: the daemon at " + path + " closed the connection\ndoorward: hint: systemctl status doorward\n"
		if code != 3 || errs.String() != want {
			t.Errorf("%s: got %d %q, want 3 %q", args, code, errs.String(), want)
		}
	}
}

// TestCompletion asks as a shell does.
func TestCompletion(t *testing.T) {
	b := controltest.New(guarded())
	b.Change(func(s *control.Status) { s.Pending = &control.Pending{ID: 7, By: "operator bob (uid 1001)"} })
	path, _ := controltest.Serve(t, b)
	doors := []string{"admin\tfailsafe", "ssh\topen", "vpn\tdark"}
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"open", ""}, doors},
		{[]string{"status", ""}, doors},
		{[]string{"log", ""}, doors},
		{[]string{"arm", "ssh", ""}, nil},
		{[]string{"close", "ssh", "--source", ""}, []string{"192.0.2.7\thas a grant", "2001:db8:1::/64\thas a grant"}},
		{[]string{"close", "vpn", "--source", ""}, nil},
		{[]string{"open", "vpn", "--source", ""}, []string{"any\teverybody"}},
		{[]string{"arm", "--source", ""}, []string{"198.51.100.23\tport 59001"}},
		{[]string{"apply", "--keep", "--id", ""}, []string{"7\tby operator bob (uid 1001)"}},
	} {
		args := append([]string{"__complete", "--control", path}, tt.args...)
		code, stdout, _ := operate(t, nil, args...)
		lines := strings.Split(strings.TrimSpace(stdout), "\n")
		got := lines[:len(lines)-1]
		if len(got) == 0 {
			got = nil
		}
		if d := cmp.Diff(tt.want, got); code != 0 || d != "" || lines[len(lines)-1] != ":4" {
			t.Errorf("%q: status %d, directive %q (-want +got):\n%s", tt.args, code, lines[len(lines)-1], d)
		}
	}
	if code, stdout, _ := operate(t, map[string]string{"DOORWARD_CONTROL": path + "x"}, "__complete", "open", ""); code != 0 || stdout != ":4\n" {
		t.Errorf("without a daemon: got %d %q, want nothing proposed", code, stdout)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		code, stdout, _ := operate(t, nil, "completion", shell)
		if code != 0 || !strings.Contains(stdout, "doorward") {
			t.Errorf("completion %s: status %d, %d bytes", shell, code, len(stdout))
		}
	}
}

func TestSpell(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", time.Millisecond: "1s", 59 * time.Second: "59s", time.Minute: "1m 00s",
		time.Hour - time.Second: "59m 59s", time.Hour: "1h 00m", 24*time.Hour - time.Second: "23h 59m", 50 * time.Hour: "2d 02h",
	} {
		if got := spell(d); got != want {
			t.Errorf("spell(%v) = %q, want %q", d, got, want)
		}
	}
}

// TestWriteErrors: a full disk behind the output is not success.
func TestWriteErrors(t *testing.T) {
	b := controltest.New(guarded())
	b.Append(trailOf()...)
	path, _ := controltest.Serve(t, b)
	for _, args := range []string{"status", "status --json", "status --watch --json", "log", "log --json", "arm", "arm --json"} {
		var errs bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: fullWriter{}, stderr: &errs, getenv: func(string) string { return "" }}
		code := run(t.Context(), e, append([]string{"--control", path}, strings.Fields(args)...))
		if want := "doorward: error: disk full\n"; code != 1 || errs.String() != want {
			t.Errorf("%s: got %d %q, want 1 and %q", args, code, errs.String(), want)
		}
	}
}

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// TestLiveView has the view's reaction to time, size and keys, without a
// terminal.
func TestLiveView(t *testing.T) {
	now := noon
	var m tea.Model = liveView{clock: func() time.Time { return now }}
	show := func(msgs ...tea.Msg) []string {
		for _, msg := range msgs {
			m, _ = m.Update(msg)
		}
		return strings.Split(m.View().Content, "\n")
	}
	wantLine := func(lines []string, want string) {
		t.Helper()
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
			t.Errorf("no line begins with %q in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	wantLine(show(tea.WindowSizeMsg{Width: 80, Height: 40}), "waiting for the daemon")
	wantLine(show(snapshotMsg(guarded())), "ssh     192.0.2.7        28s     -      touch")
	now = now.Add(5 * time.Second)
	wantLine(show(tickMsg{}), "ssh     192.0.2.7        23s     -      touch")
	lines := show(goneMsg{errors.New("the daemon is gone")})
	wantLine(lines, "the daemon is gone: trying again")
	wantLine(lines, "this is how things stood at 2026-11-24 11:59:00 UTC") // and not that the doors are guarded now
	wantLine(show(snapshotMsg(guarded())), "doorward status  12:00:05 UTC  q quits")

	lines = show(tea.WindowSizeMsg{Width: 40, Height: 10})
	for _, l := range lines {
		if lipgloss.Width(l) > 40 || len(lines) > 10 {
			t.Errorf("%d lines, among them %q: want 10 of 40", len(lines), l)
		}
	}
	wantLine(lines, "guarded: yes")
	wantLine(lines, "warning: door admin")
	down := tea.KeyPressMsg{Code: tea.KeyDown}
	lines = show(tea.WindowSizeMsg{Width: 80, Height: 10}, down, down)
	wantLine(lines, "doorward status  12:00:05 UTC  3 to 8 of 22  q quits, arrows scroll")
	wantLine(lines, "guarded: yes") // wherever one looks
	lines = show(tea.KeyPressMsg{Code: tea.KeyPgDown}, tea.KeyPressMsg{Code: tea.KeyPgDown}, tea.KeyPressMsg{Code: tea.KeyPgDown}, down)
	wantLine(lines, "doorwardd 0.1.0 up")
	wantLine(lines, "guarded: yes")
	wantLine(show(tea.KeyPressMsg{Code: tea.KeyHome}), "warning: door admin")
	wantLine(show(tea.KeyPressMsg{Code: tea.KeyEnd}), "doorwardd 0.1.0 up")
	wantLine(show(tea.KeyPressMsg{Code: 'g', Text: "g"}), "warning: door admin")

	for _, key := range []tea.KeyPressMsg{{Code: 'q', Text: "q"}, {Code: tea.KeyEscape}, {Code: 'c', Mod: tea.ModCtrl}} {
		if _, cmd := m.Update(key); cmd == nil || cmd() != tea.Quit() {
			t.Errorf("%s does not quit", key)
		}
	}
}
