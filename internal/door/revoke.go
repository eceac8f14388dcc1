package door

import (
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// withdraw ends what one knock has claimed of a source's grant on somebody's behalf,
// or what waits for the service. A door that was opening for nobody else goes dark
// again.
func (d *Door) withdraw(now time.Time, source netip.Prefix, p party) []Effect {
	const reason = "a wrong knock came after the right one"
	waiting := len(d.waiting)
	d.waiting = slices.DeleteFunc(d.waiting, func(r request) bool { return r.source == source && r.party == p })
	waited := len(d.waiting) < waiting
	n, has := d.book.find(source)
	var claims []claim
	mine := -1
	if has {
		claims = d.book.claims(n)
		if mine = d.book.claimOf(claims, p.by); mine >= 0 && !d.book.parties.at(claims[mine].by).may(p) {
			mine = -1
		}
	}
	revoked := d.record(now, audit.EventRevoked, SourceString(source), p.by, reason, time.Time{})
	stands := func() Effect {
		return d.record(now, audit.EventGranted, SourceString(source), p.by, reason+"; what others gave stands", d.book.until(now, n))
	}
	var out []Effect
	switch {
	case mine >= 0 && !d.book.othersLast(now, claims, mine):
		out = append(d.drop(now, n, true), EndFlows{source}, revoked)
	case mine >= 0: // last one out: what others gave stands
		d.book.unclaim(n, mine)
		out = []Effect{Give{source, d.book.until(now, n)}, Drop{source, p.by}, stands()}
	case waited && has:
		out = []Effect{stands()}
	case waited:
		out = []Effect{revoked}
	}
	return append(out, d.openForNobody(now, p.by, reason)...)
}

// openForNobody makes a door dark that is opening although nobody waits for it
// any more, but for one that was open before its service ended.
func (d *Door) openForNobody(now time.Time, by, reason string) []Effect {
	if d.saved.State != Opening || len(d.waiting) > 0 || d.reopens {
		return nil
	}
	return d.darken(now, Dark, by, reason)
}

// Revoke ends all claims to a source's grant, those that wait for the service
// included, and says whether there was one. The source's flows over UDP end in
// any case. A door that was opening for nobody else goes dark again.
func (d *Door) Revoke(now time.Time, source netip.Prefix, by string) ([]Effect, bool) {
	if !Somebody(source) {
		return nil, false
	}
	waiting := len(d.waiting)
	d.waiting = slices.DeleteFunc(d.waiting, func(r request) bool { return r.source == source })
	waited := len(d.waiting) < waiting
	n, has := d.book.find(source)
	if !has && !waited {
		return []Effect{EndFlows{source}}, false // one may go on since an earlier grant
	}
	var out []Effect
	if has {
		out = append(d.drop(now, n, true), EndFlows{source})
	}
	out = append(out, d.record(now, audit.EventRevoked, SourceString(source), by, "on an operator's word", time.Time{}))
	return append(out, d.openForNobody(now, by, "on an operator's word")...), true
}
