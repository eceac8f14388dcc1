package gateway

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/touch"
)

// oracle says what the promise allows and demands. It knows what happened to the
// machine, the configuration, and what status and the audit trail say, which it compares
// with the kernel. It knows nothing of gateway, door and recogniser. Its times are true
// ones.
type oracle struct {
	m     *model
	doors map[string]*owed
	torn  bool // the trail has a hole: a disk was full when the daemon died, or the clock stepped

	inForce, before string    // configuration files; before: what comes back unless inForce is kept
	deadline        time.Time // true time, zero if nothing waits
	wallDeadline    time.Time
	rejected        string
	untold          bool // the disk may not know of the latest order about configurations, or of its end
	lapsing         bool // nobody kept the configuration, which is being rolled back
	failed          bool // the fence could not be raised since then
	raising         bool // something is being done at the fence

	members  []string        // of the club, as they were read last
	locked   map[string]bool // those who are locked out, or may be
	onDisk   map[string]bool // of these, those of whom it was answered that they are
	spent    map[string]bool // codes that have opened
	troubled bool            // this daemon's disk has been full or slow
}

// owed is what is owed at one door.
type owed struct {
	conf     config.Door
	state    string                     // according to the latest status
	leaves   map[netip.Prefix][]leave   // who may come in
	attempts map[netip.Prefix]*attempt  // knocks in progress, by whose touches add up
	faults   map[netip.Prefix]fault     // who may be penalised
	times    map[netip.Prefix]int       // how often they were wrong
	told     map[netip.Prefix]time.Time // the ends of the penalties that status has
	onDisk   map[netip.Prefix]time.Time // those of them that are saved
	seen     time.Time                  // when somebody can have been in last
	inBefore bool                       // somebody was in at the look before
	came     time.Time                  // when somebody certainly came or was seen last
	sure     bool                       // the door knows of that: no crash has made it forget
}

// leave is the leave to come in that a right knock or an operator gives. It lasts for
// length from when the kernel is first given it; if that is 0, until the door goes dark.
type leave struct {
	length time.Duration
	earned bool // by a knock: a wrong one after it takes it back
	used   bool
	end    time.Time
	over   bool   // it ended early
	lost   bool   // it may be forgotten
	spent  bool   // by a connection, at a door of single use
	found  bool   // the kernel was asked since: its answer will show that
	mark   string // that must be on disk before, "" for none
	member string // of the club, whose it is, "" for nobody's

	promised time.Time // until when they were told to get in, zero for never
}

func newOwed(c config.Door) *owed {
	return &owed{conf: c, state: "dark", leaves: map[netip.Prefix][]leave{}, attempts: map[netip.Prefix]*attempt{},
		faults: map[netip.Prefix]fault{}, times: map[netip.Prefix]int{}, told: map[netip.Prefix]time.Time{}}
}

// use notes that a configuration is in force.
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

// asked notes that the kernel is asked what was spent.
func (o *oracle) asked() {
	for _, d := range o.doors {
		for _, all := range d.leaves {
			for i := range all {
				all[i].found = all[i].spent
			}
		}
	}
}

// answered notes that the gateway has heard what was spent by then.
func (o *oracle) answered() {
	for _, d := range o.doors {
		for who, all := range d.leaves {
			d.leaves[who] = slices.DeleteFunc(all, func(l leave) bool { return l.found })
		}
	}
}

// mayUse notes that a configuration may come into force at any moment now, or may not if
// the daemon dies.
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

func (d *owed) knock() touch.Rule { return d.conf.Knocks[0].Rule.(touch.Rule) }

// forAll reports whether everybody's touches add up at a door.
func (d *owed) forAll() bool { return d.knock().Everybody }

// who returns whose knock a touch belongs to, and who would be penalised for it.
func (d *owed) who(a netip.Addr) netip.Prefix {
	if d.forAll() {
		return door.Any
	}
	return network(a)
}

// network returns an IPv4 address, or the /64 of an IPv6 address.
func network(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.PrefixFrom(a, 64).Masked()
	}
	return netip.PrefixFrom(a, 32)
}

// takenBack notes that leaves ended early. Those that are in the kernel already end when
// it has healed.
func (d *owed) takenBack(who netip.Prefix, which func(leave) bool) {
	all := slices.DeleteFunc(d.leaves[who], func(l leave) bool { return which(l) && !l.used })
	for i := range all {
		all[i].over = all[i].over || which(all[i])
	}
	d.leaves[who] = all
}

// given notes that the kernel is given a grant, and returns why it must not be, "" if it
// may.
func (o *oracle) given(l grantKey, end time.Time) string {
	d := o.doors[l.door]
	if d == nil {
		return fmt.Sprintf("P1: a grant for %v at door %q, which is not guarded", l.source, l.door)
	}
	who := l.source
	if who.Bits() == 0 {
		who = door.Any
	}
	latest := time.Time{}
	if t := d.attempts[door.Any]; t != nil && !t.given {
		t.given = true // looked judges whether the knock was right
		d.leaves[who] = append(d.leaves[who], leave{})
	}
	for i := range d.leaves[who] {
		e := &d.leaves[who][i]
		if !o.counts(*e) {
			continue
		}
		e.found = false // the answer that is to come is about an earlier grant
		if !e.used {
			e.used, e.end = true, o.m.now.Add(e.length)
			d.seen = o.m.now
		}
		if e.length == 0 {
			e.end = d.seen.Add(d.conf.Presence.Idle)
		}
		if e.end.After(latest) && !e.over {
			latest = e.end
		}
		if guard, _ := o.m.guards(l.door); !e.spent && guard.SingleUse {
			e.end = latest // it is not known that the earlier claims were spent
		}
	}
	if end.Add(-time.Millisecond).After(latest) {
		return fmt.Sprintf("P1: %v gets in at door %s for %v, %v longer than it was told", l.source, l.door,
			end.Sub(o.m.now), end.Sub(latest))
	}
	return ""
}

