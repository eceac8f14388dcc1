package gateway

import (
	"maps"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// told is what a reader of the audit trail takes to be so at one door.
type told struct {
	state     string
	grants    map[string]time.Time
	penalties map[string]time.Time
}

// read is the reader of the audit trail.
func read(trail []audit.Record) map[string]*told {
	doors := map[string]*told{}
	for _, r := range trail {
		d := doors[r.Door]
		if d == nil {
			d = &told{"dark", map[string]time.Time{}, map[string]time.Time{}}
			doors[r.Door] = d
		}
		switch r.Event {
		case audit.EventGranted:
			if r.Until.After(d.grants[r.Source]) {
				d.grants[r.Source] = *r.Until
			}
		case audit.EventRevoked, audit.EventExpired:
			delete(d.grants, r.Source)
		case audit.EventOpened:
			d.state = "open"
		case audit.EventDark, audit.EventFailsafe:
			d.state = r.Event
			clear(d.grants)
		case audit.EventRefused:
			if r.Until != nil {
				d.penalties[r.Source] = *r.Until
			}
		case audit.EventArmed:
			if d.state == "failsafe" && r.Source == "" {
				d.state = "dark"
			}
			if r.Source == "" && r.By != "" {
				clear(d.penalties)
			}
			delete(d.penalties, r.Source)
		}
	}
	return doors
}

// checkTrail is P6 of the audit trail: who reads it knows what status says.
func (o *oracle) checkTrail(s *control.Status, say func(string, ...any)) {
	trail := read(o.m.trail)
	for _, sd := range s.Doors {
		d := trail[sd.Name]
		if d == nil {
			d = &told{state: "dark"}
		}
		switch settled := sd.State == "dark" || sd.State == "open" || sd.State == "failsafe"; {
		case settled && d.state != sd.State:
			say("P6: the trail says that the door is %s, status says %s", d.state, sd.State)
		}
		grants, penalties := []string{}, []string{}
		for _, g := range sd.Grants {
			grants = append(grants, g.Source)
		}
		for _, p := range sd.Penalties {
			penalties = append(penalties, p.Source)
		}
		compare := func(what string, said map[string]time.Time, now []string) {
			maps.DeleteFunc(said, func(_ string, until time.Time) bool { return !until.After(o.m.clock()) })
			want := slices.Sorted(maps.Keys(said))
			slices.Sort(now)
			if !slices.Equal(want, now) {
				say("P6: the trail has %s %v, status has %v", what, want, now)
			}
		}
		// A door that closes has no grants; it is told once the service is down.
		if sd.State != "closing" && !slices.Contains(grants, "any") {
			compare("grants", d.grants, grants)
		}
		compare("penalties", d.penalties, penalties)
	}
}
