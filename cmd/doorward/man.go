package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/share"
)

const manHelp = `Write the manual pages, one per command, in roff. They are made from the commands'
own help, so that the two cannot say different things; the repository keeps them
in docs/man.`

func newMan(e *env) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:    "man [--dir DIR]",
		Short:  "write the manual pages",
		Long:   manHelp,
		Args:   noArgs,
		Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			var pages []share.File
			for name, page := range manPages(c.Root()) {
				pages = append(pages, share.File{Path: filepath.Join(dir, name), Text: []byte(page), Mode: 0o644})
			}
			change, err := share.Stage(pages)
			if err != nil {
				return err
			}
			defer change.Close()
			return change.Commit()
		},
	}
	c.Flags().StringVar(&dir, "dir", "docs/man", "write to this `DIR`, which must exist")
	return c
}

// manPages returns the pages of root and its commands, by file name.
func manPages(root *cobra.Command) map[string]string {
	pages := map[string]string{}
	var all []string
	for _, c := range root.Commands() {
		if !c.IsAvailableCommand() || c.Name() == "completion" {
			continue
		}
		all = append(all, manName(c))
		pages[manName(c)+".1"] = manPage(c, []string{"doorward", "doorwardd"})
	}
	pages["doorward.1"] = manPage(root, append(all, "doorwardd"))
	pages["doorward.toml.5"] = manConfig()
	pages["doorward-metrics.7"] = manMetrics()
	return pages
}

// manConfig is the page of the configuration file: the reference with every key
// is text that explains itself.
func manConfig() string {
	return ".\\\" Made from the configuration's reference by \"doorward man\".\n" +
		".TH DOORWARD.TOML 5 \"\" doorward \"doorward manual\"\n" +
		".SH NAME\ndoorward.toml \\- what doorwardd guards, and how\n" +
		".SH DESCRIPTION\nThe file, by default " + roff(config.DefaultPath) + ", is TOML. Every key is below, with its\n" +
		"meaning and its default or an example. An unknown key is a mistake, and so is a\n" +
		"value that is not allowed: \\fBdoorward check\\fR names all of them.\n" +
		".SH KEYS\n.nf\n" + roffLines(config.Reference()) + ".fi\n" +
		".SH SEE ALSO\n\\fBdoorward\\fR(1), \\fBdoorward\\-check\\fR(1), \\fBdoorward\\-init\\fR(1), \\fBdoorwardd\\fR(8)\n"
}

// manMetrics is the page of the metrics, from the table that they are served by.
func manMetrics() string {
	var b strings.Builder
	b.WriteString(".\\\" Made from the daemon's table of metrics by \"doorward man\".\n" +
		".TH DOORWARD\\-METRICS 7 \"\" doorward \"doorward manual\"\n" +
		".SH NAME\ndoorward\\-metrics \\- metrics of doorwardd for Prometheus, and its health\n" +
		".SH DESCRIPTION\n" + manText(control.MetricsManual) + ".SH METRICS\n")
	for _, m := range control.ListMetrics() {
		labels := ""
		if m.Labels != nil {
			labels = "{" + strings.Join(m.Labels, ",") + "}"
		}
		fmt.Fprintf(&b, ".TP\n\\fB%s\\fR%s (%s)\n%s\n", roff(m.Name), roff(labels), m.Type, roff(strings.TrimSpace(m.Help+" "+m.Note)))
	}
	words := func(head string, all []control.Word) {
		b.WriteString(".SH " + head + "\n")
		for _, w := range all {
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fR\n%s\n", roff(w.Code), roff(w.Means))
		}
	}
	words("REASONS OF REFUSALS", control.ListRefusals())
	words("CODES OF PROBLEMS", control.ListProblems())
	b.WriteString(".SH HEALTH\n" + manText(control.HealthManual) +
		".SH SEE ALSO\n\\fBdoorward\\fR(1), \\fBdoorward\\-status\\fR(1), \\fBdoorward.toml\\fR(5), \\fBdoorwardd\\fR(8)\n")
	return b.String()
}