// counts reports whether a leave lets anybody in: not while its mark is not on disk, since a
// restart would let the same knock in again, and not when who has it may not knock any more.
func (o *oracle) counts(l leave) bool {
	return (l.mark == "" || o.m.marked(l.mark)) && (l.used || l.member == "" || !o.barred(l.member))
}

// noticed notes what a look found. Somebody who was in at the look before may have stayed
// until just before this one.
func (o *oracle) noticed(name string, somebody bool) {
	if d := o.doors[name]; d != nil {
		if somebody || d.inBefore {
			d.seen = o.m.now
		}
		if somebody {
			d.came = o.m.now
		}
		d.inBefore = somebody
	}
}

// pardon notes an order that ends penalties. Until the answer to it says that it is done,
// they may be in force or not.
func (d *owed) pardon(who netip.Prefix, order func(told func())) {
	not := func(w netip.Prefix, _ time.Time) bool {
		return who == door.Any || w != door.Any && w.Contains(who.Addr())
	}
	d.told, d.onDisk = maps.Clone(d.told), maps.Clone(d.onDisk)
	maps.DeleteFunc(d.told, not)
	maps.DeleteFunc(d.onDisk, not)
	faults, times := maps.Clone(d.faults), maps.Clone(d.times)
	order(func() { // the order is not about what came since
		maps.DeleteFunc(d.faults, func(w netip.Prefix, f fault) bool { return not(w, f.until) && f == faults[w] })
		for w, n := range times {
			if not(w, time.Time{}) {
				d.times[w] -= n
			}
		}
	})
}

// stuck notes that a service does not stop: the door may have forgotten who waits for it
// to start again, and they must knock again.
func (o *oracle) stuck() {
	for _, d := range o.doors {
		for _, all := range d.leaves {
			for i := range all {
				all[i].lost = true
			}
		}
	}
}

// closed notes that nobody who has knocked until now may come in any more. A knock whose
// mark is not on disk has not reached the door yet.
func (d *owed) closed(m *model) {
	for who := range d.leaves {
		d.takenBack(who, func(l leave) bool { return l.mark == "" || m.marked(l.mark) })
	}
}

// healed notes that the kernel's state is as the gateway wants it.
func (d *owed) healed() {
	for who, all := range d.leaves {
		d.leaves[who] = slices.DeleteFunc(all, func(l leave) bool { return l.over })
	}
}

// down notes that the daemon has ended: what was answered and shown is kept, and what was
// waiting is forgotten. saved says whether the disk had everything before the step in
// which it ended.
func (o *oracle) down(saved bool) {
	for _, d := range o.doors {
		d.overdue(o.m)
		if t := d.attempts[door.Any]; t != nil && d.knock().Judge > 0 && !d.whole(t) {
			d.wrong(o.m, door.Any) // it may have been judged in the last turn
		}
		clear(d.attempts)
		for who, ls := range d.leaves {
			ls = slices.DeleteFunc(ls, func(l leave) bool { return !l.used })
			for i := range ls {
				d.outlives(o.m, who, &ls[i])
			}
			d.leaves[who] = ls
		}
		d.inBefore, d.told = false, maps.Clone(d.onDisk)
	}
	o.lapsing = false
	o.torn, o.untold = o.torn || !saved, o.untold || !saved
}

// up notes that a daemon is about to start. A clock that stepped between two daemons
// changes penalties: if it was set back, one lasts for at most its length from now; if it
// was set forward, it ends early.
func (o *oracle) up(rebooted bool) {
	o.start(rebooted)
	for _, d := range o.doors {
		for who, f := range d.faults {
			if o.m.wall < f.wall {
				f.until = o.m.now.Add(f.length)
				d.faults[who] = f
			}
			if o.m.wall != f.wall {
				delete(d.told, who)
			}
		}
		if rebooted {
			clear(d.leaves)
		}
		d.state, d.sure = "", false // until its first status
	}
}

// start determines which configuration is in force after a start. If an order was not
// answered it may have been carried out or not; then what is on disk decides.
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
		o.deadline = o.m.now.Add(min(o.wallDeadline.Sub(o.m.clock().Round(0)), confirmTime))
	case waits && o.m.files[f].err != nil:
		o.rejected, o.inForce = o.inForce, o.before
	case o.m.files[f].err == nil && f != o.rejected:
		o.inForce, o.rejected = f, ""
	}
	o.use(o.inForce)
}

// lapse notes that nobody confirmed the configuration in force.
func (o *oracle) lapse() {
	switch {
	case o.deadline.IsZero() || o.m.now.Before(o.deadline):
	default:
		o.rejected, o.deadline, o.lapsing, o.failed = o.inForce, time.Time{}, true, false
		o.mayUse(o.before)
	}
}

// lapsed notes that a configuration that lapsed was rolled back, or that this failed and
// is tried again.
func (o *oracle) lapsed() {
	switch {
	case !o.lapsing:
		return
	case o.failed:
		o.use(o.rejected)
		o.rejected, o.deadline = "", o.m.now.Add(time.Second)
	default:
		o.use(o.before)
	}
	o.lapsing = false
}
