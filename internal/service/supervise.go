//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// usualSettle is how long a supervised program without a status command must
	// live to count as running: mistakes in its arguments end it sooner.
	usualSettle = 200 * time.Millisecond
	// statusLimit bounds one run of a status command.
	statusLimit = 10 * time.Second
	// statusEvery is how often a status command is asked while a start or stop
	// waits for its answer.
	statusEvery = 100 * time.Millisecond
	// afterKill is how long a killed process may take to be gone.
	afterKill = 2 * time.Second
	// maxOutput is the size in bytes at which a program's output file is begun
	// anew.
	maxOutput = 1 << 20
)

const backgroundHint = ", perhaps to go on in the background where it cannot be supervised: " +
	"give it the option to stay in the foreground (sshd: -D), or give stop and status commands"

// supervise starts the process, unless it lives, and waits until it runs.
func (c *Command) supervise(ctx context.Context) error {
	c.mu.Lock()
	p := c.proc
	c.mu.Unlock()
	if p == nil {
		var err error
		if p, err = c.spawn(); err != nil {
			return err
		}
	}
	var err error
	if c.status != nil {
		err = c.await(ctx, "start", true)
	} else {
		err = stays(ctx, p, c.settle)
	}
	switch {
	case p.ended():
		s, err := c.lookAtProcess()
		if err != nil {
			return err
		}
		return fmt.Errorf("start of %q %s", c, s.Detail)
	case err == nil:
		return nil
	}
	err = fmt.Errorf("%w%s", err, c.lastOutput())
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterKill)
	defer cancel()
	return errors.Join(err, c.end(grace))
}

// stays returns nil when the process has lived long enough to count as running, or has
// ended, which its caller finds out.
func stays(ctx context.Context, p *process, settle time.Duration) error {
	short, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	p.wait(short)
	if ctx.Err() != nil {
		return fmt.Errorf("start was given up before the program had run for %v: %w", settle, ctx.Err())
	}
	return nil
}

// spawn starts the process and remembers it in the pid file.
func (c *Command) spawn() (*process, error) {
	out, err := c.output()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := prepare(context.Background(), c.start, out)
	if err := startBare(cmd); err != nil {
		return nil, fmt.Errorf("start %q: %w", c, err)
	}
	// Not waited for by os/exec: its exit status is collected by reap.
	p, err := openProcess(cmd.Process.Pid)
	if err == nil {
		if err = c.remember(p.pid, p.start); err != nil {
			p.fd.Close()
		}
	}
	if err != nil { // a process that cannot be recorded must not be left running
		cmd.Process.Kill()
		cmd.Wait()
		return nil, fmt.Errorf("start %q: %w", c, err)
	}
	cmd.Process.Release()
	c.set(p, Running, "")
	return p, nil
}

// end ends the supervised process, if there is one.
func (c *Command) end(ctx context.Context) error {
	c.mu.Lock()
	p := c.proc
	c.mu.Unlock()
	if p == nil {
		c.set(nil, Stopped, "")
		return c.forget()
	}
	if err := p.signal(unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop %q: SIGTERM to process %d: %w", c, p.pid, err)
	}
	err := p.wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = c.kill(p)
	}
	if err != nil {
		return fmt.Errorf("stop %q: %w", c, err)
	}
	c.mu.Lock()
	if c.proc == p { // otherwise a check has reaped it
		p.reap()
	}
	c.mu.Unlock()
	c.set(nil, Stopped, "")
	return c.forget()
}

// kill ends a process that SIGTERM did not end.
func (c *Command) kill(p *process) error {
	c.log.Warn("SIGTERM did not end the service in time, killing it", "pid", p.pid)
	if err := p.signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("SIGKILL to process %d: %w", p.pid, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), afterKill)
	defer cancel()
	if p.wait(ctx) != nil {
		return fmt.Errorf("process %d is still there %v after SIGKILL; \"ps -o pid,stat,wchan -p %d\" tells what it waits for",
			p.pid, afterKill, p.pid)
	}
	return nil
}

// adopt takes over what an earlier process of the daemon left running. c.mu is held.
func (c *Command) adopt() error {
	r, current, err := readRecord(c.pidFile)
	if err != nil {
		return fmt.Errorf("what runs for %q is not known: %w; end it by hand if it runs, then remove the file", c, err)
	}
	c.adopted = true
	switch {
	case !current:
		return nil
	case r.pid == 0:
		c.known = Running
		return nil
	}
	p, err := openProcess(r.pid)
	if err == nil && p.start == r.start && !p.ended() {
		c.proc, c.known = p, Running
		c.log.Info("adopted the running service", "pid", r.pid)
		return nil
	}
	if err == nil {
		p.fd.Close()
	}
	c.known, c.why = Failed, "ended while nobody watched"+c.lastOutput()
	return nil
}

// processEnded records that the supervised process ended unasked. One that ended as if it
// had been told to was perhaps stopped by somebody else, and has not failed. c.mu is
// held.
func (c *Command) processEnded(e exit) {
	c.proc, c.known, c.why = nil, Failed, e.String()
	if e.told() && c.ordered == Stopped {
		c.known = Stopped
	}
	if e.clean() {
		c.why += backgroundHint
	}
	c.why += c.lastOutput()
	if c.ordered != Stopping {
		c.log.Warn("the service ended by itself", "how", e.String())
	}
	c.wake()
}

// remember writes the pid file.
func (c *Command) remember(pid int, start string) error {
	boot, err := bootID()
	if err == nil {
		err = record{pid: pid, start: start, boot: boot}.write(c.pidFile)
	}
	if err != nil {
		return fmt.Errorf("remember that %q runs: %w", c, err)
	}
	return nil
}

// forget removes the pid file.
func (c *Command) forget() error {
	if err := os.Remove(c.pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget that %q ran: %w", c, err)
	}
	return nil
}

// output truncates the output file and opens it for appending, so that it can be
// truncated while the program has it open.
func (c *Command) output() (*os.File, error) {
	f, err := os.OpenFile(outputFile(c.pidFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("output of %q: %w", c, err)
	}
	return f, nil
}

func (c *Command) trimOutput() {
	path := outputFile(c.pidFile)
	if info, err := os.Stat(path); err == nil && info.Size() > maxOutput {
		os.Truncate(path, 0)
	}
}

// lastOutput returns the tail of the output file, "" if there is none.
func (c *Command) lastOutput() string {
	f, err := os.Open(outputFile(c.pidFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	return tail(f)
}
