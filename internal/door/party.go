package door

import (
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Withdrawal is whose claims end, where, and why. Either Party or Judge says whose.
type Withdrawal struct {
	Party  string                         // on whose behalf they are, under any name (Rules.Who); "" for several
	Judge  Judge                          // what becomes of each of several
	At     func(source netip.Prefix) bool // where; nil: everywhere
	Reason string                         // for the audit trail
	Once   bool                           // a grant may have been spent: a claim that would end earlier ends now
}

// Judge says what becomes of a claim to a source's grant.
type Judge func(by string, source netip.Prefix) Judgement

// Judgement is what becomes of a claim. With the zero Judgement it stays as it is.
type Judgement struct {
	Ends  bool
	Until time.Time // when it ends at the latest, after now; zero: that is not bounded
}

// judge says what becomes of a claim.
func (w *Withdrawal) judge(ps *claimants, by string, source netip.Prefix) Judgement {
	switch {
	case w.Party != "" && !ps.same(by, w.Party), w.At != nil && !w.At(source):
		return Judgement{}
	case w.Party != "":
		return Judgement{Ends: true}
	}
	return w.Judge(by, source)
}

// concerns says whether a grant has a claim of the party in question.
func (w *Withdrawal) concerns(whose []int32, claims []claim) bool {
	return w.Party == "" || slices.ContainsFunc(claims, func(c claim) bool { return slices.Contains(whose, c.by) })
}

// judgedPerCall is how many places Withdraw looks at in one call where each claim is judged:
// that costs a few microseconds, where a look costs nanoseconds.
const judgedPerCall = 1 << 8

// Withdraw ends the claims of some, and what they wait for, or has them end earlier; what
// others have of the same grants stays. As RevokeWithin it looks at the places from the
// given one on until it has ended claims to as many grants as a Tick does, and returns how
// many claims that were and the next place, 0 when there are no more. The first place is 0.
// A door that was opening for nobody else goes dark again. A grant that is given meanwhile
// may be passed by.
func (d *Door) Withdraw(now time.Time, w Withdrawal, from int) (out []Effect, ended, next int) {
	if from == 0 {
		out, ended = d.withdrawWaiting(now, &w)
	}
	b := &d.grants
	most := judgedPerCall
	var whose []int32
	if w.Party != "" {
		most, whose = lookupsPerCall, slices.Clone(b.parties.named[b.parties.who(w.Party)])
		if len(whose) == 0 {
			return out, ended, 0
		}
	}
	n, grants := int32(from), 0
	for ; n < min(int32(from+most), b.grants.most) && grants < endedPerTick; n++ {
		if !b.ends.has(n) || !w.concerns(whose, b.claims(n)) {
			continue
		}
		effects, some := d.withdrawFrom(now, n, &w)
		out = append(out, effects...)
		if some > 0 {
			ended, grants = ended+some, grants+1
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
		effects, some := d.withdrawFrom(now, n, &w)
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

// withdrawWaiting ends what some wait for.
func (d *Door) withdrawWaiting(now time.Time, w *Withdrawal) (out []Effect, ended int) {
	var left []request
	for _, r := range d.waiting {
		j := w.judge(&d.grants.parties, r.by, r.source)
		if j.Ends {
			out = append(out, d.withdrawn(now, r.source, r.by, w))
			ended++
			continue
		}
		if !j.Until.IsZero() && (r.latest.IsZero() || j.Until.Before(r.latest)) {
			r.latest = j.Until
		}
		left = append(left, r)
	}
	d.waiting = left
	if ended > 0 {
		out = append(out, d.openForNobody(now, w.Party, w.Reason)...)
	}
	return out, ended
}

// withdrawFrom ends claims to one grant, which ends with them unless others last, or has
// them end earlier.
func (d *Door) withdrawFrom(now time.Time, n int32, w *Withdrawal) (out []Effect, ended int) {
	b := &d.grants
	source := b.grants.at(n).source.source()
	var mine []string
	var early []Claim // those that end earlier
	others := false
	for _, c := range b.claims(n) {
		by := b.parties.at(c.by).by
		j := w.judge(&b.parties, by, source)
		switch earlier := !j.Until.IsZero() && c.until > b.ends.nanos(j.Until); {
		case j.Ends, earlier && w.Once:
			mine = append(mine, by)
			continue
		case earlier:
			early = append(early, Claim{Source: source, By: by, Until: j.Until, For: j.Until.Sub(now)})
		}
		others = others || c.until > b.ends.nanos(now)
	}
	if len(mine)+len(early) == 0 {
		return nil, 0
	}
	if before := b.until(now, n); others {
		for _, by := range mine {
			b.unclaim(n, b.claimOf(b.claims(n), by))
			out = append(out, DropClaim{source, by})
		}
		for _, c := range early {
			at := b.claimOf(b.claims(n), c.By)
			b.claim(n, b.parties.at(b.claims(n)[at].by), c.Until)
			out = append(out, KeepClaim{c},
				d.record(now, audit.EventGranted, SourceString(source), c.By, "it ends earlier: who may knock until when has changed", c.Until))
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
