//go:build linux

package cage_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
)

// intrude builds the intruder and runs it as a user with the daemon's
// capabilities, as the unit does, and returns what came of each attempt.
func intrude(t *testing.T, program string, uncaged bool) map[string]string {
	t.Helper()
	nstest.Need(t, "setpriv", "go")
	dir, err := os.MkdirTemp("/var/tmp", "doorward-cage-") // where another user reaches it
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
	if uncaged {
		run.Args = append(run.Args, "uncaged")
	}
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("run the intruder: %v\n%s", err, out)
	}
	results := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		_, attempt, _ := strings.Cut(strings.TrimSpace(line), ": ")
		what, result, _ := strings.Cut(attempt, ": ")
		results[what] = result
	}
	return results
}

var (
	work = []string{"read a log", "list the logs", "write the store", "listen below 1024", "open a netfilter socket",
		"size its buffer by force", "open a unix socket", "start threads"}
	crimes = []string{"exec a shell", "exec a shell by the loader", "read /etc/shadow", "read another's home", "write a log",
		"write beside the store", "replace the store", "open the store again", "write outside", "connect out", "signal the parent", "ptrace the parent", "read the parent's memory",
		"load a module", "open a raw socket", "open a packet socket", "open a Bluetooth socket", "mount",
		"make a namespace", "enter a namespace", "change the root", "become root", "set the clock",
		"load a BPF program", "use io_uring", "use the keyring"}
)

func TestTheWorkGoesOnInsideAndAnIntruderGetsNothing(t *testing.T) {
	for _, tt := range []struct {
		name, program string
	}{
		{"no programs", ""},
		{"one program", "/usr/bin/true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := intrude(t, tt.program, false)
			wanted := work
			if tt.program != "" {
				wanted = append(wanted[:len(wanted):len(wanted)], "run the program")
			}
			for _, what := range wanted {
				if got[what] != "done" {
					t.Errorf("%s: %q, want done", what, got[what])
				}
			}
			for _, what := range crimes {
				// 127 is the loader's: it may run, and then may not read the shell.
				denied := strings.Contains(got[what], "not permitted") || strings.Contains(got[what], "permission denied") ||
					what == "exec a shell by the loader" && got[what] == "exit status 127"
				if !denied {
					t.Errorf("%s: %q, want it denied", what, got[what])
				}
			}
		})
	}
}

// Without the cage the same program gets further, so that it is the cage that
// keeps it in.
func TestWithoutTheCageTheIntruderGetsFurther(t *testing.T) {
	got := intrude(t, "", true)
	for _, what := range []string{"exec a shell", "exec a shell by the loader", "connect out", "use the keyring", "use io_uring"} {
		if got[what] != "done" {
			t.Errorf("%s: %q, want done", what, got[what])
		}
	}
}
