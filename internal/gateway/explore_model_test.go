package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/service"
)

// model is the machine on which the explorer runs gateways. It has a clock of its own,
// gives every answer that is possible, and lets one thing happen at a time. At every call
// that changes something, it can have the daemon die.
type model struct {
	*machine
	now  time.Time     // true time, and the monotonic clock
	wall time.Duration // how far the wall clock is off
	base time.Time

	since  map[grantKey]time.Time // when this daemon gave grants first
	hangs  bool                   // commits do not end
	drags  bool                   // the fence is slow
	commit func() event           // the commit in progress

	files   map[string]file // the configuration files that there can be
	file    string          // the one that there is now
	watched []*watcher
	tasks   []task
	notices []notice
	early   bool // notices come before the end of the task that they are about

	members   string // what the club's list has
	overheard saying // what was said last, while the same daemon runs

	points, crashAt int   // effects so far in this step; the one before which the daemon dies
	ways, choices   []int // how many answers each question had; the answers to give
	looked          func(door string, somebody bool)
	stuck           func() // a service does not stop
}

type file struct {
	text   []byte
	config *config.Config
	err    error
}

// watcher is a service that a gateway watches.
type watcher struct {
	unit
	m      *model
	watch  chan func(service.Status)
	report func(service.Status)
	ctx    context.Context
}

// task is something that a gateway runs beside its turns.
type task struct {
	kind string
	run  func() event
	read string // the list of members that it has read
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
	m := &model{machine: newMachine(), now: base, base: base, files: files, since: map[grantKey]time.Time{}}
	m.machine.clock, m.effect, m.rebooted = m.clock, m.point, true
	return m
}

// rawTime has the fields of time.Time. There is no other way to make a time whose wall
// clock stepped while its monotonic clock went on, as time.Now returns it on a real
// machine. TestTheModelsClock checks that it works.
type rawTime struct {
	wall uint64
	ext  int64
	loc  *time.Location
}

// clock returns what time.Now would.
func (m *model) clock() time.Time {
	t := m.now
	const year1885 = -2682288000 // where the seconds of a time with a monotonic reading begin
	w := t.Round(0).Add(m.wall)
	(*rawTime)(unsafe.Pointer(&t)).wall = 1<<63 | uint64(w.Unix()-year1885)<<30 | uint64(w.Nanosecond())
	return t
}

// point is called before each effect: there the daemon may die.
func (m *model) point() {
	m.points++
	if m.points == m.crashAt {
		panic(died{})
	}
}

// choose returns one of n answers to a question.
func (m *model) choose(n int) int {
	i := len(m.ways)
	m.ways = append(m.ways, n)
	if i < len(m.choices) {
		return m.choices[i]
	}
	return 0
}

func (m *model) world() World {
	w := m.machine.world()
	w.Service = func(c config.Door) Service {
		x := &watcher{unit: unit{m.machine, c.Service.Unit}, m: m, watch: make(chan func(service.Status), 1)}
		m.watched = append(m.watched, x)
		return x
	}
	w.Look = func(c config.Door) func(context.Context) Observation {
		return func(context.Context) Observation { return Observation{Seen: m.look(c)} }
	}
	w.Config = func(name string) (*config.Config, []byte, error) {
		f := m.files[name]
		return f.config, f.text, f.err
	}
	w.KnockFile = func(knock.File) ([]byte, error) { return []byte(m.members), nil }
	w.Stamp = func(string) string { return m.members }
	return w
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
	m.looked(c.Name, seen.Connections > 0 || !seen.Login.IsZero())
	return seen
}

// lets reports whether a new connection from a gets in at a door, and until when its
// longest grant lasts.
func (m *model) lets(name string, a netip.Addr) (end time.Time, ok bool) {
	d, guarded := m.guards(name)
	if !m.table || !guarded || slices.ContainsFunc(d.Always, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return end, true
	}
	for l, e := range m.grants {
		if l.door == name && l.source.Contains(a) && m.now.Before(e) && e.After(end) {
			end, ok = e, true
		}
	}
	return end, ok
}

// marked reports whether the mark of a knock is on disk.
func (m *model) marked(key string) bool {
	_, ofDoor := m.marks[markKey{"ssh", "sealed", key}]
	_, ofClub := m.marks[markKey{"", "club", key}]
	return ofDoor || ofClub
}

// fileOf returns the name of the file with a text.
func (m *model) fileOf(text []byte) string {
	for name, f := range m.files {
		if string(f.text) == string(text) {
			return name
		}
	}
	return ""
}

// Start starts the service, or fails, or takes too long and starts it all the same, or
// starts it for a moment only, or somebody else orders it to stop meanwhile.
func (w *watcher) Start(context.Context) error {
	w.m.point()
	how := w.m.choose(5)
	if how == 4 {
		return fmt.Errorf("its start was %w", service.ErrOvertaken)
	}
	if how != 1 {
		w.m.becomes(w.name, service.Status{State: service.Running})
	}
	if how == 3 {
		w.m.becomes(w.name, died9)
		w.m.early = true
	}
	if how == 1 || how == 2 {
		return errors.New("exit status 1")
	}
	return nil
}

// Stop stops the service, or fails, or somebody else starts the service again afterwards.
func (w *watcher) Stop(context.Context) error {
	w.m.point()
	how := w.m.choose(3)
	if how == 1 {
		w.m.stuck()
		return errors.New("exit status 1")
	}
	w.m.becomes(w.name, service.Status{State: service.Stopped})
	if how == 2 {
		w.m.becomes(w.name, service.Status{State: service.Running})
		w.m.early = true
	}
	return nil
}

// Watch hands over its report function. It is called in a goroutine of its own, so the
// explorer waits for it after each turn.
func (w *watcher) Watch(ctx context.Context, report func(service.Status)) error {
	w.ctx = ctx
	w.watch <- report
	<-ctx.Done()
	return nil
}

// becomes changes a service, and queues a notice for those who watch it.
func (m *model) becomes(name string, s service.Status) {
	if m.running[name] == (s.State == service.Running) {
		return
	}
	m.set(name, s)
	for _, w := range m.watched {
		if w.name == name && w.report != nil {
			m.notices = append(m.notices, notice{w, s})
		}
	}
}

// meet waits for the services that the gateway has begun to watch, and forgets
// those that it watches no longer.
func (m *model) meet() {
	for _, w := range m.watched {
		if w.report == nil {
			w.report = <-w.watch
			s, _ := w.Status(w.ctx)
			m.notices = append(m.notices, notice{w, s})
		}
	}
	gone := func(w *watcher) bool { return w.ctx.Err() != nil }
	m.notices = slices.DeleteFunc(m.notices, func(n notice) bool { return gone(n.to) })
	m.watched = slices.DeleteFunc(m.watched, gone)
}
