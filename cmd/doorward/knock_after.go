package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"
)

// join copies between conn and the standard streams until both directions are
// at their end, or ctx ends.
func join(ctx context.Context, e *env, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	// Ends when standard input does or the connection is closed for writing;
	// a read of standard input cannot be interrupted, so it is not waited for:
	// the process ends with this command.
	go func() {
		io.Copy(conn, e.stdin)
		if t, ok := conn.(*net.TCPConn); ok {
			t.CloseWrite()
		}
	}()
	if _, err := io.Copy(e.stdout, conn); err != nil && ctx.Err() == nil {
		return fmt.Errorf("connection to %s: %w", conn.RemoteAddr(), err)
	}
	return nil
}

// runCommand runs what the visitor typed after "--".
func runCommand(ctx context.Context, e *env, argv []string) error {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdin, c.Stdout, c.Stderr = e.stdin, e.stdout, e.stderr
	// An interrupt is the command's to deal with; a terminal sends it there
	// anyway. Where a process cannot be signalled (Windows), WaitDelay ends it.
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 5 * time.Second
	err := c.Run()
	var x *exec.ExitError
	switch {
	case errors.As(err, &x) && x.ExitCode() > 0:
		return &statusError{x.ExitCode()}
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("command %q is not found", argv[0])
	case err != nil:
		return fmt.Errorf("run %q: %w", argv[0], err)
	}
	return nil
}
