package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// step is one thing that happens on a trip.
type step struct {
	do      string // an action's name
	choices []int  // how the world answers where there is a choice; 0 after the last
	crash   int    // the effect before which the daemon dies; 0: it does not
}

func (s step) String() string {
	text := s.do
	for i, c := range s.choices {
		if c != 0 {
			text += fmt.Sprintf(" (answer %d is %d)", i+1, c)
		}
	}
	if s.crash > 0 {
		text += fmt.Sprintf(", and the daemon dies before effect %d", s.crash)
	}
	return text
}

// trip is one way through the states: a machine, a gateway on it or none, and
// the oracle.
type trip struct {
	*model
	scene   *scene
	g       *Gateway // nil while no daemon runs
	end     context.CancelFunc
	oracle  *oracle
	left    map[string]int // how often each kind of action may still happen
	waits   *waiting       // an order about configurations, nil for none
	raised  func()         // called before the fence's doors change, nil for nothing
	whole   bool           // the disk had everything when this step began
	flushed bool           // the kernel's notice of a flush is on its way
	problem string         // the first broken sentence of the promise
	tale    []string       // the results of the steps, for people
}

// travel makes a trip of steps. The caller ends it.
func travel(sc *scene, steps []step) *trip {
	m := newModel(sc.files)
	t := &trip{model: m, scene: sc, left: maps.Clone(sc.may)}
	t.oracle = &oracle{m: m, locked: map[string]bool{}, onDisk: map[string]bool{}, spent: map[string]bool{}}
	m.file = "ssh" // the file that there is when the machine boots
	m.members = "ann bea cod"
	m.gives = func(k grantKey, end time.Time) {
		if before, ok := m.grants[k]; !ok || !m.now.Before(before) {
			m.since[k] = m.now
		}
		t.found(t.oracle.given(k, end))
	}
	m.raises = func(err error) {
		switch {
		case err != nil:
			t.oracle.failed = true
		case t.raised != nil:
			t.raised()
		}
	}
	m.looked, m.stuck = t.oracle.noticed, t.oracle.stuck
	m.running["ssh.service"] = true // as on any machine before doorward came
	t.oracle.use(m.file)
	for _, s := range steps {
		t.take(s)
		t.tale = append(t.tale, s.String())
	}
	return t
}

func (t *trip) found(problem string) {
	if t.problem == "" {
		t.problem = problem
	}
}

// take takes one step and checks its result against the promise.
func (t *trip) take(s step) {
	t.points, t.crashAt, t.ways, t.choices = 0, s.crash, nil, s.choices
	t.whole = t.saved()
	if s.crash > 0 {
		t.left["crash"]--
	}
	func() {
		defer func() {
			switch p := recover(); p {
			case nil:
			case died{}:
				t.dies()
			default:
				buf := make([]byte, 1<<12)
				t.found(fmt.Sprintf("panic: %v\n%s", p, buf[:runtime.Stack(buf, false)]))
			}
		}()
		t.perform(s.do)
		t.point()
	}()
	t.crashAt = 0
	if t.problem == "" {
		t.check()
	}
}

// check checks the state between two steps against the promise.
func (t *trip) check() {
	if t.g == nil {
		t.found(t.oracle.check(nil, false, false))
		return
	}
	if t.saved() && t.waits == nil && !t.oracle.lapsing {
		t.oracle.untold = false
	}
	t.oracle.raising = t.fenceTask() >= 0
	t.oracle.troubled = t.oracle.troubled || t.full != nil || t.hangs
	s := t.g.stateNow(t.clock())
	t.found(t.oracle.check(&s, !t.flushed && s.Fence.Up && t.refuses == 0 && !t.g.uncompared && !t.oracle.raising, t.saved()))
}

// saved reports whether the disk has everything.
func (t *trip) saved() bool {
	return t.g == nil || t.g.writer.commit == nil && t.g.writer.held == nil && t.g.changes.empty()
}

