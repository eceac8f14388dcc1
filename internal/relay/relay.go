// Package relay joins a connection to standard input and output, as ssh's ProxyCommand
// wants it: each direction ends by itself, and what was sent has arrived, or the error
// says that it has not.
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

// Join copies between conn and the streams until both directions are at their end, or
// one of them fails. The end of one is passed on and leaves the other alone: a server
// may say that it will not say more and read on, and a visitor may. When ctx ends, the
// error is ctx's. Join closes conn, and stdout if that is a file; a read of stdin may
// still be under way when it returns.
func Join(ctx context.Context, stdin io.Reader, stdout io.Writer, conn net.Conn) error {
	defer conn.Close()
	done := make(chan error, 2)
	// Both end with what they read or write. A read of standard input cannot be
	// interrupted, so it is not waited for after a failure: the process ends with this
	// command.
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

// send copies standard input to conn, and its end.
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

// notSent is the error for a connection that failed before the other end had all of
// standard input.
func notSent(conn net.Conn, err error) error {
	return fmt.Errorf("send standard input to %s: %w", conn.RemoteAddr(), bare(err))
}

// receive copies what comes from conn to standard output, and its end. Then it waits
// until the connection is done with.
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

// pump copies with read and write alone: splice(2), which io.Copy takes where it can,
// loses what a standard output does not take that it has no splicing for, and its
// errors do not say which end they are of.
func pump(to io.Writer, from io.Reader) error {
	_, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	return err
}

// endOutput tells whoever reads standard output that there is no more.
func endOutput(w io.Writer) error {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	shutdown(f)
	return f.Close()
}

// bare is the operating system's own word, without what package net puts before it.
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
