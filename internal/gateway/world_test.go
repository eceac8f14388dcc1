package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/presence"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/store"
)

// machine is a small machine that outlives the gateways that run on it: a kernel, a disk,
// services and listeners, as far as a gateway can see them. What the kernel was sent is
// there; what was committed is on disk. It does everything at once, unless a test says
// otherwise. The explorer has a model instead.
type machine struct {
	mu sync.Mutex // guards what follows
	hooks
	tally

	table     bool // the fence's table is there
	doors     []fence.Door
	grants    map[grantKey]time.Time // their ends
	used      map[grantKey]time.Time // when a completed connection last used them
	unknown   error                  // why it is not known what was used
	sessions  []presence.Connection
	logins    []presence.Login // that the next look reads
	changed   chan struct{}
	broken    error         // why the fence cannot be changed
	unwatched error         // why it cannot be watched
	owned     bool          // nobody else can change it
	refuses   int           // how many changes of the fence fail
	fullDoor  string        // a door that is full
	halting   int           // how many changes of doors halt half-way
	halfway   bool          // the last one did
	doubtful  bool          // the latest change of grants was refused
	stall     time.Duration // how long a change of grants waits
	answer    chan bool     // not nil: the kernel says what it has when this is closed
	silent    error         // why the kernel does not say what it has

	disk     map[string]store.Door
	banned   map[store.PenaltyKey]store.Penalty
	claims   map[store.GrantKey]store.Grant
	marks    map[markKey][]byte
	applied  store.Applied
	trail    []audit.Record
	full     error // why nothing can be saved
	closed   error // why the store cannot be opened
	lost     error // why the store cannot be read
	rebooted bool  // since the last commit

	listening []uint16
	streams   []uint16 // whose connections are handed over
	held      []uint16 // ports, listened on or not
	taken     []uint16
	lacks     []uint16 // ports that were taken when the listener wanted them
	behind    bool     // the listener cannot accept
	openers   map[knock.Place]knock.Opener
	answers   []string // to datagrams
	dead      []uint16 // UDP ports whose sockets have died
	running   map[string]bool
	died      map[string]bool // those of the others that nobody stopped
	stubborn  error           // why services do not start
	slow      chan struct{}   // not nil: a start takes until this is closed, or its context ends
	slowStop  chan struct{}   // the same of a stop
	watchers  []func(service.Status)
	seen      door.Seen
	noFlows   error // why flows cannot be seen

	confine     func(*config.Config) error // Options.Confine
	silentPorts []string                   // where nothing listens
	unreadable  error                      // why the trail cannot be read
}

// hooks are called while a machine does things.
type hooks struct {
	clock  func() time.Time
	effect func()                          // before anything that outlives the daemon
	raises func(error)                     // before the doors of the fence change, or with why they do not
	gives  func(k grantKey, end time.Time) // before the kernel has a grant
}

// tally is what tests want to know about what was done.
type tally struct {
	ended        []fence.Grant // whose flows were ended
	asked        []fence.Grant // when they end
	reads        int           // times that all grants were read
	listed       []string      // doors whose grants were read last
	largest      int           // the most grants given and revoked by one change
	emptied      int           // times that a door was emptied
	told         int           // the most records, and ends of claims, of one commit
	opened       int           // times the store was opened
	guardedFirst bool          // the table stood when the store was opened
	measured     int           // times that connections were counted
	starts       int           // of services
	cut          []string      // whose connections were ended
	sets         int           // times that the listener was told where to listen
}

func newMachine() *machine {
	return &machine{
		hooks:   hooks{time.Now, func() {}, func(error) {}, func(grantKey, time.Time) {}},
		grants:  make(map[grantKey]time.Time),
		used:    make(map[grantKey]time.Time),
		changed: make(chan struct{}, 1),
		disk:    make(map[string]store.Door),
		banned:  make(map[store.PenaltyKey]store.Penalty),
		claims:  make(map[store.GrantKey]store.Grant),
		marks:   make(map[markKey][]byte),
		running: make(map[string]bool),
		died:    make(map[string]bool),
	}
}

