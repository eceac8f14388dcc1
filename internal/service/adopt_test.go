//go:build linux

package service

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
)

// startInDaemon starts a service in another process, and kills that process.
func startInDaemon(t *testing.T, pidFile string, with ...string) {
	t.Helper()
	argv := append(with, self(append([]string{"daemon", pidFile}, self("tell")...)...)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 256)
	n, _ := out.Read(line)
	cmd.Process.Kill()
	cmd.Wait()
	if got := string(line[:n]); got != "started\n" {
		t.Fatalf("the daemon says %q", got)
	}
}

func TestServiceOutlivesItsDaemonAndIsTakenUp(t *testing.T) {
	c := newCommand(t, self("tell"), nil, nil)
	startInDaemon(t, c.pidFile)
	s := status(t, c)
	if s.State != Running || !runs(s.PID) {
		t.Fatalf("the next daemon sees %+v", s)
	}
	if again := mustStart(t, c); again != s.PID {
		t.Errorf("Start made process %d although %d is running", again, s.PID)
	}
	seen := watcher(t, c.Watch)
	await(t, seen, Running)
	if err := c.Stop(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if runs(s.PID) {
		t.Error("the service runs after Stop")
	}
	await(t, seen, Stopped)

	startInDaemon(t, c.pidFile)
	c = NewCommand(c.start, nil, nil, c.pidFile, discard)
	seen = watcher(t, c.Watch)
	pid := await(t, seen, Running).PID
	syscall.Kill(pid, syscall.SIGKILL)
	if got := await(t, seen, Failed); !strings.HasPrefix(got.Detail, "failed: it ended; its last output: ") {
		t.Errorf("the status of the service that ended has the detail %q", got.Detail)
	}
}

func TestServiceDoesNotInheritTheDaemonsCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "dw-service-") // other users cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	copied := filepath.Join(dir, "helper")
	raw, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.WriteFile(copied, raw, 0o755), os.Chown(dir, 65534, 65534), os.Chmod(dir, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	bin := os.Args[0]
	os.Args[0] = copied
	t.Cleanup(func() { os.Args[0] = bin })
	pidFile := filepath.Join(dir, "door.pid")
	startInDaemon(t, pidFile, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
		"--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--")
	c := NewCommand([]string{copied}, nil, nil, pidFile, discard)
	stopAtTheEnd(t, c)
	var text string
	nstest.Eventually(t, "the service has written its file", func() bool {
		raw, _ := os.ReadFile(outputFile(pidFile))
		text = string(raw)
		return strings.Contains(text, "voluntary_ctxt_switches")
	})
	for _, set := range []string{"CapEff", "CapPrm", "CapAmb"} {
		if !strings.Contains(text, "\n"+set+":\t0000000000000000\n") {
			t.Errorf("%s is not empty:\n%s", set, text)
		}
	}
}

func TestRecycledPidIsLeftAlone(t *testing.T) {
	stranger := exec.Command(os.Args[0], helperWord, "stay")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stranger.Process.Kill(); stranger.Wait() })
	pid := stranger.Process.Pid
	start, err := startTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, text string
		want       Status
	}{
		{"another start time", fmt.Sprintf("%d %s0 %s\n", pid, start, boot),
			Status{State: Failed, Detail: "failed: it ended while nobody watched"}},
		{"another boot", fmt.Sprintf("%d %s 0%s\n", pid, start, boot[1:]+"f"), Status{}},
		{"nobody's pid", fmt.Sprintf("4194303 %s %s\n", start, boot),
			Status{State: Failed, Detail: "failed: it ended while nobody watched"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCommand(t, self("stay"), nil, nil)
			if err := os.WriteFile(c.pidFile, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, status(t, c)); diff != "" {
				t.Error(diff)
			}
			if err := c.Stop(within(t, 10*time.Second)); err != nil {
				t.Error(err)
			}
			if !runs(pid) {
				t.Fatal("Stop ended a stranger")
			}
		})
	}
}

func TestInvalidPidFile(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", `%q does not hold "PID START BOOT": ""`},
		{"1234\n", `%q does not hold "PID START BOOT": "1234\n"`},
		{"-1 5 x", `%q does not begin with a pid: "-1 5 x"`},
		{"one 5 x", `%q does not begin with a pid: "one 5 x"`},
		{"12 5 4cf2", `%q is not as it was written: "12 5 4cf2"`}, // of this boot, cut short
		{"12 x5 4cf2\n", `%q is not as it was written: "12 x5 4cf2\n"`},
	} {
		c := NewCommand(self("stay"), nil, nil, filepath.Join(t.TempDir(), "door.pid"), discard)
		if err := os.WriteFile(c.pidFile, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("what runs for %q is not known: "+tt.want+"; end it by hand if it runs, then remove the file", os.Args[0], c.pidFile)
		for what, order := range map[string]func(context.Context) error{"Start": c.Start, "Stop": c.Stop} {
			if err := order(t.Context()); err == nil || err.Error() != want {
				t.Errorf("%s = %v\nwant %s", what, err, want)
			}
		}
		if raw, _ := os.ReadFile(c.pidFile); string(raw) != tt.text {
			t.Errorf("the file was changed to %q", raw)
		}
	}
}
