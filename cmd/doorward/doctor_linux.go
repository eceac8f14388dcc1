package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/doctor"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/presence"
	"github.com/doorward/doorward/internal/service"
)

// doctorJSON is what doctor --json prints.
type doctorJSON struct {
	OK       bool             `json:"ok"`       // there are no problems
	Findings []doctor.Finding `json:"findings"` // in the order in which they are told to people
}

// examine looks the machine over and prints what was found.
func examine(c *cobra.Command, e *env, path string, asJSON bool) error {
	socket := e.controlPath(c)
	if socket == config.DefaultControl {
		if cfg, _, err := config.Load(path); err == nil {
			socket = cfg.Gateway.Control
		}
	}
	p := &doctor.Host{
		Config:  path,
		Control: socket,
		Status:  control.NewClient(socket).Status,
		Unit:    func(name string) doctor.Unit { return service.NewUnit(name, slog.New(slog.DiscardHandler)) },
		Flows:   presence.NewWatcher().FlowsVisible,
		Denied:  service.Denied,
		Now:     e.clock,
	}
	findings := p.Run(c.Context())
	if asJSON {
		if err := printJSON(e.stdout, doctorJSON{OK: count(findings, doctor.Problem) == 0, Findings: findings}); err != nil {
			return err
		}
	} else {
		printDoctor(e.stdout, e.styles(e.stdout), findings)
	}
	n := count(findings, doctor.Problem)
	if n == 0 {
		return nil
	}
	return errors.New(output.Counted(n, "problem"))
}

// doctorWidth is where findings are broken into lines.
const doctorWidth = 84

// printDoctor prints findings for people: the verdict, where, and what is so,
// with what to do about it below, a step a line. Those are never broken, so that
// a command can be copied.
func printDoctor(w io.Writer, d output.Styles, findings []doctor.Finding) {
	styles := map[doctor.Verdict]func(...string) string{
		doctor.OK: d.Good.Render, doctor.Note: d.Faint.Render, doctor.Warning: d.Warn.Render, doctor.Problem: d.Bad.Render,
	}
	const indent = "         "
	for _, f := range findings {
		verdict := styles[f.Verdict](fmt.Sprintf("%-7s", f.Verdict))
		lines := output.Wrap(output.Text(f.Where)+": "+output.Text(f.What), doctorWidth-len(indent))
		fmt.Fprintf(w, "%s  %s\n", verdict, strings.Join(lines, "\n"+indent))
		for _, step := range f.Steps() {
			fmt.Fprintf(w, "%s> %s\n", indent, output.Text(step))
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
