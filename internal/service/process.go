//go:build linux

package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running program, held by a pidfd so that a recycled PID is never mistaken
// for it. It may be a child of this process or not.
type process struct {
	pid   int
	start string   // field 22 of /proc/PID/stat, clock ticks since boot
	fd    *os.File // pidfd, non-blocking: readable once the process has ended
}

// openProcess opens the process that has this PID now.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd")}
	// Read after the pidfd is held: if the PID had passed to another process in between,
	// that one would have started later than any recorded time.
	if p.start, err = startTime(pid); err != nil {
		p.fd.Close()
		return nil, err
	}
	return p, nil
}

// startTime reads field 22 of /proc/PID/stat, proc_pid_stat(5).
func startTime(pid int) (string, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	start, err := cutStart(raw)
	if err != nil {
		return "", fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return start, nil
}

// cutStart extracts field 22 from a stat file. Field 2 is the program's name in
// parentheses and may hold anything, parentheses and newlines too.
func cutStart(stat []byte) (string, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return "", fmt.Errorf("has no name in parentheses: %.60q", stat)
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("has only %d fields after the name", len(fields))
	}
	return fields[19], nil
}

// wait returns nil when the process has ended, or ctx's error. Several may wait
// at once, each on a descriptor of its own.
func (p *process) wait(ctx context.Context) error {
	own, err := p.dup()
	if err != nil && p.ended() {
		return nil // reaped, and its descriptor closed
	}
	if err != nil {
		return err
	}
	defer own.Close()
	stop := context.AfterFunc(ctx, func() { own.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := own.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(readable)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("wait for process %d: %w", p.pid, err)
}

func (p *process) dup() (*os.File, error) {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return nil, err
	}
	own, failed := -1, error(nil)
	err = raw.Control(func(fd uintptr) { own, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("process %d: %w", p.pid, err)
	}
	return os.NewFile(uintptr(own), "pidfd"), nil
}

// readable says whether a pidfd's process has ended.
func readable(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// ended says whether the process has ended, zombies included.
func (p *process) ended() bool {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return true
	}
	ended := true // a closed descriptor's process was reaped
	raw.Control(func(fd uintptr) { ended = readable(fd) })
	return ended
}

// reap releases an ended process and says how it ended, as far as is known: only a
// child's exit status is.
func (p *process) reap() exit {
	defer p.fd.Close()
	var ws syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(p.pid, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		return exit{known: err == nil && pid == p.pid, status: ws}
	}
}

// signal sends a signal to this process and to no other.
func (p *process) signal(s unix.Signal) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	return errors.Join(err, sent)
}

// exit is how a process ended.
type exit struct {
	known  bool
	status syscall.WaitStatus
}

func (e exit) clean() bool { return e.known && e.status.Exited() && e.status.ExitStatus() == 0 }

// told says whether it ended as a process does that is told to: systemd considers the
// same ways clean, SuccessExitStatus= in systemd.service(5), except SIGPIPE.
func (e exit) told() bool {
	s := e.status.Signal() // -1 for none
	return e.clean() || e.known && (s == syscall.SIGTERM || s == syscall.SIGINT || s == syscall.SIGHUP)
}

// String completes "it ...".
func (e exit) String() string {
	switch {
	case !e.known:
		return "ended"
	case e.status.Signaled():
		return fmt.Sprintf("was ended by signal %d (%v)", int(e.status.Signal()), e.status.Signal())
	}
	return fmt.Sprintf("ended with exit status %d", e.status.ExitStatus())
}
