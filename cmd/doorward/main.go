// Command doorward is the visitor's and the operator's side of doorward:
// knocking on a gateway, and asking and telling the daemon of one.
//
// Exit status: 0 only when what was asked for is done, 1 when it is not, 2 when
// the command line cannot be understood.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/legible"
)

// env is everything that the process takes from outside, so that tests run the
// commands in-process.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time       // nil for time.Now
	cache          func() (string, error) // the user's cache directory; nil for none
	args           []string               // the command line

	// become has a program take this one's place, and returns only if it cannot; nil
	// where there is no such thing.
	become func(path string, argv []string) error
}

func main() {
	ctx, stop := catch()
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, cache: os.UserCacheDir}
	if runtime.GOOS != "windows" {
		e.become = func(path string, argv []string) error {
			stop()
			return syscall.Exec(path, argv, os.Environ())
		}
	}
	code := run(ctx, e, os.Args[1:])
	dieOf(ctx, code)
	os.Exit(code)
}

// run carries out one command line and returns the exit status.
func run(ctx context.Context, e *env, args []string) int {
	e.args = args
	root := newRoot(e)
	root.SetArgs(args)
	return report(e, root.ExecuteContext(ctx))
}

// report says what went wrong, if anything, and returns the exit status.
func report(e *env, err error) int {
	if err == nil {
		return 0
	}
	status, ok := errors.AsType[*statusError](err)
	if ok && status.err == nil {
		return status.code
	}
	// Strangers had a hand in some errors: whoever listens at the socket, a log.
	fmt.Fprintf(e.stderr, "doorward: error: %s\n", legible.Lines(err.Error()))
	if h, ok := errors.AsType[*hintError](err); ok && h.hint != "" {
		fmt.Fprintf(e.stderr, "doorward: hint: %s\n", legible.Lines(h.hint))
	}
	if ok {
		return status.code
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return 2
	}
	if c, ok := errors.AsType[*control.Error](err); ok && c.Code == control.CodeTimeout {
		return 7
	}
	return 1
}

// hintError is an error with a line that says what to type next.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// withHint adds a hint to err.
func withHint(err error, format string, args ...any) error {
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// usageError is a command line that cannot be understood; it exits with 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// statusError is an error with an exit status of its own.
type statusError struct {
	code int
	// err is what is said of it; nil when a command, run for the visitor, has ended so
	// and said its own.
	err error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

const rootHelp = `doorward looks after a machine's doors: services that nobody can see. A door's
port answers nothing until a visitor has knocked right; then it is open to that
visitor's address for a short while, and dark again when nobody has been in.

A visitor needs the knock command alone, on any system. The others are for who
runs a gateway. Begin with doorward init, which writes a configuration; doorwardd
guards what it says; and status, log, open, close, arm and apply ask and tell the
daemon over its control socket. For that they are run as root, or by a member of
the group doorward. The socket is --control, else the environment's
DOORWARD_CONTROL, else ` + config.DefaultControl + `.

Output is plain text, in colour on a terminal unless the environment has NO_COLOR;
where a command prints state, --json prints it for scripts.

Exit status: 0 only when what was asked for is done; 1 when it is not; 2 when the
command line cannot be understood.`

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:           "doorward",
		Short:         "knock on a gateway's doors, or look after those of your own",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },

		DisableFlagsInUseLine:      true,
		SuggestionsMinimumDistance: 2, // of letters
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{withHint(err, "%s --help", c.CommandPath())}
	})
	addControlFlag(root)
	for _, newCommand := range commands {
		root.AddCommand(newCommand(e))
	}
	return root
}

// knownCommand refuses what cobra took for no command's name.
func knownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "doorward --help lists the commands"
	if like := root.SuggestionsFor(args[0]); len(like) > 0 {
		hint = "doorward " + like[0]
	}
	return &usageError{withHint(fmt.Errorf("command %q is not known", args[0]), "%s", hint)}
}
