//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
)

var discard = slog.New(slog.DiscardHandler)

// newCommand makes a Command that is stopped when the test ends.
func newCommand(t *testing.T, start, stop, status []string) *Command {
	t.Helper()
	c := NewCommand(start, stop, status, filepath.Join(t.TempDir(), "door.pid"), discard)
	stopAtTheEnd(t, c)
	return c
}

// stopAtTheEnd stops c when the test ends, and with it the test's context.
func stopAtTheEnd(t *testing.T, c *Command) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c.Stop(ctx)
	})
}

func status(t *testing.T, c *Command) Status {
	t.Helper()
	s, err := c.Status(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustStart(t *testing.T, c *Command) int {
	t.Helper()
	if err := c.Start(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	s := status(t, c)
	if s.State != Running {
		t.Fatalf("after Start: %+v", s)
	}
	return s.PID
}

// childOf reads the pid that a helper has written to a file, and ends that process
// when the test ends.
func childOf(t *testing.T, file string) int {
	t.Helper()
	var pid int
	nstest.Eventually(t, "child has written "+file, func() bool {
		raw, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(string(raw))
		return err == nil
	})
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	return pid
}

func TestSupervisedFromStartToStop(t *testing.T) {
	c := newCommand(t, self("stay"), nil, nil)
	if got := status(t, c); got != (Status{}) {
		t.Errorf("before Start: %+v", got)
	}
	pid := mustStart(t, c)
	if again := mustStart(t, c); again != pid {
		t.Errorf("a second Start made process %d although %d is running", again, pid)
	}
	for range 2 {
		if err := c.Stop(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		if got := status(t, c); got != (Status{}) {
			t.Errorf("after Stop: %+v", got)
		}
	}
	if runs(pid) {
		t.Errorf("process %d runs after Stop", pid)
	}
	if _, err := os.Stat(c.pidFile); err == nil {
		t.Error("the pid file is left after Stop")
	}
}

func TestSupervisedEnvironment(t *testing.T) {
	c := newCommand(t, self("tell"), nil, nil)
	mustStart(t, c)
	var text string
	nstest.Eventually(t, "the service has written its file", func() bool {
		raw, _ := os.ReadFile(outputFile(c.pidFile))
		text = string(raw)
		return strings.Contains(text, "voluntary_ctxt_switches")
	})
	want := strings.Join(environment[:], "\n") + "\ndir / leads its session true\n"
	if !strings.HasPrefix(text, want) {
		t.Errorf("the service reports %q, want a text that begins with %q", text, want)
	}
}

func TestStopEndsTheProcessAloneNotItsSessions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "child")
	c := newCommand(t, self("session", file), nil, nil)
	pid, child := mustStart(t, c), childOf(t, file)
	if err := c.Stop(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if runs(pid) || !runs(child) {
		t.Errorf("after Stop: service runs %v, its session runs %v; want false, true", runs(pid), runs(child))
	}
}

func TestStopKillsWhatIgnoresSIGTERMAtTheDeadline(t *testing.T) {
	c := newCommand(t, self("stubborn"), nil, nil)
	pid := mustStart(t, c)
	nstest.Eventually(t, "it ignores SIGTERM", func() bool {
		raw, _ := os.ReadFile(outputFile(c.pidFile))
		return len(raw) > 0
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := c.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Stop = %v", err)
	}
	if !runs(pid) {
		t.Error("a cancelled Stop killed the process")
	}
	if err := c.Stop(within(t, 500*time.Millisecond)); err != nil {
		t.Error(err)
	}
	if runs(pid) {
		t.Error("the service runs after Stop's deadline")
	}
}

func TestStartFails(t *testing.T) {
	bin := os.Args[0]
	for _, tt := range []struct {
		name                string
		start, stop, status []string
		within              time.Duration
		want                string
	}{
		{"no such program", []string{"/nonexistent/sshd", "-D"}, nil, nil, time.Minute,
			`start "/nonexistent/sshd": fork/exec /nonexistent/sshd: no such file or directory`},
		{"ends with a status", self("fail", "255", "Bad configuration option: Prot"), nil, nil, time.Minute,
			fmt.Sprintf(`start of %q failed: it ended with exit status 255; its last output: "Bad configuration option: Prot"`, bin)},
		{"ends by a signal", self("die"), nil, nil, time.Minute,
			fmt.Sprintf(`start of %q failed: it was ended by signal 9 (killed)`, bin)},
		{"goes into the background", self("fail", "0", "bye"), nil, nil, time.Minute,
			fmt.Sprintf(`start of %q failed: it ended with exit status 0, perhaps to go on in the background where it cannot be supervised: `+
				`give it the option to stay in the foreground (sshd: -D), or give stop and status commands; its last output: "bye"`, bin)},
		{"supervised, ends before status is good", self("fail", "3", "no"), nil, []string{"/bin/false"}, time.Minute,
			fmt.Sprintf(`start of %q failed: it ended with exit status 3; its last output: "no"`, bin)},
		{"supervised, never up", self("stubborn"), nil, []string{"/bin/false"}, patience,
			fmt.Sprintf(`start of %q did not succeed in time: status command "/bin/false" says that it does not run: context deadline exceeded; `+
				`its last output: "ready"`, bin)},
		{"command fails", self("fail", "7", "no disk"), []string{"/bin/true"}, nil, time.Minute,
			fmt.Sprintf(`start command %q ended with exit status 7; its last output: "no disk"`, bin)},
		{"command dies", self("die"), []string{"/bin/true"}, nil, time.Minute,
			fmt.Sprintf(`start command %q: signal: killed`, bin)},
		{"command does not end", self("stay"), []string{"/bin/true"}, nil, 300 * time.Millisecond,
			fmt.Sprintf(`start command %q did not end within TIME; a start command that stays in the foreground is supervised `+
				`when there is no stop command: context deadline exceeded`, bin)},
		{"command never up", []string{"/bin/true"}, []string{"/bin/true"}, []string{"/bin/false"}, patience,
			`start of "/bin/true" did not succeed in time: status command "/bin/false" says that it does not run: context deadline exceeded`},
		{"no such status command", []string{"/bin/true"}, []string{"/bin/true"}, []string{"/nonexistent/pgrep"}, time.Minute,
			`status command "/nonexistent/pgrep": fork/exec /nonexistent/pgrep: no such file or directory`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCommand(t, tt.start, tt.stop, tt.status)
			c.settle = time.Minute // the service ends sooner, however slow this machine is
			err := c.Start(within(t, tt.within))
			if err == nil {
				t.Fatal("Start succeeded")
			}
			if diff := cmp.Diff(tt.want, withoutTime(err)); diff != "" {
				t.Error(diff)
			}
			if tt.stop == nil {
				if s, err := c.lookAtProcess(); err != nil || s.State == Running {
					t.Errorf("a service that failed to start is still running: %+v, %v", s, err)
				}
			}
		})
	}
}

func TestStartIsGivenUpWithItsContext(t *testing.T) {
	c := newCommand(t, self("stay"), nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Start(ctx); err == nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v", err)
	}
	if s := status(t, c); s.State != Stopped {
		t.Errorf("after Start was cancelled: %+v", s)
	}
}

func TestPidFileThatCannotBeWrittenLeavesNothingRunning(t *testing.T) {
	dir := t.TempDir()
	c := NewCommand(self("stay"), nil, nil, filepath.Join(dir, "door.pid"), discard)
	if err := os.Mkdir(c.pidFile+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	err := c.Start(within(t, 10*time.Second))
	want := fmt.Sprintf("start %q: remember that %q runs: open %s.new: is a directory", os.Args[0], os.Args[0], c.pidFile)
	if err == nil || err.Error() != want {
		t.Errorf("Start = %v\nwant %s", err, want)
	}
	if s := status(t, c); s.State != Stopped {
		t.Errorf("status is %+v", s)
	}
}

func TestWatchSeesTheServiceEndByItself(t *testing.T) {
	c := newCommand(t, self("stay"), nil, nil)
	seen := watcher(t, c.Watch)
	if got := next(t, seen); got != (Status{}) {
		t.Errorf("first report is %+v", got)
	}
	pid := mustStart(t, c)
	if got := await(t, seen, Running); got.PID != pid {
		t.Errorf("Watch reports process %d, want %d", got.PID, pid)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	got := await(t, seen, Failed)
	if want := "failed: it was ended by signal 9 (killed)"; got.Detail != want || got.PID != 0 {
		t.Errorf("Watch reports %+v, want no PID and %q", got, want)
	}
	if again := mustStart(t, c); again == pid {
		t.Error("no new process")
	}
	await(t, seen, Running)
	if err := c.Stop(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	await(t, seen, Stopped)
}

func TestSupervisedWithStatusIsUpWhenStatusSaysSo(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	c := newCommand(t, self("stay"), nil, []string{"/usr/bin/test", "-e", ready})
	seen := watcher(t, c.Watch)
	started := make(chan error, 1)
	ctx := within(t, 20*time.Second)
	go func() { started <- c.Start(ctx) }()
	if s := await(t, seen, Starting); s.State != Starting {
		t.Errorf("%+v", s)
	}
	select {
	case err := <-started:
		t.Fatalf("Start returned before it was ready: %v", err)
	default:
	}
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if s := await(t, seen, Running); s.PID == 0 {
		t.Errorf("%+v", s)
	}
	os.Remove(ready)
	want := Status{State: Starting, PID: status(t, c).PID,
		Detail: `status command "/usr/bin/test" ended with exit status 1`}
	if diff := cmp.Diff(want, status(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestOutputIsKeptShort(t *testing.T) {
	c := newCommand(t, self("stay"), nil, nil)
	mustStart(t, c)
	path := outputFile(c.pidFile)
	if err := os.WriteFile(path, make([]byte, maxOutput+1), 0o600); err != nil {
		t.Fatal(err)
	}
	watcher(t, c.Watch)
	nstest.Eventually(t, "the output is cut", func() bool {
		info, err := os.Stat(path)
		return err == nil && info.Size() == 0
	})
	if err := os.WriteFile(path, []byte(strings.Repeat("ä", maxTail)+"end\x1b[31m\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := c.lastOutput()
	if !strings.HasPrefix(got, `; its last output: "ä`) || !strings.HasSuffix(got, `äend\x1b[31m"`) || len(got) > maxTail+64 {
		t.Errorf("tail is %s", got)
	}
}

// A program that was ended by SIGTERM counts as stopped, since somebody asked it to
// end; one that was killed has failed.
func TestToldToEndIsNotFailed(t *testing.T) {
	for _, tt := range []struct {
		signal syscall.Signal
		want   Status
	}{
		{syscall.SIGTERM, Status{Detail: "stopped: it was ended by signal 15 (terminated)"}},
		{syscall.SIGKILL, Status{State: Failed, Detail: "failed: it was ended by signal 9 (killed)"}},
		{syscall.SIGSEGV, Status{State: Failed, Detail: "failed: it was ended by signal 11 (segmentation fault)"}},
	} {
		c := newCommand(t, []string{"/bin/sleep", "infinity"}, nil, nil)
		pid := mustStart(t, c)
		syscall.Kill(pid, tt.signal)
		nstest.Eventually(t, "the program has ended", func() bool { return status(t, c).State != Running })
		if got := status(t, c); got != tt.want {
			t.Errorf("%v: %+v, want %+v", tt.signal, got, tt.want)
		}
	}
}

// A status command that follows the Linux Standard Base distinguishes a service that was
// stopped from one that died.
func TestStatusCommandTellsAStopFromADeath(t *testing.T) {
	for code, want := range map[int]State{1: Failed, 2: Failed, 3: Stopped, 4: Failed} {
		up := filepath.Join(t.TempDir(), "up")
		c := newCommand(t, []string{"/bin/touch", up}, []string{"/bin/rm", "-f", up},
			[]string{"/bin/sh", "-c", fmt.Sprintf("[ -e %s ] || exit %d", up, code)})
		mustStart(t, c)
		if err := os.Remove(up); err != nil {
			t.Fatal(err)
		}
		if got := status(t, c); got.State != want {
			t.Errorf("exit status %d: %+v, want %v", code, got, want)
		}
	}
}
