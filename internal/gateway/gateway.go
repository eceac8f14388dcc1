// Package gateway joins the pieces: it owns the doors, hands them what the
// listeners, the services, presence and the operator have to say, and carries out
// what they decide. It decides nothing itself.
//
// One goroutine does all of that, a batch of events a turn, and nothing that a
// disk does holds it up. A turn's changes reach the world in one order:
//
//  1. marks of knocks that must be on disk first: what follows from such a knock
//     is a later turn's, in which they are;
//  2. the fence, in one transaction (doors that a new configuration removes have
//     one of their own). Checking and repairing it, and making it
//     guard the doors of another configuration, happen in the background;
//  3. the store, in a commit in the background. While one is under way, turns go
//     on and gather for the next;
//  4. whoever waits for the turn: operators' replies, and all who ask how things
//     stand, when the commit that has it is on disk.
//
// So whatever is reported is on disk, and no disk stands between a knock and its door.
// Nobody waits for a disk longer than 5 s: then the reply says that a restart would
// forget the change, and a knock with marks is refused. Reading a configuration, starting
// and stopping services and looking for presence have goroutines of their own, too, and
// come back as events.
package gateway

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/store"
	"github.com/doorward/doorward/internal/tables"
)

// upkeepInterval is how often fence, listeners and services are compared with what
// the doors say, beside the notices that the kernel and systemd give at once.
const upkeepInterval = 10 * time.Second

// firstLook is how long readiness waits for the first check for log data.
const firstLook = 3 * time.Second

// maxBatch bounds one turn, so that a flood of touches does not keep an
// operator's order waiting.
const maxBatch = 1024

// Options configure a gateway. Path, Version and Log are required.
type Options struct {
	Path    string // of the configuration file, which is read again at each apply
	Version string
	Log     *slog.Logger
	// Warnings are what an operator should know about how the process was started; nil
	// for nothing.
	Warnings []string
	// Confine is called once with what the gateway starts with, to confine the process as
	// far as that allows: the configuration, which has the doors of the one that comes
	// back as well, unless it is kept. Later it is called with each one that is to be
	// used, to say whether that can be served from inside. nil: neither.
	Confine func(*config.Config) error
	// Tell is called with each record of the audit trail when it is on disk, in order and
	// in the background. It must not block. nil: each record is a line of Log.
	Tell func(audit.Record)
	// Troubles says what an operator should know about the receivers of records; nil for
	// nothing. It must not block.
	Troubles func() []string
}

