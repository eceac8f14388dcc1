package door

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Restore adds a claim to a grant that the kernel is believed to hold still, if it is
// Somebody's.
func (d *Door) Restore(c Claim) {
	if Somebody(c.Source) {
		d.claim(c.Until.Add(-c.For), c.Source, claimant{by: c.By}, c.Until)
	}
}

// Adopt adds a grant that the kernel holds and nobody remembers, or that lasts longer
// there; one that is not Somebody's is revoked.
func (d *Door) Adopt(now time.Time, c Claim) []Effect {
	if !Somebody(c.Source) {
		return []Effect{Revoke{c.Source},
			d.record(now, audit.EventRevoked, SourceString(c.Source), c.By, nobody, time.Time{})}
	}
	d.claim(now, c.Source, claimant{by: c.By}, c.Until)
	return []Effect{KeepClaim{c},
		d.record(now, audit.EventGranted, SourceString(c.Source), c.By, "the kernel already let it in", c.Until)}
}

// EndsAt notes when the kernel's grant ends, if that is not what the door knows: the
// clock was set while no daemon ran. No claim to it lasts longer, and the last of them
// lasts until then.
func (d *Door) EndsAt(now time.Time, source netip.Prefix, until time.Time) {
	b := &d.grants
	n, has := b.find(source)
	if !has {
		return
	}
	latest := b.until(now, n)
	for _, c := range slices.Clone(b.claims(n)) {
		if end := b.ends.time(now, c.until); end.After(until) || end.Equal(latest) {
			b.claim(n, b.parties.at(c.by), until)
		}
	}
}

// Runs notes that the service runs: the answer to Start, or an observation.
func (d *Door) Runs(now time.Time) []Effect {
	fresh := d.fresh
	d.fresh = false
	switch d.saved.State {
	case Opening:
		return d.opened(now)
	case Dark, Failsafe:
		if fresh && d.saved.State == Dark { // as on any machine before the door exists
			d.saved.Ran = true
			return []Effect{Stop{}, d.record(now, audit.EventDark, "", "",
				"the service was running when the door was first guarded; stopping it", time.Time{})}
		}
		// S12: a service that runs behind a dark door is stopped.
		return []Effect{Stop{}, d.record(now, audit.EventRepaired, "", "", fmt.Sprintf("the service was running although the door is %s; "+
			"stopping it: \"doorward open %s --source any --for 1h\" lets everybody in", d.saved.State, d.rules.Name), time.Time{})}
	}
	return nil
}

// Stopped notes that the service does not run: the answer to Stop, or an observation that
// it has died. Behind an open door it is started again, at most once in a while.
func (d *Door) Stopped(now time.Time, detail string) []Effect {
	d.retry, d.retryAfter = time.Time{}, 0
	d.fresh = false
	switch d.saved.State {
	case Closing:
		d.become(now, Dark, d.saved.Reason)
		out := []Effect{d.record(now, audit.EventDark, "", d.darkBy, d.saved.Reason, time.Time{})}
		if len(d.waiting) > 0 {
			d.become(now, Opening, d.waiting[0].reason)
			if !d.rules.Service {
				return append(out, d.opened(now)...)
			}
			out = append(out, Start{})
		}
		return out
	case Open:
		if !d.repaired.IsZero() && now.Sub(d.repaired) < repairAtMost {
			return append(d.darken(now, Dark, "", "the service died twice within "+repairAtMost.String()),
				d.record(now, audit.EventError, "", "", "the service keeps dying: "+detail, time.Time{}))
		}
		d.repaired = now
		d.become(now, Opening, "the service died")
		return []Effect{Start{}, d.record(now, audit.EventRepaired, "", "",
			"the service died ("+detail+"); restarting it", time.Time{})}
	}
	return nil
}

