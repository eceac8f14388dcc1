package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/listen"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/store"
)

// model is the machine that the explorer has gateways run on: kernel, disk,
// services, ears and clock, as small as the promise needs them. What the kernel
// was sent is there; what a commit returned from is on disk. Every call that
// changes something is a point at which the machine can have the daemon die.
type model struct {
	now  time.Time     // true time, and the monotonic clock
	wall time.Duration // how far the wall clock is off
	base time.Time

	table  bool
	single map[string]bool // the doors that the kernel guards; true: one connection spends a grant
	always map[string][]netip.Prefix
	grants map[lease]time.Time // their ends
	used   map[lease]time.Time // when a connection last used them
	since  map[lease]time.Time // when this daemon gave them first

	boot      int
	diskBoot  int
	doors     map[string]store.Door
	penalties map[store.PenaltyKey]store.Penalty
	claims    map[store.GrantKey]store.Grant
	applied   store.Applied
	trail     []audit.Record
	marks     map[string]bool
	full      bool
	hangs     bool         // commits do not end
	slow      bool         // what is done at the fence takes its time
	failed    int          // so many times the fence was not raised
	doubtful  bool         // the latest change of the fence was refused
	commit    func() event // under way
	refuses   int          // so many changes of the fence fail

	files     map[string]file // the configuration files that there can be
	file      string          // the one that there is
	running   map[string]bool
	dead      map[string]bool // those of the others that nobody stopped
	listening []uint16
	watchers  []*watcher
	tasks     []task
	notices   []notice
	early     bool // the notices come before the task that they are about ends

	points, crashAt int   // effects so far in this step; the one before which it dies
	asked, choices  []int // how many answers there were to each question; those to give
	given           func(l lease, end time.Time)
	seen            func(door string, somebody bool)
	stuck           func() // a service does not stop
	opened          func(guarded bool)
	raised          func() // the fence changes; nil for nothing
}

// lease is one element of the kernel's sets.
type lease struct {
	door   string
	source netip.Prefix
}

type file struct {
	text   []byte
	config *config.Config
	err    error
}

// watcher is a service that a gateway watches.
type watcher struct {
	m      *model
	unit   string
	watch  chan func(service.Status)
	report func(service.Status)
	ctx    context.Context
}

// task is what a gateway has running beside its turns.
type task struct {
	kind string
	run  func() event
}

// notice is news of a service that the gateway has not heard yet.
type notice struct {
	to     *watcher
	status service.Status
}

// died is the panic with which the daemon ends at a point.
type died struct{}

func newModel(files map[string]file) *model {
	base := time.Now()
	return &model{
		now: base, base: base, files: files, diskBoot: -1,
		single: map[string]bool{}, always: map[string][]netip.Prefix{}, grants: map[lease]time.Time{}, used: map[lease]time.Time{}, since: map[lease]time.Time{},
		doors: map[string]store.Door{}, penalties: map[store.PenaltyKey]store.Penalty{},
		claims: map[store.GrantKey]store.Grant{}, marks: map[string]bool{}, running: map[string]bool{}, dead: map[string]bool{},
	}
}

// rawTime is time.Time as package time has it. There is no other way to a time
// whose wall clock stepped while its monotonic clock went on, which time.Now
// returns on a real machine; TestTheModelsClock holds it to that.
type rawTime struct {
	wall uint64
	ext  int64
	loc  *time.Location
}

// clock is what time.Now would return.
func (m *model) clock() time.Time {
	t := m.now
	const year1885 = -2682374400 // where the seconds of a time with a monotonic reading begin
	w := t.Round(0).Add(m.wall)
	(*rawTime)(unsafe.Pointer(&t)).wall = 1<<63 | uint64(w.Unix()-year1885)<<30 | uint64(w.Nanosecond())
	return t
}

// point is where the daemon may die: before an effect.
func (m *model) point() {
	m.points++
	if m.points == m.crashAt {
		panic(died{})
	}
}

