package gateway

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// check checks the machine, and the status of a daemon if one runs, against the promise.
// healed is false while the kernel's news is still on its way, and saved while there is
// something that the disk does not have yet.
func (o *oracle) check(s *control.Status, healed, saved bool) string {
	o.m.expire()
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	for l, end := range o.m.grants {
		if d := o.doors[l.door]; d == nil || !d.mayUntil(l.source, end) {
			say("P1: the kernel lets %v in at door %s for %v", l.source, l.door, end.Sub(o.m.now))
		}
	}
	if s == nil {
		return strings.Join(bad, "; ")
	}
	var names []string
	for _, sd := range s.Doors {
		names = append(names, sd.Name)
	}
	for name := range o.doors {
		if o.raising {
			break // one or the other configuration is guarded
		}
		if _, guarded := o.m.guards(name); healed && (!o.m.table || !guarded) {
			say("P1: door %s is unguarded", name)
		}
		if !slices.Contains(names, name) {
			say("P8: door %s of %s is not in status: %v", name, o.inForce, names)
		}
	}
	if !o.raising && (len(names) != len(o.doors) || len(o.m.doors) != len(names)) {
		say("P8: status has doors %v, the kernel guards %v, in force is %s", names, o.m.doors, o.inForce)
	}
	if len(bad) > 0 {
		return strings.Join(bad, "; ")
	}
	for _, sd := range s.Doors {
		d := o.doors[sd.Name]
		d.overdue(o.m)
		if problem := d.looked(o.m, sd); problem != "" {
			say("%s", problem)
		}
		d.checkPenalties(o.m, sd, saved, say)
		d.follow(o.m, sd, say)
		if healed {
			o.checkGrants(sd, say)
			o.keptPromises(sd, say)
			d.healed()
		}
	}
	if !o.torn && healed && saved {
		o.checkTrail(s, say)
	}
	return strings.Join(bad, "; ")
}

// follow notes a door's state.
func (d *owed) follow(m *model, s control.Door, say func(string, ...any)) {
	stood, stands := d.state == "open" || d.state == "opening", s.State == "open" || s.State == "opening"
	idle := d.came.Add(d.conf.Presence.Idle)
	dark := stood && !stands && d.sure && strings.HasPrefix(s.Reason, "nobody was in")
	switch {
	case dark && d.conf.Presence.Idle == 0:
		say("P4: the door goes dark by itself, and never should")
	case dark && m.now.Before(idle):
		say("P4: the door goes dark %v before it was idle for long enough", idle.Sub(m.now))
	case d.state == "closing" && s.State == "dark" && slices.ContainsFunc(slices.Concat(slices.Collect(maps.Values(d.leaves))...),
		func(l leave) bool { return !l.used && !l.lost }):
		say("P4: a right knock while the door closed is forgotten")
	}
	if stood && !stands {
		d.closed(m) // those who knocked before must knock again
	}
	d.sure = d.sure || stands && d.state == "dark"
	d.state = s.State
}

// mayUntil reports whether a source has leave to come in until the given time.
func (d *owed) mayUntil(source netip.Prefix, end time.Time) bool {
	if source.Bits() == 0 {
		source = door.Any
	}
	return slices.ContainsFunc(d.leaves[source], func(l leave) bool {
		return l.used && !l.spent && !end.Add(-time.Millisecond).After(l.end)
	})
}

// spent reports whether a source's grant was spent, which upkeep is to notice.
func (d *owed) spent(source string) bool {
	who, _ := parseSource(source)
	return slices.ContainsFunc(d.leaves[who], func(l leave) bool { return l.spent })
}

// checkPenalties checks P5, and that penalties which status has shown are kept.
func (d *owed) checkPenalties(m *model, s control.Door, saved bool, say func(string, ...any)) {
	now := map[netip.Prefix]time.Time{}
	for _, p := range s.Penalties {
		who, _ := parseSource(p.Source)
		now[who] = p.Until
		if f, ok := d.faults[who]; !ok || p.Until.After(f.until) {
			say("P5: %s is penalised for %v, which is %v too long", p.Source, p.Until.Sub(m.now), p.Until.Sub(f.until))
		}
		if !p.Until.After(m.now) {
			say("P5: %s is penalised although its time is up", p.Source)
		}
	}
	for who, until := range d.told {
		if _, ok := now[who]; !ok && m.now.Before(until) {
			say("P5: the penalty of %v, told to stand for another %v, is gone", who, until.Sub(m.now))
		}
	}
	d.told = now
	if !saved {
		return
	}
	d.onDisk = now
	for who := range d.faults {
		if _, ok := now[who]; !ok {
			delete(d.faults, who) // status has not shown it, so it is forgotten for good
		}
	}
}

