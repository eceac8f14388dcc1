package gateway

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// oracle says what the promise allows and demands. It knows what happened to
// the machine, the configuration, and the words of status and of the audit
// trail, which it holds to the kernel; of gateway, door and recogniser it knows
// nothing. Its times are true ones.
type oracle struct {
	m     *model
	doors map[string]*owed
	torn  bool // the trail has a hole: a disk was full when the daemon died, or the clock stepped

	inForce, before string    // configuration files; before: what comes back unless inForce is kept
	deadline        time.Time // true time, zero when nothing waits
	wallDeadline    time.Time
	rejected        string
	untold          bool // the daemon died over an order about configurations
}

// owed is what is owed at one door.
type owed struct {
	conf     config.Door
	state    string                     // as status had it last
	leaves   map[netip.Prefix][]leave   // who may come in
	attempts map[netip.Prefix]*attempt  // knocks under way
	faults   map[netip.Prefix]fault     // who may be penalised
	told     map[netip.Prefix]time.Time // penalties that status has, until
	onDisk   map[netip.Prefix]time.Time // those of them that are saved
	seen     time.Time                  // latest presence, as looks found it
	inBefore bool                       // somebody was in at the look before
}

// leave is what a right knock or an operator's word entitles to: length from
// the moment at which the kernel first hears of it. Length 0 is until the door
// goes dark.
type leave struct {
	length time.Duration
	used   bool
	end    time.Time
	spent  bool // by a connection, at a door of single use
}

type attempt struct {
	first time.Time
	ports []uint16
	given bool // the door is open for it, before the oracle has looked
}

type fault struct {
	until time.Time
	wall  time.Duration // how far the wall clock was off
}

func newOwed(c config.Door) *owed {
	return &owed{conf: c, state: "dark", leaves: map[netip.Prefix][]leave{}, attempts: map[netip.Prefix]*attempt{},
		faults: map[netip.Prefix]fault{}, told: map[netip.Prefix]time.Time{}}
}

// use takes in that a configuration is in force.
func (o *oracle) use(name string) {
	old := o.doors
	o.inForce, o.doors = name, map[string]*owed{}
	for _, c := range o.m.files[name].config.Doors {
		d := old[c.Name]
		if d == nil {
			d = newOwed(c)
		}
		d.conf = c
		o.doors[c.Name] = d
	}
}

// mayUse takes in that a configuration may come into force any moment now, or
// may not if the daemon dies.
func (o *oracle) mayUse(name string) {
	o.untold = true
	now := o.doors
	o.use(name)
	for name, d := range now {
		if o.doors[name] == nil {
			o.doors[name] = d
		}
	}
}

func (d *owed) knock() config.Knock { return d.conf.Knocks[0] }

// forAll says whether everybody's touches add up at a door.
func (d *owed) forAll() bool { return d.knock().Scope == config.ScopeDoor }