// choose answers a question that has n answers.
func (m *model) choose(n int) int {
	i := len(m.asked)
	m.asked = append(m.asked, n)
	if i < len(m.choices) {
		return m.choices[i]
	}
	return 0
}

func (m *model) world() World {
	return World{
		Fence: (*modelKernel)(m), Ear: (*modelEar)(m), Datagrams: &noDatagrams{}, Now: m.clock,
		Open: m.open,
		Service: func(c config.Door) Service {
			w := &watcher{m: m, unit: c.Service.Unit, watch: make(chan func(service.Status), 1)}
			m.watchers = append(m.watchers, w)
			return w
		},
		Look: func(c config.Door) func(context.Context) (door.Seen, []string) {
			return func(context.Context) (door.Seen, []string) { return m.look(c), nil }
		},
		Connections: func(ports [][]port.Range) ([]int, error) { return make([]int, len(ports)), nil },
		Listening:   func(port.Range) bool { return true },
		Config: func(name string) (*config.Config, []byte, error) {
			f := m.files[name]
			return f.config, f.text, f.err
		},
	}
}

// look finds nobody, a connection, a login of this moment, or no log data.
func (m *model) look(c config.Door) door.Seen {
	answers := 2
	if c.Presence.Logins != config.LoginsOff {
		answers = 4
	}
	var seen door.Seen
	switch m.choose(answers) {
	case 1:
		seen.Connections = 1
	case 2:
		seen.Login = m.clock().Round(0)
	case 3:
		seen.NoData = "no log data"
	}
	m.seen(c.Name, seen.Connections > 0 || !seen.Login.IsZero())
	return seen
}

type modelKernel model

func (k *modelKernel) Guard(doors []fence.Door) error {
	(*model)(k).point()
	if k.refuses > 0 {
		k.refuses--
		k.failed++
		return errors.New("no buffer space available")
	}
	if k.raised != nil {
		k.raised()
	}
	k.table = true
	clear(k.single)
	for _, d := range doors {
		k.single[d.Name], k.always[d.Name] = d.SingleUse, d.Always
	}
	maps.DeleteFunc(k.grants, func(l lease, _ time.Time) bool { _, ok := k.single[l.door]; return !ok })
	return nil
}

func (k *modelKernel) EndFlows([]fence.Grant) error { return nil }

func (k *modelKernel) Stands() (bool, error) { return k.table, nil }

func (k *modelKernel) Change(c fence.Changes) error {
	m := (*model)(k)
	m.point()
	if !m.table || m.refuses > 0 {
		m.refuses, m.doubtful = max(0, m.refuses-1), true
		return errors.New("no such table")
	}
	m.doubtful = false
	for _, name := range c.Empty {
		if _, ok := m.single[name]; !ok {
			return fmt.Errorf("door %q is not guarded", name)
		}
		maps.DeleteFunc(m.grants, func(l lease, _ time.Time) bool { return l.door == name })
	}
	for _, g := range c.Revoke {
		delete(m.grants, lease{g.Door, g.Source})
	}
	for _, g := range c.Give {
		l := lease{g.Door, g.Source}
		if _, ok := m.single[g.Door]; !ok {
			return fmt.Errorf("door %q is not guarded", g.Door)
		}
		left := g.Until.Sub(m.now).Truncate(time.Millisecond)
		if left <= 0 {
			delete(m.grants, l)
			continue
		}
		if end, ok := m.grants[l]; !ok || !m.now.Before(end) {
			m.since[l] = m.now
		}
		m.grants[l] = m.now.Add(left)
		m.given(l, m.grants[l])
	}
	return nil
}

func (k *modelKernel) Grants() iter.Seq2[fence.Grant, error] {
	(*model)(k).expire()
	grants := maps.Clone(k.grants)
	return func(yield func(fence.Grant, error) bool) {
		for l, end := range grants {
			if !yield(fence.Grant{Door: l.door, Source: l.source, Until: end}, nil) {
				return
			}
		}
	}
}

