package main

import (
	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
)

const doctorHelp = `Look this machine over for whatever would keep doorward from guarding its doors,
or you from getting in: the kernel, privileges, other firewalls, rules that lead
to guarded ports or round them, the clock, the logs that tell who is in, ports
that others have, what sshd listens on, units, and your own SSH session. Each
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