// dies is kill -9.
func (t *trip) dies() {
	if t.g == nil {
		return
	}
	t.answers() // that may have been sent
	if !t.saved() {
		t.oracle.unsaid()
	}
	t.end()
	t.g.tasks.Wait()
	t.overheard = saying{}
	t.g, t.watched, t.tasks, t.notices, t.listening, t.held, t.flushed = nil, nil, nil, nil, nil, nil, false
	t.refuses, t.hangs, t.drags, t.commit, t.waits, t.raised = 0, false, false, nil, nil, nil
	t.oracle.down(t.whole && t.full == nil)
}

// start starts a daemon.
func (t *trip) start() {
	g := New(Options{Path: t.file, Version: "v1", Log: slog.New(slog.DiscardHandler)})
	g.world = t.world()
	ctx, end := context.WithCancel(context.Background())
	g.ctx, t.end, t.g = ctx, end, g
	g.beside = func(func()) {} // nothing follows from who is in
	g.async = func(run func() event) { t.tasks = append(t.tasks, t.begins(task{kind: t.kindOf(), run: run})) }
	g.commits = func(run func() event) { t.commit = run }
	t.oracle.up(t.rebooted)
	t.found(t.oracle.membersUp())
	clear(t.since)
	err := g.begin()
	if t.opened > 0 && !t.guardedFirst && t.files[t.file].err == nil {
		t.found("P1: the store is opened before the doors are guarded")
	}
	if err != nil {
		t.found(fmt.Sprintf("the gateway does not start: %v", err))
		return
	}
	t.tells()
	t.quiet()
	t.meet()
}

// begins notes a task. The kernel is read at once, and what it said may be old by the time
// the gateway hears it. The same goes for a slow fence.
func (t *trip) begins(x task) task {
	if strings.HasPrefix(x.kind, fenceTask) && t.drags && t.choose(2) == 1 {
		answer := x.run()
		return task{kind: x.kind + ", done", run: func() event { return answer }}
	}
	if strings.HasPrefix(x.kind, "readFiles") {
		answer := x.run()
		return task{x.kind, func() event { return answer }, t.members}
	}
	asks := strings.HasPrefix(x.kind, "askNext")
	if !asks && !strings.HasPrefix(x.kind, "list") {
		return x
	}
	if asks && len(t.g.comparison.doors) > 0 {
		t.oracle.asked()
	}
	answer, held := x.run(), []string(nil)
	for l := range t.grants {
		held = append(held, fmt.Sprint(l))
	}
	slices.Sort(held)
	return task{kind: x.kind + " with " + strings.Join(held, ", "), run: func() event { return answer }}
}

// kindOf names the function that asked for a task, and what its services are to do.
func (t *trip) kindOf() string {
	pc, _, _, _ := runtime.Caller(2)
	kind := runtime.FuncForPC(pc).Name()
	kind = kind[strings.LastIndex(kind, ".")+1:]
	for _, d := range t.g.doors {
		if d.service != nil {
			kind += fmt.Sprintf(" %s:%v", d.name(), d.service.wanted)
		}
	}
	return kind
}

// turn has the gateway take a turn, and then disk, fence and listeners do their part.
func (t *trip) turn(e event) {
	t.once(e)
	t.quiet()
}

// quiet sets the listeners, ends the commit in progress and those after it, unless the disk
// hangs, and ends what is being done at the fence, unless that is slow.
func (t *trip) quiet() {
	for {
		i, ears := t.fenceTask(), slices.IndexFunc(t.tasks, func(x task) bool { return strings.HasPrefix(x.kind, "updateListeners") })
		switch {
		case ears >= 0:
			t.endTask(ears)
		case t.commit != nil && !t.hangs:
			run := t.commit
			t.commit = nil
			t.once(run())
		case i >= 0 && !t.drags:
			t.endTask(i)
		default:
			if i < 0 {
				t.oracle.lapsed()
			}
			return
		}
	}
}

// endTask ends a task and has the gateway take a turn with its result.
func (t *trip) endTask(i int) {
	run := t.tasks[i].run
	t.tasks = slices.Delete(slices.Clone(t.tasks), i, i+1)
	t.once(run())
}

// fenceTask returns the index of the task at the fence, -1 for none.
func (t *trip) fenceTask() int {
	return slices.IndexFunc(t.tasks, func(x task) bool { return strings.HasPrefix(x.kind, fenceTask) })
}

const fenceTask = "atTheFence"

