// Command doorward is the visitor's and the operator's side of doorward: it knocks on a
// gateway, and sends questions and orders to a gateway's daemon.
//
// Exit status: 0 only when what was asked for is done; see exits for the others.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/legible"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/signer"
	"github.com/doorward/doorward/internal/visit"
)

// env is everything that the process takes from outside, so that tests run the
// commands in-process.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time       // nil for time.Now
	cache          func() (string, error) // the user's cache directory; nil for none
	session        string                 // what XDG_RUNTIME_DIR is in a session of the user's, "" for nothing
	args           []string               // the command line
	profiles       profile.Directory      // of the visitor; "" for the user's own
	knocks         *client.Client         // nil for one on this machine's network
	visits         *visit.Visitor         // nil for one on this machine's network
	ask            signer.Ask             // asks the visitor; nil for the terminal
	polkitRules    string                 // file of the polkit rule, "" for the system's

	// become has a program take this one's place, and returns only if it cannot; nil
	// where there is no such thing.
	become func(path string, argv []string) error
}

// clock is the time now, in the zone in which times are shown to people.
func (e *env) clock() time.Time {
	if e.now != nil {
		return e.now()
	}
	return time.Now()
}

// usesSudo says whether the reader of the output becomes root by sudo.
func usesSudo(e *env) bool { return os.Geteuid() != 0 || e.getenv("SUDO_UID") != "" }

// styles are those for w, one of the env's streams.
func (e *env) styles(w io.Writer) output.Styles { return output.StylesFor(w, e.getenv) }

func main() {
	ctx, stop := catch()
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, cache: os.UserCacheDir}
	if runtime.GOOS == "linux" {
		e.session = fmt.Sprintf("/run/user/%d", os.Getuid()) // pam_systemd(8)
	}
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
	out := &printed{w: e.stdout}
	asJSON := wantsJSON(args)
	if asJSON {
		e.stdout = out
	}
	root := newRoot(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if asJSON {
		err = cmp.Or(err, out.end(err)) // where nothing can be printed, the first is why
	}
	return report(e, err)
}

// exits are the exit statuses of errors by their codes. All others exit with 1.
var exits = map[string]int{
	control.CodeUsage:      2,
	control.CodeDown:       3,
	control.CodePermission: 4,
	control.CodeNoDoor:     5,
	control.CodeRefused:    6,
	control.CodeTimeout:    7,
}

// codeOf is the code of an error, one of control's.
func codeOf(err error) string {
	if _, ok := errors.AsType[*usageError](err); ok {
		return control.CodeUsage
	}
	if told, ok := errors.AsType[*control.Error](err); ok {
		return cmp.Or(told.Code, control.CodeRefused)
	}
	return control.CodeFailed
}

// hintOf is what to type after an error, "" where that is not known.
func hintOf(err error) string {
	if h, ok := errors.AsType[*hintError](err); ok {
		return h.hint
	}
	if told, ok := errors.AsType[*control.Error](err); ok {
		return told.Hint
	}
	return ""
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
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(e.stderr, "doorward: hint: %s\n", legible.Lines(asRoot(hint, e.getenv("SUDO_UID") != "")))
	}
	if ok {
		return status.code
	}
	return cmp.Or(exits[codeOf(err)], 1)
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
	// err is reported; nil when a command, run for the visitor, has ended so and
	// reported its own.
	err error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