// Gateway guards the doors of one configuration after another. Its exported
// methods may be called from any goroutine while Run runs.
type Gateway struct {
	opts    Options
	world   World
	log     *slog.Logger
	started time.Time

	// What follows belongs to Run's goroutine.
	config          *config.Config
	hash            string            // of its text
	machineMistakes []*tables.Mistake // why this machine cannot serve all of the configuration
	fallback        checked           // what comes back unless the configuration in use is kept
	applying        *applying         // the configuration on its way into use, nil for none
	doors           []*guarded
	firstTick       int // of doors, in the next tick
	listeners       *listeners
	changes         changes
	fenceChanged    <-chan struct{} // somebody else changed the fence
	repairs         uint64
	fenceProblem    string            // what differs in the fence, "" for nothing
	resync          bool              // the fence must be looked at, and all grants compared
	retryFence      time.Time         // when to try to repair the fence again, zero for never
	comparison      *comparison       // the comparison of grants that is under way, nil for none
	uncompared      bool              // all grants are to be compared, or are being
	listing         bool              // the kernel's grants are being listed
	neverCompared   bool              // they have not been compared since the start
	grantsLost      bool              // grants went with the table, and are not back yet
	marks           marks             // what knocks have left behind
	marksLost       bool              // some of it never reaches the disk
	keeps           []*keep           // what all knocks of a kind have in common
	keepReading     keepReading       // of the files that they go by
	alarms          alarms            // by those who have raised one lately
	strangersDue    bool              // who has a grant is to be looked at, when the files were read
	rechecked       bool              // that was done once: from then on, who may knock changes
	visitors        visitors          // visitors to be answered
	callers         callers           // operators whose orders take effect
	sessionsChanged bool              // somebody has come in, or gone, since watchers were last notified
	store           Store             // what survives, or memory alone
	writer          writer            // writes changes to the store
	storeProblem    string            // why the store is memory alone, "" when it is not
	diskProblem     string            // why the disk cannot be written, "" while it can
	applied         store.Applied     // the configuration in use, and one that is rolled back unless it is kept
	warnings        []string          // about the configuration in use
	eventCounts     map[string]uint64 // records of the audit trail since the start, by event
	sums            *audit.Sums       // of refusals
	shares          *audit.Shares     // of visitors in the audit trail

	metered metered

	byName      map[string]*guarded // of doors
	fencing     fencing             // what is under way at the fence
	endingFlows bool                // flows are being ended
	rollingBack bool                // to fallback

	events     chan event
	tasks      sync.WaitGroup          // the goroutines of services and looks
	ctx        context.Context         // of those goroutines, ends with Run
	async      func(task func() event) // runs a task in the background; its event comes back as a turn
	beside     func(task func())       // runs a task that reports to no turn
	commits    func(task func() event) // the same for commits, one at a time; the event comes through commitEnds
	commitEnds chan event
	heard      chan []knock.Heard

	knocksByPlace   map[knock.Place][]knockOf // in the order of the doors; made when asked for
	knocksByPlaceOf *config.Config            // whose doors' they are

	stalls    stallDetector // when the process did not run
	gaps      []gap         // gaps that the recognisers do not know of yet, in order
	gapLogged time.Time

	countingSince time.Time // since when the doors that were there at the start count refusals
	recalled      func() recalled
	statusCache   snapshotCache[standing]
	metricsCache  snapshotCache[control.GatewayMetrics]
	wake          chan struct{} // somebody waits for one of them
	measured      measurement
	turnTimes     control.Spans // how long turns are
	waitTimes     control.Spans // how long what was heard waited for a turn
	sessionTable  sessionTable
	file          fileLook

	ending    <-chan struct{} // closed when nothing more is to be heard
	opened    chan struct{}   // closed when store is there
	pastDoors sync.Map        // names of doors that there were, for Log
	ended     chan struct{}   // closed when Run has ended

	newer struct {
		sync.Mutex
		c chan struct{} // closed at the end of a turn that changed something
	}
}

// event is something that happened; it runs in a turn.
type event func(now time.Time)

// New returns a gateway that is not running yet; Run wants its World.
func New(opts Options) *Gateway {
	g := &Gateway{
		opts:        opts,
		log:         opts.Log,
		started:     time.Now(),
		events:      make(chan event, 256),
		commitEnds:  make(chan event, 1),
		heard:       make(chan []knock.Heard, 64),
		wake:        make(chan struct{}, 1),
		opened:      make(chan struct{}),
		ended:       make(chan struct{}),
		marks:       make(marks),
		visitors:    newVisitors(),
		eventCounts: make(map[string]uint64),
		sums:        audit.NewSums(),
		shares:      audit.NewShares(),
		metered:     newMetered(),
	}
	g.newer.c = make(chan struct{})
	g.recalled = sync.OnceValue(g.recall)
	// Long work runs in a goroutine of its own, which ends with it and comes back as an
	// event.
	g.async = func(task func() event) {
		g.tasks.Go(func() { g.post(task()) })
	}
	g.beside = func(task func()) { g.tasks.Go(task) }
	g.commits = func(task func() event) { // never blocks: there is room for the one
		g.tasks.Go(func() { g.commitEnds <- task() })
	}
	return g
}

