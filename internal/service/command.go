//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Command is a service run by the operator's own commands, argument lists that
// begin with a program's path. It comes in two kinds:
//
//   - Without a stop command the process that start makes is the service. It
//     must stay in the foreground (sshd: -D). It has a session of its own and
//     outlives this process; the next one knows it by the pid file. Stopping
//     sends SIGTERM to that process alone, not to its children, so that sshd's
//     sessions live on.
//   - With a stop command, start and stop must end by themselves with exit
//     status 0 when they have done their work.
//
// In both cases exit status 0 of a status command means that the service runs. With a
// stop command 3 means that it was stopped, and any other that it has failed. Output of
// start goes to a file beside the pid file (.out instead of its extension), which is
// truncated at each start and when it exceeds 1 MiB. Commands start in / with PATH,
// HOME=/ and LANG=C.UTF-8 as their whole environment, without ambient capabilities, but
// as this process's user and under its sandbox: a program that needs more is better run
// as a unit.
//
// It is safe for concurrent use. Start and Stop wait for each other.
type Command struct {
	start, stop, status []string
	pidFile             string
	settle              time.Duration // usualSettle
	log                 *slog.Logger

	order chan struct{} // holds one token: its holder may start and stop

	mu      sync.Mutex    // guards what follows
	adopted bool          // the pid file was read
	proc    *process      // supervised, and not known to have ended
	known   State         // what is known without a status command: Stopped, Running or Failed
	why     string        // how it ended unasked, completes "it ..."
	ordered State         // Starting or Stopping while that is carried out, else Stopped
	changed chan struct{} // closed and replaced when any of the above changes
}

// notRunning is the exit status of a status command for a program that was stopped, "Init
// Script Actions" in the Linux Standard Base: dead ones have others.
const notRunning = 3

// NewCommand returns the service of these argument lists; stop and status may
// be nil. pidFile is written while the service runs; its directory must exist.
// Nothing is started or read yet.
func NewCommand(start, stop, status []string, pidFile string, log *slog.Logger) *Command {
	c := &Command{start: start, stop: stop, status: status, pidFile: pidFile, settle: usualSettle, log: log.With("command", start[0]),
		order: make(chan struct{}, 1), changed: make(chan struct{})}
	c.order <- struct{}{}
	return c
}

// String returns the name of the program that starts the service.
func (c *Command) String() string { return c.start[0] }

// Start starts the service and returns when it runs, at once when it does already: when
// status says so, or else, supervised, when the process has lived for 200 ms, or when the
// start command has ended with 0. A supervised process that does not run before ctx ends
// is stopped again.
func (c *Command) Start(ctx context.Context) error {
	if err := c.take(ctx, Starting); err != nil {
		return fmt.Errorf("start %q: %w", c, err)
	}
	defer c.release()
	if s, err := c.look(ctx); err != nil || s.State == Running {
		return err
	}
	if c.stop == nil {
		return c.supervise(ctx)
	}
	out, err := c.output()
	if err != nil {
		return err
	}
	defer out.Close()
	if err := c.execute(ctx, "start", c.start, out); err != nil {
		return err
	}
	if err := c.remember(0, "0"); err != nil {
		return err
	}
	// Whether it is seen to run or not, from here on only stop ends it.
	defer c.set(nil, Running, "")
	return c.await(ctx, "start", true)
}

// Stop stops the service and returns when it is stopped, at once when it is
// already. A supervised process that SIGTERM has not ended by ctx's deadline is
// killed; when ctx is cancelled it is left to end.
func (c *Command) Stop(ctx context.Context) error {
	if err := c.take(ctx, Stopping); err != nil {
		return fmt.Errorf("stop %q: %w", c, err)
	}
	defer c.release()
	s, err := c.look(ctx)
	if c.stop == nil {
		if err != nil && s.PID == 0 {
			return err
		}
		return c.end(ctx)
	}
	if err == nil && s.State == Stopped {
		return nil
	}
	out, err := scratch()
	if err != nil {
		return err
	}
	defer out.Close()
	if err := c.execute(ctx, "stop", c.stop, out); err != nil {
		// Many stop commands fail if there is nothing to stop, but Stop does not.
		if s, lerr := c.look(ctx); c.status == nil || lerr != nil || s.State == Running {
			return err
		}
	} else if err := c.await(ctx, "stop", false); err != nil {
		return err
	}
	c.set(nil, Stopped, "")
	return c.forget()
}

