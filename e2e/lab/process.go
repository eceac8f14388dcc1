//go:build linux

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs on a host until it is stopped or the lab ends.
type Process struct {
	PID   int
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{} // closed when it has ended
	err   error         // valid after done
	out   string        // path of the file that it prints to
}

// Start starts a program on the host, with stdin held open.
func (h *Host) Start(name string, args ...string) (*Process, error) {
	cmd := h.Command(context.Background(), name, args...)
	p := &Process{cmd: cmd, done: make(chan struct{})}
	// A file, not a pipe: children may outlive the program (the sessions of a
	// stopped sshd) and must not find their outputs closed.
	out, err := os.CreateTemp(h.lab.Dir, "output-")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.out, cmd.Stdout, cmd.Stderr = out.Name(), out, out
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", h.Name, name, err)
	}
	p.PID = cmd.Process.Pid
	go func() { // ends with the process; Close of the lab ends that
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Output is what the program and its children have printed so far, on both
// outputs.
func (p *Process) Output() string {
	out, err := os.ReadFile(p.out)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// Type writes text to the program's standard input.
func (p *Process) Type(text string) error {
	_, err := io.WriteString(p.stdin, text)
	return err
}

// Signal sends a signal to the program alone.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Stop ends the program with SIGTERM and waits for it; one that is still there
// after ten seconds is killed, which is an error.
func (p *Process) Stop() error { return p.stop(syscall.SIGTERM) }

// Kill is kill -9.
func (p *Process) Kill() error { return p.stop(syscall.SIGKILL) }

func (p *Process) stop(sig os.Signal) error {
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within 10 s of %v", p.cmd.Path, sig)
	}
}

// Says waits until the program has printed text.
func (p *Process) Says(ctx context.Context, text string, limit time.Duration) error {
	return Until(ctx, limit, fmt.Sprintf("output %q", text), func() error {
		out := p.Output()
		if strings.Contains(out, text) {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("the program has ended: %v: %s", p.err, tail(out))
		default:
			return fmt.Errorf("it said: %s", tail(out))
		}
	})
}

// tail is the end of a long output.
func tail(s string) string {
	const most = 2000
	if len(s) > most {
		s = "..." + s[len(s)-most:]
	}
	return strings.TrimSpace(s)
}

// StatusField reads a number from a status file, /proc/PID/status or that of a
// thread: the first after the name, proc_pid_status(5).
func StatusField(path, name string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		if key == name {
			return strconv.ParseInt(strings.Fields(value)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
