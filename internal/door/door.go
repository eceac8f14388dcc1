// Package door is the state machine of one door: what a knock, a wrong knock,
// the service, presence and the operator do to it. It is pure: no sockets, no
// goroutines, no clock. Every method is handed the time and answers with the
// effects that the gateway is to carry out, so that tests and an explorer reach
// every state. What the kernel or the service manager really did comes back
// through Runs, Stopped, Failed and Seen; the door never assumes it.
//
// What a stranger can cost a door, at the worst:
//
//	a touch, penalised or not  10 lookups
//	a wrong knock              3 penalties written, in heaps of at most 65,536;
//	                           as many forgotten early, if there is no room
//	the end of a penalty       the top of one heap, put into another
//	being forgotten            the top of a heap
//	memory                     65,536 penalties, standing and remembered
//
// None of it depends on what strangers did before, but for a heap's logarithm. Nor
// does what visitors and operators cost: a grant takes some hundred bytes, to give,
// renew and end one costs a heap's logarithm, and to end all of them as much as one.
// However many grants and penalties end at the same time, a Tick ends 1,024 of each,
// and Next then says that the next Tick is due at once; a penalty that is over counts
// for nothing meanwhile.
package door

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Bounds of what a door keeps and how often it looks.
const (
	maxWaiting      = 1 << 12          // knocks that wait for the service to run
	restEvery       = time.Minute      // looks for log data while the door is dark
	failEvery       = 10 * time.Second // and while it is in failsafe: at boot the journal comes late
	maxLookInterval = 5 * time.Second  // looks for presence while it is open: a tenth of
	minLookInterval = time.Second      // Idle, within these two
	minRetry        = 10 * time.Second // after a stop that failed, doubled each time
	maxRetry        = 5 * time.Minute
	repairAtMost    = 10 * time.Second // a service that dies again so soon is not restarted
	minPause        = 10 * time.Second // between starts of a service that others stop, doubled each
	maxPause        = time.Minute      // time that they stop it within the latest
	maxWait         = 2 * time.Minute  // of a knock for a service that others stop
	endedPerTick    = 1 << 10          // grants, and penalties, that one Tick ends
)

// Door is one guarded service. Its states:
//
//	       knock, open                  runs
//	dark ───────────────► opening ────────────────► open
//	 ▲                    │  ▲  ▲                   │  │
//	 │     failed, close, │  │  └───────────────────┘  │
//	 │       nobody waits │  │      died, halted       │
//	 │                    │  │                         │
//	 │                    │  │ knock                   │ idle, close,
//	 │      stopped       ▼  │                         │ died again
//	 └─────────────────── closing ◄────────────────────┘
//
//	any state ── no log data ──► failsafe ── log data, arm ──► dark
//
// Without a service, opening and closing take no time. It is not safe for
// concurrent use.
type Door struct {
	rules Rules
	saved Saved

	waiting     []request // for the service to run, in the order of their coming
	darkBy      string    // on whose word it goes dark, until it is
	grants      grantTable
	endedGrants endedGrants
	penalties   penalties

	looking     bool          // a Look is under way
	looked      time.Time     // when the last Seen came, zero before the first
	login       time.Time     // the latest login as the log has it
	connections int           // as last seen
	fresh       bool          // guarded for the first time, and nobody knows yet what the service does
	reopens     bool          // it is opening because its service ended while it was open
	repaired    time.Time     // when the service was last started because it had died
	restarted   time.Time     // when it was last started because others had stopped it
	pause       time.Duration // that the next such start keeps from the last
	again       time.Time     // when it is started after such a pause, zero for no pause
	retry       time.Time     // when to stop a service that would not stop, zero for never
	retryAfter  time.Duration
}

// request is a knock or an operator's order that is to become a grant.
type request struct {
	source netip.Prefix
	claimant
	reason string
	length time.Duration // 0: for everybody, until the door goes dark
	asked  time.Time
}

