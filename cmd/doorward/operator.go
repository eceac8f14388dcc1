package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/tables"
)

// addControlFlag gives root the flag that the operator's commands share.
func addControlFlag(root *cobra.Command) {
	root.PersistentFlags().String("control", "",
		"control `SOCKET` of the daemon (default $DOORWARD_CONTROL, or "+config.DefaultControl+")")
}

// operatorFlags gives a command that asks the daemon the flags that all of those have.
func operatorFlags(e *env, c *cobra.Command) {
	f := c.Flags()
	limit := f.Duration("timeout", 0, "wait at most this `TIME` for the daemon's answer")
	quiet := f.BoolP("quiet", "q", false, "print nothing but errors")
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if f.Changed("timeout") && (*limit < time.Second || *limit > control.LongestWait) {
			err := fmt.Errorf("--timeout %s: allowed is 1s to %s", tables.Short(*limit), tables.Short(control.LongestWait))
			return &usageError{withHint(err, "%s --help", c.CommandPath())}
		}
		if p, asJSON := e.stdout.(*printed); *quiet && asJSON {
			p.quiet = true
		} else if *quiet {
			e.stdout = io.Discard
		}
		return nil
	}
}

// exitStatus is the paragraph on exit statuses in the help of a command that asks the
// daemon; zero is what it says of 0, and of 6 and others that mean more there.
func exitStatus(zero string) string {
	const width = 84 // as the rest of the help
	return strings.Join(output.Wrap("Exit status: "+zero+"; 1 when it failed; 2 when the command line is wrong; "+
		"3 when no daemon answers; 4 when permission is denied; 5 when there is no such door; "+
		"6 when the daemon refuses; 7 when the time is up.", width), "\n")
}

// client returns a client of the daemon at controlPath.
func (e *env) client(c *cobra.Command) *control.Client {
	client := control.NewClient(e.controlPath(c))
	client.Timeout, _ = c.Flags().GetDuration("timeout")
	client.SudoUser = e.getenv("SUDO_USER")
	return client
}

// controlPath is where the daemon listens: what the command line, the
// environment or the default says.
func (e *env) controlPath(c *cobra.Command) string {
	path, _ := c.Flags().GetString("control")
	if path == "" {
		path = e.getenv("DOORWARD_CONTROL")
	}
	if path == "" {
		path = config.DefaultControl
	}
	return path
}

// asking wraps what a command does by asking the daemon: the daemon's hints
// become the command's.
func asking(f func(c *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		err := f(c, args)
		if told, ok := errors.AsType[*control.Error](err); ok && told.Hint != "" {
			return withHint(err, "%s", told.Hint)
		}
		return err
	}
}

// doorArg checks that at most one argument, a DOOR, stands on the command line,
// and at least one where it must.
func doorArg(must bool) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		var err error
		switch {
		case len(args) == 0 && must:
			err = errors.New("DOOR is missing: the door's name, as doorward status lists it")
		case len(args) > 1:
			err = fmt.Errorf("%q: one DOOR only", args[1])
		case len(args) == 1 && args[0] == "":
			err = errors.New("DOOR is empty: it must be a door's name, as doorward status lists it")
		default:
			return nil
		}
		return &usageError{withHint(err, "%s --help", c.CommandPath())}
	}
}

// doorAndSource is doorArg for an order that has --source: that may stand without its
// flag, behind the DOOR, or where no DOOR must stand in its place.
func doorAndSource(must bool) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		door, source := splitSource(args, must)
		if source == "" {
			return doorArg(must)(c, args)
		}
		if f := c.Flags().Lookup("source"); f.Changed {
			err := fmt.Errorf("%s, and --source %s: one source only", source, f.Value)
			return &usageError{withHint(err, "%s --help", c.CommandPath())}
		}
		return errors.Join(doorArg(must)(c, door), c.Flags().Set("source", source))
	}
}

// splitSource takes what is a source off the end of the arguments. No door's name has
// the characters that each address and prefix has.
func splitSource(args []string, must bool) (rest []string, source string) {
	last := len(args) - 1
	if last < 0 || last == 0 && must {
		return args, ""
	}
	if s := args[last]; strings.ContainsAny(s, ".:/") || last > 0 && s == "any" {
		return args[:last], s
	}
	return args, ""
}

// doorOf is the DOOR of an order, "" for none.
func doorOf(args []string) string {
	args, _ = splitSource(args, false)
	return firstOf(args)
}

// firstOf returns the first argument, "" when there is none.
func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// printReply says what the daemon did.
func printReply(e *env, asJSON bool, r control.Reply) error {
	if asJSON {
		return printJSON(e.stdout, r)
	}
	text := output.Text(r.Message)
	if r.Until != nil {
		text += " (until " + output.Clock(*r.Until, e.clock()) + ")"
	}
	_, err := fmt.Fprintln(e.stdout, text)
	return err
}

// printJSON prints v for scripts.
func printJSON(w io.Writer, v any) error { return output.JSON(w, v, "  ") }

// printJSONLine prints v on one line, for streams.
func printJSONLine(w io.Writer, v any) error {
	if p, ok := w.(*printed); ok {
		p.lines = true
	}
	return output.JSON(w, v, "")
}

// completeDoors proposes the daemon's doors for a command's one argument.
func completeDoors(e *env) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(e, c, func(d control.Door) []cobra.Completion {
			return []cobra.Completion{cobra.CompletionWithDesc(d.Name, d.State)}
		})
	}
}

// completeSources proposes what sources finds at the door on the command line,
// or at all doors when none stands there.
func completeSources(e *env, sources func(control.Door) []cobra.Completion) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete(e, c, func(d control.Door) []cobra.Completion {
			if door := firstOf(args); door != "" && door != d.Name {
				return nil
			}
			return sources(d)
		})
	}
}

// complete asks the daemon and collects what f finds at each door. A shell
// waits for it, so it gives up soon and says nothing.
func complete(e *env, c *cobra.Command, f func(control.Door) []cobra.Completion) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), time.Second)
	defer cancel()
	s, err := e.client(c).Status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var all []cobra.Completion
	for _, d := range s.Doors {
		all = append(all, f(d)...)
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

// grantSources lists the sources that have a grant at d.
func grantSources(d control.Door) []cobra.Completion {
	var all []cobra.Completion
	for _, g := range d.Grants {
		all = append(all, cobra.CompletionWithDesc(g.Source, "has a grant"))
	}
	return all
}

// penaltySources lists the sources that d ignores.
func penaltySources(d control.Door) []cobra.Completion {
	var all []cobra.Completion
	for _, p := range d.Penalties {
		all = append(all, cobra.CompletionWithDesc(p.Source, output.Text(p.Reason)))
	}
	return all
}
