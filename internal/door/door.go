// Package door is the state machine of one door: what a knock, a wrong knock, the
// service, presence and the operator do to it. It is pure: no sockets, no goroutines, no
// clock. Every method is given the time and returns the effects that the gateway is to
// carry out, so that tests and an explorer can reach every state. What the kernel and the
// service manager really did comes back through Runs, Stopped, Halted, Failed, Ended and
// Seen; the door never assumes it.
//
// What a stranger can cost a door at worst:
//
//	a touch, penalised or not  10 lookups
//	a wrong knock              3 penalties written, in heaps of at most 65,536;
//	                           as many forgotten early, if there is no room
//	the end of a penalty       the top of one heap, put into another
//	being forgotten            the top of a heap
//	memory                     65,536 penalties, standing and remembered
//
// None of it depends on what strangers did before, except for a heap's logarithm. The
// same goes for visitors and operators: a grant takes about a hundred bytes, giving,
// renewing and ending one costs a heap's logarithm, and ending all of them costs as much
// as ending one. However many grants and penalties end at the same time, a Tick ends
// 1,024 of each, and Next then says that the next Tick is due at once; a penalty that is
// over has no effect meanwhile.
package door

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Limits of what a door keeps and how often it checks.
const (
	maxWaiting      = 1 << 12          // knocks that wait for the service to run
	restEvery       = time.Minute      // checks for log data while the door is dark
	failEvery       = 10 * time.Second // and while it is in failsafe: at boot the journal comes late
	maxLookInterval = 5 * time.Second  // checks for presence while it is open: a tenth of
	minLookInterval = time.Second      // Idle, within these two
	minRetry        = 10 * time.Second // after a failed stop, doubled each time
	maxRetry        = 5 * time.Minute
	repairAtMost    = 10 * time.Second // a service that dies again so soon is not restarted
	minPause        = 10 * time.Second // between starts of a service that others stop, doubled each
	maxPause        = time.Minute      // time that they stop it within the latest
	maxWait         = 2 * time.Minute  // a knock waits for a service that others stop
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

	waiting     []request // for the service to run, in order of arrival
	darkBy      string    // who made it go dark, until it is
	grants      grantTable
	endedGrants endedGrants
	penalties   penalties

	looking     bool          // a Look is under way
	looked      time.Time     // when the last Seen came, zero before the first
	login       time.Time     // the latest login as the log has it
	connections int           // as last seen
	fresh       bool          // guarded for the first time, and it is not known yet whether the service runs
	reopens     bool          // it is opening because its service ended while it was open
	repaired    time.Time     // when the service was last started because it had died
	restarted   time.Time     // when it was last started because others had stopped it
	pause       time.Duration // between the last such start and the next
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
	latest time.Time // no grant lasts beyond it; zero: that is not bounded
}

// New returns a door as it was saved. A door that was saved in the middle of a change is
// dark, and so is one in failsafe that no longer reads logins: the gateway's first Runs
// makes that true. Times in the future, because the clock was set back, count as now.
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
		grants:    newGrantTable(now, rules.Who),
		penalties: newPenalties(now),
	}
	d.Configure(rules)
	return d
}

// past converts a wall-clock time to now's clock, with its monotonic reading, and never
// into the future. The zero time stays.
func past(now, t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return now.Add(-max(0, now.Round(0).Sub(t.Round(0))))
}

// Configure changes the rules of a door that stays. If no knock opens to everybody any
// more, the door is no longer open to everybody until it goes dark: the kernel's grant
// runs out, and those who wait for the service get a grant of OpenFor.
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

// opensToAll says whether a knock may open to everybody until the door goes dark, which a
// door that never goes dark cannot.
func (d *Door) opensToAll() bool { return d.rules.ForAll && d.rules.Idle > 0 }

// Saved returns what must survive a restart.
func (d *Door) Saved() Saved { return d.saved }

// Deaf says whether what is heard from a source of one of the door's knocks is to be
// ignored: where it is not Somebody, in failsafe, before the first check for log data,
// while the source (or everybody) is penalised, as of the latest Tick, and, for a knock
// that is everybody's, while the door is neither dark, nor open for some alone, nor in a
// pause that the knock would end.
func (d *Door) Deaf(name string, source netip.Prefix) bool {
	if !Somebody(source) {
		return true
	}
	some := d.saved.State == Open && !d.saved.ForAll
	everybody := d.saved.State == Dark || some || !d.again.IsZero()
	return d.Mute(name) || d.penalties.cover(d.whose(name), source) || source == Any && !everybody
}

// whose returns which penalties count for one of the door's knocks: its own and the
// door's, or only the door's.
func (d *Door) whose(name string) []string {
	if name == "" {
		return []string{""}
	}
	return []string{name, ""}
}

// Knock processes a right knock.
func (d *Door) Knock(now time.Time, k Knock) []Effect {
	if d.Deaf(k.Name, k.Source) {
		return []Effect{d.record(now, audit.EventRefused, SourceString(k.Source), k.By, "the door ignores knocks", time.Time{})}
	}
	r := request{source: k.Source, claimant: claimant{k.By, k.Name}, reason: k.Reason, length: k.For, asked: now, latest: k.Latest}
	if r.length <= 0 {
		r.length = d.rules.OpenFor
	}
	if k.Source == Any && d.opensToAll() {
		r.length = 0
	}
	return d.ask(now, r)
}