// Halted notes that the service ended because it was told to, and not by this door; or
// that its start was cancelled by such an order. That is harmless, so the door stays
// open; but the service must run behind an open door. If this repeats, the service is
// started after growing pauses, so that doorward does not fight another program over it.
func (d *Door) Halted(now time.Time) []Effect {
	switch {
	case d.saved.State != Open && d.saved.State != Opening:
		return d.Stopped(now, "")
	case !d.again.IsZero():
		return nil // already known
	}
	was := d.saved.State
	if was == Open {
		d.become(now, Opening, "the service was stopped")
	}
	out := d.waitNoLonger(now)
	if d.saved.State != Opening {
		return out
	}
	when := ""
	if d.restarted.IsZero() || now.Sub(d.restarted) >= d.pause {
		d.pause, d.restarted = minPause, now
		out = append(out, Start{})
	} else {
		d.again = d.restarted.Add(d.pause)
		d.pause = min(2*d.pause, maxPause)
		when = " in " + d.again.Sub(now).Round(time.Second).String() + ", or with the next right knock,"
	}
	return append(out, d.record(now, audit.EventRepaired, "", "", fmt.Sprintf("the service was stopped by somebody else while the door "+
		"is %s; it is started again%s and \"doorward close %s\" stops it for good", was, cmp.Or(when, ","), d.rules.Name), time.Time{}))
}

// waitNoLonger forgets those who have waited too long for the service: they must not be
// let in long after they knocked. A door that was opening for nobody else goes dark
// again.
func (d *Door) waitNoLonger(now time.Time) []Effect {
	var out []Effect
	d.waiting = slices.DeleteFunc(d.waiting, func(r request) bool {
		late := now.Sub(r.asked) >= maxWait
		if late {
			out = append(out, d.record(now, audit.EventExpired, SourceString(r.source), r.by,
				"it waited for the service for "+maxWait.String(), time.Time{}))
		}
		return late
	})
	return append(out, d.openForNobody(now, "", "others kept the service from running")...)
}

// startAgain ends the pause before a start.
func (d *Door) startAgain(now time.Time) []Effect {
	d.again, d.restarted = time.Time{}, now
	return []Effect{Start{}}
}

// NotStarted is why a door is dark if its service did not start.
const NotStarted = "the service did not start"

// Failed notes that a start or a stop failed. A door whose service does not start goes
// dark again; a service that does not stop is stopped again later, unless somebody
// knocked meanwhile.
func (d *Door) Failed(now time.Time, problem string) []Effect {
	failure := d.record(now, audit.EventError, "", "", problem, time.Time{})
	if d.saved.State == Opening {
		if len(d.waiting) > 0 {
			failure.Whose = d.waiting[0].by
		}
		d.waiting = nil
		return append([]Effect{failure}, d.darken(now, Dark, "", NotStarted)...)
	}
	if d.saved.State == Open {
		return []Effect{failure}
	}
	if len(d.waiting) > 0 { // a service that does not stop keeps nobody out
		dark := d.record(now, audit.EventDark, "", d.darkBy, d.saved.Reason, time.Time{})
		d.become(now, Opening, d.waiting[0].reason)
		return []Effect{failure, dark, Start{}}
	}
	d.retryAfter = min(max(2*d.retryAfter, minRetry), maxRetry)
	d.retry = now.Add(d.retryAfter)
	return []Effect{failure}
}

// Seen processes the result of a check for presence.
func (d *Door) Seen(now time.Time, s Seen) []Effect {
	d.looking, d.looked = false, now
	missing := d.rules.Logins && s.NoData != ""
	switch {
	case missing && !d.saved.Armed && d.saved.State != Failsafe:
		return d.fail(now, s.NoData)
	case missing && d.saved.State == Failsafe:
		return nil
	}
	var out []Effect
	if !missing {
		d.saved.Armed = false
		if d.saved.State == Failsafe {
			d.become(now, Dark, "log data is back")
			out = append(out, d.record(now, audit.EventArmed, "", "", "log data is back", time.Time{}))
		}
	}
	before := d.saved.LastSeen
	d.presence(now, s)
	if !d.stands() {
		return out
	}
	if dark, ever := d.darkAt(); ever && !now.Before(dark) {
		return append(out, d.darken(now, Dark, "idle", "nobody was in for "+d.rules.Idle.String())...)
	}
	if d.saved.ForAll && d.saved.LastSeen.After(before) {
		out = append(out, d.extend(now)...)
	}
	return out
}

// byPresence is on whose behalf the grant to everybody is extended: a party of its own,
// so that no new claim of somebody else makes it shorter.
const byPresence = "presence"

// extend makes the grant to everybody last as long as the door is open. It may have ended
// between the last two checks.
func (d *Door) extend(now time.Time) []Effect {
	return d.give(now, request{source: Any, claimant: claimant{by: byPresence}, reason: "somebody is in"})
}

