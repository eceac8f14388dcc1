package door

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// How penalties grow. A source that is wrong again, while its last penalty is
// remembered, is penalised for twice as long, up to a day (or the knock's own
// penalty, where that is longer). Networks of IPv6 that are wrong again and
// again in different places are penalised as a whole: whoever has many /64 of
// one provider's prefix has them all.
const (
	// Remembered is how long a penalty that is over counts towards the next.
	Remembered = 7 * 24 * time.Hour

	longestPenalty = 24 * time.Hour
	maxPenalties   = 1 << 16 // including remembered ones; beyond it one is forgotten early
	wrong56        = 4       // so many /64 of a /56 penalise all of it
	wrong48        = 16      // and so many of a /48, however they are spread
)

// Penalty is the time for which a knock ignores a source.
type Penalty struct {
	// Name is the knock of the door that it belongs to. "": it counts for all of them.
	Name string
	// Source is an IPv4 address, an IPv6 /64, /56 or /48, or Any.
	Source netip.Prefix
	Until  time.Time
	For    time.Duration // as it was given
	Times  int           // how many in a row, including this one: at least 1
	Reason string
}

// target is what is penalised: a source, at one knock or (Name "") at all of a door.
type target struct {
	name   string
	source netip.Prefix
}

func (p Penalty) target() target { return target{p.Name, p.Source} }

// penalties are those of one door: current ones, and those that are over and remembered.
// The package comment says what each costs.
type penalties struct {
	of     map[target]int32
	all    slab[Penalty]
	stand  expiryQueue    // the ends of current ones
	memory expiryQueue    // when those that are over are forgotten
	wrong  map[target]int // how many /64s there are in of, by their /56 and /48
	names  map[string]int // how many belong to each knock
	now    time.Time      // of the latest Tick or wrong knock: what is over by then has no effect
	looks  int            // penalties looked up so far, for tests of what a touch costs
}

func newPenalties(now time.Time) penalties {
	return penalties{of: make(map[target]int32), stand: expiryQueue{epoch: now}, memory: expiryQueue{epoch: now},
		wrong: make(map[target]int), names: make(map[string]int), now: now}
}

// at sets the time, unless it was already later: touches have the time at which they were
// heard.
func (ps *penalties) at(now time.Time) {
	if now.After(ps.now) {
		ps.now = now
	}
}

// blocks returns the prefixes whose penalties an IPv6 source shares, narrowest first; an
// IPv4 source has none.
func blocks(source netip.Prefix) []netip.Prefix {
	if !source.Addr().Is6() || source.Bits() < 64 {
		return nil
	}
	a := source.Addr()
	return []netip.Prefix{
		netip.PrefixFrom(a, 64).Masked(), netip.PrefixFrom(a, 56).Masked(), netip.PrefixFrom(a, 48).Masked(),
	}
}

// penalised returns what a wrong knock of source penalises: an IPv4 address, an IPv6 /64,
// or everybody.
func penalised(source netip.Prefix) netip.Prefix {
	if all := blocks(source); all != nil {
		return all[0]
	}
	return source
}

// get returns a penalty, whether current or remembered.
func (ps *penalties) get(t target) (p Penalty, ok bool) {
	n, ok := ps.of[t]
	if ok {
		p = *ps.all.at(n)
	}
	return p, ok
}

// stands says whether the source itself has a current penalty of one of names.
func (ps *penalties) stands(names []string, source netip.Prefix) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		ps.looks++
		n, ok := ps.of[target{name, source}]
		return ok && ps.stand.has(n) && ps.now.Before(ps.all.at(n).Until)
	})
}

// cover says whether the source, or a network that it lies in, has a current penalty.
func (ps *penalties) cover(names []string, source netip.Prefix) bool {
	return ps.stands(names, source) || slices.ContainsFunc(blocks(source), func(b netip.Prefix) bool { return ps.stands(names, b) })
}

// put adds a penalty, as current or, if its time is up by now, as remembered, in place of
// its target's earlier one.
func (ps *penalties) put(now time.Time, p Penalty) {
	t := p.target()
	ps.take(t)
	for _, wide := range counted(p.Source) {
		ps.wrong[target{p.Name, wide}]++
	}
	n := ps.all.put(p)
	ps.of[t] = n
	ps.names[p.Name]++
	if now.Before(p.Until) {
		ps.stand.add(n, p.Until)
	} else {
		ps.memory.add(n, p.Until.Add(Remembered))
	}
}