// once has the gateway take a turn.
func (t *trip) once(e event) {
	t.g.turn(func(now time.Time) {
		if e != nil {
			e(now)
		}
		if t.fenceTask() < 0 {
			t.oracle.lapse()
		}
	})
	t.answers()
	t.meet()
	if next := t.g.next(); !next.After(t.clock()) {
		t.found(fmt.Sprintf("spin: the next turn is due %v ago", t.clock().Sub(next)))
	}
}

// complete ends a task and brings its event to the gateway.
func (t *trip) complete(i int) {
	x := t.tasks[i]
	t.tale = append(t.tale, "the task is "+x.kind)
	t.tasks = slices.Delete(slices.Clone(t.tasks), i, i+1)
	t.mayWait(func() {
		e := x.run()
		for t.early && len(t.notices) > 0 {
			t.deliver()
		}
		t.early = false
		t.turn(e)
	})
	if strings.HasPrefix(x.kind, "askNext") && t.g.fenceProblem == "" {
		t.oracle.answered()
	}
	if strings.HasPrefix(x.kind, "readFiles") {
		t.list(x.read)
	}
}

// deliver brings the oldest news of a service to the gateway.
func (t *trip) deliver() {
	n := t.notices[0]
	t.tale = append(t.tale, fmt.Sprintf("%s is %v", n.to.name, n.status.State))
	t.notices = t.notices[1:]
	n.to.report(n.status)
	t.turn(nil)
}

// order gives an operator's order and reports whether it was done. told is called if the
// answer says so without reserve: then it also outlives a restart.
func (t *trip) order(r control.Request, told func()) (done bool) {
	done = true
	o, err := r.Order()
	if err != nil {
		t.found(err.Error())
	}
	t.turn(func(now time.Time) {
		t.g.order(context.Background(), now, control.Caller{Name: "operator"}, o, func(_ control.Reply, err error) {
			t.point()
			if done = !refused(err); err == nil {
				told()
			}
		})
	})
	return done
}

// touch touches a port, if it is listened on.
func (t *trip) touch(a netip.Addr, p uint16) {
	if !slices.Contains(t.listening, p) {
		return
	}
	at := t.clock()
	var keeps []string // doors at which a connection from a has used a grant
	for name, d := range t.oracle.doors {
		if used, sure := d.used(t.model, door.Source(a)); used && sure && !d.conf.SingleUse {
			if _, in := t.lets(name, a); in {
				keeps = append(keeps, name)
			}
		}
	}
	right := t.oracle.touch(a, p)
	t.turn(func(time.Time) {
		t.g.listened([]knock.Heard{touchOf(a, p, at)})
	})
	for _, name := range keeps {
		if _, in := t.lets(name, a); !in && t.g.fenceProblem == "" && t.oracle.doors[name].state == "open" {
			t.found(fmt.Sprintf("P2: a touch of %v takes away the grant at door %s that a connection has used", a, name))
		}
	}
	for _, d := range right {
		state := t.g.door(d.conf.Name).door.Saved().State
		end, in := t.lets(d.conf.Name, a)
		switch {
		case state == door.Opening || state == door.Closing || t.g.fenceProblem != "" || t.doubtful || t.g.fencing.goes[d.conf.Name]:
		case state != door.Open:
			t.found(fmt.Sprintf("P4: a right knock of %v left door %s %v", a, d.conf.Name, state))
		case !in || end.Sub(t.now) < d.conf.OpenFor:
			t.found(fmt.Sprintf("P4: a right knock of %v gets in for %v, want %v", a, end.Sub(t.now), d.conf.OpenFor))
		}
	}
}

// due returns when the next thing that was announced ends, or a while from now if that is
// sooner.
func (t *trip) due() time.Time {
	next := t.now.Add(20 * time.Second)
	sooner := func(at time.Time) {
		if at.After(t.now) && at.Before(next) {
			next = at
		}
	}
	for _, end := range t.grants {
		sooner(end)
	}
	sooner(t.oracle.deadline)
	for _, d := range t.oracle.doors {
		for _, f := range d.faults {
			sooner(f.until)
		}
		for _, a := range d.attempts {
			sooner(a.last().Add(d.knock().Within))
		}
		if d.state == "open" && d.conf.Presence.Idle > 0 {
			sooner(d.seen.Add(d.conf.Presence.Idle))
		}
	}
	return next
}