// presence advances LastSeen. A login counts at its own time, and keeps the time it was
// first given, whatever the wall clock does later. A connection that has ended since the
// last check ended now at the latest: the door never goes dark early.
func (d *Door) presence(now time.Time, s Seen) {
	if !s.Login.IsZero() && !s.Login.Equal(d.login) {
		d.login = s.Login
		if at := past(now, s.Login); at.After(d.saved.LastSeen) {
			d.saved.LastSeen = at
		}
	}
	if s.Connections > 0 || d.connections > 0 {
		d.saved.LastSeen = now
	}
	d.connections = s.Connections
}

// ask turns a request into a grant, now or when the service runs.
func (d *Door) ask(now time.Time, r request) []Effect {
	stopFailed := d.saved.State == Closing && !d.retry.IsZero()
	switch {
	case d.saved.State == Open:
		return d.give(now, r)
	case d.saved.State == Dark, stopFailed: // a service that does not stop keeps nobody out
		var out []Effect
		if stopFailed { // the trail does not say yet that its grants are gone
			out = append(out, d.record(now, audit.EventDark, "", d.darkBy, d.saved.Reason, time.Time{}))
		}
		d.become(now, Opening, r.reason)
		d.waiting = append(d.waiting[:0], r)
		if d.rules.Service {
			return append(out, Start{})
		}
		return append(out, d.opened(now)...)
	}
	var out []Effect
	if !d.again.IsZero() {
		out = d.startAgain(now)
	}
	for i, w := range d.waiting {
		if w.source == r.source && w.knock == r.knock && d.grants.parties.same(w.by, r.by) {
			d.waiting[i] = r
			return out
		}
	}
	if len(d.waiting) >= maxWaiting {
		return append(out, d.record(now, audit.EventRefused, SourceString(r.source), r.by,
			fmt.Sprintf("%d knocks are already waiting for the service", maxWaiting), time.Time{}))
	}
	d.waiting = append(d.waiting, r)
	return out
}

// opened makes an opening door open and gives the grants that were waited for.
func (d *Door) opened(now time.Time) []Effect {
	var out []Effect
	reason, goesOn := d.saved.Reason, d.reopens
	d.become(now, Open, reason)
	d.looked = now
	if !goesOn {
		d.saved.Opened, d.saved.LastSeen = now, now
		d.connections = 0
		w := d.waiting[0]
		out = append(out, d.record(now, audit.EventOpened, SourceString(w.source), w.by, reason, time.Time{}))
	}
	for _, r := range d.waiting {
		out = append(out, d.give(now, r)...)
	}
	d.waiting = nil
	return out
}

// give makes or refreshes a claim to a source's grant.
func (d *Door) give(now time.Time, r request) []Effect {
	if !r.latest.IsZero() && !now.Before(r.latest) {
		return []Effect{d.record(now, audit.EventRefused, SourceString(r.source), r.by, "its time was up before the grant could be given", time.Time{})}
	}
	if r.by != byPresence {
		d.saved.LastSeen = now // somebody is on their way in
		d.saved.ForAll = d.saved.ForAll || r.length == 0
	}
	until := now.Add(r.length)
	if r.length == 0 {
		until, _ = d.darkAt() // never false: Configure leaves no such request otherwise
	}
	if !r.latest.IsZero() && until.After(r.latest) {
		until = r.latest
	}
	c := Claim{Source: r.source, By: r.by, Until: until, For: until.Sub(now)}
	n, has := d.grants.find(r.source)
	var out []Effect
	if has && !now.Before(d.grants.until(now, n)) {
		out, has = d.expire(now, n), false // no Tick has reached it yet
	}
	drawnOut := has && r.by == byPresence
	again := drawnOut && d.grants.claimOf(d.grants.claims(n), byPresence) >= 0
	if was, other := d.under(r.source, r.by); other {
		out = append(out, DropClaim{r.source, was})
	}
	end := d.claim(now, r.source, r.claimant, until)
	if drawnOut {
		// Presence extends a grant to everybody every few seconds: that is no news, and
		// once on disk is enough, since a restart asks the kernel for its end.
		out = append(out, Give{r.source, end})
		if !again {
			out = append(out, KeepClaim{c})
		}
		return out
	}
	return append(out, Give{r.source, end}, KeepClaim{c},
		d.record(now, audit.EventGranted, SourceString(r.source), r.by, r.reason, until))
}