// Run guards the doors until ctx ends, and then returns nil: the fence stays up, and
// services stay as they are. It calls ready when the doors are guarded and knocks are
// heard; slow log data, and services that D-Bus does not know yet, do not delay a boot.
// An error before that says why the doors cannot be guarded.
func (g *Gateway) Run(ctx context.Context, world World, ready func()) error {
	g.world = world
	defer close(g.ended)
	ctx, cancel := context.WithCancel(ctx)
	defer g.waitForTasks()
	defer cancel()
	g.ctx, g.ending = ctx, ctx.Done()
	g.tasks.Go(g.answerOn)
	g.stalls.start(g.world.Now, g.world.behind)
	defer g.stalls.stop()
	if err := g.begin(); err != nil {
		return err
	}
	defer g.listeners.close()
	g.urgent() // only now, so that what begin has started does not inherit it
	timer := time.NewTimer(0)
	defer timer.Stop()
	upkeep := time.NewTicker(upkeepInterval)
	defer upkeep.Stop()
	readyBy := g.world.Now().Add(firstLook)
	for {
		now := g.world.Now()
		wait := g.next().Sub(now)
		if ready != nil {
			if wait = min(wait, readyBy.Sub(now)); wait <= 0 || g.looked() && g.filesRead() && !g.listeners.busy {
				ready()
				ready = nil
			}
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			g.end()
			return nil
		case h := <-g.heard:
			g.turn(func(time.Time) { g.listened(h) })
		case e := <-g.events:
			g.turn(e)
		case e := <-g.commitEnds:
			g.turn(e)
		case <-g.wake:
			g.turn(nil)
		case <-timer.C:
			g.turn(nil)
		case _, ok := <-g.fenceChanged:
			if !ok {
				g.fenceChanged = nil
				continue
			}
			g.turn(func(time.Time) { g.resync = true })
		case <-upkeep.C:
			g.turn(g.upkeep)
		}
	}
}

// turn handles the first event, whatever else is waiting and what is due, and flushes.
func (g *Gateway) turn(first event) {
	now := g.world.Now()
	begun, all := now, false
	g.changes.beginTurn()
	g.beginTurn(now)
	g.takeGaps(now)
	if first != nil {
		g.invalidateSnapshots()
		first(now)
	}
	for i := 0; i < maxBatch && !all && g.changes.cost(len(g.doors)) < maxCost; i++ {
		select {
		case h := <-g.heard:
			g.invalidateSnapshots()
			i += g.listened(h)
		case e := <-g.events:
			g.invalidateSnapshots()
			e(now)
		case e := <-g.commitEnds:
			g.invalidateSnapshots()
			e(now)
		default:
			all = true
		}
	}
	now = g.world.Now()
	g.checkDisk(now)
	g.giveUpReading(now)
	g.checkApplied(now)
	if all {
		g.applyGaps(begun)
		for _, d := range g.doors {
			d.judge(begun)
		}
	}
	g.tick(now)
	g.stalls.update(now, slices.ContainsFunc(g.doors, (*guarded).underway))
	g.changes.recordAll(g.sums.Due(now)) // upkeep brings a turn soon enough
	g.changes.recordAll(g.shares.Due(now))
	g.flush(now)
	g.syncListeners()
	g.endTurn(now)
	g.turnTimes.Add(g.world.Now().Sub(begun))
}

// tick lets the doors do what is due. When that is very much, as when very many grants
// end at once, the remaining doors come first in the next turn, or when the disk has
// accepted what they had to record.
func (g *Gateway) tick(now time.Time) {
	done := 0
	for i := range g.doors {
		at := (g.firstTick + i) % len(g.doors)
		if done >= maxBatch || g.crowded() {
			g.firstTick = at
			return
		}
		done += g.doors[at].tick(now)
	}
}

