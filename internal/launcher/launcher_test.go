//go:build linux

package launcher

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/service"
)

// TestMain makes the test's program a launcher, or a daemon that will be killed, when it
// is started as one.
func TestMain(m *testing.M) {
	switch {
	case slices.Contains(os.Args, Flag):
		file := os.Args[1]
		err := Serve(slog.New(slog.DiscardHandler), func() (specs []Spec, err error) {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			return specs, json.Unmarshal(text, &specs)
		})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	case len(os.Args) == 3 && os.Args[1] == "daemon":
		daemon(os.Args[2])
	}
	goleak.VerifyTestMain(m)
}

// daemon starts a service, says so, and waits to be killed.
func daemon(dir string) {
	file := filepath.Join(dir, "specs")
	l, err := Start(dir, []Spec{sleeper}, file)
	if err == nil {
		err = l.Service(sleeper).Start(context.Background())
	}
	fmt.Println("started", err)
	select {}
}

var sleeper = Spec{Door: "ssh", Start: []string{"/bin/sleep", "1000"}}

// launch starts a launcher whose configuration is a file with specs, which the test may
// change.
func launch(t *testing.T, dir string, specs ...Spec) (l *Launcher, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "specs")
	write(t, file, specs...)
	l, err := Start(dir, specs, file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, file
}

// write writes a configuration.
func write(t *testing.T, file string, specs ...Spec) {
	t.Helper()
	text, err := json.Marshal(specs)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), d)
	t.Cleanup(cancel)
	return ctx
}

// stopAfter stops what the test has started.
func stopAfter(t *testing.T, s *Service) {
	t.Cleanup(func() {
		if err := s.Stop(within(t, 5*time.Second)); err != nil {
			t.Error(err)
		}
	})
}

