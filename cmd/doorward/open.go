package main

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
)

var openHelp = `Open a door to a source, as a right knock would: the door's service is started if
it has one, and the source may open new connections until the time is up. Existing
connections are not closed then, and the door goes dark again when nobody has used
it for its idle time.

The source is an address, a prefix, or "any" for everybody; doorward open ssh
192.0.2.7 is the same as with --source. By default it is the address from which you
logged in by ssh, according to SSH_CONNECTION.

The time is the door's open_for unless --for says otherwise, from 1s to 720h.
Opening again for the same source starts the time again.

Open waits until the source is let in, or it is clear that it will not be: while the
service starts, for as long as that may take, or for --timeout. When that is up, the
order still stands: the door opens as soon as the service runs. With --no-wait, open
returns as soon as the daemon has begun.

` + exitStatus("0 when the door is open to the source, or with --no-wait open or opening")

const openExamples = `  doorward open ssh
  doorward open ssh --source 192.0.2.7 --for 10m
  doorward open web --source 2001:db8:1::/64 --for 8h --timeout 20s`

func newOpen(e *env) *cobra.Command {
	var source string
	var long time.Duration
	var asJSON, noWait bool
	c := &cobra.Command{
		Use:               "open DOOR [[--source] SOURCE] [--for TIME]",
		Short:             "open a door for a source",
		Long:              openHelp,
		Example:           openExamples,
		Args:              doorAndSource(true),
		ValidArgsFunction: completeDoors(e),
		RunE: asking(func(c *cobra.Command, args []string) error {
			o := control.OpenRequest{Door: args[0], Source: source}
			if source == "" {
				var err error
				if o.Source, err = ownAddress(e); err != nil {
					return err
				}
			}
			if c.Flags().Changed("for") {
				o.For = long.String()
			}
			daemon := e.client(c)
			if !noWait {
				o.Wait = cmp.Or(daemon.Timeout, control.LongestWait).String()
			}
			r, err := daemon.Open(c.Context(), o)
			if errors.Is(err, context.Canceled) {
				return withHint(errors.New("interrupted while waiting; the order still stands"),
					"doorward status %s; doorward close %[1]s --source %s takes it back", o.Door, o.Source)
			}
			if err != nil {
				return err
			}
			return printReply(e, asJSON, r)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&source, "source", "", "for this `SOURCE`: an address, a prefix, or any (default: where you logged in from by ssh)")
	f.DurationVar(&long, "for", 0, "for this `TIME`, such as 10m (default: the door's open_for)")
	f.BoolVar(&noWait, "no-wait", false, "do not wait for the door's service")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	f.Lookup("timeout").Usage = "wait at most this `TIME`, from 1s to 3h (default: as long as the service may take)"
	c.RegisterFlagCompletionFunc("source", completeSources(e, func(d control.Door) []cobra.Completion {
		return append(grantSources(d), cobra.CompletionWithDesc("any", "everybody"))
	}))
	return c
}

// ownAddress is the address from which the operator came by ssh. sshd sets
// both variables (ssh(1), ENVIRONMENT).
func ownAddress(e *env) (string, error) {
	for _, name := range []string{"SSH_CONNECTION", "SSH_CLIENT"} {
		from, _, _ := strings.Cut(strings.TrimSpace(e.getenv(name)), " ")
		if a, err := netip.ParseAddr(from); err == nil {
			return a.Unmap().WithZone("").String(), nil
		}
	}
	return "", &usageError{withHint(errors.New("no --source, and SSH_CONNECTION does not say where you logged in from (sudo removes it)"),
		"--source ADDRESS, or --source any for everybody")}
}
