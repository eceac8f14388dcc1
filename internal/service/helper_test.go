//go:build linux

package service

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// helperWord as the first argument turns the test binary into a service, or
// into a daemon that has one.
const helperWord = "as-helper"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == helperWord {
		helper(os.Args[2], os.Args[3:])
	}
	goleak.VerifyTestMain(m)
}

// self is the argument list that runs a helper.
func self(args ...string) []string {
	return append([]string{os.Args[0], helperWord}, args...)
}

func helper(what string, args []string) {
	switch what {
	case "stay": // until SIGTERM
		unix.Pause()
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		unix.Pause()
	case "fail": // STATUS TEXT
		fmt.Fprintln(os.Stderr, args[1])
		status, _ := strconv.Atoi(args[0])
		os.Exit(status)
	case "die": // by SIGKILL
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "background": // PIDFILE: leaves a child behind, as a daemon does
		child := leaveChild(args[0])
		fmt.Println("went on as", child)
		os.Exit(0)
	case "session": // PIDFILE: has a child, as sshd does
		leaveChild(args[0])
		unix.Pause()
	case "tell": // prints a service's environment, directory and session
		for _, e := range os.Environ() {
			fmt.Println(e)
		}
		dir, _ := os.Getwd()
		sid, _ := unix.Getsid(0)
		fmt.Println("dir", dir, "leads its session", sid == os.Getpid())
		raw, _ := os.ReadFile("/proc/self/status")
		os.Stdout.Write(raw)
		unix.Pause()
	case "daemon": // PIDFILE COMMAND...: starts the service and waits to be killed
		c := NewCommand(args[1:], nil, nil, args[0], slog.New(slog.DiscardHandler))
		if err := c.Start(context.Background()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("started")
		unix.Pause()
	case "unit":
		helpUnit(args)
	}
	os.Exit(0)
}

func leaveChild(pidFile string) int {
	cmd := exec.Command(os.Args[0], helperWord, "stay")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	os.WriteFile(pidFile+".new", []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
	os.Rename(pidFile+".new", pidFile)
	return cmd.Process.Pid
}

// runs reports whether a process exists and is not a zombie.
func runs(pid int) bool {
	p, err := openProcess(pid)
	if err != nil {
		return false
	}
	defer p.fd.Close()
	return !p.ended()
}

// within returns a context for one order.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// patience is how long a test gives an order that is not to succeed, but is to come as far
// as that: on a busy machine programs take long to begin.
const patience = 3 * time.Second

// timeGiven is what a message says of it, which is less the later the order has begun.
var timeGiven = regexp.MustCompile(`did not end within [1-9][0-9.]*m?s`)

// withoutTime returns an error's text without how long an order was given.
func withoutTime(err error) string {
	return timeGiven.ReplaceAllString(err.Error(), "did not end within TIME")
}

// watcher collects what a Watch reports, until the test ends.
func watcher(t *testing.T, watch func(context.Context, func(Status)) error) <-chan Status {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	seen, done := make(chan Status, 64), make(chan error, 1)
	go func() { done <- watch(ctx, func(s Status) { seen <- s }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch = %v, want nil when its context ends", err)
		}
	})
	return seen
}

// next returns the next status that a watch reports.
func next(t *testing.T, seen <-chan Status) Status {
	t.Helper()
	select {
	case s := <-seen:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("the watch reports nothing")
		return Status{}
	}
}

// await skips statuses until one has the state.
func await(t *testing.T, seen <-chan Status, state State) Status {
	t.Helper()
	for {
		if s := next(t, seen); s.State == state {
			return s
		}
	}
}