// next returns when a turn is due without an event.
func (g *Gateway) next() time.Time {
	next := g.world.Now().Add(time.Hour)
	for _, d := range g.doors {
		if t, ok := d.next(); ok && t.Before(next) {
			next = t
		}
	}
	if t, ok := g.snapshotDue(); ok && t.Before(next) {
		next = t
	}
	if t, ok := g.writer.slowAt(); ok && t.Before(next) {
		next = t
	}
	dues := []time.Time{g.lapses(), g.applying.givenUp()}
	if !g.fencing.busy {
		dues = append(dues, g.retryFence)
	}
	for _, t := range dues {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	return next
}

// urgent lets the calling goroutine run before others. It must end soon, or be the loop's,
// and start no programs.
func (g *Gateway) urgent() {
	if g.world.Urgent != nil {
		g.world.Urgent()
	}
}

// post hands an event to the next turn. It gives up when the gateway ends.
func (g *Gateway) post(e event) {
	select {
	case g.events <- e:
	case <-g.ctx.Done():
	}
}

// waitForTasks waits for background tasks to end, but not for a disk that hangs: those
// end with the program.
func (g *Gateway) waitForTasks() {
	ended := make(chan struct{})
	go func() { g.tasks.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(endTime):
		g.log.Warn("a disk operation has not finished; leaving it behind", "after", endTime.String())
	}
}

// Alive says whether the gateway completes a turn within the given time.
func (g *Gateway) Alive(ctx context.Context, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_, err := await(ctx, g, func(_ time.Time, answer func(struct{}, error)) { answer(struct{}{}, nil) })
	return err == nil
}

// looked says whether every door has checked for log data once: until then a door ignores
// knocks.
func (g *Gateway) looked() bool {
	return !slices.ContainsFunc(g.doors, func(d *guarded) bool { return !d.door.Looked() })
}

// listened hands what has been heard by now to the knocks that it belongs to, in order of
// time, and returns how much it was.
func (g *Gateway) listened(hs []knock.Heard) int {
	g.stalls.dequeued()
	hs = g.waitingToo(hs)
	now := g.world.Now()
	if len(hs) > 0 {
		g.waitTimes.Add(now.Sub(hs[0].Time))
	}
	g.takeGaps(now)
	for _, h := range hs {
		g.applyGaps(h.Time)
		if h.Source.Unmap().IsLoopback() {
			continue // the fence refuses those; none may get in another way
		}
		if !door.Somebody(door.Source(h.Source)) {
			continue // in a knock that is everybody's, the door could not see whose touch it was
		}
		if to, ok := h.Said.(knock.ToDoor); ok {
			h.Door = to.Door()
		}
		if d, k := g.knockAt(h.Place, h.Door); d != nil {
			d.hear(k, h)
		}
	}
	return len(hs)
}

// door finds a door by its name.
func (g *Gateway) door(name string) *guarded { return g.byName[name] }

// addDoor adds a door to the gateway.
func (g *Gateway) addDoor(d *guarded) {
	g.doors = append(g.doors, d)
	g.byName[d.name()] = d
}

// upkeep is S12: whatever died or was changed by others is repaired.
func (g *Gateway) upkeep(now time.Time) {
	g.listeners.check = true
	g.fencing.look = true
	for _, d := range g.doors {
		if d.service != nil {
			d.service.askPermission()
		}
	}
	g.lookForSpent()
	g.readFiles(now, false)
	g.markAhead(now)
	for _, k := range g.keeps {
		if f, ok := k.of.(knock.Forgetter); ok {
			f.Forget(now)
		}
	}
	g.writer.tryAgain()
}

// rules returns the part of its configuration that a door decides by.
func (g *Gateway) rules(c config.Door) door.Rules {
	return door.Rules{
		Name:    c.Name,
		OpenFor: c.OpenFor,
		Idle:    c.Presence.Idle,
		ForAll:  slices.ContainsFunc(c.Knocks, config.Knock.ForAll),
		Service: c.Service != nil,
		Logins:  c.Presence.Logins != config.LoginsOff,
		Shared:  c.Shared,
		Who:     g.whoIs,
	}
}