// who is whose knock a touch belongs to.
func (d *owed) who(a netip.Addr) netip.Prefix {
	if d.forAll() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// touch takes in a touch that was heard, and says at which doors it made a
// knock right.
func (o *oracle) touch(a netip.Addr, p uint16) (right []*owed) {
	for _, d := range o.doors {
		k, who := d.knock(), d.who(a)
		if !slices.Contains(k.Listen, p) {
			continue
		}
		if _, deaf := d.told[who]; deaf {
			continue
		}
		before := d.faults[who]
		d.overdue(o.m)
		if d.faults[who] != before {
			continue // its time was up before this touch
		}
		t := d.attempts[who]
		if t == nil {
			t = &attempt{first: o.m.now}
			d.attempts[who] = t
		}
		if !slices.Contains(t.ports, p) {
			t.ports = append(t.ports, p)
		}
		if k.Judge > 0 {
			continue
		}
		switch {
		case !slices.Contains(k.Touch, p):
			d.wrong(o.m, who)
		case len(t.ports) == len(k.Touch):
			delete(d.attempts, who)
			d.leaves[who] = append(d.leaves[who], leave{length: d.conf.OpenFor})
			right = append(right, d)
		}
	}
	return right
}

func (d *owed) wrong(m *model, who netip.Prefix) {
	delete(d.attempts, who)
	if d.knock().Penalty > 0 {
		d.faults[who] = fault{m.now.Add(d.knock().Penalty), m.wall}
	}
}

// overdue judges the attempts whose time is up at a door that judges at once.
func (d *owed) overdue(m *model) {
	for who, t := range d.attempts {
		if d.knock().Judge == 0 && m.now.Sub(t.first) > d.knock().Within {
			d.wrong(m, who)
		}
	}
}

// looked judges what everybody touched, of which the moment is not the
// oracle's: whenever the door says that it opened, or is deaf.
func (d *owed) looked(m *model, s control.Door) string {
	k, t := d.knock(), d.attempts[netip.Prefix{}]
	if k.Judge == 0 {
		return ""
	}
	whole := t != nil && d.whole(t)
	deaf := slices.ContainsFunc(s.Penalties, func(p control.Penalty) bool { return p.Source == "any" })
	_, known := d.told[netip.Prefix{}]
	switch {
	case deaf && !known:
		if _, blamed := d.faults[door.Any]; blamed {
			return ""
		}
		if whole || t == nil {
			return "P5: everybody is penalised, and nobody knocked wrong"
		}
		d.wrong(m, netip.Prefix{})
	case t != nil && (s.State == "open" || s.State == "opening"):
		delete(d.attempts, netip.Prefix{})
		if !t.given {
			d.leaves[door.Any] = append(d.leaves[door.Any], leave{})
		}
		if !whole {
			return "P1: the door opens to everybody, and the knock was not right"
		}
	case s.State == "failsafe":
		clear(d.attempts)
	case t != nil && s.State == "dark" && m.now.Sub(t.first) >= k.Judge:
		return "P4: a knock was not judged in its time"
	}
	return ""
}

// whole says whether just the right ports were touched.
func (d *owed) whole(t *attempt) bool {
	return len(t.ports) == len(d.knock().Touch) &&
		!slices.ContainsFunc(t.ports, func(p uint16) bool { return !slices.Contains(d.knock().Touch, p) })
}

// given takes in that the kernel is given a grant, and says why it must not be.
func (o *oracle) given(l lease, end time.Time) string {
	d := o.doors[l.door]
	if d == nil {
		return fmt.Sprintf("P1: a grant for %v at door %q, which is not guarded", l.source, l.door)
	}
	who := l.source
	if who.Bits() == 0 {
		who = netip.Prefix{}
	}
	latest := time.Time{}
	if t := d.attempts[door.Any]; t != nil && !t.given {
		t.given = true // looked judges whether the knock was right
		d.leaves[who] = append(d.leaves[who], leave{})
	}
	for i := range d.leaves[who] {
		e := &d.leaves[who][i]
		if !e.used {
			e.used, e.end = true, o.m.now.Add(e.length)
			d.seen = o.m.now
		}
		if e.length == 0 {
			e.end = d.seen.Add(d.conf.Presence.Idle)
		}
		if e.end.After(latest) {
			latest = e.end
		}
		if !e.spent && o.m.single[l.door] {
			e.end = latest // nobody knows that the claims before it were spent
		}
	}
	if end.Add(-time.Millisecond).After(latest) {
		return fmt.Sprintf("P1: %v gets in at door %s for %v, %v longer than it was told", l.source, l.door,
			end.Sub(o.m.now), end.Sub(latest))
	}
	return ""
}

// noticed takes in what a look found. Somebody who was in at the look before
// may have left at the last moment.
func (o *oracle) noticed(name string, somebody bool) {
	if d := o.doors[name]; d != nil {
		if somebody || d.inBefore {
			d.seen = o.m.now
		}
		d.inBefore = somebody
	}
}

// pardon takes in an order that ends penalties. Until it is told to be done they
// may stand and may not.
func (d *owed) pardon(who netip.Prefix, order func() bool) {
	not := func(w netip.Prefix, _ time.Time) bool { return w == who || who == door.Any }
	d.told, d.onDisk = maps.Clone(d.told), maps.Clone(d.onDisk)
	maps.DeleteFunc(d.told, not)
	maps.DeleteFunc(d.onDisk, not)
	if order() {
		maps.DeleteFunc(d.faults, func(w netip.Prefix, f fault) bool { return not(w, f.until) })
	}
}

// closed forgets who may come in.
func (d *owed) closed() { clear(d.leaves) }

// down takes in that the daemon has ended: what was told stands, and what was
// waiting is forgotten.
func (o *oracle) down() {
	for _, d := range o.doors {
		d.overdue(o.m)
		if t := d.attempts[door.Any]; t != nil && d.knock().Judge > 0 && !d.whole(t) {
			d.wrong(o.m, door.Any) // it may have been judged in the last turn
		}
		clear(d.attempts)
		for who, ls := range d.leaves {
			d.leaves[who] = slices.DeleteFunc(ls, func(l leave) bool { return !l.used })
		}
		d.inBefore, d.told = false, maps.Clone(d.onDisk)
	}
	o.torn, o.untold = o.torn || o.m.full, o.untold || o.m.full
}

// up takes in that a daemon is about to start. A clock that stepped between two
// daemons bends penalties: set back, one stands for at most its length from
// now; set forward, it ends early.
func (o *oracle) up(rebooted bool) {
	o.start(rebooted)
	for _, d := range o.doors {
		for who, f := range d.faults {
			if o.m.wall < f.wall {
				f.until = o.m.now.Add(d.knock().Penalty)
				d.faults[who] = f
			}
			if o.m.wall != f.wall {
				delete(d.told, who)
			}
		}
		if rebooted {
			d.closed()
		}
		d.state = "" // as its first status says
	}
}

// start says which configuration is in force after a start. What was not told
// may have happened or not; then the disk is asked.
func (o *oracle) start(rebooted bool) {
	if o.untold {
		o.untold, o.deadline, o.rejected = false, time.Time{}, o.m.fileOf(o.m.applied.Rejected)
		o.inForce = o.m.fileOf(o.m.applied.Confirmed)
		if pending := o.m.fileOf(o.m.applied.Pending); pending != "" {
			o.before, o.deadline, o.wallDeadline = o.inForce, o.m.now, o.m.applied.Deadline
			o.inForce = pending
		}
	}
	waits := !o.deadline.IsZero()
	if waits && (rebooted || !o.m.clock().Round(0).Before(o.wallDeadline)) {
		o.rejected, o.inForce, waits = o.inForce, o.before, false
	}
	o.deadline = time.Time{}
	switch f := o.m.file; {
	case waits && f == o.inForce:
		o.deadline = o.m.now.Add(o.wallDeadline.Sub(o.m.clock().Round(0)))
	case waits && o.m.files[f].err != nil:
		o.inForce = o.before
	case o.m.files[f].err == nil && f != o.rejected:
		o.inForce, o.rejected = f, ""
	}
	o.use(o.inForce)
}

// lapse takes in that nobody confirmed the configuration in force.
func (o *oracle) lapse() {
	switch {
	case o.deadline.IsZero() || o.m.now.Before(o.deadline):
	case o.m.refuses > 0:
		o.deadline = o.m.now.Add(time.Second) // it is tried again
	default:
		o.rejected, o.deadline = o.inForce, time.Time{}
		o.mayUse(o.before)
	}
}

// lapsed takes in that a turn is over in which a configuration lapsed.
func (o *oracle) lapsed() {
	if o.untold && o.inForce == o.before {
		o.untold = false
		o.use(o.before)
	}
}

// check holds the machine, and the status of a daemon if one runs, to the
// promise; healed is false while the kernel's news is still on its way.
func (o *oracle) check(s *control.Status, healed bool) string {
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
		if _, guarded := o.m.single[name]; healed && (!o.m.table || !guarded) {
			say("P1: door %s is unguarded", name)
		}
		if !slices.Contains(names, name) {
			say("P8: door %s of %s is not in status: %v", name, o.inForce, names)
		}
	}
	if len(names) != len(o.doors) || len(o.m.single) != len(names) {
		say("P8: status has doors %v, the kernel guards %v, in force is %s", names, o.m.single, o.inForce)
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
		d.checkPenalties(o.m, sd, saved(s), say)
		if healed {
			o.checkGrants(sd, say)
		}
		// Who knocked before the door closed must knock again.
		stood := d.state == "open" || d.state == "opening"
		if d.state = sd.State; stood && sd.State != "open" && sd.State != "opening" {
			d.closed()
		}
	}
	if !o.torn && healed && saved(s) {
		o.checkTrail(s, say)
	}
	return strings.Join(bad, "; ")
}

// saved says whether the disk has all that status tells, as status has it.
func saved(s *control.Status) bool {
	return !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.HasPrefix(w, "nothing is saved") })
}

// mayUntil says whether a source was told that it may come in until then.
func (d *owed) mayUntil(source netip.Prefix, end time.Time) bool {
	if source.Bits() == 0 {
		source = netip.Prefix{}
	}
	return slices.ContainsFunc(d.leaves[source], func(l leave) bool {
		return l.used && !l.spent && !end.Add(-time.Millisecond).After(l.end)
	})
}

// spent says whether a source's grant was spent, which upkeep is to notice.
func (d *owed) spent(source string) bool {
	who, _ := parseSource(source)
	return slices.ContainsFunc(d.leaves[who], func(l leave) bool { return l.spent })
}

// checkPenalties is P5, and that what was told stands.
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
			delete(d.faults, who) // it was not told, and is forgotten for good
		}
	}
}

// checkGrants is P6 of the grants, and closes the oracle's door with the real
// one.
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