// under returns the name in which somebody has a claim to a source's grant, if that is
// another one of theirs: as when their certificate was renewed.
func (d *Door) under(source netip.Prefix, by string) (was string, other bool) {
	n, has := d.grants.find(source)
	if !has {
		return "", false
	}
	claims := d.grants.claims(n)
	i := d.grants.claimOf(claims, by)
	if i < 0 {
		return "", false
	}
	was = d.grants.parties.at(claims[i].by).by
	return was, was != by
}

// claim adds a claim that was made at since, and returns when the grant now ends.
func (d *Door) claim(since time.Time, source netip.Prefix, p claimant, until time.Time) time.Time {
	n := d.grants.open(source, since, until)
	d.grants.claim(n, p, until)
	return d.grants.until(since, n)
}

// expire forgets a grant whose time is up, as the kernel has.
func (d *Door) expire(now time.Time, n int32) []Effect {
	source := d.grants.grants.at(n).source.source()
	d.endedGrants.add(now, d.grants.admission(n))
	expired := d.record(now, audit.EventExpired, SourceString(source), "", "it expired", time.Time{})
	expired.Whose = d.grants.whose(n)
	return append(d.dropped(n, source), expired)
}

// drop forgets a grant; with revoke the kernel is told to end it.
func (d *Door) drop(now time.Time, n int32, revoke bool) []Effect {
	d.endedGrants.add(now, d.grants.admission(n))
	source := d.grants.grants.at(n).source.source()
	if source == Any {
		d.saved.ForAll = false // else the next presence would give it again
	}
	var out []Effect
	if revoke {
		out = append(out, Revoke{source})
	}
	return append(out, d.dropped(n, source)...)
}

// dropped removes a grant and forgets the claims to it.
func (d *Door) dropped(n int32, source netip.Prefix) []Effect {
	var out []Effect
	for _, by := range d.grants.drop(n) {
		out = append(out, DropClaim{source, by})
	}
	return out
}

// darken revokes all grants and stops the service on the way to Dark or
// Failsafe.
func (d *Door) darken(now time.Time, to State, by, reason string) []Effect {
	out := []Effect{Clear{}, EndFlows{Any}}
	d.empty(now)
	d.waiting = nil
	d.darkBy = by
	d.saved.ForAll = false
	d.connections = 0
	d.retry, d.retryAfter = time.Time{}, 0
	if !d.rules.Service {
		d.become(now, to, reason)
		return append(out, d.record(now, audit.EventDark, "", by, reason, time.Time{}))
	}
	if to == Dark {
		to = Closing
	}
	d.become(now, to, reason)
	return append(out, Stop{})
}

// empty ends all grants, and remembers the latest of them.
func (d *Door) empty(now time.Time) {
	some := 0
	for n := range d.grants.ends.latest() {
		if some++; some > maxEndedAtDark {
			break
		}
		d.endedGrants.add(now, d.grants.admission(n))
	}
	d.grants.clear()
}

// fail is S9: there is no log data anywhere, so something is wrong, and everything stops.
func (d *Door) fail(now time.Time, noData string) []Effect {
	return append(d.darken(now, Failsafe, "presence", noData),
		d.record(now, audit.EventFailsafe, "", "presence", noData, time.Time{}))
}

func (d *Door) become(now time.Time, s State, reason string) {
	d.reopens = s == Opening && d.saved.State == Open
	d.again = time.Time{}
	d.saved.State, d.saved.Reason, d.saved.Since = s, reason, now
	if s == Opening || s == Open {
		d.retry, d.retryAfter = time.Time{}, 0
	}
}

// record returns a record of the audit trail; who is its source, "" for none.
func (d *Door) record(now time.Time, event, who, by, reason string, until time.Time) Record {
	r := audit.Record{Time: now, Door: d.rules.Name, Event: event, Source: who, By: by, Reason: reason}
	if !until.IsZero() {
		r.Until = &until
	}
	return Record{Record: r}
}

// SourceString writes a source as status and the audit trail do: an address, a prefix,
// "any", or "nobody" for anything else.
func SourceString(source netip.Prefix) string {
	switch {
	case source == Any:
		return "any"
	case !source.IsValid():
		return "nobody"
	case source.IsSingleIP():
		return source.Addr().String()
	}
	return source.String()
}

// Source returns the prefix of a single address, an IPv4-mapped one as IPv4; for an
// invalid one the zero Prefix, which is nobody.
func Source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen())
}