// take removes a penalty, whether current or remembered.
func (ps *penalties) take(t target) {
	n, ok := ps.of[t]
	if !ok {
		return
	}
	if ps.stand.has(n) {
		ps.stand.remove(n)
	} else {
		ps.memory.remove(n)
	}
	ps.all.drop(n)
	delete(ps.of, t)
	less(ps.names, t.name)
	for _, wide := range counted(t.source) {
		less(ps.wrong, target{t.name, wide})
	}
}

// less counts one down, and forgets it at 0.
func less[K comparable](counts map[K]int, k K) {
	if counts[k]--; counts[k] == 0 {
		delete(counts, k)
	}
}

// counted returns the prefixes that count a penalty of source: those that a /64 lies in.
func counted(source netip.Prefix) []netip.Prefix {
	if source.Bits() != 64 {
		return nil
	}
	return blocks(source)[1:]
}

// KeptPenalties returns how many penalties there are, including those that are over and
// remembered.
func (d *Door) KeptPenalties() int { return len(d.penalties.of) }

// Penalties returns the effects that save all of the door's penalties, if none has been
// saved.
func (d *Door) Penalties() iter.Seq[Effect] {
	return func(yield func(Effect) bool) {
		for _, n := range d.penalties.of {
			p := *d.penalties.all.at(n)
			var e Effect = PenaltyEnded{p}
			if d.penalties.stand.has(n) {
				e = Penalise{p}
			}
			if !yield(e) {
				return
			}
		}
	}
}

// soonest returns whose penalty is forgotten when there is no room for another: the
// remembered one that is to be forgotten next, else the one that ends next.
func (ps *penalties) soonest() target {
	n, _, ok := ps.memory.next()
	if !ok {
		n, _, _ = ps.stand.next()
	}
	return ps.all.at(n).target()
}

// next returns when one of them ends or is forgotten.
func (ps *penalties) next() (time.Time, bool) {
	_, end, ok := ps.stand.next()
	_, forgotten, remembers := ps.memory.next()
	if remembers && (!ok || forgotten.Before(end)) {
		return forgotten, true
	}
	return end, ok
}

// grown returns how long the source's n-th penalty in a row is, for a knock whose first
// costs base.
func grown(base time.Duration, times int) time.Duration {
	most := max(base, longestPenalty)
	for ; times > 1 && base < most; times-- {
		base *= 2
	}
	return min(base, most)
}

// RestorePenalty adds a penalty as it was saved: as current if it still has time to run,
// or else as remembered. Nobody's is ignored.
func (d *Door) RestorePenalty(now time.Time, p Penalty) {
	if !Somebody(p.Source) {
		return
	}
	p.Times = max(1, p.Times)
	d.penalties.put(now, p)
}

// Wrong processes a wrong knock and penalises its source if the rule says so, at that
// knock or, depending on the rules, at all of the door's. A source that is penalised also
// loses what the same knock had earned, unless a connection has used it: a scan that
// happens to touch the right ports first touches the others a moment later. A source that
// is already penalised was not heard, so its knock cannot be wrong; one that may be
// forged, or is not Somebody, is not penalised.
func (d *Door) Wrong(now time.Time, w Wrong) []Effect {
	if w.Penalty <= 0 || !w.Proven || !Somebody(w.Source) {
		return []Effect{d.record(now, audit.EventRefused, SourceString(w.Source), w.By, w.Reason, time.Time{})}
	}
	d.penalties.at(now)
	if w.Source != Any && d.penalties.cover(d.whose(w.Name), w.Source) {
		return nil
	}
	earned := claimant{w.By, w.Name}
	if d.rules.Shared {
		w.Name = ""
	}
	out := d.penalise(now, w, penalised(w.Source), SourceString(w.Source), w.Reason)
	for i, wide := range counted(penalised(w.Source)) {
		enough := [...]int{wrong56, wrong48}[i]
		n := d.penalties.wrong[target{w.Name, wide}]
		if _, before := d.before(w.Name, wide); before || n >= enough {
			out = append(out, d.penalise(now, w, wide, SourceString(wide), fmt.Sprintf("%d of its networks knocked wrong", n))...)
		}
	}
	if w.Used {
		return out
	}
	return append(out, d.withdraw(now, w.Source, earned)...)
}

