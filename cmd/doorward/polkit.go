package main

import (
	"context"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/setup"
	"github.com/doorward/doorward/internal/share"
)

// polkitRules is where polkit(8) looks for an administrator's rules.
const polkitRules = "/etc/polkit-1/rules.d/50-doorward.rules"

const polkitHelp = `Make the polkit rule that lets the daemon's user start and stop the units of the
configuration, and have systemd forget their failures: just those, and nothing
else about them. The daemon runs as a user of its own, which systemd would
otherwise ask for a password. The rule has a unit's own name, also where the
configuration has another one for it (on Debian, sshd.service is ssh.service).

Without --install the rule is printed. With it, it is written to
` + polkitRules + `, where polkit sees it at once. Do it
again when a door gets another unit; doors with commands need no rule, but then
the daemon must run as a user that may run them.

Exit status: 0 when the rule is printed or written; 1 when not; 2 when the command
line is wrong.`

const polkitExamples = `  doorward polkit
  sudo doorward polkit --install`

// polkitJSON is what polkit prints with --json.
type polkitJSON struct {
	Rule      string   `json:"rule"`
	Units     []string `json:"units"`     // that it is about
	Installed string   `json:"installed"` // the file it was written to, "" for none
}

func newPolkit(e *env) *cobra.Command {
	var install, asJSON bool
	var name string
	c := &cobra.Command{
		Use:     "polkit [FILE] [--install]",
		Short:   "make the rule that lets the daemon start and stop its units",
		Long:    polkitHelp,
		Example: polkitExamples,
		Args:    fileArg,
		RunE: func(c *cobra.Command, args []string) error {
			path := firstOf(args)
			if path == "" {
				path = config.DefaultPath
			}
			return polkit(c.Context(), e, path, name, install, asJSON)
		},
	}
	c.Flags().BoolVar(&install, "install", false, "write the rule to "+polkitRules)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&name, "user", "doorward", "the `USER` that the daemon runs as")
	return c
}

func polkit(ctx context.Context, e *env, path, name string, install, asJSON bool) error {
	conf, _, err := config.Load(path)
	if err != nil {
		return withHint(err, "doorward check %s", path)
	}
	var units []service.Names
	var called []string
	for _, d := range conf.Doors {
		if d.Service == nil || d.Service.Unit == "" {
			continue
		}
		n := setup.UnitNames(ctx, d.Service.Unit)
		if n.ID != d.Service.Unit {
			fmt.Fprintf(e.stderr, "doorward: %s is another name of %s, which the rule has\n", d.Service.Unit, n.ID)
		}
		units = append(units, n)
		called = append(called, n.ID)
	}
	if len(units) == 0 {
		return fmt.Errorf("%s: no door has a unit, so that no rule is needed", path)
	}
	slices.Sort(called)
	made := polkitJSON{Rule: service.PolkitRule(name, units), Units: slices.Compact(called)}
	if !install && asJSON {
		return printJSON(e.stdout, made)
	}
	rule := made.Rule
	if !install {
		_, err := fmt.Fprint(e.stdout, rule)
		return err
	}
	if err := installRule(polkitRules, rule); err != nil {
		return withHint(err, "sudo doorward polkit --install; polkit must be there: apt-get install polkitd")
	}
	if made.Installed = polkitRules; asJSON {
		return printJSON(e.stdout, made)
	}
	_, err = fmt.Fprintf(e.stdout, "%s lets %s start and stop %s\n", polkitRules, name, strings.Join(made.Units, ", "))
	return err
}

// installRule writes the rule. Its directory is polkitd's on some systems, which
// decides by the rules anyway.
func installRule(path, rule string) error {
	f := share.File{Path: path, Text: []byte(rule), Mode: 0o644}
	if u, err := user.Lookup("polkitd"); err == nil {
		if uid, err := strconv.Atoi(u.Uid); err == nil {
			f.Owners = []int{uid}
		}
	}
	change, err := share.Stage([]share.File{f})
	if err != nil {
		return err
	}
	defer change.Close()
	return change.Commit()
}
