package main

import (
	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
)

const armHelp = `Make a door listen to knocks again. A door that found no log data at all is in
failsafe: shut, its service stopped, and deaf. It recovers by itself when log
data is back; arm ends the failsafe now, and forgets the door's penalties. What
is forgotten does not make the next penalty longer either.

With --source only that source's penalties are forgotten: an address's own and
those of the networks that it lies in, or all within a network. Without DOOR it
goes for all doors.

Exit status: 0 when that is so, also where it was so before;` + operatorExits

const armExamples = `  doorward arm ssh
  doorward arm --source 192.0.2.7`

func newArm(e *env) *cobra.Command {
	var source string
	var asJSON bool
	c := &cobra.Command{
		Use:               "arm [DOOR] [[--source] SOURCE]",
		Short:             "end a failsafe, and forget penalties",
		Long:              armHelp,
		Example:           armExamples,
		Args:              doorAndSource(false),
		ValidArgsFunction: completeDoors(e),
		RunE: asking(func(c *cobra.Command, args []string) error {
			r, err := e.client(c).Arm(c.Context(), control.ArmRequest{Door: doorOf(args), Source: source})
			if err != nil {
				return err
			}
			return printReply(e, asJSON, r)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&source, "source", "", "forget the penalty of this `SOURCE` only: an address, a prefix, or any")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	c.RegisterFlagCompletionFunc("source", completeSources(e, penaltySources))
	return c
}
