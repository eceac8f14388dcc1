package main

import (
	"net/netip"
	"os"
	"slices"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/doctor"
	"github.com/doorward/doorward/internal/port"
)

// firewallsOfOthers looks at other firewalls' rules, as root. What it says about knocks
// leaves out their ports, since people show such answers to others.
func firewallsOfOthers(x *control.Explanation, inUse bool) (why string) {
	source, err := netip.ParseAddr(x.Source)
	switch {
	case os.Geteuid() != 0:
		return "that takes root\nsudo doorward explain " + x.Source
	case err != nil:
		return err.Error()
	}
	knocks := make(map[string][]port.Range)
	if c, _, err := config.Load(x.Config); err == nil && inUse {
		for _, d := range c.Doors {
			for _, k := range d.Knocks {
				for _, p := range k.Hears() {
					knocks[d.Name] = append(knocks[d.Name], p.Range())
				}
			}
		}
	}
	do, err := doctor.Firewalls(source)
	if err != nil {
		return err.Error()
	}
	for i := range x.Doors {
		d := &x.Doors[i]
		if err := throughFirewalls(d, do, knocks[d.Door]); err != nil {
			return err.Error()
		}
	}
	x.Firewall = true
	return ""
}

// throughFirewalls adds what is in the way to one door and its knocks.
func throughFirewalls(d *control.ExplainedFor, do func([]port.Range) []doctor.Finding, knocks []port.Range) error {
	if slices.ContainsFunc(d.Obstacles, func(o control.Obstacle) bool { return o.Code == control.ObstacleOwn }) {
		return nil // what comes from this machine passes by another way
	}
	var ports []port.Range
	for _, s := range d.Ports {
		r, err := port.ParseRange(s)
		if err != nil {
			return err
		}
		ports = append(ports, r)
	}
	addFindings(d, do(ports))
	addKnockFindings(d, do(knocks))
	return nil
}

// addFindings adds what other rules do with connections.
func addFindings(d *control.ExplainedFor, found []doctor.Finding) {
	no := false
	for _, f := range found {
		o := control.Obstacle{Code: control.ObstacleFirewall, Message: f.Where + ": " + f.What}
		if steps := f.Steps(); len(steps) > 0 {
			o.Hint = steps[0]
		}
		d.Obstacles = append(d.Obstacles, o)
		in := d.GetsIn == nil || *d.GetsIn
		switch {
		case f.Verdict == doctor.Problem:
			d.GetsIn = &no
		case in && f.Verdict == doctor.Warning:
			d.GetsIn = nil
		}
	}
}

// addKnockFindings adds what they do with knocks.
func addKnockFindings(d *control.ExplainedFor, found []doctor.Finding) {
	worst := doctor.OK
	for _, f := range found {
		if f.Verdict == doctor.Problem || f.Verdict == doctor.Warning && worst == doctor.OK {
			worst = f.Verdict
		}
	}
	if worst == doctor.OK {
		return
	}
	does := map[doctor.Verdict]string{doctor.Problem: "drop", doctor.Warning: "may drop"}[worst]
	d.Obstacles = append(d.Obstacles, control.Obstacle{Code: control.ObstacleFirewall,
		Message: "rules of another firewall " + does + " what it sends to ports of the door's knocks",
		Hint:    "doorward doctor"})
	if worst == doctor.Problem {
		d.WouldKnock = false
	}
}