// Open gives a source a grant of the given length by order of an operator. It returns an
// error if the source is not Somebody, and in failsafe, which only log data or Arm ends.
func (d *Door) Open(now time.Time, source netip.Prefix, length time.Duration, by string) ([]Effect, error) {
	if !Somebody(source) {
		return nil, fmt.Errorf("door %q: source %s: %s", d.rules.Name, SourceString(source), nobody)
	}
	if d.saved.State == Failsafe {
		return nil, fmt.Errorf("door %q is in failsafe: %s", d.rules.Name, d.saved.Reason)
	}
	return d.ask(now, request{source: source, claimant: claimant{by: by}, reason: ordered(by), length: length, asked: now}), nil
}

// Ended notes that a grant has left the kernel before its time: a single-use grant that
// was spent, or one that somebody else removed.
func (d *Door) Ended(now time.Time, source netip.Prefix, reason string) []Effect {
	n, has := d.grants.find(source)
	if !has {
		return nil
	}
	ended := d.record(now, audit.EventRevoked, SourceString(source), "kernel", reason, time.Time{})
	ended.Whose = d.grants.whose(n)
	return append(d.drop(now, n, false), ended)
}

// Close makes the door dark by order of an operator. A door that is already closing then
// no longer opens for those who have knocked meanwhile.
func (d *Door) Close(now time.Time, by string) (out []Effect) {
	if d.saved.State == Open || d.saved.State == Opening {
		return d.darken(now, Dark, by, ordered(by))
	}
	for _, r := range d.waiting { // while the door closes
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

// Tick does what is due by now: it ends grants and penalties, checks for presence, tries
// again to stop a service, ends a pause. If very many end at once, it is due again at
// once.
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

// nextLook returns when presence is to be checked.
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

// darkAt returns when an open door goes dark if nobody is seen by then. False: it does
// not by itself.
func (d *Door) darkAt() (at time.Time, ever bool) {
	if d.rules.Idle == 0 {
		return time.Time{}, false
	}
	return d.saved.LastSeen.Add(d.rules.Idle), true
}

// stands says whether the door is open, or was open and is in a pause before its service
// is started again for nobody in particular: then it goes dark as an open door does.
func (d *Door) stands() bool {
	return d.saved.State == Open || d.reopens && !d.again.IsZero() && len(d.waiting) == 0
}

// Listed limits the grants, and the penalties, that a View lists.
const Listed = 1000

// View is what status shows of a door. If there are very many grants and penalties it
// lists the latest: an operator who looks for one is usually looking for a recent one.
type View struct {
	Saved
	DarkAt    time.Time // zero unless open, and for a door that never goes dark by itself
	Grants    []Held    // claims to the latest 1,000 grants, by source, then By
	Penalties []Penalty // the latest 1,000 current ones, by source, then Name
	Granted   int       // sources that have a grant
	Penalised int       // current penalties
}

// View returns what status shows of the door, sorted. Its cost is bounded.
func (d *Door) View(now time.Time) View { return d.Brief(now, Listed) }

// Brief is View with at most so many grants, and penalties.
func (d *Door) Brief(now time.Time, most int) View {
	v := View{Saved: d.saved, Penalties: d.penalties.standing(now, most), Granted: d.Granted(), Penalised: d.Penalised()}
	if d.saved.State == Open {
		v.DarkAt, _ = d.darkAt()
	}
	b := &d.grants
	some := 0
	v.Grants = make([]Held, 0, min(most, v.Granted)) // most have one claim each
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

// Mute says whether nobody is heard by one of the door's knocks: in failsafe, before the
// first check for log data, and while everybody is penalised, as of the latest Tick.
func (d *Door) Mute(name string) bool {
	return d.saved.State == Failsafe || !d.Looked() || d.penalties.stands(d.whose(name), Any)
}

// Looked says whether log data has been checked for once, or need not be.
func (d *Door) Looked() bool { return !d.rules.Logins || !d.looked.IsZero() }

// GrantedSince returns since when a source has had a grant; false if it has none on
// behalf of by. A claim that renews a grant does not begin it anew.
func (d *Door) GrantedSince(source netip.Prefix, by string) (time.Time, bool) {
	n, has := d.grants.find(source)
	if !has || d.grants.claimOf(d.grants.claims(n), by) < 0 {
		return time.Time{}, false
	}
	b := &d.grants
	return b.ends.epoch.Add(time.Duration(b.grants.at(n).since)), true
}

// Granted returns how many sources have a grant, including those whose end no Tick has
// reached yet.
func (d *Door) Granted() int { return d.grants.of.used }

// Penalised returns how many penalties are current, in the same way.
func (d *Door) Penalised() int { return len(d.penalties.stand.heap) }

// Grant is one source's permission to connect.
type Grant struct {
	Source netip.Prefix
	Until  time.Time
}

// Grants returns at most so many grants from a place on, in no order, and the place of
// the next, 0 when there are no more. The first place is 0. A grant that stands from the
// first call to the last is in one of the answers; one that begins meanwhile may be.
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

// GrantEnd returns when a source's grant ends, zero if it has none.
func (d *Door) GrantEnd(now time.Time, source netip.Prefix) time.Time {
	if n, has := d.grants.find(source); has {
		return d.grants.until(now, n)
	}
	return time.Time{}
}

// LookElsewhere notes that presence is now looked for elsewhere: there will be no answer
// to the last Look, and the next is requested at once. Until then the door goes on
// hearing knocks. A failsafe ends if logins are no longer read.
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

// Renew notes that another service is behind the door: orders to the old one are repeated
// for it.
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
