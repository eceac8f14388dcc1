package door

import (
	"fmt"
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
	// Remembered is for how long a penalty that is over counts for the next.
	Remembered = 7 * 24 * time.Hour

	longestPenalty = 24 * time.Hour
	maxPenalties   = 1 << 16 // with those that are remembered; beyond it one is forgotten early
	wrong56        = 4       // so many /64 of a /56 penalise all of it
	wrong48        = 16      // and so many of a /48, however they are spread
)

// Penalty is the time for which a source's knocks are ignored.
type Penalty struct {
	// Source is an IPv4 address, an IPv6 /64, /56 or /48, or Any.
	Source netip.Prefix
	Until  time.Time
	For    time.Duration // as it was given
	Times  int           // so many in a row, with this one: 1 and more
	Reason string
}

// penalty is one that stands, or is over and remembered.
type penalty struct {
	Penalty
	over bool
	end  *expiry // of the penalty; once that is over, of its memory
}

// penalties are those of one door. What each costs is said with the package.
type penalties struct {
	of     map[netip.Prefix]*penalty
	stand  expiries             // the ends of those that stand
	memory expiries             // when those that are over are forgotten
	wrong  map[netip.Prefix]int // how many /64 there are in of, by their /56 and /48
	looks  int                  // records looked up so far, for tests of what a touch costs
}

func newPenalties() penalties {
	return penalties{of: make(map[netip.Prefix]*penalty), wrong: make(map[netip.Prefix]int)}
}

// blocks are the prefixes whose penalties an IPv6 source shares, narrowest
// first; an IPv4 source has none.
func blocks(source netip.Prefix) []netip.Prefix {
	if !source.Addr().Is6() || source.Bits() < 64 {
		return nil
	}
	a := source.Addr()
	return []netip.Prefix{
		netip.PrefixFrom(a, 64).Masked(), netip.PrefixFrom(a, 56).Masked(), netip.PrefixFrom(a, 48).Masked(),
	}
}

// penalised is what a wrong knock of source penalises: an IPv4 address, an IPv6
// /64, or everybody.
func penalised(source netip.Prefix) netip.Prefix {
	if all := blocks(source); all != nil {
		return all[0]
	}
	return source
}

// stands says whether a penalty stands of the source itself.
func (ps *penalties) stands(source netip.Prefix) bool {
	ps.looks++
	p := ps.of[source]
	return p != nil && !p.over
}

// cover says whether a penalty stands of the source or of what it lies in.
func (ps *penalties) cover(source netip.Prefix) bool {
	return ps.stands(source) || slices.ContainsFunc(blocks(source), ps.stands)
}

// put has a penalty stand, or be remembered if its time was up by now, in place
// of what there was of its source.
func (ps *penalties) put(now time.Time, p Penalty) {
	ps.take(p.Source)
	for _, wide := range ps.counted(p.Source) {
		ps.wrong[wide]++
	}
	over := !now.Before(p.Until)
	heap, until := &ps.stand, p.Until
	if over {
		heap, until = &ps.memory, p.Until.Add(Remembered)
	}
	ps.of[p.Source] = &penalty{p, over, heap.add(p.Source, until)}
}

// take takes a source's penalty out, whether it stands or is remembered.
func (ps *penalties) take(source netip.Prefix) {
	p := ps.of[source]
	if p == nil {
		return
	}
	if p.over {
		ps.memory.remove(p.end)
	} else {
		ps.stand.remove(p.end)
	}
	delete(ps.of, source)
	for _, wide := range ps.counted(source) {
		if ps.wrong[wide]--; ps.wrong[wide] == 0 {
			delete(ps.wrong, wide)
		}
	}
}

// counted are the prefixes that count a penalty of source: those that a /64 lies
// in.
func (ps *penalties) counted(source netip.Prefix) []netip.Prefix {
	if source.Bits() != 64 {
		return nil
	}
	return blocks(source)[1:]
}

// soonest is whose penalty is forgotten when there is no room for another: the
// remembered that is forgotten next, else the one that ends next.
func (ps *penalties) soonest() netip.Prefix {
	e, ok := ps.memory.next()
	if !ok {
		e, _ = ps.stand.next()
	}
	return e.source
}

// next returns when one of them ends or is forgotten.
func (ps *penalties) next() (time.Time, bool) {
	e, ok := ps.stand.next()
	m, remembers := ps.memory.next()
	if remembers && (!ok || m.until.Before(e.until)) {
		e, ok = m, true
	}
	if !ok {
		return time.Time{}, false
	}
	return e.until, true
}

// grown is how long a penalty is that is the source's so-manieth in a row, of a
// knock whose first costs base.
func grown(base time.Duration, times int) time.Duration {
	most := max(base, longestPenalty)
	for ; times > 1 && base < most; times-- {
		base *= 2
	}
	return min(base, most)
}

// RestorePenalty takes in a penalty as it was saved: one that still has time to
// run, or, if that was over by now, one that is remembered. Nobody's counts for
// nothing.
func (d *Door) RestorePenalty(now time.Time, p Penalty) {
	if !Somebody(p.Source) {
		return
	}
	p.Times = max(1, p.Times)
	d.penalties.put(now, p)
}

