package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/knock"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/setup"
	"github.com/doorward/doorward/internal/tables"
)

const checkHelp = `Read a configuration file and report everything that is wrong with it: each mistake
with file, line, key, value, the problem and what is allowed. Warnings are about
settings that are valid but probably not intended.

If there are no mistakes, every door is described in words, its knock included: check
that this is what you meant. Anybody who sees the output knows the knock.

Nothing is changed or opened. Besides the file, check asks two things of a Linux
machine, which should be the gateway: whether the kernel reports flows over UDP, if
that is how a door knows that it is in use (as root; the door's idle is a mistake if
it does not), and which ports it assigns to outgoing connections, since one of those
may take a UDP port that a door guards. Whether ports are free, units exist and logs
can be read is checked by doorward doctor.

FILE is ` + config.DefaultPath + ` unless it is given, and - is standard
input. The keys are explained by
doorward init --reference.

Exit status: 0 when there are no mistakes, warnings or not; 1 when there are, or
the file cannot be read; 2 when the command line is wrong.`

const checkExamples = `  doorward check
  doorward check ./new.toml && sudo install -m 0640 -g doorward new.toml ` + config.DefaultPath + `
  ssh root@gate.example.org doorward check - < gate.toml
  doorward check --json | jq -r '.[] | select(.level == "mistake") | .key'`

func newCheck(e *env) *cobra.Command { return newCheckWith(e, setup.This()) }

func newCheckWith(e *env, m setup.Machine) *cobra.Command {
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
func check(e *env, m setup.Machine, path string, asJSON bool) error {
	c, text, err := loadOrRead(e, &path)
	mistakes := tables.Mistakes(err)
	if errors.Is(err, fs.ErrNotExist) && path == config.DefaultPath {
		return withHint(err, "sudo doorward init writes one")
	}
	if err != nil && len(mistakes) == 0 {
		return err
	}
	findings := []finding{}
	warn := func(problem, hint string) {
		findings = append(findings, finding{"warning", tables.Mistake{File: path, Problem: problem, Hint: hint}})
	}
	if c != nil {
		blind, notAsked := m.Blind(c, path, text)
		mistakes = blind
		for _, w := range append(c.Warnings(), notAsked...) {
			warn(w, "")
		}
		inspect(c, warn)
		if local, known := m.Local(); known {
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
		err = withHint(fmt.Errorf("%s has %s", path, output.Counted(len(mistakes), "mistake")),
			"doorward init --reference explains every key")
	}
	return err
}

// inspect reads the files that knocks go by, as far as it may, and warns of what is wrong
// with them: it is no mistake of the configuration, which may be for another machine.
func inspect(c *config.Config, warn func(problem, hint string)) {
	seen := map[string]bool{}
	var uses []knock.Use
	for i := range c.Doors {
		for _, k := range c.Doors[i].Knocks {
			uses = append(uses, knock.Use{Door: c.Doors[i].Name, Rule: k.Rule})
			r, ok := k.Rule.(knock.Equipped)
			if !ok {
				continue
			}
			for _, f := range r.Uses() {
				if !seen[f.Path] {
					seen[f.Path] = true
					inspectFile(r, f, warn)
				}
			}
		}
	}
	for _, w := range knock.Twofold(uses) {
		warn(w, "")
	}
}

func inspectFile(r knock.Equipped, f knock.File, warn func(problem, hint string)) {
	read := files.Read
	if f.Secret {
		read = files.ReadSecret
	}
	text, err := read(f.Path, knock.MaxFile)
	hint := ""
	at := f.Path
	if untrusted, ok := errors.AsType[*files.Error](err); ok {
		at, hint = untrusted.Path, untrusted.Fix
		err = errors.New(untrusted.Problem + ": it is not used")
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		warn(f.Path+" was not looked at: run as root", "")
		return
	case errors.Is(err, fs.ErrNotExist):
		hint = strings.Join(r.Maker(), " ")
	}
	_, wrong := r.Inspect(f, text, err)
	for _, w := range wrong {
		warn(at+" "+w, hint)
	}
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

// printFindings prints mistakes and warnings for people, and the doors when
// there are no mistakes.
func printFindings(e *env, path string, c *config.Config, findings []finding) error {
	d := e.styles(e.stdout)
	var b strings.Builder
	for _, f := range findings {
		if f.Level == "warning" {
			fmt.Fprintf(&b, "%s: %s: %s\n", output.Text(f.File), d.Warn.Render("warning"), output.Text(f.Problem))
		} else {
			b.WriteString(output.Text(f.Error()) + "\n")
		}
		if f.Hint != "" {
			b.WriteString("    " + d.Faint.Render(output.Text(f.Hint)) + "\n")
		}
	}
	if len(findings) == 0 || findings[0].Level == "warning" {
		fmt.Fprintf(&b, "%s: %s, no mistakes\n", output.Text(path), output.Counted(len(c.Doors), "door"))
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

// doorWords describes a door in words.
func doorWords(d output.Styles, door *config.Door) []string {
	var ports []string
	for _, r := range door.Ports {
		ports = append(ports, r.String())
	}
	lines := []string{d.Title.Render("door "+door.Name) + " guards " + tables.Listed(ports)}
	var s output.Columns
	s.Fit("strangers", "")
	add := func(what, words string) { lines = append(lines, "  "+s.Line(what, words)) }
	for i := range door.Knocks {
		k := &door.Knocks[i]
		add("knock", k.Words())
		add("right", rightWords(door, k))
		add("wrong", wrongWords(door, k))
	}
	if door.Refuse == config.Reject {
		add("strangers", "are refused (TCP reset, ICMP port unreachable)")
	} else {
		add("strangers", "get no answer")
	}
	if len(door.Always) > 0 {
		var always []string
		for _, p := range door.Always {
			always = append(always, p.String())
		}
		add("always", tables.Listed(always)+" may come in without knocking")
	}
	add("service", serviceWords(door))
	add("presence", door.Told())
	return lines
}

// rightWords says what a right knock gives.
func rightWords(door *config.Door, k *config.Knock) string {
	if k.ForAll() {
		return "opens the door to everybody until it goes dark"
	}
	words := fmt.Sprintf("opens the door to the visitor's address for %s", tables.Short(door.OpenFor))
	if door.SingleUse {
		return words + ", for one connection"
	}
	return words
}

// wrongWords says what a wrong knock costs.
func wrongWords(door *config.Door, k *config.Knock) string {
	rule, ok := k.Rule.(knock.Penalised)
	if !ok || rule.Costs() == 0 {
		return "costs nothing"
	}
	who, from := "the source", ""
	if k.ForAll() {
		who = "everybody"
	}
	if len(door.Knocks) > 1 && !door.Shared {
		from = " from this knock"
	}
	words := fmt.Sprintf("bans %s%s for %s", who, from, tables.Short(rule.Costs()))
	if !k.ForAll() {
		words += ", doubled each time"
	}
	return words
}

// serviceWords says what is behind the door and when it runs.
func serviceWords(door *config.Door) string {
	if door.Service == nil {
		return "not managed by doorward: it always runs"
	}
	name := door.Service.Unit
	if name == "" {
		name = door.Service.Start[0]
	}
	if door.Presence.Idle == 0 {
		return name + " starts when the door opens, and stops when doorward close makes it dark"
	}
	return fmt.Sprintf("%s starts when the door opens, and stops when nobody has used it for %s",
		name, tables.Short(door.Presence.Idle))
}