// New returns a door as it was saved. A door that was saved in the middle of a
// change is dark, and so is one in failsafe that no longer reads logins: the
// gateway's first Runs makes that true. Times that are in
// the future, since the clock was set back, count as now.
func New(rules Rules, saved Saved, now time.Time) *Door {
	fresh := saved.Since.IsZero()
	saved.Since = past(now, saved.Since)
	saved.Opened = past(now, saved.Opened)
	saved.LastSeen = past(now, saved.LastSeen)
	unread := saved.State == Failsafe && !rules.Logins
	if saved.State == Opening || saved.State == Closing || unread || saved.Since.IsZero() {
		saved = Saved{State: Dark, Reason: "guarded since the start", Since: now,
			LastSeen: saved.LastSeen, Armed: saved.Armed}
	}
	d := &Door{
		saved:     saved,
		fresh:     fresh,
		grants:    newGrantTable(now),
		penalties: newPenalties(now),
	}
	d.Configure(rules)
	return d
}

// past moves a time of the wall clock onto now's clock, monotonic reading
// included, and never into the future. The zero time stays.
func past(now, t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return now.Add(-max(0, now.Round(0).Sub(t.Round(0))))
}

// Configure changes the rules of a door that goes on. Where no knock opens to
// everybody any more, the door is no longer open to them until it goes dark: what
// the kernel was given runs out, and who waits for the service has a grant of
// OpenFor.
func (d *Door) Configure(rules Rules) {
	d.rules = rules
	if d.opensToAll() {
		return
	}
	d.saved.ForAll = false
	for i := range d.waiting {
		if d.waiting[i].length == 0 {
			d.waiting[i].length = rules.OpenFor
		}
	}
}

// opensToAll says whether a knock may open to everybody until the door goes dark,
// which a door that never does cannot.
func (d *Door) opensToAll() bool { return d.rules.ForAll && d.rules.Idle > 0 }

// Saved returns what must survive a restart.
func (d *Door) Saved() Saved { return d.saved }

// Deaf says whether what is heard from a source of one of the door's knocks is to be
// ignored: where it is not Somebody, in failsafe, before the first look for log data,
// while the source (or everybody) is penalised, as of the latest Tick, and, for a
// knock that is everybody's, while the door is neither dark, nor open for some alone,
// nor in a pause that the knock would end.
func (d *Door) Deaf(name string, source netip.Prefix) bool {
	if !Somebody(source) {
		return true
	}
	some := d.saved.State == Open && !d.saved.ForAll
	everybody := d.saved.State == Dark || some || !d.again.IsZero()
	return d.Mute(name) || d.penalties.cover(d.whose(name), source) || source == Any && !everybody
}

// whose are the penalties that count for one of the door's knocks: its own and those
// that are the door's, or those alone.
func (d *Door) whose(name string) []string {
	if name == "" {
		return []string{""}
	}
	return []string{name, ""}
}

// Knock takes in a right knock.
func (d *Door) Knock(now time.Time, k Knock) []Effect {
	if d.Deaf(k.Name, k.Source) {
		return []Effect{d.record(now, audit.EventRefused, SourceString(k.Source), k.By, "the door ignores knocks", time.Time{})}
	}
	r := request{source: k.Source, claimant: claimant{k.By, k.Name}, reason: k.Reason, length: k.For, asked: now}
	if r.length <= 0 {
		r.length = d.rules.OpenFor
	}
	if k.Source == Any && d.opensToAll() {
		r.length = 0
	}
	return d.ask(now, r)
}

// Open gives a source a grant on an operator's word. It answers with an error
// where the source is not Somebody, and in failsafe, which only log data or Arm
// ends.
func (d *Door) Open(now time.Time, source netip.Prefix, length time.Duration, by string) ([]Effect, error) {
	if !Somebody(source) {
		return nil, fmt.Errorf("door %q: source %s: %s", d.rules.Name, SourceString(source), nobody)
	}
	if d.saved.State == Failsafe {
		return nil, fmt.Errorf("door %q is in failsafe: %s", d.rules.Name, d.saved.Reason)
	}
	return d.ask(now, request{source, claimant{by: by}, ordered(by), length, now}), nil
}

// Ended takes in that the kernel no longer has a grant before its time: a grant
// of single use that was spent, or one that somebody else removed.
func (d *Door) Ended(now time.Time, source netip.Prefix, reason string) []Effect {
	n, has := d.grants.find(source)
	if !has {
		return nil
	}
	return append(d.drop(now, n, false),
		d.record(now, audit.EventRevoked, SourceString(source), "kernel", reason, time.Time{}))
}

