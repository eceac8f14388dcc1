package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
)

const explainHelp = `Say what a new connection from one address would meet now, at one door or at each:
whether it gets in, by what and until when, and everything that is in its way.

What lets it in is its own grant, one of a prefix that it lies in or of everybody,
a prefix of the door's always, or that it is this machine itself. What is in its
way, or in the way of its knocks:

  fence_down       the doors are not guarded as they should be
  failsafe         there is no log data: the door is dark and deaf
  deaf             log data was not looked for yet: the door hears nobody
  opening          its grant waits for the service to run
  no_grant         nothing lets it in
  penalty          its knocks, or those of a network that it lies in, are ignored
  own_machine      it is this machine, from which no knock counts
  knocks_unheard   some knocks cannot be heard
  no_leave         the daemon may not start the service
  service_failed   the service has died, or did not start
  service_down     the service does not run
  nothing_listens  no socket of this machine takes connections at the door's ports
  kernel_differs   kernel and daemon do not agree; the kernel has the last word
  kernel_unasked   the kernel could not be asked
  firewall         rules of another firewall drop what it sends, or may

The last refusals that the address had a part in stand below, as the audit trail
has them. Rules of other firewalls are looked at as doorward doctor does, for
which it takes root.

SOURCE is an address; without one, that from which you came by ssh, as
SSH_CONNECTION says. Whether your own network, or one in between, lets packets
through cannot be seen from here.

--json prints one object: for each of doors gets_in (true, false, or null when it
cannot be told), by, until, obstacles[].code, .message and .hint, would_knock
(whether a right knock from there would be heard and open the door now), and
refusals; firewall says whether other firewalls were looked at.

Exit status: 0 when a connection from there gets in at every door that was asked
about; 1 also when it does not at one of them, or that cannot be told;` + operatorExits

const explainExamples = `  doorward explain 192.0.2.7
  sudo doorward explain 2001:db8::7 ssh
  doorward explain 192.0.2.7 ssh --json | jq -r '.doors[].obstacles[].message'
  until doorward explain 192.0.2.7 web >/dev/null; do sleep 1; done`

// lookAtFirewalls adds to an explanation what other firewalls do; why says why they
// were not looked at, and perhaps on a second line what to type, "" when they were.
type lookAtFirewalls func(*control.Explanation) (why string)

func newExplain(e *env) *cobra.Command { return newExplainWith(e, firewallsOfOthers) }

func newExplainWith(e *env, look lookAtFirewalls) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:               "explain [SOURCE] [DOOR]",
		Short:             "say whether an address gets in, and what is in its way",
		Long:              explainHelp,
		Example:           explainExamples,
		ValidArgsFunction: completeExplain(e),
		RunE: asking(func(c *cobra.Command, args []string) error {
			source, door, err := explainArgs(e, c, args)
			if err != nil {
				return err
			}
			x, err := e.client(c).Explain(c.Context(), source, door)
			if err != nil {
				return err
			}
			why := look(&x)
			if asJSON {
				err = printJSON(e.stdout, x)
			} else {
				width := widthOf(e.stdout)
				if width == 0 {
					width = plainWidth
				}
				v := explaining{view: view{dress: e.dressFor(e.stdout), now: e.clock(), width: width}, notLooked: why}
				_, err = fmt.Fprintln(e.stdout, strings.Join(v.lines(x), "\n"))
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

// explainArgs reads [SOURCE] [DOOR]: no door is called as an address is.
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
