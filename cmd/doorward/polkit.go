package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
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

While the daemon runs, units of an existing rule stay in it if the configuration in
use has them, and all of them do while another waits to be confirmed: the daemon may
go back. Run polkit again when the new configuration is kept.

Without --install the rule is printed. With it, it is written to
` + polkitRules + `, where polkit sees it at once. Run it
again when a door gets another unit; doors with commands need no rule, but then
the daemon must run as a user that may run them.

Exit status: 0 when the rule is printed or written, or when none is needed; 1 when
not; 2 when the command line is wrong.`

const polkitExamples = `  doorward polkit
  sudo doorward polkit --install`

// rules is the file of the rule.
func (e *env) rules() string { return cmp.Or(e.polkitRules, polkitRules) }

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
			return polkit(c, e, path, name, install, asJSON)
		},
	}
	c.Flags().BoolVar(&install, "install", false, "write the rule to "+polkitRules)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&name, "user", "doorward", "the `USER` that the daemon runs as")
	return c
}

func polkit(c *cobra.Command, e *env, path, name string, install, asJSON bool) error {
	conf, _, err := config.Load(path)
	if err != nil {
		return withHint(err, "doorward check %s", path)
	}
	units := unitsOf(c.Context(), e, conf)
	units = append(units, unitsInUse(c, e, units)...)
	made := polkitJSON{Rule: service.PolkitRule(name, units), Units: []string{}}
	for _, n := range units {
		made.Units = append(made.Units, n.ID)
	}
	slices.Sort(made.Units)
	made.Units = slices.Compact(made.Units)
	if _, err := os.Stat(e.rules()); len(units) == 0 && !asJSON && (!install || err != nil) {
		_, err := fmt.Fprintf(e.stderr, "doorward: %s: no door has a unit, so no rule is needed\n", path)
		return err
	}
	if !install && asJSON {
		return printJSON(e.stdout, made)
	}
	rule := made.Rule
	if !install {
		_, err := fmt.Fprint(e.stdout, rule)
		return err
	}
	if err := installRule(e.rules(), rule); err != nil {
		return withHint(err, "sudo doorward polkit --install; polkit must be there: apt-get install polkitd")
	}
	if made.Installed = e.rules(); asJSON {
		return printJSON(e.stdout, made)
	}
	lets := strings.Join(made.Units, ", ")
	if lets == "" {
		lets = "no unit: no door has one"
	}
	_, err = fmt.Fprintf(e.stdout, "%s lets %s start and stop %s\n", e.rules(), name, lets)
	return err
}

// unitsOf are the units of a configuration's doors.
func unitsOf(ctx context.Context, e *env, conf *config.Config) (units []service.Names) {
	for _, d := range conf.Doors {
		if d.Service == nil || d.Service.Unit == "" {
			continue
		}
		n := setup.UnitNames(ctx, d.Service.Unit)
		if n.ID != d.Service.Unit {
			fmt.Fprintf(e.stderr, "doorward: %s is another name of %s, which the rule has\n", d.Service.Unit, n.ID)
		}
		units = append(units, n)
	}
	return units
}

// inUseTime is how long the daemon may take to say what is in use.
const inUseTime = 5 * time.Second

// unitsInUse are the units of the rule that is there, beside those of the file, that
// a running daemon may still need: those of its doors, and all of them while a
// configuration waits to be confirmed, since the daemon may go back. Without them it
// could not start a service that visitors knock for. It can only keep what root has
// granted before: nothing that it says adds a unit.
func unitsInUse(c *cobra.Command, e *env, of []service.Names) (more []service.Names) {
	rule, err := os.ReadFile(e.rules())
	if err != nil {
		return nil // there is nothing to keep
	}
	ctx, cancel := context.WithTimeout(c.Context(), inUseTime)
	defer cancel()
	s, err := e.client(c).Status(ctx)
	if err != nil {
		return nil // no daemon answers: what it starts with is the file
	}
	names := service.PolkitUnits(string(rule))
	why := "the configuration in use has it"
	if s.Pending != nil {
		why = "a configuration waits to be confirmed, and the daemon may go back to one that has it"
	} else {
		names = slices.DeleteFunc(names, func(name string) bool {
			return !slices.ContainsFunc(s.Doors, func(d control.Door) bool { return shownUnit(d.Service) == name })
		})
	}
	has := func(name string) bool {
		return slices.ContainsFunc(slices.Concat(of, more), func(n service.Names) bool { return n.ID == name })
	}
	for _, name := range names {
		if has(name) {
			continue
		}
		n := setup.UnitNames(c.Context(), name)
		more = append(more, n)
		fmt.Fprintf(e.stderr, "doorward: the rule has %s, too: %s\n", n.ID, why)
	}
	return more
}

// shownUnit is the unit's own name in what a status says of a door's service, see
// control.Door.
func shownUnit(shown string) string {
	if _, id, alias := strings.Cut(shown, " ("); alias {
		shown = strings.TrimSuffix(id, ")")
	}
	return shown
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
