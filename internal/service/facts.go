//go:build linux

package service

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Facts are what systemd says about the unit itself, as opposed to what it means for a
// door (Status): for a socket, whether it listens, not whether its service runs.
type Facts struct {
	Names
	Load    string // "loaded", "not-found", "masked", ...: systemd's LoadState
	Own     Status
	Enabled string   // what "systemctl is-enabled" says, "" for a unit without a file
	FedBy   []string // units that start it, running or not, as far as systemd has loaded them
	// Removes are the directories that are removed when the unit is stopped.
	Removes []RunDirectory
}

// RunDirectory returns the directory that systemd makes for a service, from its name in
// RuntimeDirectory, "sshd" for /run/sshd.
type RunDirectory struct{ Unit, Name string }

// Facts asks systemd about the unit itself.
func (u *Unit) Facts(ctx context.Context) (Facts, error) {
	begun := time.Now()
	b, err := u.dial(ctx, u.address)
	if err != nil {
		return Facts{}, fmt.Errorf("look at unit %q: %w", u.name, err)
	}
	defer b.close()
	v, err := u.look(ctx, b)
	if err != nil {
		return Facts{}, u.fail(ctx, "look at", begun, v, err)
	}
	return v.facts(), nil
}

func (v view) facts() Facts {
	m := v.members[0]
	f := Facts{Names: v.names(), Load: m.unit.str("LoadState"), Own: m.status(), Enabled: m.unit.str("UnitFileState")}
	for _, t := range v.triggers {
		f.FedBy = append(f.FedBy, t.name)
	}
	slices.Sort(f.FedBy)
	for _, m := range v.members {
		if m.own.str("RuntimeDirectoryPreserve") == "yes" { // "restart" keeps it only over a restart
			continue
		}
		for _, name := range m.own.strs("RuntimeDirectory") {
			f.Removes = append(f.Removes, RunDirectory{m.name, name})
		}
	}
	return f
}
