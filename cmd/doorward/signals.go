package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// caughtError is the cause for which a context ends: a signal has asked the program
// to end.
type caughtError struct{ signal syscall.Signal }

func (e *caughtError) Error() string { return fmt.Sprintf("signal: %v", e.signal) }

// catch returns a context that ends with the first signal that asks the program to
// end; a second one is not caught any more. What the program's caller ignores stays
// ignored, as under nohup or in the background of a script. stop has these signals
// as they were at the start; of all others but SIGHUP, Go's runtime forgets that they
// were ignored (os/signal, "Default behavior of signals").
func catch() (ctx context.Context, stop func()) {
	caught := []os.Signal{syscall.SIGTERM, syscall.SIGQUIT}
	if !signal.Ignored(os.Interrupt) {
		caught = append(caught, os.Interrupt)
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, caught...)
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { // ends with a signal, or with the program
		s, _ := (<-c).(syscall.Signal)
		signal.Stop(c)
		cancel(&caughtError{s})
	}()
	return ctx, func() { signal.Stop(c) }
}

// untilHangUp returns a context that also ends when the terminal is gone, or with one of
// more, for what has a door to close behind it. What the program's caller ignores stays
// ignored, as under nohup.
func untilHangUp(ctx context.Context, more ...os.Signal) (context.Context, func()) {
	caught := slices.DeleteFunc(append(more, syscall.SIGHUP), signal.Ignored)
	if len(caught) == 0 { // of which Notify would make all
		return ctx, func() {}
	}
	return signal.NotifyContext(ctx, caught...)
}

// interrupted is the error for work that a signal has ended. The shell of a script
// that a terminal interrupts goes on if it is told a mere status, so that main
// ends by that signal: https://www.cons.org/cracauer/sigint.html.
func interrupted(ctx context.Context, when string) error {
	err := errors.New("interrupted " + when)
	if c, ok := errors.AsType[*caughtError](context.Cause(ctx)); ok {
		return &statusError{code: 128 + int(c.signal), err: err}
	}
	return err
}

// dieOf ends the program by the signal that has ended ctx, if code says so. It returns
// where a program cannot signal itself (Windows), and for SIGQUIT, which Go's runtime
// takes for the wish to see its stacks.
func dieOf(ctx context.Context, code int) {
	c, ok := errors.AsType[*caughtError](context.Cause(ctx))
	if !ok || code != 128+int(c.signal) || c.signal == syscall.SIGQUIT {
		return
	}
	signal.Reset(c.signal)
	if p, err := os.FindProcess(os.Getpid()); err == nil && p.Signal(c.signal) == nil {
		select {} // until it has come
	}
}
