package gateway

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// keepRefusals is how many refusals a door shows in status.
const keepRefusals = 8

// lookTime limits one check for presence.
const lookTime = 30 * time.Second

// guarded is one door with all that belongs to it. Like the gateway's own, its
// fields belong to the goroutine of Run.
type guarded struct {
	gw       *Gateway
	conf     config.Door
	door     *door.Door
	saved    door.Saved // as the store has it
	knocks   []heardKnock
	service  *controller // nil: the service always runs
	lookFor  func(context.Context) Observation
	oddities []string // oddities of the last check, for people
	refusals []audit.Record
	waiters  []*waiter // operators who wait for the door to open
	unlisted bool      // the kernel may have grants that it does not know, since these were too many
	disowned bool      // no grant of which nobody knows whose it is may stand any more
	openedBy string    // who opened it last, as records have it; "" if that is not known
	expected expected  // visitors whose grants wait for the service
	guesses  *audit.Guesses
	metered  meteredDoor
	cancel   context.CancelFunc // ends the goroutines of the door
	ctx      context.Context
	lookEnd  context.CancelFunc // ends only the check for presence; nil before start
	lookCtx  context.Context
}

// heardKnock is one way to ask for the door, with its recogniser.
type heardKnock struct {
	conf  config.Knock
	rec   knock.Recogniser
	kept  bool // its kind has a knock.Keeper
	armed bool // a rule for everybody counts its judgements from when the door went dark
	heard listenState

	// before are the recognisers of knocks that this one replaced. Until the given time,
	// what was under way there is not a mistake here.
	before []knock.Recogniser
	until  time.Time
}

// newGuarded returns a door as it was saved; start starts its work.
func (g *Gateway) newGuarded(c config.Door, saved door.Saved, now time.Time) *guarded {
	d := &guarded{gw: g, conf: c, door: door.New(g.rules(c), saved, now), saved: saved,
		guesses: audit.NewGuesses(now), metered: newMeteredDoor()}
	if s := d.door.Saved(); s.State == door.Dark && s.Since.Equal(saved.Since) {
		d.metered.dark = s.Since
	}
	d.setKnocks(c.Knocks, now)
	g.sessionTable.begin(c.Name, now)
	return d
}

func (d *guarded) name() string { return d.conf.Name }

// setKnocks makes the recognisers. Where a right knock stays the same, knocks under way
// go on.
func (d *guarded) setKnocks(confs []config.Knock, now time.Time) {
	old := d.knocks
	d.knocks = nil
	for _, c := range confs {
		k := heardKnock{armed: true}
		follows := func(k heardKnock) bool { return k.rec.Follow(c.Rule) }
		if i := slices.IndexFunc(old, follows); i >= 0 {
			k = old[i]
			old = slices.Delete(old, i, i+1)
		}
		k.conf, k.kept = c, d.gw.keepOf(c.Kind) != nil
		d.knocks = append(d.knocks, k)
	}
	for i := range d.knocks {
		k := &d.knocks[i]
		if k.rec != nil {
			continue
		}
		k.rec = d.recogniser(k.conf, now)
		for _, o := range old {
			k.before = append(k.before, o.rec)
			if until := now.Add(o.conf.Lasts() + k.conf.Lasts()); until.After(k.until) {
				k.until = until
			}
		}
	}
}

// excused says whether a wrong knock was begun by a rule that was changed since
// then. Each that was is excused once, so that nobody gains tries by it.
func (k *heardKnock) excused(v knock.Verdict) bool {
	if v.Time.After(k.until) {
		k.before = nil
	}
	who := v.Source
	if v.Everybody {
		who = netip.Addr{}
	}
	return slices.ContainsFunc(k.before, func(r knock.Recogniser) bool { return r.GiveUp(who) })
}

// start starts the door's goroutines.
func (d *guarded) start(ctx context.Context) {
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.lookElsewhere()
	if d.conf.Service != nil {
		d.service = d.gw.newController(d.ctx, d.conf, d.serviceReported)
		d.service.askPermission()
	}
}

// lookElsewhere makes the next check for presence look where the configuration now
// says. The result of one that is under way is dropped.
func (d *guarded) lookElsewhere() {
	if d.lookEnd != nil {
		d.lookEnd()
	}
	d.lookCtx, d.lookEnd = context.WithCancel(d.ctx)
	d.lookFor = d.gw.world.Look(d.conf)
}

// used says whether a connection has used the grant that a source's knock earned.
// The kernel is asked only where there is one. A grant of which nobody knows is
// unused, so that a wrong knock takes it back.
func (d *guarded) used(source netip.Prefix, by string) bool {
	since, granted := d.door.GrantedSince(source, by)
	if !granted || source == door.Any {
		return false
	}
	ago, used, err := d.gw.world.Fence.Used(d.name(), source.Addr())
	if err != nil {
		d.gw.log.Warn("cannot tell whether a grant was used; a wrong knock takes it back",
			"door", d.name(), "source", door.SourceString(source), "err", err)
		return false
	}
	return used && !d.gw.world.Now().Add(-ago).Before(since)
}

// judge judges the knocks whose time is up by now. All touches until then must have been
// heard: a knock is not unfinished while its last touch waits.
func (d *guarded) judge(now time.Time) {
	for i := range d.knocks {
		k := &d.knocks[i]
		if _, underway := k.rec.Next(); underway && d.door.Mute(k.conf.Name) {
			k.rec.Rearm(now) // a knock that the door stopped hearing is nobody's mistake
		}
		for _, v := range k.rec.Look(now) {
			d.judged(k, v)
		}
	}
}