// checkGrants checks P6 for grants, and closes the oracle's door when the real one
// closes.
func (o *oracle) checkGrants(s control.Door, say func(string, ...any)) {
	kernel := map[string]time.Time{}
	families := map[string]int{}
	for l, end := range o.m.grants {
		if l.door == s.Name {
			name := door.SourceString(l.source)
			if l.source.Bits() == 0 {
				name = "any"
			}
			kernel[name] = end
			families[name]++
		}
	}
	for _, g := range s.Grants {
		end, ok := kernel[g.Source]
		if off := g.Expires.Sub(end).Abs(); ok && off > time.Millisecond {
			say("P6: status says that the grant of %s ends %v off what the kernel does", g.Source, off)
		}
		if n := families[g.Source]; (!ok || g.Source == "any" && n != 2) && !o.doors[s.Name].spent(g.Source) {
			say("P6: status has a grant of %s and the kernel has not", g.Source)
		}
		delete(kernel, g.Source)
	}
	for source := range kernel {
		say("P6: the kernel lets %s in and status does not say so", source)
	}
	if s.State != "open" && s.State != "opening" && len(s.Grants) > 0 {
		say("P1: the door is %s with %d grants", s.State, len(s.Grants))
	}
}

// told is what a reader of the audit trail believes about one door.
type told struct {
	state     string
	grants    map[string]map[string]time.Time // until when, by source and on whose behalf
	penalties map[string]time.Time
}

// read reads the audit trail.
func read(trail []audit.Record) map[string]*told {
	doors := map[string]*told{}
	for _, r := range trail {
		d := doors[r.Door]
		if d == nil {
			d = &told{"dark", map[string]map[string]time.Time{}, map[string]time.Time{}}
			doors[r.Door] = d
		}
		switch r.Event {
		case audit.EventGranted:
			if d.grants[r.Source] == nil {
				d.grants[r.Source] = map[string]time.Time{}
			}
			d.grants[r.Source][r.By] = *r.Until
		case audit.EventRevoked, audit.EventExpired:
			d.endsFor(r)
		case audit.EventOpened:
			d.state = "open"
		case audit.EventDark, audit.EventFailsafe:
			d.state = r.Event
			clear(d.grants)
		case audit.EventRefused:
			if r.Until != nil {
				d.penalties[penalised(r.Source)] = *r.Until
			}
		case audit.EventApplied:
			delete(doors, r.Door) // it is no longer guarded
		case audit.EventArmed:
			d.armed(r)
		}
	}
	return doors
}

// endsFor reads a record of a grant's end: of all of it, or of what one member of the club
// had of it.
func (d *told) endsFor(r audit.Record) {
	if delete(d.grants[r.Source], r.By); r.Event == audit.EventRevoked && strings.HasPrefix(r.By, "club ") && len(d.grants[r.Source]) > 0 {
		return
	}
	delete(d.grants, r.Source)
}

// penalised returns whose penalty a refusal is about: an IPv6 address stands for its /64.
func penalised(source string) string {
	if a, err := netip.ParseAddr(source); err == nil {
		return door.SourceString(network(a))
	}
	return source
}

// armed reads a record that a failsafe or penalties ended.
func (d *told) armed(r audit.Record) {
	switch {
	case r.Source != "":
		delete(d.penalties, r.Source)
	case r.Reason == "the penalty has ended":
		delete(d.penalties, "any")
	default: // log data is back, or an operator ends all of it
		if d.state == "failsafe" {
			d.state = "dark"
		}
		if r.By != "" {
			clear(d.penalties)
		}
	}
}

// checkTrail checks P6 for the audit trail: whoever reads it knows what status says.
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
		// A door that closes has no grants, but the record comes when the service is down.
		if sd.State != "closing" && !slices.Contains(grants, "any") {
			ends := map[string]time.Time{}
			for source, claims := range d.grants {
				ends[source] = slices.MaxFunc(slices.Collect(maps.Values(claims)), time.Time.Compare)
			}
			compare("grants", ends, grants)
		}
		compare("penalties", d.penalties, penalties)
	}
}
