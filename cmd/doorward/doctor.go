package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/doctor"
	"github.com/doorward/doorward/internal/output"
)

const doctorHelp = `Look this machine over for whatever would keep doorward from guarding its doors,
or you from getting in: the kernel, privileges, other firewalls, rules that lead
to guarded ports or round them, the clock, the logs that show who is in, ports
that others use, what sshd listens on, units, and your own SSH session. Each
finding says what is so and what to do about it:

  ok       as it should be
  note     what cannot be known from here, or what you may want to know
  warning  it works, but not as well as it should
  problem  it does not work, or it does not guard

What to do stands below it, behind ">", a step a line; a command is on a line of
its own, however long. With --json, findings have the keys verdict, where, what
and do, and a newline or "; " stands between the steps of do.

Doctor changes nothing. Run it as root, before doorward guards the machine for
the first time and whenever something is odd; without root it sees less.

Exit status: 0 when there is no problem, 1 when there is, 2 when the command line
is wrong.`

const doctorExamples = `  sudo doorward doctor
  sudo doorward doctor -c ./new.toml
  sudo doorward doctor --json | jq '.[] | select(.verdict == "problem")'`

func newDoctor(e *env) *cobra.Command {
	var path string
	var asJSON bool
	c := &cobra.Command{
		Use:               "doctor [-c FILE]",
		Short:             "look for what would keep doorward from guarding, or you from getting in",
		Long:              doctorHelp,
		Example:           doctorExamples,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, _ []string) error { return examine(c, e, path, asJSON) },
	}
	c.Flags().SortFlags = false
	c.Flags().StringVarP(&path, "config", "c", config.DefaultPath, "configuration `FILE`")
	c.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return c
}

// doctorJSON is what doctor --json prints.
type doctorJSON struct {
	OK       bool             `json:"ok"`       // there are no problems
	Findings []doctor.Finding `json:"findings"` // in the order in which they are shown to people
}

// examine looks the machine over and prints what was found.
func examine(c *cobra.Command, e *env, path string, asJSON bool) error {
	socket := e.controlPath(c)
	if socket == config.DefaultControl {
		if cfg, _, err := config.Load(path); err == nil {
			socket = cfg.Gateway.Control
		}
	}
	h, err := doctor.This(path, socket, e.clock)
	if err != nil {
		return withHint(err, "run it on the gateway itself")
	}
	findings := h.Run(c.Context())
	if asJSON {
		if err := printJSON(e.stdout, doctorJSON{OK: count(findings, doctor.Problem) == 0, Findings: findings}); err != nil {
			return err
		}
	} else {
		printDoctor(e.stdout, e.styles(e.stdout), findings, e.getenv("SUDO_UID") != "")
	}
	n := count(findings, doctor.Problem)
	if n == 0 {
		return nil
	}
	return errors.New(output.Counted(n, "problem"))
}

// doctorWidth is where findings are broken into lines.
const doctorWidth = output.PlainWidth

// asRoot puts sudo before a step that only root can take, if that is how the reader
// becomes root.
func asRoot(step string, sudo bool) string {
	if program, _, _ := strings.Cut(step, " "); sudo && slices.Contains(rootPrograms, program) {
		return "sudo " + step
	}
	return step
}

// rootPrograms are those with which such a step begins.
var rootPrograms = []string{"ufw", "firewall-cmd", "nft", "iptables", "ip6tables", "iptables-legacy", "systemctl", "sysctl",
	"timedatectl", "journalctl", "chown", "chgrp", "chmod"}

// printDoctor prints findings for people: the verdict, where, and what is so, with what
// to do about it below, a step a line. Those are never broken, so that a command can be
// copied, and begin with sudo if that is how the reader becomes root.
func printDoctor(w io.Writer, d output.Styles, findings []doctor.Finding, sudo bool) {
	styles := map[doctor.Verdict]func(...string) string{
		doctor.OK: d.Good.Render, doctor.Note: d.Faint.Render, doctor.Warning: d.Warn.Render, doctor.Problem: d.Bad.Render,
	}
	const indent = "         "
	for _, f := range findings {
		verdict := styles[f.Verdict](fmt.Sprintf("%-7s", f.Verdict))
		lines := output.Wrap(output.Text(f.Where)+": "+output.Text(f.What), doctorWidth-len(indent))
		fmt.Fprintf(w, "%s  %s\n", verdict, strings.Join(lines, "\n"+indent))
		for _, step := range f.Steps() {
			fmt.Fprintf(w, "%s> %s\n", indent, output.Text(asRoot(step, sudo)))
		}
	}
	fmt.Fprintf(w, "\n%s, %s, %s, %d ok\n", output.Counted(count(findings, doctor.Problem), "problem"),
		output.Counted(count(findings, doctor.Warning), "warning"), output.Counted(count(findings, doctor.Note), "note"),
		count(findings, doctor.OK))
}

func count(findings []doctor.Finding, v doctor.Verdict) int {
	n := 0
	for _, f := range findings {
		if f.Verdict == v {
			n++
		}
	}
	return n
}