func (k *modelKernel) Ends(grants []fence.Grant) (ends []time.Time, err error) {
	(*model)(k).expire()
	for _, f := range grants {
		ends = append(ends, k.grants[lease{f.Door, f.Source}])
	}
	return ends, nil
}

func (k *modelKernel) Check() error {
	if !k.table {
		return errors.New("the table is gone")
	}
	return nil
}

func (k *modelKernel) Watch(context.Context) (<-chan struct{}, error) { return nil, nil }
func (k *modelKernel) Refused() (map[string]uint64, error)            { return nil, nil }
func (k *modelKernel) Owned() bool                                    { return false }

func (k *modelKernel) Used(name string, source netip.Addr) (time.Duration, bool, error) {
	at, ok := k.used[lease{name, door.Source(source)}]
	return k.now.Sub(at), ok, nil
}

// expire is what the kernel does by itself, daemon or not.
func (m *model) expire() {
	maps.DeleteFunc(m.grants, func(_ lease, end time.Time) bool { return !m.now.Before(end) })
}

// lets says whether a new connection from a gets to a door, and until when by
// its longest grant.
func (m *model) lets(name string, a netip.Addr) (end time.Time, ok bool) {
	if _, guarded := m.single[name]; !m.table || !guarded {
		return end, true
	}
	if slices.ContainsFunc(m.always[name], func(p netip.Prefix) bool { return p.Contains(a) }) {
		return end, true
	}
	for l, e := range m.grants {
		if l.door == name && l.source.Contains(a) && m.now.Before(e) && e.After(end) {
			end, ok = e, true
		}
	}
	return end, ok
}

type modelDisk model

// open opens the store, which can take any time: by then the doors are guarded,
// if the file can be used.
func (m *model) open() (Store, error) {
	m.point()
	m.opened(m.table || m.files[m.file].err != nil)
	return (*modelDisk)(m), nil
}

func (d *modelDisk) Load() (store.State, error) {
	return store.State{
		Rebooted:  d.boot != d.diskBoot,
		Applied:   d.applied,
		Doors:     sorted(d.doors, func(x store.Door) string { return x.Name }),
		Penalties: sorted(d.penalties, func(x store.Penalty) string { return x.Door + x.Source.String() }),
		Grants:    slices.Values(sorted(d.claims, func(x store.Grant) string { return x.Door + x.Source.String() + x.By })),
	}, nil
}

func sorted[K comparable, V any](m map[K]V, key func(V) string) []V {
	return slices.SortedFunc(maps.Values(m), func(a, b V) int { return cmp.Compare(key(a), key(b)) })
}

func (d *modelDisk) Commit(c store.Change) ([]audit.Record, error) {
	(*model)(d).point()
	if d.full {
		return nil, errors.New("no space left on device")
	}
	d.diskBoot = d.boot
	maps.DeleteFunc(d.claims, func(k store.GrantKey, _ store.Grant) bool { return slices.Contains(c.ClearGrants, k.Door) })
	maps.DeleteFunc(d.penalties, func(k store.PenaltyKey, _ store.Penalty) bool { return slices.Contains(c.ClearPenalties, k.Door) })
	for _, name := range c.EndDoors {
		delete(d.doors, name)
	}
	for _, k := range c.EndPenalties {
		delete(d.penalties, k)
	}
	for _, k := range c.EndGrants {
		delete(d.claims, k)
	}
	for _, x := range c.Doors {
		x.Since, x.Opened, x.LastSeen = x.Since.Round(0), x.Opened.Round(0), x.LastSeen.Round(0)
		d.doors[x.Name] = x
	}
	for _, p := range c.Penalties {
		p.Until = p.Until.Round(0)
		d.penalties[store.PenaltyKey{Door: p.Door, Knock: p.Knock, Source: p.Source}] = p
	}
	for _, g := range c.Grants {
		g.Until = g.Until.Round(0)
		d.claims[store.GrantKey{Door: g.Door, Source: g.Source, By: g.By}] = g
	}
	for _, mark := range c.Marks {
		d.marks[mark.Key] = true
	}
	if c.Applied != nil {
		d.applied = *c.Applied
		d.applied.Deadline = d.applied.Deadline.Round(0)
	}
	d.trail = append(d.trail, c.Records...)
	return c.Records, nil
}

