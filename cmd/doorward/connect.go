package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/relay"
)

const connectHelp = `Knock at a gateway, wait until PORT accepts, and connect standard input and output to
it, as ssh's ProxyCommand wants it:

  Host gate
      HostName gate.example.org
      ProxyCommand doorward connect %h %p --profile gate

doorward ssh-config prints this block, and puts it into ~/.ssh/config. So ssh, scp,
sftp, rsync, git, and whatever else runs ssh, knock by themselves. A session that is
multiplexed over a connection that stands (ControlMaster) does not run this at all.

The profile is --profile, or the one that is called HOST or has HOST among its hosts. The
door is --door, or the profile's first. The connection goes to the address at which the
gateway has opened the door, whichever of its IPv4 and IPv6 addresses that is.

Calls that run at the same time, as ansible's and git's, share one knock: while the grant
lasts nobody knocks again, and a security key is touched once. If that knock is in vain,
those that have waited for it end with the same error. A door with single_use = true
lets one connection in with each knock; there each call knocks, after the first has found
that out. They meet in files of the user's own, below XDG_RUNTIME_DIR or the user's
cache, that have no secret.

What connect has to say is on standard error: that a security key is to be touched, that
the service is being started, and why it fails.

Exit status: 0 when everything that was sent was delivered; 1 when something failed; 2
when the command line is wrong; 5 when there is no such door; 6 when the gateway refuses;
7 when it does not answer, or the port does not open. ssh itself exits with 255 then.`

const connectExamples = `  doorward connect gate.example.org 22
  ssh -o ProxyCommand="doorward connect %h %p" alice@gate.example.org
  doorward connect gate 25 --door mail`

func newConnect(e *env) *cobra.Command {
	var profileName, door string
	c := &cobra.Command{
		Use:     "connect HOST PORT [--profile PROFILE] [--door DOOR]",
		Short:   "knock, and connect standard input and output to a port (ssh's ProxyCommand)",
		Long:    connectHelp,
		Example: connectExamples,
		Args: func(c *cobra.Command, args []string) (err error) {
			switch {
			case len(args) < 2:
				err = errors.New("HOST and PORT are needed, which are %h and %p in ~/.ssh/config")
			case len(args) > 2:
				err = fmt.Errorf("%q: one HOST and one PORT only", args[2])
			}
			if err != nil {
				return &usageError{withHint(err, "%s --help", c.CommandPath())}
			}
			return nil
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeProfiles(e)(c, nil, word)
		},
		RunE: func(c *cobra.Command, args []string) error {
			port, err := parseTCPPort(args[1])
			if err != nil {
				return &usageError{withHint(fmt.Errorf("PORT: %w", err), "%s --help", c.CommandPath())}
			}
			return connect(c.Context(), e, args[0], port, profileName, door)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&profileName, "profile", "", "the `PROFILE` of the gateway (default: the one that has HOST)")
	f.StringVar(&door, "door", "", "the `DOOR` (default: the profile's first)")
	_ = c.RegisterFlagCompletionFunc("profile", func(c *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return completeProfiles(e)(c, nil, word)
	})
	return c
}

// connect carries out the command.
func connect(ctx context.Context, e *env, host string, port uint16, name, door string) error {
	if name == "" {
		in, err := e.directory()
		if err != nil {
			return err
		}
		if name, err = profileFor(e, in, host); err != nil {
			return err
		}
	}
	p, err := loadPassage(e, name, door)
	if err != nil {
		return err
	}
	conn, err := newEntrance(e, p).connect(ctx, port)
	if err != nil {
		return err
	}
	err = relay.Join(ctx, e.stdin, e.stdout, conn)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return interrupted(ctx, "while the connection stood")
	}
	return err
}