// pass lets time pass until at, and has the gateway do what is due on the way. Looks
// find nobody meanwhile.
func (t *trip) pass(at time.Time) {
	defer func(ways []int) { t.ways = ways }(t.ways)
	for t.g != nil && t.problem == "" {
		next := t.g.next()
		if d := next.Sub(t.clock()); d >= at.Sub(t.now) || d <= 0 {
			break
		}
		t.now = t.now.Add(next.Sub(t.clock()))
		t.turn(nil)
		t.settle("look")
		t.check()
	}
	t.now = at
}

// settle completes the tasks of one kind, or all tasks, with the best possible results.
func (t *trip) settle(kind string) {
	for range 100 {
		i := slices.IndexFunc(t.tasks, func(x task) bool { return strings.HasPrefix(x.kind, kind) })
		if i < 0 {
			return
		}
		t.complete(i)
	}
	t.found("spin: there is always another task")
}

// rest lets everything come to rest, and checks what must be so then: P9, nothing left
// behind, and a door that opens to the next right knock.
func (t *trip) rest() {
	t.choices, t.full, t.refuses = nil, nil, 0
	if t.hangs || t.drags {
		t.goesOn()
	}
	if t.g == nil {
		t.start()
	}
	t.news()
	t.upkeep()
	t.news()
	t.check()
	for _, d := range t.g.doors {
		state := d.door.Saved().State
		if d.service == nil || t.problem != "" {
			continue
		}
		if runs := t.running[d.service.svc.String()]; state == door.Open && !runs {
			t.found("P9: the door is open and its service does not run")
		}
	}
	for end := t.now.Add(6 * time.Minute); t.now.Before(end) && t.problem == ""; {
		if at := t.now.Add(t.g.next().Sub(t.clock())); at.After(end) {
			t.now = end
		} else {
			t.now = at
		}
		t.turn(nil)
		t.news()
		t.check()
	}
	if t.problem == "" {
		t.rested()
	}
}

// news brings everything that is on its way to the gateway.
func (t *trip) news() {
	if t.flushed {
		t.flushed = false
		t.turn(func(time.Time) { t.g.resync = true })
	}
	for range 100 {
		t.settle("")
		if len(t.notices) == 0 {
			return
		}
		t.deliver()
	}
	t.found("spin: there is always more news")
}

// rested checks the state after nobody has come for a long time.
func (t *trip) rested() {
	if len(t.grants)+len(t.claims) > 0 {
		t.found(fmt.Sprintf("P2: left behind are grants %v, claims %v", t.grants, t.claims))
	}
	for _, p := range t.banned { // a penalty that is over is remembered for a while, at doors that still exist
		if d := t.oracle.doors[p.Door]; d == nil || len(d.told) > 0 || p.Source == door.Any {
			t.found(fmt.Sprintf("P5: left behind is a penalty %v", p))
		}
	}
	for _, d := range t.g.doors {
		state := d.door.Saved().State
		if d.conf.Presence.Idle == 0 && state == door.Open {
			continue // it waits for an operator
		}
		if state != door.Dark || t.disk[d.name()].State != state.String() {
			t.found(fmt.Sprintf("P6: nobody comes, and door %s is %v, on disk %s", d.name(), state, t.disk[d.name()].State))
		}
		if d.service != nil && t.running[d.service.svc.String()] {
			t.found("P9: the door is dark and its service runs")
		}
	}
	a := t.scene.sources[0]
	for _, d := range t.oracle.doors {
		for _, p := range d.knock().Touch {
			t.touch(a, p)
		}
		if j := d.knock().Judge; j > 0 {
			t.pass(t.now.Add(2 * j))
			t.turn(nil)
		}
		t.news()
		t.check()
		if _, in := t.lets(d.conf.Name, a); !in {
			t.found(fmt.Sprintf("P4: a right knock does not open door %s", d.conf.Name))
		}
		if s := d.conf.Service; s != nil && !t.running[s.Unit] {
			t.found("P9: a right knock does not start the service")
		}
	}
}
