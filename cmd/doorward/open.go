package main

import (
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
)

const openHelp = `Open a door for a source, as the right knock would: the door's service is
started if it manages one, and the source may open new connections until the
time is up. Connections that stand by then live on, and the door goes dark again
when nobody has been in for its idle time.

The source is an address, a prefix, or "any" for everybody. Without --source it
is the address from which you came by ssh, as SSH_CONNECTION says.

The time is the door's open_for unless --for says otherwise. Opening again for
the same source starts the time anew.

Exit status: 0 when the door is open or opening for the source; 1 when not; 2
when the command line is wrong.`

const openExamples = `  doorward open ssh
  doorward open ssh --source 192.0.2.7 --for 10m
  doorward open web --source 2001:db8:1::/64 --for 8h`

func newOpen(e *env) *cobra.Command {
	var source string
	var long time.Duration
	var asJSON bool
	c := &cobra.Command{
		Use:               "open DOOR [--source SOURCE] [--for TIME]",
		Short:             "open a door for a source",
		Long:              openHelp,
		Example:           openExamples,
		Args:              doorArg(true),
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
			r, err := e.client(c).Open(c.Context(), o)
			if err != nil {
				return err
			}
			return printReply(e, asJSON, r)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&source, "source", "", "for this `SOURCE`: an address, a prefix, or any (default: where you came from by ssh)")
	f.DurationVar(&long, "for", 0, "for this `TIME`, such as 10m (default: the door's open_for)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
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
	return "", withHint(errors.New("no --source, and SSH_CONNECTION does not say where you came from (sudo drops it)"),
		"--source ADDRESS, or --source any for everybody")
}
