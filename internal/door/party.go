package door

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Withdrawal is whose claims end, where, and why. Either Party or Whose says whose.
type Withdrawal struct {
	Party  string                         // on whose behalf they are, under any name (Rules.Who); "" for several
	Whose  func(by string) bool           // the same for several
	At     func(source netip.Prefix) bool // where; nil: everywhere
	Reason string                         // for the audit trail
}

// covers says whether a claim is one that ends.
func (w *Withdrawal) covers(ps *claimants, source netip.Prefix, by string) bool {
	return (w.Party != "" && ps.same(by, w.Party) || w.Party == "" && w.Whose(by)) && (w.At == nil || w.At(source))
}

// numbers returns those of the parties in question.
func (w *Withdrawal) numbers(ps *claimants) map[int32]bool {
	found := make(map[int32]bool)
	if w.Party != "" {
		for _, n := range ps.named[ps.who(w.Party)] {
			found[n] = true
		}
		return found
	}
	for p, n := range ps.number {
		if w.Whose(p.by) {
			found[n] = true
		}
	}
	return found
}

// Withdraw ends the claims of some, and what they wait for; what others have of the same
// grants stays. As RevokeWithin it looks at the places from the given one on until it has
// ended claims to as many grants as a Tick does, and returns how many claims that were and
// the next place, 0 when there are no more. The first place is 0. A door that was opening
// for nobody else goes dark again.
func (d *Door) Withdraw(now time.Time, w Withdrawal, from int) (out []Effect, ended, next int) {
	if from == 0 {
		out, ended = d.withdrawWaiting(now, &w)
	}
	b := &d.grants
	whose := w.numbers(&b.parties)
	if len(whose) == 0 {
		return out, ended, 0
	}
	n, grants := int32(from), 0
	for ; n < min(int32(from+lookupsPerCall), b.grants.most) && grants < endedPerTick; n++ {
		if !b.ends.has(n) {
			continue
		}
		effects, some := d.withdrawFrom(now, n, &w, whose)
		if some > 0 {
			out, ended, grants = append(out, effects...), ended+some, grants+1
		}
	}
	if n < b.grants.most {
		next = int(n)
	}
	return out, ended, next
}

// WithdrawAt is Withdraw at one source.
func (d *Door) WithdrawAt(now time.Time, source netip.Prefix, w Withdrawal) (out []Effect, ended int) {
	at := w.At
	w.At = func(s netip.Prefix) bool { return s == source && (at == nil || at(s)) }
	out, ended = d.withdrawWaiting(now, &w)
	if n, has := d.grants.find(source); has {
		effects, some := d.withdrawFrom(now, n, &w, w.numbers(&d.grants.parties))
		out, ended = append(out, effects...), ended+some
	}
	return out, ended
}

// Claims says how many claims somebody has to grants of the door.
func (d *Door) Claims(by string) (n int) {
	ps := &d.grants.parties
	for _, number := range ps.named[ps.who(by)] {
		n += ps.all.at(number - 1).uses
	}
	return n
}

// Elsewhere says whether somebody may have claims to grants at other sources than one, or
// wait for the service there. It costs a look-up, however many grants there are.
func (d *Door) Elsewhere(source netip.Prefix, by string) bool {
	here := 0
	if _, granted := d.GrantedSince(source, by); granted {
		here = 1
	}
	return d.Claims(by) > here || len(d.waiting) > 0
}

// Parties are all in whose name there are grants at the door, or knocks that wait for the
// service; some of them more than once.
func (d *Door) Parties() iter.Seq[string] {
	return func(yield func(string) bool) {
		for p := range d.grants.parties.number {
			if !yield(p.by) {
				return
			}
		}
		for _, r := range d.waiting {
			if !yield(r.by) {
				return
			}
		}
	}
}

// withdrawWaiting ends what some wait for.
func (d *Door) withdrawWaiting(now time.Time, w *Withdrawal) (out []Effect, ended int) {
	d.waiting = slices.DeleteFunc(d.waiting, func(r request) bool {
		covered := w.covers(&d.grants.parties, r.source, r.by)
		if covered {
			out = append(out, d.withdrawn(now, r.source, r.by, w))
			ended++
		}
		return covered
	})
	if ended > 0 {
		out = append(out, d.openForNobody(now, w.Party, w.Reason)...)
	}
	return out, ended
}

// withdrawFrom ends claims to one grant, which ends with them unless others last.
func (d *Door) withdrawFrom(now time.Time, n int32, w *Withdrawal, whose map[int32]bool) (out []Effect, ended int) {
	b := &d.grants
	var mine []string
	others := false
	for _, c := range b.claims(n) {
		if whose[c.by] {
			mine = append(mine, b.parties.at(c.by).by)
			continue
		}
		others = others || c.until > b.ends.nanos(now)
	}
	if len(mine) == 0 {
		return nil, 0
	}
	source := b.grants.at(n).source.source()
	if w.At != nil && !w.At(source) {
		return nil, 0
	}
	if before := b.until(now, n); others {
		for _, by := range mine {
			b.unclaim(n, b.claimOf(b.claims(n), by))
			out = append(out, DropClaim{source, by})
		}
		if until := b.until(now, n); until.Before(before) { // else nothing changes, and it may have been spent
			out = append(out, Give{source, until})
		}
	} else {
		out = append(d.drop(now, n, true), EndFlows{source})
	}
	for _, by := range mine {
		out = append(out, d.withdrawn(now, source, by, w))
	}
	return out, len(mine)
}

// withdrawn returns the record of a claim that ends.
func (d *Door) withdrawn(now time.Time, source netip.Prefix, by string, w *Withdrawal) Effect {
	return d.record(now, audit.EventRevoked, SourceString(source), by, w.Reason, time.Time{})
}
