package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
)

var closeHelp = `Make a door dark now: its grants end, and its service is stopped if it has one. With
a source, only the grants of that source end and the door stays as it is: those of an
address, those of a prefix and of everything within it, or with any the grant to
everybody, while sources that have a grant of their own keep it.

Something else may still let the source in: a grant to everybody, or to a prefix that
contains it, or the door's always. Then close names it, and fails.

Established sessions are not affected either way: closing a door keeps people out, it
does not throw them out. The knock opens the door again.

` + exitStatus("0 when the door is dark or closing, or nothing lets the source in, even if that was so before; 6 also when something else still does")

const closeExamples = `  doorward close ssh
  doorward close ssh --source 192.0.2.7
  doorward close ssh --source 192.0.2.0/24`

func newClose(e *env) *cobra.Command {
	var source string
	var asJSON bool
	c := &cobra.Command{
		Use:               "close DOOR [[--source] SOURCE]",
		Short:             "make a door dark, or end one source's grants",
		Long:              closeHelp,
		Example:           closeExamples,
		Args:              doorAndSource(true),
		ValidArgsFunction: completeDoors(e),
		RunE: asking(func(c *cobra.Command, args []string) error {
			r, err := e.client(c).Close(c.Context(), control.CloseRequest{Door: args[0], Source: source})
			if err != nil {
				return err
			}
			if source == "" || len(r.Covered) == 0 {
				return printReply(e, asJSON, r)
			}
			if asJSON {
				err = printJSON(e.stdout, r)
			}
			return errors.Join(stillLetIn(r), err)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&source, "source", "", "end the grants of this `SOURCE` only: an address, a prefix, or any")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	c.RegisterFlagCompletionFunc("source", completeSources(e, grantSources))
	return c
}

// stillLetIn is the error of an order to close that was carried out, and does not keep
// its source out. It says how to go on.
func stillLetIn(r control.Reply) error {
	var orders []string
	for _, c := range r.Covered {
		order := fmt.Sprintf("doorward close %s --source %s", r.Door, c.Source)
		if c.By == control.CoverAlways {
			order = fmt.Sprintf("take %s out of the door's always, and doorward apply --confirm 60s", c.Source)
		}
		if !slices.Contains(orders, order) {
			orders = append(orders, order)
		}
	}
	return &control.Error{Code: control.CodeRefused, Message: r.Message, Hint: strings.Join(orders, "; ")}
}