// do runs f with the machine to itself.
func (m *machine) do(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *machine) world() World {
	return World{
		Fence: (*kernel)(m), Touches: (*tcpListener)(m), Datagrams: (*udpListener)(m), Now: m.clock,
		Open: func() (Store, error) {
			m.effect()
			m.mu.Lock()
			defer m.mu.Unlock()
			m.opened++
			m.guardedFirst = m.table
			return (*disk)(m), m.closed
		},
		Service: func(c config.Door) Service { return &unit{m, c.Service.Unit} },
		Look: func(c config.Door) func(context.Context) Observation {
			return func(context.Context) Observation {
				m.mu.Lock()
				defer m.mu.Unlock()
				s := Observation{Seen: m.seen, Asked: m.clock(), In: m.in(c.Ports), Logins: m.logins}
				m.logins = nil
				return s
			}
		},
		Connections: func(ports [][]port.Range) (all [][]presence.Connection, err error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.measured++
			for _, of := range ports {
				all = append(all, m.in(of))
			}
			return all, nil
		},
		Cut: func(ends []presence.Connection) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, c := range ends {
				m.cut = append(m.cut, c.Remote.String())
			}
			return nil
		},
		FlowsVisible: func() error {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.noFlows
		},
		Listening: func(r port.Range) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return !slices.Contains(m.silentPorts, r.String())
		},
		Own:       func(a netip.Addr) (bool, error) { return a.IsLoopback() || a == netip.MustParseAddr("192.0.2.1"), nil },
		Config:    config.Load,
		Text:      config.Read,
		KnockFile: readKnockFile, Stamp: stampOf,
	}
}

// in returns who is in at ports. Its caller has the machine to itself.
func (m *machine) in(ports []port.Range) (in []presence.Connection) {
	for _, c := range m.sessions {
		if port.Within(ports, port.Port{Proto: c.Proto, Number: c.Local.Port()}) {
			in = append(in, c)
		}
	}
	return in
}

type kernel machine

// takes returns why the kernel refuses changes, nil if it does not.
func (k *kernel) takes() error {
	switch {
	case k.broken != nil:
		return k.broken
	case k.refuses > 0:
		k.refuses--
		return errors.New("no buffer space available")
	}
	return nil
}

func (k *kernel) Guard(doors []fence.Door) error {
	k.effect()
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.takes()
	if k.raises(err); err != nil {
		return err
	}
	guards := func(name string) bool {
		return slices.ContainsFunc(doors, func(d fence.Door) bool { return d.Name == name })
	}
	maps.DeleteFunc(k.grants, func(key grantKey, _ time.Time) bool { return !guards(key.door) })
	if k.halfway = k.halting > 0; k.halfway {
		k.halting--
		return errors.New("no buffer space available")
	}
	k.table, k.doors = true, doors
	return nil
}

// guards returns a door as the kernel guards it, or false. The caller has the
// machine to itself.
func (m *machine) guards(name string) (fence.Door, bool) {
	for _, d := range m.doors {
		if d.Name == name {
			return d, true
		}
	}
	return fence.Door{}, false
}

func (k *kernel) Cut([]fence.Ends) error { return nil } // machine.cut is instead of it

func (k *kernel) EndFlows(ends []fence.Grant) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = append(k.ended, ends...)
	return nil
}

func (k *kernel) Stands() (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.table, nil
}

func (k *kernel) Change(c fence.Changes) error {
	k.mu.Lock()
	stall := k.stall
	k.mu.Unlock()
	time.Sleep(stall)
	k.effect()
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.takes()
	if err == nil && !k.table {
		err = errors.New("no such table")
	}
	if err == nil && slices.ContainsFunc(c.Give, func(g fence.Grant) bool { return g.Door == k.fullDoor }) {
		err = errors.New("no more than 65,535 unspent grants")
	}
	if k.doubtful = err != nil; err != nil {
		return err
	}
	for _, g := range slices.Concat(c.Give, c.Revoke) {
		if !slices.ContainsFunc(k.doors, func(d fence.Door) bool { return d.Name == g.Door }) {
			return fmt.Errorf("door %q is not guarded", g.Door)
		}
	}
	k.largest, k.emptied = max(k.largest, len(c.Give)+len(c.Revoke)), k.emptied+len(c.Empty)
	if err := k.knows(&c); err != nil {
		return err
	}
	maps.DeleteFunc(k.grants, func(key grantKey, _ time.Time) bool { return slices.Contains(c.Empty, key.door) })
	for _, g := range c.Revoke {
		delete(k.grants, grantKey{g.Door, g.Source})
	}
	for _, g := range c.Give {
		k.give(grantKey{g.Door, g.Source}, g.Until)
	}
	return nil
}

// knows returns an error unless the doors of a change are guarded.
func (k *kernel) knows(c *fence.Changes) error {
	names := slices.Clone(c.Empty)
	for _, g := range c.Give {
		names = append(names, g.Door)
	}
	for _, name := range names {
		if _, ok := (*machine)(k).guards(name); !ok {
			return fmt.Errorf("door %q is not guarded", name)
		}
	}
	return nil
}

