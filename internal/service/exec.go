//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// environment is the whole environment of a command. Anything else that it needs belongs
// in its argument list or its own configuration.
var environment = [...]string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/",
	"LANG=C.UTF-8",
}

// maxTail is how much of a command's last output goes into a message, in bytes.
const maxTail = 512

// prepare makes a command that has a session of its own (so that nothing sent to the
// daemon's process group or terminal reaches it), an empty standard input and out for
// both outputs. A file, never a pipe: a service that outlives the daemon must not die
// from writing to a closed pipe.
func prepare(ctx context.Context, argv []string, out *os.File) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environment[:]
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// startBare starts cmd without the daemon's ambient capabilities, capabilities(7). They
// belong to a thread, so one is made for this and thrown away.
func startBare(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
			done <- fmt.Errorf("give up the ambient capabilities: %w", err)
			return
		}
		done <- cmd.Start()
	}()
	return <-done
}

// runCommand runs a command to its end. It returns the exit status, or an error
// (to which the caller adds the command's name) when it could not be run, was ended by a signal, or ran until ctx ended.
func runCommand(ctx context.Context, argv []string, out *os.File) (int, error) {
	cmd := prepare(ctx, argv, out)
	if err := startBare(cmd); err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, err
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &e) && e.Exited():
		return e.ExitCode(), nil
	}
	return 0, err
}

// scratch is an output that leaves no file behind.
func scratch() (*os.File, error) {
	fd, err := unix.MemfdCreate("doorward-output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a place for a command's output: %w", err)
	}
	return os.NewFile(uintptr(fd), "memfd"), nil
}

// tail is the end of a command's output in the form that completes a message,
// "" when there is none.
func tail(out *os.File) string {
	info, err := out.Stat()
	if err != nil || info.Size() == 0 {
		return ""
	}
	buf := make([]byte, min(maxTail, info.Size()))
	n, _ := out.ReadAt(buf, info.Size()-int64(len(buf)))
	text := string(buf[:n])
	for len(text) > 0 && !utf8.RuneStart(text[0]) {
		text = text[1:] // cut within a character
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	return fmt.Sprintf("; its last output: %q", text)
}

// allowed returns how much time an order that began then was given.
func allowed(ctx context.Context, begun time.Time) time.Duration {
	deadline, _ := ctx.Deadline()
	return deadline.Sub(begun).Round(100 * time.Millisecond)
}
