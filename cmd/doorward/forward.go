package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/spf13/cobra"
)

const forwardHelp = `Listen on a port of this machine. When somebody connects, knock at the gateway, wait
until the door's port accepts, and join the two connections: for programs that know
nothing of knocks. While the grant lasts, others that connect are let in by the same
knock. The connection goes to --port, or to the door's first TCP port.

-L is PORT, on 127.0.0.1, or ADDRESS:PORT; port 0 is a free one, which forward names.
Whoever can connect there gets through the door by your key: every user of this machine,
and, at an address that is not loopback, others. What is behind the door still asks them
who they are.

The key is unlocked at the start; a security key is to be touched for each knock, and
forward says when. At most 256 connections are joined at once, and others wait.
Interrupted (Ctrl-C) or terminated, forward ends, and all connections with it.

Exit status: 0 when it was told to end; 1 when something failed; 2 when the command line
is wrong.`

const forwardExamples = `  doorward forward gate db -L 5432
  doorward forward gate web -L 127.0.0.1:8080 --port 443`

func newForward(e *env) *cobra.Command {
	var at netip.AddrPort
	var listen, portText string
	var port uint16
	c := &cobra.Command{
		Use:               "forward PROFILE [DOOR] -L [ADDRESS:]PORT [--port PORT]",
		Short:             "listen here, and knock when somebody connects",
		Long:              forwardHelp,
		Example:           forwardExamples,
		ValidArgsFunction: completeProfiles(e),
		Args: func(c *cobra.Command, args []string) (err error) {
			switch err = profileAndDoor(args); {
			case err != nil:
			case listen == "":
				err = errors.New("-L is missing: where to listen, such as -L 8080")
			default:
				if at, err = readListen(listen); err != nil {
					err = fmt.Errorf("-L %w", err)
				}
			}
			if err == nil && portText != "" {
				if port, err = parseTCPPort(portText); err != nil {
					err = fmt.Errorf("--port: %w", err)
				}
			}
			if err != nil {
				return &usageError{withHint(err, "%s --help", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			l, err := newLocal(c.Context(), e, args[0], firstOf(args[1:]))
			if err != nil {
				return err
			}
			what := "listening for " + l.profile.Name
			return l.serve(c.Context(), at, what, func(ctx context.Context, conn net.Conn) error {
				to, err := l.through(ctx, l.request.Door, port)
				if err == nil {
					l.join(ctx, conn, to)
				}
				return err
			})
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.VarP(&once{to: &listen}, "listen", "L", "listen on this [ADDRESS:]`PORT`")
	f.StringVar(&portText, "port", "", "connect to this `PORT` of the door (default: its first of TCP)")
	return c
}
