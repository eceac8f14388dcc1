package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/view"
)

var explainHelp = `Say what would happen to a new connection from one address now, at one door or at each
of them: whether it gets in, why and until when, and everything that prevents it.

An address gets in by its own grant, by one of a prefix that contains it or of
everybody, by a prefix in the door's always, or because it is this machine itself.
What prevents it, or its knocks:

  fence_down       the doors are not guarded as they should be
  failsafe         there is no log data: the door is dark and ignores knocks
  deaf             log data has not been looked for yet: the door ignores knocks
  opening          its grant waits for the service to start
  no_grant         nothing lets it in
  penalty          its knocks, or those of a network that contains it, are ignored
  own_machine      it is this machine, from which no knock counts
  knocks_unheard   some knocks cannot be received
  no_leave         the daemon has no permission to start the service
  service_failed   the service has failed, or did not start
  service_down     the service is not running
  nothing_listens  nothing on this machine listens on the door's ports
  kernel_differs   kernel and daemon disagree; the kernel decides
  kernel_unasked   the kernel could not be asked
  firewall         rules of another firewall drop its packets, or may

Below that are the latest refusals from the address, from the audit trail. Rules of
other firewalls are examined as by doorward doctor, which requires root.

SOURCE is an address; by default, the one from which you logged in by ssh, according
to SSH_CONNECTION. Whether your own network, or one in between, lets packets through
cannot be seen from here.

--json prints one object: for each of doors gets_in (true, false, or null if it is not
known), by, until, obstacles[].code, .message and .hint, would_knock (whether a right
knock from there would be received and open the door now), and refusals; firewall says
whether other firewalls were examined.

` + exitStatus("0 when a connection from there gets in at every door that was asked about; 1 also when it does not at one of them, or that is not known")

const explainExamples = `  doorward explain 192.0.2.7
  sudo doorward explain 2001:db8::7 ssh
  doorward explain 192.0.2.7 ssh --json | jq -r '.doors[].obstacles[].message'
  until doorward explain 192.0.2.7 web >/dev/null; do sleep 1; done`

// lookAtFirewalls adds to an explanation what other firewalls do; why says why they
// were not looked at, and perhaps on a second line what to type, "" when they were.
// Whether the configuration file is inUse says if its knocks are those to be looked at.
type lookAtFirewalls func(x *control.Explanation, inUse bool) (why string)

func newExplain(e *env) *cobra.Command { return newExplainWith(e, firewallsOfOthers) }

func newExplainWith(e *env, look lookAtFirewalls) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:               "explain [SOURCE] [DOOR]",
		Short:             "say whether an address gets in, and what prevents it",
		Long:              explainHelp,
		Example:           explainExamples,
		ValidArgsFunction: completeExplain(e),
		RunE: asking(func(c *cobra.Command, args []string) error {
			source, door, err := explainArgs(e, c, args)
			if err != nil {
				return err
			}
			daemon := e.client(c)
			x, err := daemon.Explain(c.Context(), source, door)
			if err != nil {
				return err
			}
			s, err := daemon.Status(c.Context())
			if err != nil {
				return err
			}
			why := look(&x, !s.ConfigDiffers)
			if asJSON {
				err = printJSON(e.stdout, x)
			} else {
				width := output.Width(e.stdout)
				if width == 0 {
					width = output.PlainWidth
				}
				v := view.View{Styles: e.styles(e.stdout), Now: e.clock(), Width: width}
				_, err = fmt.Fprintln(e.stdout, strings.Join(v.Explanation(x, why), "\n"))
			}
			if err != nil {
				return err
			}
			return verdict(x)
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	return c
}

// verdict is an exit status that says whether a connection gets in at every door.
func verdict(x control.Explanation) error {
	for _, d := range x.Doors {
		if d.GetsIn == nil || !*d.GetsIn {
			return &statusError{code: 1}
		}
	}
	return nil
}

// explainArgs reads [SOURCE] [DOOR]: no door's name looks like an address.
func explainArgs(e *env, c *cobra.Command, args []string) (source, door string, err error) {
	isAddress := func(s string) bool { _, err := netip.ParseAddr(s); return err == nil }
	switch {
	case len(args) > 2:
		err = fmt.Errorf("%q: one SOURCE and one DOOR only", args[2])
	case len(args) == 2 && !isAddress(args[0]):
		err = fmt.Errorf("SOURCE %q: allowed is one address, such as 192.0.2.7 or 2001:db8::7", args[0])
	case len(args) == 2 && args[1] == "":
		err = errors.New("DOOR is empty: a door's name, as doorward status lists it, or none for all doors")
	case len(args) == 2:
		return args[0], args[1], nil
	case len(args) == 1 && isAddress(args[0]):
		return args[0], "", nil
	case len(args) == 1 && !couldBeDoor(args[0]):
		err = fmt.Errorf("%q is neither an address, such as 192.0.2.7 or 2001:db8::7, nor can it be a door's name", args[0])
	default:
		source, err = ownAddress(e)
		if h, ok := errors.AsType[*hintError](err); ok {
			err = &usageError{withHint(errors.New(strings.Replace(h.err.Error(), "--source", "SOURCE", 1)), "doorward explain ADDRESS")}
		}
		return source, firstOf(args), err
	}
	return "", "", &usageError{withHint(err, "%s --help", c.CommandPath())}
}

// completeExplain proposes, for the first argument, addresses that the daemon knows
// and doors, for the second, doors.
func completeExplain(e *env) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		seen := map[string]bool{}
		return complete(e, c, func(d control.Door) []cobra.Completion {
			all := []cobra.Completion{cobra.CompletionWithDesc(d.Name, d.State)}
			if len(args) > 0 {
				return all
			}
			for _, about := range append(grantSources(d), penaltySources(d)...) {
				source, _, _ := strings.Cut(about, "\t")
				if a, err := netip.ParseAddr(source); err == nil && !seen[a.String()] {
					seen[a.String()] = true
					all = append(all, about)
				}
			}
			return all
		})
	}
}

// couldBeDoor says whether a door may have that name.
func couldBeDoor(name string) bool { return config.NameProblem(name) == "" }