// before returns how often a source was penalised for a knock, if that is still
// remembered. A penalty for all knocks of the door, as in earlier versions, counts for
// each.
func (d *Door) before(name string, source netip.Prefix) (times int, ok bool) {
	for _, n := range d.whose(name) {
		if p, remembered := d.penalties.get(target{n, source}); remembered {
			times, ok = max(times, p.Times), true
		}
	}
	return times, ok
}

// penalise penalises a source, for longer if it was before. who is what the audit
// trail calls it.
func (d *Door) penalise(now time.Time, w Wrong, source netip.Prefix, who, reason string) []Effect {
	var out []Effect
	times := 1
	if before, ok := d.before(w.Name, source); ok && source != Any {
		times += before
	}
	if _, known := d.penalties.get(target{w.Name, source}); !known && len(d.penalties.of) >= maxPenalties {
		out = append(out, d.forget(d.penalties.soonest()))
	}
	length := grown(w.Penalty, times)
	p := Penalty{Name: w.Name, Source: source, Until: now.Add(length), For: length, Times: times, Reason: reason}
	d.penalties.put(now, p)
	if source.Bits() == 64 {
		reason += "; its /64 is penalised"
	}
	if times > 1 {
		reason += fmt.Sprintf("; penalised %d times in a row", times)
	}
	return append(out, Penalise{p}, d.record(now, audit.EventRefused, who, w.By, reason, p.Until))
}

// forget forgets a penalty, whether current or remembered.
func (d *Door) forget(t target) Effect {
	d.penalties.take(t)
	return Pardon{t.name, t.source}
}

// pardons ends the penalties whose time is up, and forgets those that were remembered for
// long enough.
func (d *Door) pardons(now time.Time) []Effect {
	var out []Effect
	ps := &d.penalties
	ps.at(now)
	for range endedPerTick {
		n, due := ps.stand.due(now)
		if !due {
			break
		}
		p := *ps.all.at(n)
		if p.Source == Any { // everybody's is the article's, which does not grow
			out = append(out, d.forget(p.target()),
				d.record(now, audit.EventArmed, "", "", "the penalty has ended", time.Time{}))
			continue
		}
		ps.put(now, p)
		out = append(out, PenaltyEnded{p})
	}
	for range endedPerTick {
		n, due := ps.memory.due(now)
		if !due {
			break
		}
		out = append(out, d.forget(ps.all.at(n).target()))
	}
	return out
}

// Arm ends a failsafe and the penalties of everybody, and forgets earlier ones. If log
// data is still missing, that causes no further failsafe until there has been some again.
func (d *Door) Arm(now time.Time, by string) []Effect {
	var out []Effect
	if len(d.penalties.of) > 0 {
		d.penalties = newPenalties(now)
		out = append(out, PardonAll{})
	}
	if d.saved.State == Failsafe {
		d.saved.Armed = true
		d.become(now, Dark, "armed by "+by+" despite missing log data")
	}
	return append(out, d.record(now, audit.EventArmed, "", by, ordered(by), time.Time{}))
}

// ArmSource ends the penalties of a source, of the networks that it lies in, and of
// everything within it, at all knocks, and forgets earlier ones. It says whether there
// was one.
func (d *Door) ArmSource(now time.Time, source netip.Prefix, by string) ([]Effect, bool) {
	all := append([]netip.Prefix{source}, blocks(source)...)
	if source != Any && !source.IsSingleIP() {
		all = nil
		for t := range d.penalties.of {
			if t.source != Any && t.source.Overlaps(source) {
				all = append(all, t.source)
			}
		}
		slices.SortFunc(all, netip.Prefix.Compare)
		all = slices.Compact(all)
	}
	names := slices.Sorted(maps.Keys(d.penalties.names))
	var out []Effect
	for _, p := range all {
		before := len(out)
		for _, name := range names {
			if _, had := d.penalties.get(target{name, p}); had {
				out = append(out, d.forget(target{name, p}))
			}
		}
		if len(out) > before {
			out = append(out, d.record(now, audit.EventArmed, SourceString(p), by, ordered(by), time.Time{}))
		}
	}
	return out, len(out) > 0
}

// standing returns the current penalties, by source: the latest, if they are more than
// most.
func (ps *penalties) standing(now time.Time, most int) []Penalty {
	var all []Penalty
	some := 0
	for n := range ps.stand.latest() {
		if some++; some > most {
			break
		}
		if p := *ps.all.at(n); now.Before(p.Until) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Penalty) int { return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(a.Name, b.Name)) })
	return all
}