const rootHelp = `doorward is a port-knocking gateway for Linux. It looks after a machine's doors: SSH,
a VPN or an admin panel stay closed, and not even running, until somebody knocks. A
door's port does not respond until a visitor has knocked right; then it is open to
that visitor's address for a short while, and dark again when nobody uses it.

A visitor starts with doorward accept, which takes an invite; ssh-config then has ssh
knock by itself, and knock, hold, run, forward, proxy and probe are for all else. They
work on any system. Knocks that touch ports need no invite: see doorward knock.

The other commands are for whoever runs a gateway. Start with doorward init, which
writes a configuration; doorwardd is the daemon that guards the doors; status, explain,
log, open, close, arm, diff, apply, invite and keys talk to it over its control socket.
Run these as root, or as a member of the group doorward. The socket is --control, or
the environment variable DOORWARD_CONTROL, or ` + config.DefaultControl + `.

Output is plain text, in colour on a terminal unless NO_COLOR is set. Commands that
print state print it as JSON with --json. When a command fails with --json, its object
has the keys error, code and hint besides any others; in a stream it is the last line.
Messages for people still go to standard error.

Exit status: 0 only when what was asked for is done. Otherwise, with the code of the
error in JSON:

  1  failed, busy,      not done, for another reason than those below: it was begun
     internal           and failed, there were too many requests, or an internal error
  2  usage              the command line is wrong
  3  daemon_down        no daemon answers
  4  permission         permission denied: run as root, or join the group doorward
  5  no_such_door       there is no such door
  6  refused            understood, but not done, or not completely
  7  timeout            not done in time; it may still be done

The exit status of a command that doorward knock or doorward run starts is passed on.`

// commands are the constructors of all commands, a file each, in the order
// in which help lists them. Nouns read; verbs change.
var commands = []func(*env) *cobra.Command{
	newInit,
	newCheck,
	newStatus,
	newLog,
	newExplain,
	newOpen,
	newClose,
	newArm,
	newDiff,
	newApply,
	newDoctor,
	newInvite,
	newKeys,
	newAccept,
	newKnock,
	newHold,
	newConnect,
	newRun,
	newForward,
	newProxy,
	newProbe,
	newSSHConfig,
	newProfiles,
	newShare,
	newRotate,
	newVersion,
	newMan,
	newPolkit,
}

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:           "doorward",
		Short:         "port-knocking gateway: knock on doors, or look after your own",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return withoutCommand(e, c) },

		DisableFlagsInUseLine:      true,
		SuggestionsMinimumDistance: 2, // of letters
	}
	root.PersistentPreRunE = nothingEmpty
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{withHint(err, "%s --help", c.CommandPath())}
	})
	addControlFlag(root)
	root.Flags().Bool("version", false, "print the version of this program")
	root.Flags().Bool("json", false, "for what is not a command")
	_ = root.Flags().MarkHidden("json")
	for _, newCommand := range commands {
		c := newCommand(e)
		if f := c.Flags().Lookup("source"); f != nil {
			f.Value = &sole{Value: f.Value}
		}
		root.AddCommand(c)
	}
	return root
}

// withoutCommand does what a command line asks for that names no command.
func withoutCommand(e *env, c *cobra.Command) error {
	wanted, _ := c.Flags().GetBool("version")
	asJSON, _ := c.Flags().GetBool("json")
	switch {
	case wanted && asJSON:
		return printVersion(c.Context(), e, e.client(c), true)
	case wanted:
		_, err := fmt.Fprintln(e.stdout, thisVersion())
		return err
	}
	return c.Help()
}

// sole is the value of a flag that may be given only once. Of two sources, only the
// last would be let in or shut out, with nothing said about the other.
type sole struct{ pflag.Value }

// Set implements pflag.Value.
func (s *sole) Set(text string) error {
	if before := s.String(); before != "" {
		return fmt.Errorf("it is %s already: one source only", before)
	}
	return s.Value.Set(text)
}

// nothingEmpty refuses an argument or a flag's value that is empty, as from a variable
// that was not set. An order that says less often does more, so what is left out must
// be left out on purpose.
func nothingEmpty(c *cobra.Command, args []string) error {
	if c.Name() == cobra.ShellCompRequestCmd || c.Name() == cobra.ShellCompNoDescRequestCmd {
		return nil // a shell completes empty words, too
	}
	if dash := c.ArgsLenAtDash(); dash >= 0 {
		args = args[:dash] // what follows is another command's
	}
	wrong := func(what string) error {
		return &usageError{withHint(fmt.Errorf("%s is empty: give a value, or leave it out", what), "%s --help", c.CommandPath())}
	}
	if slices.Contains(args, "") {
		return wrong("an argument")
	}
	var empty error
	c.Flags().Visit(func(f *pflag.Flag) {
		if empty == nil && f.Value.Type() == "string" && f.Value.String() == "" {
			empty = wrong("--" + f.Name)
		}
	})
	return empty
}

// knownCommand refuses a word that is not the name of a command.
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
