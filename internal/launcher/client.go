//go:build linux

package launcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/doorward/doorward/internal/service"
)

// Launcher is the daemon's end of a launcher. It is safe for concurrent use.
type Launcher struct {
	conn *net.UnixConn
	pid  int
	gone chan struct{}    // closed when the process has ended
	how  *os.ProcessState // how it ended; valid once gone is closed
}

// Flag is the argument that makes the daemon's program a launcher, which calls Serve.
const Flag = "--launcher"

// Start starts a launcher, which is the daemon's own program with args and Flag, to run
// specs; the launcher itself checks whether it may run them (see Serve). In dir, which
// must exist, it keeps a record of what runs and of what it may run, and a lock, for
// which it waits while the launcher of an earlier daemon is still ending. The launcher
// ends when this process does, at the latest.
func Start(dir string, specs []Spec, args ...string) (*Launcher, error) {
	conn, other, err := pair()
	if err != nil {
		return nil, err
	}
	defer other.Close()
	cmd := exec.Command("/proc/self/exe", append(args, Flag)...)
	cmd.Args[0] = os.Args[0]
	// JOURNAL_STREAM says how to write the log, systemd.exec(5). Nothing else is needed.
	cmd.Env = []string{"JOURNAL_STREAM=" + os.Getenv("JOURNAL_STREAM")}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{other}
	// Ctrl-C at a terminal is for the daemon; the launcher ends when the daemon has.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the launcher of doors' commands: %w", err)
	}
	l := &Launcher{conn: conn, pid: cmd.Process.Pid, gone: make(chan struct{})}
	go func() { // ends with the process, which ends with conn
		cmd.Wait()
		l.how = cmd.ProcessState
		close(l.gone)
	}()
	if err := send(conn, hello{Dir: dir, Specs: specs}, nil); err != nil {
		conn.Close()
		return nil, fmt.Errorf("talk to the launcher of doors' commands: %w", err)
	}
	return l, nil
}

// Wait returns nil when ctx ends, or an error when the launcher has ended, since
// no command can be run any more without it.
func (l *Launcher) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-l.gone:
		return fmt.Errorf("the launcher of doors' commands has ended, and with it what the daemon knew of them: %v", l.how)
	}
}

// Close ends the launcher, which cancels the calls that are under way, and waits until
// it has ended.
func (l *Launcher) Close() error {
	err := l.conn.Close()
	<-l.gone
	return err
}

// Service returns the service of a spec, run by the launcher. Its methods are
// those of service.Command.
func (l *Launcher) Service(s Spec) *Service { return &Service{l, s} }

// Service is a service that the launcher starts and stops. It is safe for
// concurrent use.
type Service struct {
	launcher *Launcher
	spec     Spec
}

// String returns the name of the program that starts the service.
func (s *Service) String() string { return s.spec.Start[0] }

// Start is like service.Command's.
func (s *Service) Start(ctx context.Context) error { return s.order(ctx, callStart) }

// Stop is like service.Command's.
func (s *Service) Stop(ctx context.Context) error { return s.order(ctx, callStop) }

func (s *Service) order(ctx context.Context, call string) error {
	_, err := s.ask(ctx, call)
	return err
}

// Status is like service.Command's.
func (s *Service) Status(ctx context.Context) (service.Status, error) {
	r, err := s.ask(ctx, callStatus)
	return r.Status, err
}

// ask makes a call that has one reply. An error in the reply is returned as err.
func (s *Service) ask(ctx context.Context, call string) (r reply, err error) {
	err = s.call(ctx, call, func(c *net.UnixConn) error {
		if deadline, ok := ctx.Deadline(); ok {
			// The launcher observes the deadline itself, and then still replies.
			if err := c.SetReadDeadline(deadline.Add(replySlack)); err != nil {
				return err
			}
		}
		_, err := receive(c, &r)
		return err
	})
	if err == nil && r.Err != "" {
		err = errors.New(r.Err)
	}
	return r, err
}

// replySlack is how long after its deadline a call may still reply, since it must end
// what it has started.
const replySlack = 10 * time.Second

// Watch is like service.Command's, but returns an error when the launcher has ended.
func (s *Service) Watch(ctx context.Context, report func(service.Status)) error {
	return s.call(ctx, callWatch, func(c *net.UnixConn) error {
		for {
			var r reply
			if _, err := receive(c, &r); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			if r.Err != "" {
				return errors.New(r.Err)
			}
			report(r.Status)
		}
	})
}

// call makes a call and calls read for its replies. Cancelling ctx ends it at once.
func (s *Service) call(ctx context.Context, what string, read func(*net.UnixConn) error) error {
	q := request{Call: what, Spec: s.spec}
	if deadline, ok := ctx.Deadline(); ok {
		if q.Timeout = time.Until(deadline); q.Timeout <= 0 {
			return fmt.Errorf("%s %q: %w", what, s, context.DeadlineExceeded)
		}
	}
	c, other, err := pair()
	if err != nil {
		return fmt.Errorf("%s %q: %w", what, s, err)
	}
	defer c.Close()
	err = send(s.launcher.conn, q, other)
	other.Close()
	if err != nil {
		return fmt.Errorf("%s %q: ask the launcher: %w", what, s, err)
	}
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			c.Close()
		}
	})
	defer stop()
	if err := read(c); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			err = ctx.Err()
		}
		return fmt.Errorf("%s %q: the launcher's answer: %w", what, s, err)
	}
	return nil
}
