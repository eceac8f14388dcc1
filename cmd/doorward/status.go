package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/view"
)

var statusHelp = `Show what the daemon knows: first whether the doors are guarded, and what needs an
operator's attention; which configuration is in use; the doors and their state; who is
logged in or connected, since when, and what let them in; who has a grant, from whom
and for how much longer; whose knocks are ignored; how many knocks were refused
recently and from where, and the latest of those and why.

A door is dark (shut, with its service stopped if it has one), opening, open, closing,
or in failsafe: there is no log data that shows who is logged in, so it is shut and
ignores knocks until there is, or until doorward arm. "Dark in" is the time after
which an open door closes unless it is used, or never.

GUESSES are the knocks that were refused in the last hour and day, or since records
began, and the networks (IPv4 /24, IPv6 /48) with most of them. Times without a date
are of today; the last line has the time zone.

With --watch the view is updated until q is pressed, and scrolls with the arrow keys,
j and k, page up and down, g and G; without a terminal a line is printed for each
change instead.

--exit-code is for scripts and monitoring: the exit status is 1 while anything
prevents the doors from being guarded, or from being used: the fence is down, nothing
can be saved, a service could not be started, a door is in failsafe or receives no
knock, or the daemon is shutting down. The daemon's /healthz reports the same. With
DOOR, problems of other doors do not count.

--json prints the snapshot as one JSON object, with --watch one object a line. Its
keys and their meanings are stable: .problems[].code, .doors[].name, .state,
.grants[].source, .grants[].expires, .penalties[].source, .penalties[].until and the
others. With DOOR, doors has only that door. At most the latest 1,000 sessions
(.live), grants and penalties of a door are listed, and fewer grants and penalties
where there are more than 5,000 in all; .sessions, .grants_total and .penalties_total
count all of them. .packets_refused counts packets, of which each refused attempt
sends several; .events counts records of the audit trail, so .events.refused counts
knocks.

` + exitStatus("0 when the daemon has answered, with --exit-code only if it reports no problem")

const statusExamples = `  doorward status
  doorward status ssh
  doorward status --watch
  doorward status --exit-code >/dev/null || echo "something is wrong"
  doorward status --json | jq -r '.doors[] | select(.state == "open").name'`

func newStatus(e *env) *cobra.Command {
	var o statusOptions
	c := &cobra.Command{
		Use:               "status [DOOR]",
		Short:             "show the doors, who may come in, and what is wrong",
		Long:              statusHelp,
		Example:           statusExamples,
		Args:              doorArg(false),
		ValidArgsFunction: completeDoors(e),
		RunE: asking(func(c *cobra.Command, args []string) error {
			o.door = firstOf(args)
			if o.watch && o.exitCode {
				err := errors.New("--exit-code cannot be combined with --watch, which goes on whatever it sees")
				return &usageError{withHint(err, "%s --exit-code", c.CommandPath())}
			}
			return o.run(c.Context(), e, e.client(c))
		}),
	}
	c.Flags().BoolVarP(&o.watch, "watch", "w", false, "keep the view up to date until q is pressed")
	c.Flags().BoolVar(&o.json, "json", false, "print JSON")
	c.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit with 1 if there are problems")
	operatorFlags(e, c)
	return c
}

// statusOptions are the flags of status.
type statusOptions struct {
	door                  string
	watch, json, exitCode bool
}

func (o *statusOptions) run(ctx context.Context, e *env, daemon *control.Client) error {
	// Asked once in any case: what is wrong is better said before a screen is taken.
	s, err := daemon.Status(ctx)
	if err != nil {
		return err
	}
	if s, err = onlyDoor(s, o.door); err != nil {
		return err
	}
	switch {
	case o.watch && o.json:
		return o.follow(ctx, daemon, func(s control.Status) error { return printJSONLine(e.stdout, s) })
	case o.watch && output.IsTerminal(e.stdout):
		return o.live(ctx, e, daemon)
	case o.watch:
		var p view.Changes
		return o.follow(ctx, daemon, func(s control.Status) error {
			_, err := fmt.Fprint(e.stdout, p.Lines(s, e.clock()))
			return err
		})
	case o.json:
		err = printJSON(e.stdout, s)
	default:
		v := view.View{Styles: e.styles(e.stdout), Now: e.clock(), Width: output.Width(e.stdout), Detail: o.door != ""}
		_, err = fmt.Fprintln(e.stdout, strings.Join(v.Status(s), "\n"))
	}
	switch {
	case err != nil || !o.exitCode:
		return err
	case s.API == 0: // from before problems were reported: that there are none means nothing
		return withHint(errors.New("the daemon is of a version that does not report problems"), "systemctl restart doorward")
	case len(s.Problems) > 0:
		return &statusError{code: 1} // what is printed says why
	}
	return nil
}

// follow calls f with every snapshot until ctx ends, which is how a watch is
// meant to end.
func (o *statusOptions) follow(ctx context.Context, daemon *control.Client, f func(control.Status) error) error {
	err := daemon.Watch(ctx, func(s control.Status) error {
		s, err := onlyDoor(s, o.door)
		if err != nil {
			return err
		}
		return f(s)
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// live shows the snapshots on the alternate screen until the user quits. When
// the daemon goes, the view says so and waits for its return.
func (o *statusOptions) live(ctx context.Context, e *env, daemon *control.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := tea.NewProgram(view.NewLive(e.styles(e.stdout), e.clock, o.door != ""),
		tea.WithContext(ctx), tea.WithInput(e.stdin), tea.WithOutput(e.stdout))
	var feed sync.WaitGroup
	feed.Go(func() {
		for ctx.Err() == nil {
			p.Send(view.Gone{Err: o.follow(ctx, daemon, func(s control.Status) error {
				p.Send(view.Snapshot(s))
				return nil
			})})
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	})
	_, err := p.Run()
	cancel()
	feed.Wait()
	if errors.Is(err, tea.ErrProgramKilled) { // the context ended: the user is done
		return nil
	}
	return err
}

// onlyDoor returns s with the named door alone; "" is all of them.
func onlyDoor(s control.Status, name string) (control.Status, error) {
	if name == "" {
		return s, nil
	}
	i := slices.IndexFunc(s.Doors, func(d control.Door) bool { return d.Name == name })
	if i < 0 {
		var names []string
		for _, d := range s.Doors {
			names = append(names, d.Name)
		}
		return s, &control.Error{Code: control.CodeNoDoor,
			Message: fmt.Sprintf("door %q is not known: the doors are %s", name, strings.Join(names, ", ")), Hint: "doorward status"}
	}
	s.Doors = s.Doors[i : i+1]
	s.Problems = slices.DeleteFunc(slices.Clone(s.Problems), func(p control.Problem) bool { return p.Door != "" && p.Door != name })
	return s, nil
}