// gap notes that nobody could be heard for a while: that time counts against no knock
// under way.
func (d *guarded) gap(from, to time.Time) {
	for i := range d.knocks {
		k := &d.knocks[i]
		k.rec.Gap(from, to)
		if k.until.After(from) {
			k.until = k.until.Add(to.Sub(from))
		}
	}
}

// underway says whether somebody is in the middle of a knock.
func (d *guarded) underway() bool {
	return slices.ContainsFunc(d.knocks, func(k heardKnock) bool {
		_, some := k.rec.Next()
		return some
	})
}

// tick lets the door do what is due, and returns how many effects that had.
func (d *guarded) tick(now time.Time) int {
	effects := d.door.Tick(now)
	d.apply(effects)
	d.giveUp(now)
	for i := range d.knocks {
		k := &d.knocks[i]
		if !k.conf.ForAll() {
			continue
		}
		deaf := d.door.Deaf(k.conf.Name, door.Any)
		if k.armed && deaf || !k.armed && !deaf {
			k.rec.Rearm(now)
			k.armed = !deaf
		}
	}
	return len(effects)
}

// next returns when tick has something to do.
func (d *guarded) next() (time.Time, bool) {
	next, ok := d.door.Next()
	if t, due := d.givesUp(); due && (!ok || t.Before(next)) {
		next, ok = t, true
	}
	ok = ok && !d.gw.crowded()
	for _, k := range d.knocks {
		if t, due := k.rec.Next(); due && (!ok || t.Before(next)) {
			next, ok = t, true
		}
	}
	return next, ok
}

// listenState is how far a knock is listened to now.
type listenState struct {
	open   bool          // it is heard, except at the closed places
	known  bool          // whether it is to be heard is known
	closed []knock.Place // for now, by its recogniser
}

func (a listenState) equal(o listenState) bool {
	return a.open == o.open && a.known == o.known && slices.Equal(a.closed, o.closed)
}

// listenState returns how far a knock is listened to: not at all while everybody is
// ignored. In a knock that is everybody's a touched listener stays closed until the
// verdict (S1).
func (d *guarded) listenState(k *heardKnock) listenState {
	a := listenState{known: d.door.Looked()}
	switch {
	case k.conf.ForAll():
		a.open = !d.door.Deaf(k.conf.Name, door.Any)
	case k.kept || !d.door.Mute(k.conf.Name): // a visitor who shows a secret is told why nothing opens
		a.open = true
	}
	if a.open {
		a.closed = k.rec.Closed()
	}
	return a
}

// apply carries out a door's effects, or puts them into the turn's changes.
func (d *guarded) apply(effects []door.Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case door.Start:
			d.service.setWanted(true)
		case door.Stop:
			d.service.setWanted(false)
		case door.Look:
			d.look()
		case door.Record:
			d.noteRefusal(e.Record)
			d.meter(e.Record)
			if e.Event == audit.EventOpened {
				d.gw.sessionTable.doorOpened(d.name(), e.Time)
				d.openedBy = e.By
			}
			d.gw.tell(e.Record, d.whose(e))
		default:
			d.gw.changes.add(d.name(), e)
		}
	}
	if len(effects) > 0 {
		d.settle(effects, d.door.Saved().Reason)
		d.tellExpected(effects)
	}
}

// whose is on whose behalf that was which a record tells of. A door that goes dark by itself
// does so because of whoever opened it.
func (d *guarded) whose(r door.Record) string {
	switch {
	case r.Whose != "":
		return r.Whose
	case r.Event == audit.EventDark && (r.By == "" || r.By == "idle"):
		return d.openedBy
	}
	return r.By
}

func (d *guarded) noteRefusal(r audit.Record) {
	if r.Event != audit.EventRefused {
		return
	}
	d.guesses.Add(r)
	d.refusals = append([]audit.Record{r}, d.refusals...)
	d.refusals = d.refusals[:min(len(d.refusals), keepRefusals)]
}

// look checks for presence, until that is no longer the place to look or lookTime is
// over, and always reports what was found.
func (d *guarded) look() {
	lookFor, life, name, ports := d.lookFor, d.lookCtx, d.name(), d.conf.Ports
	d.gw.async(func() event {
		ctx, cancel := context.WithTimeout(life, lookTime)
		defer cancel()
		sight := lookFor(ctx)
		var news []*session
		moved := false
		if life.Err() == nil && !sight.Asked.IsZero() {
			news, moved = d.gw.sessionTable.update(sessionList{name, ports, sight.Asked, d.gw.world.Now(), sight.In})
		}
		came := d.gw.sessionTable.recentSessions(name, sight.Logins)
		return func(now time.Time) {
			if life.Err() != nil {
				return
			}
			d.gw.sessionsChanged = d.gw.sessionsChanged || moved
			d.gw.attributeSessions(now, d, news)
			d.loggedIn(now, came)
			d.seen(now, sight)
		}
	})
}

func (d *guarded) seen(now time.Time, s Observation) {
	for _, o := range s.Odd {
		if !slices.Contains(d.oddities, o) {
			d.gw.log.Warn(o, "door", d.name())
		}
	}
	d.oddities, d.metered.unread = s.Odd, s.Unread
	if s.Login.After(d.metered.login) {
		d.metered.login = s.Login
	}
	d.apply(d.door.Seen(now, s.Seen))
}
