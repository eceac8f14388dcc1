package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
)

const checkHelp = `Read a configuration file and say everything that is wrong with it: each mistake
with file, line, key, value, what is the matter and what is allowed. Warnings are
about what can be but is probably not meant.

With no mistakes, every door is told in words, its knock included: read whether
that is what you meant. Whoever sees the output knows the knock.

Nothing is changed, opened or asked: the file alone is judged. Whether ports are
free, units exist and logs can be read is what doorward doctor looks at.

FILE is ` + config.DefaultPath + ` unless it is given. The keys are explained by
doorward init --reference.

Exit status: 0 when there are no mistakes, warnings or not; 1 when there are, or
the file cannot be read; 2 when the command line is wrong.`

const checkExamples = `  doorward check
  doorward check ./new.toml && sudo install -m 0640 -g doorward new.toml ` + config.DefaultPath + `
  doorward check --json | jq -r '.[] | select(.level == "mistake") | .key'`

func newCheck(e *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "check [FILE]",
		Short:   "find every mistake in a configuration file",
		Long:    checkHelp,
		Example: checkExamples,
		Args:    fileArg,
		RunE: func(_ *cobra.Command, args []string) error {
			path := firstOf(args)
			if path == "" {
				path = config.DefaultPath
			}
			return check(e, path, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print mistakes and warnings as a JSON array, empty if there are none")
	return c
}

// fileArg checks that at most one argument, a FILE, stands on the command line.
func fileArg(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		err := fmt.Errorf("%q: one FILE only", args[1])
		return &usageError{withHint(err, "%s --help", c.CommandPath())}
	}
	return nil
}

// finding is one element of check --json: a mistake with all its fields, or a
// warning with file and problem.
type finding struct {
	Level string `json:"level"` // "mistake" or "warning"
	*config.Mistake
}

// check judges the file at path and prints what it found.
func check(e *env, path string, asJSON bool) error {
	c, _, err := config.Load(path)
	mistakes := config.Mistakes(err)
	if err != nil && len(mistakes) == 0 {
		return err
	}
	findings := []finding{}
	for _, m := range mistakes {
		findings = append(findings, finding{"mistake", m})
	}
	if c != nil {
		for _, w := range c.Warnings() {
			findings = append(findings, finding{"warning", &config.Mistake{File: path, Problem: w}})
		}
	}
	if asJSON {
		err = printJSON(e.stdout, findings)
	} else {
		err = printFindings(e, path, c, findings)
	}
	if err == nil && len(mistakes) > 0 {
		err = withHint(fmt.Errorf("%s has %s", path, counted(len(mistakes), "mistake")),
			"doorward init --reference explains every key")
	}
	return err
}

// printFindings prints mistakes and warnings for people, and the doors when
// there are no mistakes.
func printFindings(e *env, path string, c *config.Config, findings []finding) error {
	d := e.dressFor(e.stdout)
	var b strings.Builder
	for _, f := range findings {
		if f.Level == "warning" {
			fmt.Fprintf(&b, "%s: %s: %s\n", printable(f.File), d.warn.Render("warning"), printable(f.Problem))
			continue
		}
		b.WriteString(printable(f.Error()) + "\n")
		if f.Hint != "" {
			b.WriteString("    " + d.faint.Render(printable(f.Hint)) + "\n")
		}
	}
	if c != nil {
		fmt.Fprintf(&b, "%s: %s, no mistakes\n", printable(path), counted(len(c.Doors), "door"))
		for i := range c.Doors {
			b.WriteString("\n")
			for _, line := range doorWords(d, &c.Doors[i]) {
				b.WriteString(line + "\n")
			}
		}
	}
	_, err := e.stdout.Write([]byte(b.String()))
	return err
}