func (d *modelDisk) Records(string, string, uint64, int) ([]audit.Record, error) { return d.trail, nil }
func (d *modelDisk) SetAside() string                                            { return "" }

// fileOf finds the file with a text.
func (m *model) fileOf(text []byte) string {
	for name, f := range m.files {
		if string(f.text) == string(text) {
			return name
		}
	}
	return ""
}

type modelEar model

func (e *modelEar) Set(ports listen.Ports) error {
	(*model)(e).point()
	e.listening = ports.Open
	return nil
}

func (e *modelEar) Check() []uint16 { return nil }
func (e *modelEar) Behind() bool    { return false }
func (e *modelEar) Close() error    { return nil }

func (w *watcher) String() string { return w.unit }

// Start does it, fails, takes too long and does it all the same, does it for a
// moment only, or somebody else orders it to stop meanwhile.
func (w *watcher) Start(context.Context) error {
	w.m.point()
	how := w.m.choose(5)
	if how == 4 {
		return fmt.Errorf("its start was %w", service.ErrOvertaken)
	}
	if how != 1 {
		w.m.becomes(w.unit, service.Status{State: service.Running})
	}
	if how == 3 {
		w.m.becomes(w.unit, died9)
		w.m.early = true
	}
	if how == 1 || how == 2 {
		return errors.New("exit status 1")
	}
	return nil
}

// Stop does it, fails, or does it and somebody else starts the service again.
func (w *watcher) Stop(context.Context) error {
	w.m.point()
	how := w.m.choose(3)
	if how == 1 {
		w.m.stuck()
		return errors.New("exit status 1")
	}
	w.m.becomes(w.unit, service.Status{State: service.Stopped})
	if how == 2 {
		w.m.becomes(w.unit, service.Status{State: service.Running})
		w.m.early = true
	}
	return nil
}

func (w *watcher) Status(context.Context) (service.Status, error) {
	switch {
	case w.m.running[w.unit]:
		return service.Status{State: service.Running}, nil
	case w.m.dead[w.unit]:
		return died9, nil
	}
	return service.Status{State: service.Stopped}, nil
}

// Watch hands its report over. It is called in a goroutine of its own, so the
// explorer waits for it after each turn.
func (w *watcher) Watch(ctx context.Context, report func(service.Status)) error {
	w.ctx = ctx
	w.watch <- report
	<-ctx.Done()
	return nil
}

// died9 is a service that was killed.
var died9 = service.Status{State: service.Failed, Detail: "signal 9"}

// becomes changes a service, and has those who watch it told in their time.
func (m *model) becomes(unit string, s service.Status) {
	if m.running[unit] == (s.State == service.Running) {
		return
	}
	m.running[unit], m.dead[unit] = s.State == service.Running, s.State == service.Failed
	for _, w := range m.watchers {
		if w.unit == unit && w.report != nil {
			m.notices = append(m.notices, notice{w, s})
		}
	}
}

// meet waits for the services that the gateway has begun to watch, and forgets
// those that it watches no longer.
func (m *model) meet() {
	for _, w := range m.watchers {
		if w.report == nil {
			w.report = <-w.watch
			s, _ := w.Status(w.ctx)
			m.notices = append(m.notices, notice{w, s})
		}
	}
	gone := func(w *watcher) bool { return w.ctx.Err() != nil }
	m.notices = slices.DeleteFunc(m.notices, func(n notice) bool { return gone(n.to) })
	m.watchers = slices.DeleteFunc(m.watchers, gone)
}