// roffLines escapes a text line by line, for a place where lines stay as they
// are.
func roffLines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = roff(strings.TrimSuffix(line, "\n"))
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			b.WriteString("\\&") // else it would be a request
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// manName is the name of a command's page, "doorward-status".
func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage writes one page, in the man macros (man(7), groff_man(7)).
func manPage(c *cobra.Command, related []string) string {
	text, exit, _ := strings.Cut(c.Long, "Exit status: ")
	var b strings.Builder
	fmt.Fprintf(&b, ".\\\" Made from the command's help by \"doorward man\".\n.TH %s 1 \"\" doorward \"doorward manual\"\n",
		strings.ToUpper(manName(c)))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(manName(c)), roff(c.Short))
	args := strings.TrimSpace(strings.TrimPrefix(c.Use, c.Name()))
	if c.HasAvailableSubCommands() {
		args = "COMMAND ..."
	}
	fmt.Fprintf(&b, ".SH SYNOPSIS\n\\fB%s\\fR %s\n", roff(c.CommandPath()), roff(args))
	b.WriteString(".SH DESCRIPTION\n" + manText(text))
	if c.HasAvailableSubCommands() {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				b.WriteString(manCommand(sub, c.HasParent()))
			}
		}
	}
	b.WriteString(".SH OPTIONS\n" + manFlags(c.NonInheritedFlags()) + manFlags(c.InheritedFlags()))
	if c.Example != "" {
		b.WriteString(".SH EXAMPLES\n" + manText(c.Example))
	}
	if exit != "" {
		b.WriteString(".SH EXIT STATUS\n" + manText(exit))
	}
	for i, name := range related {
		section := "1"
		if name == "doorwardd" {
			section = "8"
		}
		related[i] = fmt.Sprintf("\\fB%s\\fR(%s)", roff(name), section)
	}
	fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", strings.Join(related, ",\n"))
	return b.String()
}

// manCommand describes a command of another. One that has no page of its own is described
// whole, but for the flags that all such have.
func manCommand(c *cobra.Command, whole bool) string {
	if !whole {
		return fmt.Sprintf(".TP\n\\fB%s\\fR\n%s\n", roff(c.Name()), roff(c.Short))
	}
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if c.Parent().Flags().Lookup(f.Name) == nil {
			own.AddFlag(f)
		}
	})
	name, args, _ := strings.Cut(c.Use, " ")
	b := strings.Builder{}
	fmt.Fprintf(&b, ".SS \"%s %s\"\n%s", roff(name), roff(args), manText(c.Long))
	if flags := manFlags(own); flags != "" {
		b.WriteString(flags)
	}
	return b.String()
}

// manFlags lists the flags that are not hidden.
func manFlags(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(&b, "\\fB\\-%s\\fR, ", roff(f.Shorthand))
		}
		fmt.Fprintf(&b, "\\fB\\-\\-%s\\fR", roff(f.Name))
		if value != "" {
			fmt.Fprintf(&b, " \\fI%s\\fR", roff(value))
		}
		switch f.DefValue {
		case "", "false", "0", "0s", "[]":
		default:
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(&b, "\n%s\n", roff(usage))
	})
	return b.String()
}

// manText writes help text: paragraphs, and what is indented as it stands.
func manText(text string) string {
	var b strings.Builder
	literal, gap := false, false
	for line := range strings.SplitSeq(strings.Trim(text, "\n"), "\n") {
		if strings.TrimSpace(line) == "" {
			gap = true // the next line shows what it separates
			continue
		}
		indented := strings.HasPrefix(line, "  ")
		switch {
		case indented && !literal:
			b.WriteString(".PP\n.RS 4\n.nf\n")
		case !indented && literal:
			b.WriteString(".fi\n.RE\n.PP\n")
		case gap && literal:
			b.WriteString("\n")
		case gap:
			b.WriteString(".PP\n")
		}
		literal, gap = indented, false
		b.WriteString(roff(strings.TrimPrefix(line, "  ")) + "\n")
	}
	if literal {
		b.WriteString(".fi\n.RE\n")
	}
	return b.String()
}

// roff escapes text: hyphens that are to be typed, backslashes, and what would
// be a request at the start of a line.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
