package door

import (
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// withdraw ends one knock's claim to a source's grant on somebody's behalf, or its wait
// for the service. A door that was opening for nobody else goes dark again.
func (d *Door) withdraw(now time.Time, source netip.Prefix, p claimant) []Effect {
	const reason = "a wrong knock came after the right one"
	waiting := len(d.waiting)
	d.waiting = slices.DeleteFunc(d.waiting, func(r request) bool {
		return r.source == source && r.knock == p.knock && d.grants.parties.same(r.by, p.by)
	})
	waited := len(d.waiting) < waiting
	n, has := d.grants.find(source)
	var claims []claim
	mine := -1
	if has {
		claims = d.grants.claims(n)
		if mine = d.grants.claimOf(claims, p.by); mine >= 0 && !d.grants.parties.may(d.grants.parties.at(claims[mine].by), p) {
			mine = -1
		}
	}
	revoked := d.record(now, audit.EventRevoked, SourceString(source), p.by, reason, time.Time{})
	stands := func() Effect {
		return d.record(now, audit.EventGranted, SourceString(source), p.by, reason+"; grants by others remain", d.grants.until(now, n))
	}
	var out []Effect
	switch {
	case mine >= 0 && !d.grants.othersLast(now, claims, mine):
		out = append(d.drop(now, n, true), EndFlows{source}, revoked)
	case mine >= 0: // other claims may remain
		by := d.grants.parties.at(claims[mine].by).by
		d.grants.unclaim(n, mine)
		out = []Effect{Give{source, d.grants.until(now, n)}, DropClaim{source, by}, stands()}
	case waited && has:
		out = []Effect{stands()}
	case waited:
		out = []Effect{revoked}
	}
	return append(out, d.openForNobody(now, p.by, reason)...)
}

// openForNobody makes a door dark that is opening although nobody waits for it any more,
// except one that was open before its service ended.
func (d *Door) openForNobody(now time.Time, by, reason string) []Effect {
	if d.saved.State != Opening || len(d.waiting) > 0 || d.reopens {
		return nil
	}
	return d.darken(now, Dark, by, reason)
}

// Revoke ends all claims to a source's grant, including those that wait for the service,
// and says whether there was one. The source's flows over UDP end in any case. A door
// that was opening for nobody else goes dark again.
func (d *Door) Revoke(now time.Time, source netip.Prefix, by string) ([]Effect, bool) {
	if !Somebody(source) {
		return nil, false
	}
	waiting := len(d.waiting)
	d.waiting = slices.DeleteFunc(d.waiting, func(r request) bool { return r.source == source })
	waited := len(d.waiting) < waiting
	n, has := d.grants.find(source)
	if !has && !waited {
		// The kernel may have a grant that was given before a crash, and a flow may go on
		// from an earlier one.
		return []Effect{Revoke{source}, EndFlows{source}}, false
	}
	var out []Effect
	if has {
		out = append(d.drop(now, n, true), EndFlows{source})
	}
	out = append(out, d.revoked(now, source, by))
	return append(out, d.openForNobody(now, by, ordered(by))...), true
}

// RevokeWithin ends all claims to the grants of a network and of everything within it, as
// Revoke does. It looks at the places from the given one on, as in Grants, until it has
// ended as many grants as a Tick does, and returns how many sources it has shut out and
// the next place, 0 when there are no more. The first place is 0.
func (d *Door) RevokeWithin(now time.Time, network netip.Prefix, by string, from int) (out []Effect, ended, next int) {
	if !Somebody(network) || network == Any {
		return nil, 0, 0
	}
	if from == 0 {
		out, ended = d.revokeWaiting(now, network, by)
		if _, has := d.grants.find(network); !has {
			out = append(out, Revoke{network}) // as Revoke does
		}
	}
	b := &d.grants
	n := int32(from)
	for ; n < min(int32(from+lookupsPerCall), b.grants.most) && ended < endedPerTick; n++ {
		if !b.ends.has(n) {
			continue
		}
		if source := b.grants.at(n).source.source(); within(source, network) {
			out = append(append(out, d.drop(now, n, true)...), d.revoked(now, source, by))
			ended++
		}
	}
	if n < b.grants.most {
		next = int(n)
	}
	return append(out, EndFlows{network}), ended, next
}

// lookupsPerCall is how many places RevokeWithin looks at in one call.
const lookupsPerCall = 1 << 13

// revokeWaiting ends what waits for the service within a network, and the grants of the
// same sources.
func (d *Door) revokeWaiting(now time.Time, network netip.Prefix, by string) (out []Effect, ended int) {
	var sources []netip.Prefix
	for _, r := range d.waiting {
		if within(r.source, network) {
			sources = append(sources, r.source)
		}
	}
	slices.SortFunc(sources, netip.Prefix.Compare)
	for _, source := range slices.Compact(sources) {
		effects, _ := d.Revoke(now, source, by)
		out = append(out, effects...)
		ended++
	}
	return out, ended
}

// revoked returns the record of a grant that an operator has ended.
func (d *Door) revoked(now time.Time, source netip.Prefix, by string) Effect {
	return d.record(now, audit.EventRevoked, SourceString(source), by, ordered(by), time.Time{})
}

// within says whether all of a source lies in a network. Everybody lies in none.
func within(source, network netip.Prefix) bool {
	return source != Any && source.Bits() >= network.Bits() && network.Contains(source.Addr())
}

// Covers returns the claims to whatever lets a source in besides its own grant: to the
// grants of everybody and of the networks that it lies in, widest first. Those that wait
// for the service have no Until.
func (d *Door) Covers(now time.Time, source netip.Prefix) []Claim {
	if source == Any {
		return nil
	}
	wider := []netip.Prefix{Any}
	for bits := 1; bits < source.Bits(); bits++ {
		wider = append(wider, netip.PrefixFrom(source.Addr(), bits).Masked())
	}
	var out []Claim
	for _, w := range wider {
		n, has := d.grants.find(w)
		if !has {
			continue
		}
		for _, c := range d.grants.claims(n) {
			if until := d.grants.ends.time(now, c.until); now.Before(until) {
				out = append(out, Claim{Source: w, By: d.grants.parties.at(c.by).by, Until: until})
			}
		}
	}
	for _, r := range d.waiting {
		if r.source == Any || r.source.Bits() < source.Bits() && within(source, r.source) {
			out = append(out, Claim{Source: r.source, By: r.by})
		}
	}
	return out
}

// Waits says whether a source waits for the service on somebody's behalf.
func (d *Door) Waits(source netip.Prefix, by string) bool {
	return slices.ContainsFunc(d.waiting, func(r request) bool {
		return r.source == source && d.grants.parties.same(r.by, by)
	})
}