// Status looks at the process and asks the status command, if there is one.
func (c *Command) Status(ctx context.Context) (Status, error) {
	s, err := c.look(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ordered != Stopped && err == nil {
		s.State = c.ordered
	}
	return s, err
}

// Watch calls report with the service's status, once at the beginning and then
// on every change, until ctx ends; then it returns nil. The end of a supervised
// process is seen at once, a status command is asked every 10 seconds. report is
// called from Watch's own goroutine and should not block.
func (c *Command) Watch(ctx context.Context, report func(Status)) error {
	var last *Status
	trouble := ""
	for ctx.Err() == nil {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		s, err := c.Status(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && err.Error() != trouble:
			trouble = err.Error()
			c.log.Warn("cannot tell how the service is", "error", err)
		case err == nil && (last == nil || *last != s):
			last, trouble = &s, ""
			report(s)
		}
		c.trimOutput()
		c.pause(ctx, changed)
	}
	return nil
}

// pause waits until something may have changed.
func (c *Command) pause(ctx context.Context, changed <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, reconcile)
	defer cancel()
	c.mu.Lock()
	p := c.proc
	c.mu.Unlock()
	if p == nil {
		select {
		case <-ctx.Done():
		case <-changed:
		}
		return
	}
	go func() { // ends with this function at the latest
		select {
		case <-ctx.Done():
		case <-changed:
			cancel()
		}
	}()
	p.wait(ctx)
}

// look finds out the state of the service, ignoring orders that are being carried out.
func (c *Command) look(ctx context.Context) (Status, error) {
	s, err := c.lookAtProcess()
	if err != nil || c.status == nil || (c.stop == nil && s.State != Running) {
		return s, err
	}
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	out, err := scratch()
	if err != nil {
		return s, err
	}
	defer out.Close()
	code, err := runCommand(ctx, c.status, out)
	if err != nil {
		return s, fmt.Errorf("status command %q: %w%s", c.status[0], err, tail(out))
	}
	said := fmt.Sprintf("status command %q ended with exit status %d%s", c.status[0], code, tail(out))
	switch {
	case code == 0:
		return Status{State: Running, PID: s.PID}, nil
	case c.stop == nil:
		return Status{State: Starting, PID: s.PID, Detail: said}, nil // it lives, but does not serve
	case s.State == Running && code != notRunning:
		return Status{State: Failed, Detail: "failed: " + said}, nil
	}
	return Status{State: Stopped}, nil
}

// lookAtProcess returns what is known without asking a status command.
func (c *Command) lookAtProcess() (Status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.adopted {
		if err := c.adopt(); err != nil {
			return Status{}, err
		}
	}
	if c.proc != nil && c.proc.ended() {
		c.processEnded(c.proc.reap())
	}
	s := Status{State: c.known}
	if c.why != "" {
		s.Detail = c.known.String() + ": it " + c.why
	}
	if c.proc != nil {
		s.PID = c.proc.pid
	}
	return s, nil
}

// take waits for other orders to end and notes which one is being carried out now.
func (c *Command) take(ctx context.Context, s State) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.order:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ordered = s
	c.wake()
	return nil
}

// release ends what take began.
func (c *Command) release() {
	c.mu.Lock()
	c.ordered = Stopped
	c.wake()
	c.mu.Unlock()
	c.order <- struct{}{}
}

func (c *Command) set(p *process, s State, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proc, c.known, c.why = p, s, why
	c.wake()
}

// wake lets watches look again. c.mu is held.
func (c *Command) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// execute runs a start or stop command to its end.
func (c *Command) execute(ctx context.Context, what string, argv []string, out *os.File) error {
	begun := time.Now()
	code, err := runCommand(ctx, argv, out)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		hint := ""
		if what == "start" {
			hint = "; a start command that stays in the foreground is supervised when there is no stop command"
		}
		return fmt.Errorf("%s command %q did not end within %v%s%s: %w", what, argv[0],
			allowed(ctx, begun), tail(out), hint, err)
	case err != nil:
		return fmt.Errorf("%s command %q: %w%s", what, argv[0], err, tail(out))
	case code != 0:
		return fmt.Errorf("%s command %q ended with exit status %d%s", what, argv[0], code, tail(out))
	}
	return nil
}

// await asks the status command until it says what is wanted.
func (c *Command) await(ctx context.Context, what string, running bool) error {
	if c.status == nil {
		return nil
	}
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for {
		s, err := c.look(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			return err
		case (s.State == Running) == running:
			return nil
		case s.State == Failed && c.stop == nil:
			return errors.New(s.Detail)
		}
		select {
		case <-ctx.Done():
			is := "does not run"
			if !running {
				is = "still runs"
			}
			return fmt.Errorf("%s of %q did not succeed in time: status command %q says that it %s: %w",
				what, c, c.status[0], is, ctx.Err())
		case <-tick.C:
		}
	}
}
