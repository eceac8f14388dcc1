package main

import (
	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
)

const closeHelp = `Make a door dark now: its grants end, and its service is stopped if it manages
one. With --source, only that source's grants end and the door stays as it is.

Sessions that stand are left alone either way: closing a door keeps people out,
it does not throw them out. The knock opens the door again.

Exit status: 0 when the door is dark or closing, or the grants have ended; 1 when
not; 2 when the command line is wrong.`

const closeExamples = `  doorward close ssh
  doorward close ssh --source 192.0.2.7`

func newClose(e *env) *cobra.Command {
	var source string
	var asJSON bool
	c := &cobra.Command{
		Use:               "close DOOR [--source SOURCE]",
		Short:             "make a door dark, or end one source's grants",
		Long:              closeHelp,
		Example:           closeExamples,
		Args:              doorArg(true),
		ValidArgsFunction: completeDoors(e),
		RunE: asking(func(c *cobra.Command, args []string) error {
			r, err := e.client(c).Close(c.Context(), control.CloseRequest{Door: args[0], Source: source})
			if err != nil {
				return err
			}
			return printReply(e, asJSON, r)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&source, "source", "", "end the grants of this `SOURCE` only: an address, a prefix, or any")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	c.RegisterFlagCompletionFunc("source", completeSources(e, grantSources))
	return c
}
