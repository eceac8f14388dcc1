package main

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/share"
	"github.com/doorward/doorward/internal/tables"
)

// firstDrafted is the kind of which init writes a knock: the first that can be
// drafted.
func firstDrafted() knock.Drafted {
	for _, k := range kinds.All {
		if d, ok := k.(knock.Drafted); ok {
			return d
		}
	}
	panic("doorward: internal error: no kind of knock can be drafted")
}

// addChoices adds the flags about the knock.
func (c *choice) addChoices(f *pflag.FlagSet) {
	for _, k := range c.kind.Choices() {
		if k.List {
			f.StringSlice(k.Name, nil, k.Usage)
		} else {
			f.String(k.Name, k.Default, k.Usage)
		}
	}
}

// choose takes in what the flags say about the knock, and returns which of those
// about the door were given: each of them means that nothing is asked, and those
// about the knock that the former one is not kept.
func (c *choice) choose(f *pflag.FlagSet) (given []string) {
	about := []string{"door", "ports", "unit"}
	c.keep = true
	for _, k := range c.kind.Choices() {
		about = append(about, k.Name)
		c.keep = c.keep && !f.Changed(k.Name)
		if list, err := f.GetStringSlice(k.Name); err == nil {
			c.chosen[k.Name] = list
		} else if s, err := f.GetString(k.Name); err == nil {
			c.chosen[k.Name] = []string{s}
		}
	}
	return slices.DeleteFunc(about, func(name string) bool { return !f.Changed(name) })
}

// draft has the kind write the knock, the former one where that is to be kept.
func (c *choice) draft(m machine, door *config.Door) error {
	if c.keep {
		if c.keys = c.formerKnocks(); len(c.keys) > 0 {
			return nil
		}
	}
	named := m.named()
	taken := func(p port.Port) bool {
		return named[p] || slices.Contains(scanned[:], p.Number) || portTaken(p)
	}
	lots := share.Lots(&config.Config{Doors: []config.Door{*door}}, taken, rand.Reader)
	keys, err := c.kind.Draft(c.chosen, lots)
	c.keys = []string{keys}
	return err
}

// visitorLine is what a visitor types for the door's first knock, or does, if no
// command of this program's makes it.
func visitorLine(door *config.Door) string {
	k := &door.Knocks[0]
	t, ok := k.Rule.(knock.Touched)
	if !ok {
		return k.Words() + ", and connect"
	}
	command := "doorward knock HOST --touch " + joined(t.Touches())
	for _, r := range door.Ports {
		if r.Proto != port.TCP {
			continue
		}
		command += fmt.Sprintf(" --wait %d", r.First)
		if door.SSH() {
			command += " -- ssh USER@HOST"
			if r.First != 22 {
				command += fmt.Sprintf(" -p %d", r.First)
			}
		}
		break
	}
	if every := t.Every(); every > 0 {
		command += fmt.Sprintf("\n     (the listeners are looked at every %s, so that it can take as long)", tables.Short(every))
	}
	return command
}

// joined is "59000,59002".
func joined(ports []uint16) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(ports), "[]"), " ", ",")
}
