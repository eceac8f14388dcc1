package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/profile"
)

const profilesHelp = `List the gateways that you can knock at: the profiles that doorward accept makes of
invites. "show" prints one of them, without its secret; "remove" removes it.

A profile is a file that you may edit; show says where it is. When the gateway gets a new
key, doorward writes it anew, without your comments. The secret in it is one that all
visitors of the gateway have, and lets nobody in. Your own key is not in it.

Exit status: 0 when that is done; 1 when not; 2 when the command line is wrong.`

const profilesExamples = `  doorward profiles
  doorward profiles show gate
  doorward profiles remove gate`

// profilesJSON is what profiles and profiles show print with --json.
type profilesJSON struct {
	Profiles []profileJSON `json:"profiles"`
}

// profileJSON is one profile, without its secret.
type profileJSON struct {
	Name        string   `json:"name"`
	Path        string   `json:"path"` // of its file
	Hosts       []string `json:"hosts"`
	Port        uint16   `json:"port"`
	Carriers    []string `json:"carriers"`    // udp, tcp
	Doors       []string `json:"doors"`       // the first is the default; empty for the gateway's first
	Key         string   `json:"key"`         // its fingerprint, or the path of its file
	Fingerprint string   `json:"fingerprint"` // of the gateway
	Error       string   `json:"error"`       // why it cannot be used, or ""
}

func newProfiles(e *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "profiles [show PROFILE | remove PROFILE...]",
		Short:   "list the gateways that you can knock at",
		Long:    profilesHelp,
		Example: profilesExamples,
		Args:    cobra.ArbitraryArgs,
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []cobra.Completion{"show", "remove"}, cobra.ShellCompDirectiveNoFileComp
			}
			return completeProfiles(e)(c, nil, word)
		},
		RunE: func(c *cobra.Command, args []string) error {
			in, err := e.directory()
			if err != nil {
				return err
			}
			wrong := func(format string, args ...any) error {
				return &usageError{withHint(fmt.Errorf(format, args...), "doorward profiles --help")}
			}
			switch {
			case len(args) == 0:
				return listProfiles(e, in, asJSON)
			case args[0] == "show" && len(args) == 2:
				return showProfile(e, in, args[1], asJSON)
			case args[0] == "show" && len(args) > 2:
				return wrong("%q: show takes one PROFILE", args[2])
			case args[0] == "remove" && len(args) > 1:
				return removeProfiles(e, in, args[1:], asJSON)
			case args[0] == "show", args[0] == "remove":
				return wrong("PROFILE is missing: doorward profiles lists them")
			}
			return wrong("%q: allowed are show and remove", args[0])
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// describe is a profile for scripts.
func describe(in profile.Directory, name string) (profileJSON, error) {
	p, err := in.Load(name)
	j := profileJSON{Name: name, Path: in.Path(name), Hosts: []string{}, Carriers: []string{}, Doors: []string{}}
	if err != nil {
		j.Error = err.Error()
		return j, err
	}
	j.Hosts, j.Port, j.Carriers, j.Doors = p.Hosts, p.Port, p.Carriers, append(j.Doors, p.Doors...)
	j.Key, j.Fingerprint = keyOf(p.Key), p.Gateway.Fingerprint.String()
	return j, nil
}

// keyOf names a profile's key.
func keyOf(k profile.Key) string {
	name := k.Agent + k.File + k.Secret // one of them
	if k.Certificate != "" {
		name += " with " + k.Certificate
	}
	return name
}

func listProfiles(e *env, in profile.Directory, asJSON bool) error {
	names, err := in.Names()
	if err != nil {
		return err
	}
	all := profilesJSON{Profiles: []profileJSON{}}
	for _, name := range names {
		j, _ := describe(in, name) // what is wrong with one is said of it
		all.Profiles = append(all.Profiles, j)
	}
	if asJSON {
		return printJSON(e.stdout, all)
	}
	if len(names) == 0 {
		_, err := fmt.Fprintln(e.stdout, "no profiles: doorward accept makes one of an invite")
		return err
	}
	var rows [][]string
	for _, p := range all.Profiles {
		row := []string{p.Name, strings.Join(p.Hosts, " "), output.OrDash(strings.Join(p.Doors, " ")), p.Key}
		if p.Error != "" {
			row = []string{p.Name, "-", "-", "cannot be used: doorward profiles show " + p.Name}
		}
		rows = append(rows, row)
	}
	for _, line := range output.Table(e.styles(e.stdout), []string{"PROFILE", "HOSTS", "DOORS", "KEY"}, rows) {
		if _, err := fmt.Fprintln(e.stdout, line); err != nil {
			return err
		}
	}
	return nil
}

func showProfile(e *env, in profile.Directory, name string, asJSON bool) error {
	p, err := describe(in, name)
	if errors.Is(err, profile.ErrNone) {
		return withHint(err, "%s", orProfiles(e, in))
	}
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(e.stdout, profilesJSON{[]profileJSON{p}})
	}
	full, err := in.Load(name)
	if err != nil {
		return err
	}
	lines := [][2]string{
		{"profile", name}, {"file", p.Path}, {"hosts", strings.Join(p.Hosts, ", ")},
		{"port", fmt.Sprint(p.Port, "/", strings.Join(p.Carriers, fmt.Sprint(", ", p.Port, "/")))},
		{"doors", output.OrDash(strings.Join(p.Doors, ", "))}, {"key", p.Key}, {"gateway", p.Fingerprint}, {"suite", full.Suite.String()},
	}
	if full.OneWay {
		lines = append(lines, [2]string{"one-way", "single packets, which are not answered"})
	}
	for _, l := range lines {
		if _, err := fmt.Fprintf(e.stdout, "%-8s %s\n", l[0], output.Text(l[1])); err != nil {
			return err
		}
	}
	return nil
}

func removeProfiles(e *env, in profile.Directory, names []string, asJSON bool) error {
	for _, name := range names {
		if err := in.Remove(name); errors.Is(err, profile.ErrNone) {
			return withHint(err, "%s", orProfiles(e, in))
		} else if err != nil {
			return err
		}
		if !asJSON {
			fmt.Fprintf(e.stdout, "removed %s; the gateway still knows your key, until its operator removes it\n", name)
			fmt.Fprintf(e.stdout, "lines for ssh, if it has any: doorward ssh-config %s --remove\n", name)
		}
	}
	if asJSON {
		return listProfiles(e, in, true)
	}
	return nil
}
