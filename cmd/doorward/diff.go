package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
)

var diffHelp = `Compare the configuration file with the configuration that the daemon uses, by what
they mean: comments, the order of keys, and a default that is written out make no
difference. What is shown is what doorward apply would change now, and why it would
refuse to.

Values of a knock's keys are not shown, because they are secret.

` + exitStatus("0 when no key differs; 1 when one does; 6 also for a file that has mistakes")

const diffExamples = `  doorward diff
  doorward diff --json | jq -r '.changes[].key'
  doorward diff || doorward apply --confirm 60s`

func newDiff(e *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "diff [--json]",
		Short:   "show what apply would change",
		Long:    diffHelp,
		Example: diffExamples,
		Args:    noArgs,
		RunE: asking(func(c *cobra.Command, _ []string) error {
			d, err := e.client(c).Diff(c.Context())
			if err != nil {
				return err
			}
			return printDiff(e, d, asJSON)
		}),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	return c
}

// printDiff says what differs; the error has the exit status alone.
func printDiff(e *env, d control.Diff, asJSON bool) error {
	var err error
	if asJSON {
		err = printJSON(e.stdout, d)
	} else {
		err = tellDiff(e, d)
	}
	if err == nil && len(d.Changes) > 0 {
		return &statusError{code: 1}
	}
	return err
}

func tellDiff(e *env, d control.Diff) error {
	file := output.Text(d.Config)
	switch {
	case d.Before == d.After:
		_, err := fmt.Fprintf(e.stdout, "%s is in use, unchanged\n", file)
		return err
	case len(d.Changes) == 0:
		fmt.Fprintf(e.stdout, "%s differs from what is in use only in ways that change nothing, such as comments\n", file)
	}
	var s output.Columns
	for _, k := range d.Changes {
		s.Fit(output.Text(k.Key), "")
	}
	for _, k := range d.Changes {
		fmt.Fprintln(e.stdout, s.Line(output.Text(k.Key), output.Text(changeWords(k))))
	}
	if d.Refused == nil {
		return nil
	}
	_, err := fmt.Fprintf(e.stdout, "\ndoorward apply would refuse it: %s\n", output.Text(d.Refused.Message))
	if d.Refused.Hint != "" && err == nil {
		_, err = fmt.Fprintf(e.stdout, "what to do: %s\n", output.Text(d.Refused.Hint))
	}
	return err
}

// changeWords are what becomes of a key.
func changeWords(k control.KeyChange) string {
	switch {
	case k.Secret:
		return k.Change + " (part of a knock, so its value is not shown)"
	case k.Before != nil && k.After != nil:
		return *k.Before + " -> " + *k.After
	case k.After != nil:
		return "added: " + *k.After
	case k.Before != nil:
		return "removed: " + *k.Before
	}
	return k.Change
}