// Remembers returns the sources of all penalties, those that are over and count
// for the next included.
func (d *Door) Remembers() []netip.Prefix {
	return slices.SortedFunc(maps.Keys(d.penalties.of), netip.Prefix.Compare)
}

// Wrong takes in a wrong knock and penalises its source where the rule says so.
// Who is penalised also loses what the same kind of knock had earned, unless a
// connection has used it: a scan that happens to touch the right ports first
// touches the others a moment later. Of a source that is penalised already
// nothing was heard, so that nothing was wrong; one that may be forged, or is not
// Somebody, is not penalised.
func (d *Door) Wrong(now time.Time, w Wrong) []Effect {
	if w.Penalty <= 0 || !w.Proven || !Somebody(w.Source) {
		return []Effect{d.record(now, audit.EventRefused, SourceString(w.Source), w.By, w.Reason, time.Time{})}
	}
	if w.Source != Any && d.penalties.cover(w.Source) {
		return nil
	}
	out := d.punish(now, w, penalised(w.Source), SourceString(w.Source), w.Reason)
	for i, wide := range d.penalties.counted(penalised(w.Source)) {
		enough := [...]int{wrong56, wrong48}[i]
		if n := d.penalties.wrong[wide]; n >= enough || d.penalties.of[wide] != nil {
			out = append(out, d.punish(now, w, wide, SourceString(wide), fmt.Sprintf("%d of its networks knocked wrong", n))...)
		}
	}
	if w.Used {
		return out
	}
	return append(out, d.withdraw(now, w.Source, w.By)...)
}

// punish penalises a source, for longer if it was before. who is what the audit
// trail calls it.
func (d *Door) punish(now time.Time, w Wrong, source netip.Prefix, who, reason string) []Effect {
	var out []Effect
	times := 1
	if before := d.penalties.of[source]; before != nil && source != Any {
		times += before.Times
	} else if before == nil && len(d.penalties.of) >= maxPenalties {
		out = append(out, d.forget(d.penalties.soonest()))
	}
	length := grown(w.Penalty, times)
	p := Penalty{Source: source, Until: now.Add(length), For: length, Times: times, Reason: reason}
	d.penalties.put(now, p)
	if source.Bits() == 64 {
		reason += "; its /64 is penalised"
	}
	if times > 1 {
		reason += fmt.Sprintf("; penalised %d times in a row", times)
	}
	return append(out, Punish{p}, d.record(now, audit.EventRefused, who, w.By, reason, p.Until))
}

// forget forgets a source's penalty, whether it stands or is remembered.
func (d *Door) forget(source netip.Prefix) Effect {
	d.penalties.take(source)
	return Pardon{source}
}

// pardons has the penalties end whose time is up, and forgets those that were
// remembered for long enough.
func (d *Door) pardons(now time.Time) []Effect {
	var out []Effect
	ps := &d.penalties
	for e, ok := ps.stand.next(); ok && !now.Before(e.until); e, ok = ps.stand.next() {
		if e.source == Any { // everybody's is the article's, which does not grow
			out = append(out, d.forget(Any),
				d.record(now, audit.EventArmed, "", "", "the penalty is over", time.Time{}))
			continue
		}
		over := ps.of[e.source].Penalty
		ps.put(now, over)
		out = append(out, Over{over})
	}
	for e, ok := ps.memory.next(); ok && !now.Before(e.until); e, ok = ps.memory.next() {
		out = append(out, d.forget(e.source))
	}
	return out
}

// Arm ends a failsafe and the penalties of everybody, and forgets those before.
// Log data that is still missing then leads to no further failsafe until there
// was some again.
func (d *Door) Arm(now time.Time, by string) []Effect {
	var out []Effect
	for _, source := range d.Remembers() {
		out = append(out, d.forget(source))
	}
	if d.saved.State == Failsafe {
		d.saved.Armed = true
		d.become(now, Dark, "armed by "+by+" in spite of missing log data")
	}
	return append(out, d.record(now, audit.EventArmed, "", by, "on an operator's word", time.Time{}))
}

// ArmSource ends the penalties of a source, of the networks that it lies in, and
// of what lies in it, and forgets those before. It says whether there was one.
func (d *Door) ArmSource(now time.Time, source netip.Prefix, by string) ([]Effect, bool) {
	all := append([]netip.Prefix{source}, blocks(source)...)
	if source != Any && !source.IsSingleIP() {
		all = slices.DeleteFunc(d.Remembers(), func(p netip.Prefix) bool { return p == Any || !p.Overlaps(source) })
	}
	var out []Effect
	for _, p := range all {
		if d.penalties.of[p] != nil {
			out = append(out, d.forget(p),
				d.record(now, audit.EventArmed, SourceString(p), by, "on an operator's word", time.Time{}))
		}
	}
	return out, len(out) > 0
}

// standing returns the penalties that stand, by source.
func (ps *penalties) standing() []Penalty {
	var all []Penalty
	for _, p := range ps.of {
		if !p.over {
			all = append(all, p.Penalty)
		}
	}
	slices.SortFunc(all, func(a, b Penalty) int { return a.Source.Compare(b.Source) })
	return all
}