// give makes a grant end at a time, to the millisecond.
func (k *kernel) give(key grantKey, until time.Time) {
	now := k.clock()
	left := until.Sub(now).Truncate(time.Millisecond)
	if left <= 0 {
		delete(k.grants, key)
		return
	}
	k.gives(key, now.Add(left))
	k.grants[key] = now.Add(left)
}

// expire removes grants that have ended, as the kernel does by itself, daemon or not. The
// caller has the machine to itself.
func (m *machine) expire() {
	now := m.clock()
	maps.DeleteFunc(m.grants, func(_ grantKey, end time.Time) bool { return !now.Before(end) })
}

func (k *kernel) Grants(doors []string) iter.Seq2[fence.Grant, error] {
	return func(yield func(fence.Grant, error) bool) {
		k.mu.Lock()
		(*machine)(k).expire()
		k.reads++
		k.listed = doors
		grants, silent := maps.Clone(k.grants), k.silent
		k.mu.Unlock()
		if silent != nil {
			yield(fence.Grant{}, silent)
			return
		}
		for key, until := range grants {
			if slices.Contains(doors, key.door) && !yield(fence.Grant{Door: key.door, Source: key.source, Until: until}, nil) {
				return
			}
		}
	}
}

func (k *kernel) Ends(grants []fence.Grant) ([]time.Time, error) {
	k.mu.Lock()
	(*machine)(k).expire()
	ends := make([]time.Time, len(grants))
	for i, f := range grants {
		ends[i] = k.grants[grantKey{f.Door, f.Source}]
	}
	k.asked = append(k.asked, grants...)
	answer, silent := k.answer, k.silent
	k.mu.Unlock()
	if answer != nil {
		<-answer
	}
	return ends, silent
}

func (k *kernel) Check() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.table {
		return errors.New("the table is gone")
	}
	if k.halfway {
		return errors.New("a change of doors came to a halt")
	}
	return nil
}

func (k *kernel) Refused() (map[string]uint64, error) { return nil, nil }
func (k *kernel) Owned() bool                         { return k.owned }

func (k *kernel) Watch(context.Context) (<-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed, k.unwatched
}

func (k *kernel) Used(name string, source netip.Addr) (time.Duration, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, ok := k.used[grantKey{name, door.Source(source)}]
	return k.clock().Sub(at), ok, k.unknown
}

// flush does what "nft flush ruleset" does.
func (m *machine) flush() {
	m.do(func() { m.table = false; clear(m.grants) })
	m.changed <- struct{}{}
}

// unit is a service that starts and stops at once, or not at all.
type unit struct {
	m    *machine
	name string
}

func (u *unit) String() string { return u.name }

func (u *unit) Start(ctx context.Context) error {
	if u.m.slow != nil {
		select {
		case <-u.m.slow:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	if u.m.stubborn != nil {
		return u.m.stubborn
	}
	u.m.starts++
	u.m.set(u.name, service.Status{State: service.Running})
	return nil
}

func (u *unit) Stop(ctx context.Context) error {
	if u.m.slowStop != nil {
		select {
		case <-u.m.slowStop:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	u.m.set(u.name, service.Status{State: service.Stopped})
	return nil
}

func (u *unit) Status(context.Context) (service.Status, error) {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	switch {
	case u.m.running[u.name]:
		return service.Status{State: service.Running}, nil
	case u.m.died[u.name]:
		return died9, nil
	}
	return service.Status{State: service.Stopped}, nil
}

func (u *unit) Watch(ctx context.Context, report func(service.Status)) error {
	s, err := u.Status(ctx)
	if err != nil {
		return err
	}
	report(s)
	u.m.do(func() { u.m.watchers = append(u.m.watchers, report) })
	<-ctx.Done()
	return nil
}

// died9 is a service that was killed.
var died9 = service.Status{State: service.Failed, Detail: "signal 9"}

// becomes changes a service, and notifies those who watch it.
func (m *machine) becomes(name string, s service.Status) {
	m.do(func() { m.set(name, s) })
	m.tell(s)
}

// set changes a service. The caller has the machine to itself.
func (m *machine) set(name string, s service.Status) {
	m.running[name], m.died[name] = s.State == service.Running, s.State == service.Failed
}

// tell notifies those who watch the service.
func (m *machine) tell(s service.Status) {
	var watchers []func(service.Status)
	m.do(func() { watchers = m.watchers })
	for _, report := range watchers {
		report(s)
	}
}
