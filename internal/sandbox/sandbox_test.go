//go:build linux

package sandbox_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
)

// attempt is something that the intruder tried.
type attempt struct{ kind, what, result string }

// intrude builds the intruder and runs it as a user with the daemon's capabilities, as
// the unit does, and returns the result of each attempt.
func intrude(t *testing.T, program string, how ...string) []attempt {
	t.Helper()
	nstest.Need(t, "setpriv", "go")
	dir, err := os.MkdirTemp("/var/tmp", "doorward-sandbox-") // where another user can reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "intruder"), "./intruder")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the intruder: %v\n%s", err, out)
	}
	read, write := filepath.Join(dir, "logs"), filepath.Join(dir, "state")
	for _, d := range []string{dir, read, write} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(read, "log"), []byte("Accepted"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(write, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	caps := "-all,+net_admin,+net_bind_service,+setpcap"
	run := nstest.New(t).Command(t.Context(), "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
		"--inh-caps", caps, "--ambient-caps", caps, "--bounding-set", caps,
		filepath.Join(dir, "intruder"), read, filepath.Join(write, "store"), program)
	run.Args = append(run.Args, how...)
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("run the intruder: %v\n%s", err, out)
	}
	var all []attempt
	for line := range strings.Lines(string(out)) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), ": ")
		what, result, _ := strings.Cut(rest, ": ")
		all = append(all, attempt{kind, what, result})
	}
	return all
}

// denied reports whether it was the sandbox that prevented an attempt.
func (a attempt) denied() bool {
	switch {
	case strings.HasSuffix(a.what, "by the loader") && a.result == "exit status 127":
		return true // the loader may run, but not read the program
	case strings.HasSuffix(a.what, "by clone3"):
		return a.result == "function not implemented" // so that C libraries fall back to clone
	}
	return strings.Contains(a.result, "not permitted") || strings.Contains(a.result, "permission denied")
}

// onASystem are attempts whose sockets exist only on a booted system;
// packaging.TestTheDaemonInItsUnit checks them.
var onASystem = []string{"stop another unit", "start a unit of its own", "talk to systemd without D-Bus", "talk to another on D-Bus"}

func TestTheWorkGoesOnInsideAndAnIntruderGetsNothing(t *testing.T) {
	for _, tt := range []struct {
		name, program string
		how           []string
	}{
		{name: "no programs"},
		{name: "no programs, alone", how: []string{"alone"}},
		{name: "one program", program: "/usr/bin/true"},
		{name: "one program, alone", program: "/usr/bin/true", how: []string{"alone"}},
		{name: "the journal's reader", program: "/usr/bin/journalctl"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.program != "" {
				nstest.Need(t, tt.program)
			}
			count := map[string]int{}
			for _, a := range intrude(t, tt.program, tt.how...) {
				count[a.kind]++
				switch {
				case a.kind == "work" && a.result != "done":
					t.Errorf("%s: %q, want done", a.what, a.result)
				case a.kind == "crime" && !a.denied() && !slices.Contains(onASystem, a.what):
					t.Errorf("%s: %q, want it denied", a.what, a.result)
				}
			}
			if count["work"] < 12 || len(count) != 2 || count["crime"] < 60 {
				t.Errorf("the intruder tried %v, want at least 12 of its work and 60 crimes", count)
			}
		})
	}
}

// An MPTCP listener could be turned into an outgoing connection, and that is reported.
func TestAListenerThatCannotBeConfined(t *testing.T) {
	for _, a := range intrude(t, "", "mptcp") {
		if a.kind == "missing" && strings.HasPrefix(a.what, "outgoing MPTCP connections are not confined") {
			return
		}
	}
	t.Error("the MPTCP listener was not reported")
}

// Without the sandbox, the same attempts succeed: so it is the sandbox that prevents
// them.
func TestWithoutTheSandboxTheIntruderGetsFurther(t *testing.T) {
	got := map[string]string{}
	for _, a := range intrude(t, "", "unconfined", "alone") {
		got[a.what] = a.result
	}
	for _, what := range []string{
		"exec a shell", "exec a shell by the loader", "exec a program among the libraries by the loader",
		"exec a program in memory", "make memory executable", "start a process", "open the store by /proc",
		"connect out", "connect out by MPTCP", "connect out by the listener", "send data by fast open",
		"send a message by fast open", "send a datagram", "change routes", "ask any driver", "take an interface down",
		"listen for others' addresses", "mark its packets", "connect to an abstract socket",
		"send to a unix socket from a pair", "use the keyring", "use io_uring",
	} {
		if got[what] != "done" {
			t.Errorf("%s: %q, want done", what, got[what])
		}
	}
}