// Close makes the door dark on an operator's word. One that closes already opens no
// more for who has asked for that meanwhile.
func (d *Door) Close(now time.Time, by string) (out []Effect) {
	if d.saved.State == Open || d.saved.State == Opening {
		return d.darken(now, Dark, by, ordered(by))
	}
	for _, r := range d.waiting { // while it closes
		out = append(out, d.revoked(now, r.source, by))
	}
	d.waiting = nil
	return out
}

// Next returns the next moment at which Tick has something to do.
func (d *Door) Next() (time.Time, bool) {
	var next time.Time
	sooner := func(t time.Time, ok bool) {
		if ok && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	_, at, ok := d.grants.ends.next()
	sooner(at, ok)
	sooner(d.penalties.next())
	sooner(d.nextLook())
	sooner(d.retry, !d.retry.IsZero())
	sooner(d.again, !d.again.IsZero())
	return next, !next.IsZero()
}

// Tick carries out what is due by now: grants and penalties that end, a look
// for presence, a further try to stop a service, the end of a pause. Where very many
// end at once, it is due again at once.
func (d *Door) Tick(now time.Time) []Effect {
	var out []Effect
	for range endedPerTick {
		n, due := d.grants.ends.due(now)
		if !due {
			break
		}
		out = append(out, d.expire(now, n)...)
	}
	out = append(out, d.pardons(now)...)
	if t, ok := d.nextLook(); ok && !now.Before(t) {
		d.looking = true
		out = append(out, Look{})
	}
	if !d.retry.IsZero() && !now.Before(d.retry) {
		d.retry = time.Time{}
		out = append(out, Stop{})
	}
	if !d.again.IsZero() && !now.Before(d.again) {
		out = append(out, d.startAgain(now)...)
	}
	return out
}

// nextLook is when presence is to be looked for.
func (d *Door) nextLook() (time.Time, bool) {
	switch {
	case d.looking:
		return time.Time{}, false
	case d.stands():
		dark, ever := d.darkAt()
		if !ever {
			return d.looked.Add(maxLookInterval), true
		}
		next := d.looked.Add(min(max(d.rules.Idle/10, minLookInterval), maxLookInterval))
		if dark.Before(next) {
			next = dark
		}
		return next, true
	case d.saved.State == Dark || d.saved.State == Failsafe:
		if d.looked.IsZero() {
			return d.saved.Since, d.rules.Logins
		}
		pause := restEvery
		if d.saved.State == Failsafe {
			pause = failEvery
		}
		return d.looked.Add(pause), d.rules.Logins
	}
	return time.Time{}, false
}

// darkAt is when an open door goes dark if nobody is seen before. False: it does
// not by itself.
func (d *Door) darkAt() (at time.Time, ever bool) {
	if d.rules.Idle == 0 {
		return time.Time{}, false
	}
	return d.saved.LastSeen.Add(d.rules.Idle), true
}

// stands says whether the door is open, or was and is in a pause before its
// service is started again for nobody in particular: then it goes dark as an open
// one does.
func (d *Door) stands() bool {
	return d.saved.State == Open || d.reopens && !d.again.IsZero() && len(d.waiting) == 0
}

// Listed bounds the grants, and the penalties, that a View lists.
const Listed = 1000

// View is what status tells of a door. Of very many grants and penalties it lists
// those that were given last: who looks for one has mostly just been called.
type View struct {
	Saved
	DarkAt    time.Time // zero unless open, and for a door that never goes dark by itself
	Grants    []Held    // claims to the latest 1,000 grants, by source, then By
	Penalties []Penalty // the latest 1,000 that stand, by source, then Name
	Granted   int       // sources that have a grant
	Penalised int       // penalties that stand
}

// View returns what status tells of the door, sorted. Its cost is bounded.
func (d *Door) View(now time.Time) View { return d.Brief(now, Listed) }

// Brief is View with so many grants, and penalties, at most.
func (d *Door) Brief(now time.Time, most int) View {
	v := View{Saved: d.saved, Penalties: d.penalties.standing(now, most), Granted: d.Granted(), Penalised: d.Penalised()}
	if d.saved.State == Open {
		v.DarkAt, _ = d.darkAt()
	}
	b := &d.grants
	some := 0
	for n := range b.ends.latest() {
		if some++; some > most {
			break
		}
		for _, c := range b.claims(n) {
			g, p := b.grants.at(n), b.parties.at(c.by)
			v.Grants = append(v.Grants, Held{
				Claim: Claim{Source: g.source.source(), By: p.by, Until: b.ends.time(now, c.until)},
				Whose: p.String(), Since: b.ends.epoch.Add(time.Duration(g.since))})
		}
	}
	slices.SortFunc(v.Grants, func(a, b Held) int {
		return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(a.By, b.By))
	})
	return v
}

