// Package relay connects standard input and output to a connection, as ssh's ProxyCommand
// needs it: each direction ends by itself, and either all that was sent has arrived, or
// the error says that it has not.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// Join copies between conn and the streams until both directions have ended, or one of
// them fails. The end of one direction is passed on and does not affect the other: a
// server may stop sending and still read, and so may a visitor. When ctx ends, the
// error is ctx's. Join closes conn, and stdout if that is a file; a read of stdin may
// still be in progress when it returns.
func Join(ctx context.Context, stdin io.Reader, stdout io.Writer, conn net.Conn) error {
	defer conn.Close()
	done := make(chan error, 2)
	// Both end with what they read or write. A read of standard input cannot be
	// interrupted, so Join does not wait for it after a failure: the process ends with
	// this command anyway.
	go func() { done <- send(stdin, conn) }()
	go func() { done <- receive(ctx, stdout, conn) }()
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// send copies standard input to conn, and passes on its end.
func send(stdin io.Reader, conn net.Conn) error {
	err := pump(conn, stdin)
	if f, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("read standard input: %w", f.Err)
	}
	if c, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
		err = c.CloseWrite()
	}
	if err != nil {
		return notSent(conn, err)
	}
	return nil
}

// notSent returns the error for a connection that failed before the other end had
// received all of standard input.
func notSent(conn net.Conn, err error) error {
	return fmt.Errorf("send standard input to %s: %w", conn.RemoteAddr(), bare(err))
}

// receive copies what comes from conn to standard output, and passes on its end. Then it
// waits until all that was sent is acknowledged.
func receive(ctx context.Context, stdout io.Writer, conn net.Conn) error {
	err := pump(stdout, conn)
	if err == nil {
		err = endOutput(stdout)
	}
	if f, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("write standard output: %w", f.Err)
	}
	if err != nil {
		return fmt.Errorf("receive from %s: %w", conn.RemoteAddr(), bare(err))
	}
	if err := delivered(ctx, conn); err != nil {
		return notSent(conn, err)
	}
	return nil
}

// pump copies with read and write alone. io.Copy would use splice(2) where it can, which
// loses data if standard output does not support it, and whose errors do not say which
// end they come from.
func pump(to io.Writer, from io.Reader) error {
	_, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	return err
}

// endOutput ends standard output for whoever reads it.
func endOutput(w io.Writer) error {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	shutdown(f)
	return f.Close()
}

// bare returns the operating system's own error, without what package net puts before it.
func bare(err error) error {
	n, ok := errors.AsType[syscall.Errno](err)
	switch {
	case ok && (n == syscall.EPIPE || n == syscall.ENOTCONN):
		return errors.New("the other end has closed the connection")
	case ok:
		return n
	}
	return err
}
