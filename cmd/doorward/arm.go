package main

import (
	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
)

var armHelp = `Make a door listen to knocks again. A door that finds no log data at all goes into
failsafe: it is shut, its service is stopped, and it ignores knocks. It recovers by
itself when there is log data again; arm ends the failsafe now, and clears the door's
penalties. A penalty that was cleared does not make the next one longer.

With a source, only the penalties of that source are cleared: those of an address and
of the networks that contain it, or all of those within a network. Without DOOR, this
applies to all doors.

` + exitStatus("0 when that is done, or was so before")

const armExamples = `  doorward arm ssh
  doorward arm --source 192.0.2.7`

func newArm(e *env) *cobra.Command {
	var source string
	var asJSON bool
	c := &cobra.Command{
		Use:               "arm [DOOR] [[--source] SOURCE]",
		Short:             "end a failsafe, and clear penalties",
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
	f.StringVar(&source, "source", "", "clear the penalties of this `SOURCE` only: an address, a prefix, or any")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	c.RegisterFlagCompletionFunc("source", completeSources(e, penaltySources))
	return c
}