// Mute says whether nobody is heard by one of the door's knocks: in failsafe, before
// the first look for log data, and while everybody is penalised, as of the latest
// Tick.
func (d *Door) Mute(name string) bool {
	return d.saved.State == Failsafe || !d.Looked() || d.penalties.stands(d.whose(name), Any)
}

// Looked says whether log data was looked for once, or need not be.
func (d *Door) Looked() bool { return !d.rules.Logins || !d.looked.IsZero() }

// GrantedSince returns since when a source has a grant; false if it has none that
// was given on that behalf. A claim that renews a grant does not begin it anew.
func (d *Door) GrantedSince(source netip.Prefix, by string) (time.Time, bool) {
	n, has := d.grants.find(source)
	if !has || d.grants.claimOf(d.grants.claims(n), by) < 0 {
		return time.Time{}, false
	}
	b := &d.grants
	return b.ends.epoch.Add(time.Duration(b.grants.at(n).since)), true
}

// Granted is how many sources have a grant, those included whose end a Tick has not
// come to yet.
func (d *Door) Granted() int { return d.grants.of.used }

// Penalised is how many penalties stand, in the same way.
func (d *Door) Penalised() int { return len(d.penalties.stand.heap) }

// Grant is one source's leave to come in.
type Grant struct {
	Source netip.Prefix
	Until  time.Time
}

// Grants returns so many grants at the most from a place on, in no order, and the
// place of the next, 0 when there is no more. It begins at 0. A grant that stands
// from the first call to the last is in one of the answers; one that begins
// meanwhile may be.
func (d *Door) Grants(now time.Time, from, most int) (grants []Grant, next int) {
	b := &d.grants
	to := min(from+most, int(b.grants.most))
	for n := int32(from); n < int32(to); n++ {
		if b.ends.has(n) {
			grants = append(grants, Grant{b.grants.at(n).source.source(), b.until(now, n)})
		}
	}
	if to == int(b.grants.most) {
		to = 0
	}
	return grants, to
}

// GrantEnd is when a source's grant ends, zero if it has none.
func (d *Door) GrantEnd(now time.Time, source netip.Prefix) time.Time {
	if n, has := d.grants.find(source); has {
		return d.grants.until(now, n)
	}
	return time.Time{}
}

// LookElsewhere takes in that presence is looked for elsewhere: the answer to
// the last Look does not come, and the next is asked for at once. Until then the
// door hears on. A failsafe ends if no logins are read any more.
func (d *Door) LookElsewhere(now time.Time) []Effect {
	d.looking = false
	if !d.looked.IsZero() {
		d.looked = now.Add(-restEvery)
	}
	if d.saved.State == Failsafe && !d.rules.Logins {
		const reason = "logins are no longer read"
		d.become(now, Dark, reason)
		return []Effect{d.record(now, audit.EventArmed, "", "", reason, time.Time{})}
	}
	return nil
}

// Renew takes in that another service is behind the door: what was asked of the
// old one is asked of it.
func (d *Door) Renew(now time.Time) []Effect {
	d.retry, d.retryAfter, d.again = time.Time{}, 0, time.Time{}
	switch state := d.saved.State; {
	case state == Opening && d.rules.Service:
		return []Effect{Start{}}
	case state == Opening:
		return d.opened(now)
	case state == Closing && d.rules.Service:
		return []Effect{Stop{}}
	case state == Closing:
		return d.Stopped(now, "")
	}
	return nil
}