// runs reports whether a process is running. A zombie is not.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestAServiceFromItsStartToItsEnd(t *testing.T) {
	l, _ := launch(t, t.TempDir(), sleeper)
	s := l.Service(sleeper)
	if s.String() != "/bin/sleep" {
		t.Errorf("String() = %q", s)
	}
	seen := make(chan service.Status, 16)
	watched := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { watched <- s.Watch(ctx, func(now service.Status) { seen <- now }) }()
	await := func(want service.State) service.Status {
		t.Helper()
		for {
			select {
			case now := <-seen:
				if now.State == want {
					return now
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("the watch never saw it %s", want)
			}
		}
	}
	await(service.Stopped)
	if err := s.Start(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	pid := await(service.Running).PID
	if now, err := s.Status(within(t, 10*time.Second)); err != nil || now != (service.Status{State: service.Running, PID: pid}) {
		t.Errorf("Status: %+v, %v", now, err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	if how := await(service.Failed).Detail; how != "failed: it was ended by signal 9 (killed)" {
		t.Errorf("the status of a killed service has the detail %q", how)
	}
	if err := s.Start(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	await(service.Running)
	if err := s.Stop(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	await(service.Stopped)
	cancel()
	if err := <-watched; err != nil {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestErrorsSayWhatTheCommandSays(t *testing.T) {
	for _, tt := range []struct {
		spec Spec
		want string
	}{
		{Spec{Door: "a", Start: []string{"/bin/false"}}, `start of "/bin/false" failed: it ended with exit status 1`},
		{Spec{Door: "b", Start: []string{"/none"}}, `start "/none": fork/exec /none: no such file or directory`},
		{Spec{Door: "c", Start: []string{"/bin/sleep", "1000"}, Stop: []string{"/bin/true"}},
			`start command "/bin/sleep" did not end within 100ms`},
	} {
		l, _ := launch(t, t.TempDir(), tt.spec)
		if err := l.Service(tt.spec).Start(within(t, 100*time.Millisecond)); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("got %v\nwant %s", err, tt.want)
		}
	}
}

func TestNothingIsRunButWhatTheConfigurationSays(t *testing.T) {
	l, file := launch(t, t.TempDir(), sleeper)
	other := Spec{Door: "ssh", Start: []string{"/bin/sleep", "1001"}}
	s := l.Service(other)
	refused := func(want string) {
		t.Helper()
		if err := s.Start(within(t, 10*time.Second)); err == nil || err.Error() != want {
			t.Errorf("Start: %v\nwant %s", err, want)
		}
		if now, err := s.Status(within(t, 10*time.Second)); err == nil || now != (service.Status{}) {
			t.Errorf("Status: %+v, %v", now, err)
		}
		if err := s.Watch(t.Context(), func(now service.Status) { t.Errorf("Watch: %+v", now) }); err == nil {
			t.Error("Watch of a spec that may not be run succeeded")
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	refused("the launcher cannot read what may be run: open " + file + ": no such file or directory")
	write(t, file, Spec{Door: "other", Start: other.Start})
	refused(`the launcher was asked to run ["/bin/sleep" "1001"] for door "ssh", which is not in the configuration`)
	write(t, file, other)
	stopAfter(t, s)
	if err := s.Start(within(t, 10*time.Second)); err != nil {
		t.Errorf("Start of a spec that the file has now: %v", err)
	}
	if err := s.order(within(t, 10*time.Second), "shout"); err == nil || err.Error() != `"shout" is not a call` {
		t.Errorf("a call that does not exist: %v", err)
	}
}

// A service lives on when the daemon is killed; the launcher does not.
func TestTheDaemonIsKilled(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "specs"), sleeper)
	cmd := exec.Command(os.Args[0], "daemon", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "started <nil>\n" {
		t.Fatalf("the daemon says %q, %v", line, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	nstest.Eventually(t, "the launcher has released its lock", func() bool {
		f, err := os.Open(filepath.Join(dir, "launcher.lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	})
	l, _ := launch(t, dir, sleeper)
	s := l.Service(sleeper)
	now, err := s.Status(within(t, 10*time.Second))
	if err != nil || now.State != service.Running || now.PID == 0 {
		t.Fatalf("the next daemon sees %+v, %v", now, err)
	}
	if err := s.Stop(within(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
	if runs(now.PID) {
		t.Error("the service runs after Stop")
	}
}

// Two launchers would start a service twice.
func TestTheNextLauncherWaitsForTheOneBefore(t *testing.T) {
	dir := t.TempDir()
	before, err := hold(filepath.Join(dir, "launcher.lock"))
	if err != nil {
		t.Fatal(err)
	}
	l, _ := launch(t, dir, sleeper)
	answered := make(chan error, 1)
	go func() {
		_, err := l.Service(sleeper).Status(t.Context())
		answered <- err
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a call that is cancelled meanwhile
	if err := l.Service(sleeper).Start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
	select {
	case err := <-answered:
		t.Errorf("the second launcher answered while the first one was running: %v", err)
	default:
	}
	before.Close()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestTheLauncherIsKilled(t *testing.T) {
	dir := t.TempDir()
	l, _ := launch(t, dir, sleeper)
	if err := l.Wait(canceled(t)); err != nil {
		t.Errorf("Wait while it lives: %v", err)
	}
	s := l.Service(sleeper)
	seen, watched := make(chan service.Status, 1), make(chan error, 1)
	go func() { watched <- s.Watch(t.Context(), func(now service.Status) { seen <- now }) }()
	<-seen
	syscall.Kill(l.pid, syscall.SIGKILL)
	want := "the launcher of doors' commands has ended, and with it what the daemon knew of them: signal: killed"
	if err := l.Wait(t.Context()); err == nil || err.Error() != want {
		t.Errorf("Wait: %v\nwant %s", err, want)
	}
	if err := <-watched; !errors.Is(err, errEnded) {
		t.Errorf("Watch: %v", err)
	}
	want = `start "/bin/sleep": ask the launcher: `
	if err := s.Start(within(t, 10*time.Second)); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Start: %v\nwant %s...", err, want)
	}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A start ends when it is cancelled, and when the daemon that asked for it ends.
func TestAStartThatIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	begun := filepath.Join(dir, "begun")
	slow := Spec{Door: "slow", Start: []string{"/bin/sh", "-c", `echo $$ >"$0"; exec sleep 1000`, begun}, Stop: []string{"/bin/true"}}
	l, _ := launch(t, dir, slow)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Service(slow).Start(ctx) }()
	pid := 0
	nstest.Eventually(t, "the start command runs", func() bool {
		text, _ := os.ReadFile(begun)
		n, _ := fmt.Sscan(string(text), &pid)
		return n == 1
	})
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Start: %v", err)
	}
	nstest.Eventually(t, "the start command has ended", func() bool { return !runs(pid) })
}

func TestLauncherStartedByHand(t *testing.T) {
	cmd := exec.Command(os.Args[0], "/none", Flag)
	cmd.Stdin = nil
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "only doorwardd itself starts a launcher: ") {
		t.Errorf("%v, %q", err, out)
	}
}

// sockets returns the daemon's and the launcher's ends of a pair.
func sockets(t *testing.T) (daemon, launcher *net.UnixConn) {
	t.Helper()
	daemon, other, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Close() })
	if launcher, err = connOf(other); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { launcher.Close() })
	return daemon, launcher
}

// A daemon that was taken over may send anything.
func FuzzMessages(f *testing.F) {
	for _, q := range []request{{Call: callStatus, Spec: sleeper}, {Call: callStart, Spec: Spec{Door: "../x", Start: []string{"/bin/false"}}}} {
		text, err := json.Marshal(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, true)
		f.Add(text[:len(text)/2], true)
		f.Add(text, false)
	}
	f.Add([]byte(`{"Call":"start","Spec":{"Door":"ssh","Start":[]}}`), true)
	f.Add([]byte("null"), true)
	f.Fuzz(func(t *testing.T, text []byte, withSocket bool) {
		own, far := sockets(t)
		s := &server{log: slog.New(slog.DiscardHandler), dir: t.TempDir(), reread: func() ([]Spec, error) { return nil, nil },
			known: map[string]bool{sleeper.key(): true}, services: make(map[string]*service.Command)}
		served := make(chan error, 1)
		go func() { served <- s.serve(far) }()
		answer, call, err := pair()
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Close()
		var rights []byte
		if withSocket {
			rights = unix.UnixRights(int(call.Fd()))
		}
		if len(text) > 0 && len(text) <= maxMessage {
			if _, _, err := own.WriteMsgUnix(text, rights, nil); err != nil {
				t.Fatal(err)
			}
		}
		call.Close()
		if withSocket && len(text) > 0 {
			var r reply
			_, _ = receive(answer, &r) // or it refused the message, and closed the socket
		}
		own.Close()
		<-served
		for key := range s.services {
			if key != sleeper.key() {
				t.Errorf("%s may be run", key)
			}
		}
	})
}

func TestTooLongAMessageIsNotSent(t *testing.T) {
	own, other, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	defer other.Close()
	err = send(own, reply{Err: strings.Repeat("x", maxMessage)}, nil)
	want := "a message of 65587 bytes: allowed are 65536; are the command's arguments that long?"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestMoreDescriptorsThanOneAreClosed(t *testing.T) {
	own, far := sockets(t)
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := open()
	if _, _, err := own.WriteMsgUnix([]byte("{}"), unix.UnixRights(0, 1), nil); err != nil {
		t.Fatal(err)
	}
	var q request
	f, err := receive(far, &q)
	if f != nil || err == nil || err.Error() != "a message came with 2 descriptors: want one at most" {
		t.Errorf("got %v, %v", f, err)
	}
	if now := open(); now != before {
		t.Errorf("%d descriptors are open, want %d as before", now, before)
	}
}
