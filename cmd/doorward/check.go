package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/tables"
)

const checkHelp = `Read a configuration file and say everything that is wrong with it: each mistake
with file, line, key, value, what is the matter and what is allowed. Warnings are
about what can be but is probably not meant.

With no mistakes, every door is told in words, its knock included: read whether
that is what you meant. Whoever sees the output knows the knock.

Nothing is changed or opened. Beside the file, two things are asked of a Linux
machine, which should be the gateway: whether the kernel tells of flows over UDP,
if that is how a door would know that somebody is in (as root; the door's idle is a
mistake where it does not), and which ports it gives to outgoing connections, since
one of those may have a UDP port that a door guards. Whether ports are free, units
exist and logs can be read is what doorward doctor looks at.

FILE is ` + config.DefaultPath + ` unless it is given, and - is standard
input. The keys are explained by
doorward init --reference.

Exit status: 0 when there are no mistakes, warnings or not; 1 when there are, or
the file cannot be read; 2 when the command line is wrong.`

const checkExamples = `  doorward check
  doorward check ./new.toml && sudo install -m 0640 -g doorward new.toml ` + config.DefaultPath + `
  ssh root@gate.example.org doorward check - < gate.toml
  doorward check --json | jq -r '.[] | select(.level == "mistake") | .key'`

func newCheck(e *env) *cobra.Command { return newCheckWith(e, thisMachine()) }

func newCheckWith(e *env, m machine) *cobra.Command {
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
			return check(e, m, path, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print mistakes and warnings as JSON")
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

// checkJSON is what check --json prints.
type checkJSON struct {
	File     string    `json:"file"`
	OK       bool      `json:"ok"`       // there are no mistakes
	Findings []finding `json:"findings"` // mistakes, in the order of their places, then warnings; empty if there are none
}

// finding is a mistake with all its fields, or a warning with file and problem.
type finding struct {
	Level string `json:"level"` // "mistake" or "warning"
	tables.Mistake
}

// check judges the file at path for the machine and prints what it found.
func check(e *env, m machine, path string, asJSON bool) error {
	c, text, err := loadOrRead(e, &path)
	mistakes := tables.Mistakes(err)
	if err != nil && len(mistakes) == 0 {
		return err
	}
	findings := []finding{}
	warn := func(problem, hint string) {
		findings = append(findings, finding{"warning", tables.Mistake{File: path, Problem: problem, Hint: hint}})
	}
	if c != nil {
		blind, notAsked := m.blind(c, path, text)
		mistakes = blind
		for _, w := range append(c.Warnings(), notAsked...) {
			warn(w, "")
		}
		if local, known := m.local(); known {
			if what, do := c.Clashes(local, false); what != "" {
				warn(what, do)
			}
		}
	}
	for _, m := range slices.Backward(mistakes) {
		findings = slices.Insert(findings, 0, finding{"mistake", *m})
	}
	if asJSON {
		err = printJSON(e.stdout, checkJSON{File: path, OK: len(mistakes) == 0, Findings: findings})
	} else {
		err = printFindings(e, path, c, findings)
	}
	if err == nil && len(mistakes) > 0 {
		err = withHint(fmt.Errorf("%s has %s", path, counted(len(mistakes), "mistake")),
			"doorward init --reference explains every key")
	}
	return err
}

// loadOrRead loads the file at path, or reads standard input for "-", which is then
// called so. Only a file that the daemon may use has to belong to the right user.
func loadOrRead(e *env, path *string) (*config.Config, []byte, error) {
	if *path != "-" {
		return config.Load(*path)
	}
	*path = "standard input"
	text, err := readAll(e.stdin, config.MaxFile)
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := config.Parse(*path, text)
	return c, text, err
}

// blind returns the mistakes of doors whose presence hangs on flows, if the
// machine's cannot be seen, and what to say if that may not be asked.
func (m machine) blind(c *config.Config, path string, text []byte) (mistakes []*tables.Mistake, notAsked []string) {
	var doors []string
	for i := range c.Doors {
		if c.Doors[i].ByFlows() {
			doors = append(doors, c.Doors[i].Name)
		}
	}
	if m.flows == nil || len(doors) == 0 {
		return nil, nil
	}
	switch err := m.flows(); {
	case errors.Is(err, fs.ErrPermission):
		return nil, []string{fmt.Sprintf("whether the kernel tells of flows over UDP, by which door %s would know that "+
			"somebody is in, was not asked: run as root", tables.Listed(doors))}
	case err != nil:
		return c.Blind(path, text, err.Error()), nil
	}
	return nil, nil
}

// printFindings prints mistakes and warnings for people, and the doors when
// there are no mistakes.
func printFindings(e *env, path string, c *config.Config, findings []finding) error {
	d := e.dressFor(e.stdout)
	var b strings.Builder
	for _, f := range findings {
		if f.Level == "warning" {
			fmt.Fprintf(&b, "%s: %s: %s\n", printable(f.File), d.warn.Render("warning"), printable(f.Problem))
		} else {
			b.WriteString(printable(f.Error()) + "\n")
		}
		if f.Hint != "" {
			b.WriteString("    " + d.faint.Render(printable(f.Hint)) + "\n")
		}
	}
	if len(findings) == 0 || findings[0].Level == "warning" {
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
