package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/datagrams"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/listen"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/store"
)

// machine is a small machine that outlives the gateways that run on it: a
// kernel, a disk and services, as far as a gateway can tell.
type machine struct {
	mu        sync.Mutex
	table     bool // the fence's table is there
	doors     []fence.Door
	grants    map[grantKey]time.Time
	used      map[grantKey]time.Time // when a completed connection last used them
	unknown   error                  // nobody can tell what was used
	sessions  int
	ended     []fence.Grant // whose flows were ended
	changed   chan struct{}
	broken    error         // the fence cannot be changed
	unwatched error         // it cannot be watched
	refuses   int           // so many changes of grants fail
	stall     time.Duration // a change of grants waits for so long
	answer    chan bool     // not nil: what there is is told when this is closed
	asked     []fence.Grant // when they end
	silent    error         // nobody can tell what is in the kernel
	reads     int           // times that all grants were read
	largest   int           // grants given and revoked by one change, at the most
	emptied   int           // times that a door was emptied
	told      int           // records, and ends of claims, of one commit, at the most

	disk    map[string]store.Door
	banned  map[store.PenaltyKey]store.Penalty
	claims  map[store.GrantKey]store.Grant
	marks   map[markKey][]byte
	applied store.Applied
	trail   []audit.Record
	full    error // the disk takes nothing
	closed  error // the store cannot be opened
	lost    error // the store cannot be read
	opened  int   // times the store was opened
	// measured counts the times that connections were counted.
	measured int
	// guardedFirst says that the table stood when the store was opened.
	guardedFirst bool
	rebooted     bool

	listening []uint16
	held      []uint16 // listened on or not
	taken     []uint16
	behind    bool // the ear cannot accept
	openers   map[uint16]knock.Opener
	answers   []string // to datagrams
	dead      []uint16 // UDP ports whose sockets have died
	running   map[string]bool
	died      map[string]bool // those of the others that nobody stopped
	stubborn  error           // services do not start
	slow      chan struct{}   // not nil: a start takes until this is closed, or its context ends
	watchers  []func(service.Status)
	starts    int
	seen      door.Seen
	noFlows   error // flows cannot be seen
}

func newMachine() *machine {
	return &machine{
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
		Fence: (*kernel)(m), Ear: (*ears)(m), Datagrams: (*mailbox)(m), Now: time.Now,
		Open: func() (Store, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.opened++
			m.guardedFirst = m.table
			return (*disk)(m), m.closed
		},
		Service: func(c config.Door) Service { return &unit{m, c.Service.Unit} },
		Look: func(config.Door) func(context.Context) (door.Seen, []string) {
			return func(context.Context) (door.Seen, []string) {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.seen, nil
			}
		},
		Connections: func(ports [][]port.Range) ([]int, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.measured++
			return slices.Repeat([]int{m.sessions}, len(ports)), nil
		},
		FlowsVisible: func() error {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.noFlows
		},
		Listening: func(port.Range) bool { return true },
		Config:    config.Load,
	}
}

type kernel machine

func (k *kernel) Guard(doors []fence.Door) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return k.broken
	}
	k.table, k.doors = true, doors
	for key := range k.grants {
		if !slices.ContainsFunc(doors, func(d fence.Door) bool { return d.Name == key.door }) {
			delete(k.grants, key)
		}
	}
	return nil
}

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
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil || !k.table {
		return errors.New("no such table")
	}
	if k.refuses > 0 {
		k.refuses--
		return errors.New("no buffer space available")
	}
	for _, g := range slices.Concat(c.Give, c.Revoke) {
		if !slices.ContainsFunc(k.doors, func(d fence.Door) bool { return d.Name == g.Door }) {
			return fmt.Errorf("door %q is not guarded", g.Door)
		}
	}
	k.largest, k.emptied = max(k.largest, len(c.Give)+len(c.Revoke)), k.emptied+len(c.Empty)
	maps.DeleteFunc(k.grants, func(key grantKey, _ time.Time) bool { return slices.Contains(c.Empty, key.door) })
	for _, g := range c.Revoke {
		delete(k.grants, grantKey{g.Door, g.Source})
	}
	for _, g := range c.Give {
		if k.grants[grantKey{g.Door, g.Source}] = g.Until; time.Until(g.Until) < time.Millisecond {
			delete(k.grants, grantKey{g.Door, g.Source})
		}
	}
	return nil
}

func (k *kernel) Grants() iter.Seq2[fence.Grant, error] {
	return func(yield func(fence.Grant, error) bool) {
		k.mu.Lock()
		k.reads++
		grants, silent := maps.Clone(k.grants), k.silent
		k.mu.Unlock()
		if silent != nil {
			yield(fence.Grant{}, silent)
			return
		}
		for key, until := range grants {
			if time.Until(until) > 0 && !yield(fence.Grant{Door: key.door, Source: key.source, Until: until}, nil) {
				return
			}
		}
	}
}

func (k *kernel) Ends(grants []fence.Grant) ([]time.Time, error) {
	k.mu.Lock()
	ends := make([]time.Time, len(grants))
	for i, f := range grants {
		if until := k.grants[grantKey{f.Door, f.Source}]; time.Until(until) > 0 {
			ends[i] = until
		}
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
	return nil
}

func (k *kernel) Refused() (map[string]uint64, error) { return nil, nil }
func (k *kernel) Owned() bool                         { return false }

func (k *kernel) Watch(context.Context) (<-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed, k.unwatched
}

func (k *kernel) Used(name string, source netip.Addr) (time.Duration, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, ok := k.used[grantKey{name, door.Source(source)}]
	return time.Since(at), ok, k.unknown
}

// flush is what `nft flush ruleset` does.
func (m *machine) flush() {
	m.do(func() { m.table = false; clear(m.grants) })
	m.changed <- struct{}{}
}

type disk machine

func (d *disk) Load() (store.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost != nil {
		return store.State{}, d.lost
	}
	var marks []store.Mark
	for k, value := range d.marks {
		marks = append(marks, store.Mark{Door: k.door, Knock: k.knock, Key: k.key, Value: value})
	}
	return store.State{
		Rebooted: d.rebooted, Applied: d.applied, Marks: marks,
		Doors:     slices.Collect(maps.Values(d.disk)),
		Penalties: slices.Collect(maps.Values(d.banned)),
		Grants:    maps.Values(maps.Clone(d.claims)),
	}, nil
}

func (d *disk) Commit(c store.Change) ([]audit.Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full != nil {
		return nil, d.full
	}
	d.told = max(d.told, len(c.Records)+len(c.EndGrants))
	maps.DeleteFunc(d.claims, func(k store.GrantKey, _ store.Grant) bool { return slices.Contains(c.ClearGrants, k.Door) })
	maps.DeleteFunc(d.banned, func(k store.PenaltyKey, _ store.Penalty) bool { return slices.Contains(c.ClearPenalties, k.Door) })
	for _, x := range c.Doors {
		d.disk[x.Name] = x
	}
	for _, name := range c.EndDoors {
		delete(d.disk, name)
		maps.DeleteFunc(d.marks, func(k markKey, _ []byte) bool { return k.door == name })
	}
	for _, of := range c.EndKnocks {
		maps.DeleteFunc(d.marks, func(k markKey, _ []byte) bool { return k.door == of.Door && k.knock == of.Knock })
	}
	for _, m := range c.Marks {
		if k := (markKey{m.Door, m.Knock, m.Key}); m.Value == nil {
			delete(d.marks, k)
		} else {
			d.marks[k] = m.Value
		}
	}
	for _, p := range c.Penalties {
		d.banned[store.PenaltyKey{Door: p.Door, Knock: p.Knock, Source: p.Source}] = p
	}
	for _, k := range c.EndPenalties {
		delete(d.banned, k)
	}
	for _, g := range c.Grants {
		d.claims[store.GrantKey{Door: g.Door, Source: g.Source, By: g.By}] = g
	}
	for _, k := range c.EndGrants {
		delete(d.claims, k)
	}
	if c.Applied != nil {
		d.applied = *c.Applied
	}
	d.trail = append(d.trail, c.Records...)
	return c.Records, nil
}

func (d *disk) Records(string, string, uint64, int) ([]audit.Record, error) { return d.trail, nil }
func (d *disk) SetAside() string                                            { return "" }

type ears machine

func (e *ears) Set(ports listen.Ports) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listening = nil
	var err error
	held := slices.Concat(ports.Open, ports.Shut, ports.Same)
	slices.Sort(held)
	e.held = slices.Compact(held)
	for _, p := range e.held {
		switch {
		case slices.Contains(e.taken, p):
			err = errors.Join(err, fmt.Errorf("%d/tcp: address already in use", p))
		case slices.Contains(ports.Open, p):
			e.listening = append(e.listening, p)
		}
	}
	return err
}

func (e *ears) Check() []uint16 { return nil }

func (e *ears) Behind() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.behind
}

func (e *ears) Close() error { return nil }

// mailbox is the ear on UDP ports: what it is to hear, and what was answered.
type mailbox machine

func (b *mailbox) Set(ports map[uint16]knock.Opener) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.openers = ports
	var err error
	for p := range ports {
		if slices.Contains(b.taken, p) {
			err = errors.Join(err, fmt.Errorf("%d/udp: address already in use", p))
		}
	}
	return err
}

func (b *mailbox) Answer(path knock.Path, payload []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers = append(b.answers, path.From.String()+" "+string(payload))
	return nil
}

func (b *mailbox) Check() []uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead
}

func (b *mailbox) Behind() bool { return false }
func (b *mailbox) Counts() datagrams.Counts {
	return datagrams.Counts{Foreign: 1, Strange: 2, Crowded: 3, Overrun: 4, Withheld: 5}
}
func (b *mailbox) Close() error { return nil }

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
	u.m.running[u.name], u.m.died[u.name] = true, false
	return nil
}

func (u *unit) Stop(context.Context) error {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	u.m.running[u.name], u.m.died[u.name] = false, false
	return nil
}

func (u *unit) Status(context.Context) (service.Status, error) {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	switch {
	case u.m.running[u.name]:
		return service.Status{State: service.Running}, nil
	case u.m.died[u.name]:
		return service.Status{State: service.Failed, Detail: "signal 9"}, nil
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

// dies has the service die by itself.
func (m *machine) dies(name string) {
	m.do(func() { m.running[name], m.died[name] = false, true })
	m.tell(service.Status{State: service.Failed, Detail: "signal 9"})
}

// halts has somebody else stop the service.
func (m *machine) halts(name string) {
	m.do(func() { m.running[name], m.died[name] = false, false })
	m.tell(service.Status{State: service.Stopped})
}

// tell has those who watch the service hear of it.
func (m *machine) tell(s service.Status) {
	var watchers []func(service.Status)
	m.do(func() { watchers = m.watchers })
	for _, report := range watchers {
		report(s)
	}
}

// running is a gateway that runs on a machine, in a synctest bubble.
type running struct {
	*Gateway
	t    *testing.T
	m    *machine
	path string
	stop func()
}

// run writes the configuration and starts a gateway. The gateway ends with
// stop, or with the test.
func run(t *testing.T, m *machine, path, text string) *running {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := restart(t, m, path)
	if r == nil {
		t.Fatal("the gateway did not start")
	}
	return r
}

// restart starts a gateway on the file as it is, and returns nil if it ends.
func restart(t *testing.T, m *machine, path string) *running {
	t.Helper()
	return restartWith(t, m, path, func(*World) {})
}

// restartWith is restart in a world that is changed a little.
func restartWith(t *testing.T, m *machine, path string, change func(*World)) *running {
	t.Helper()
	world := m.world()
	change(&world)
	ctx, cancel := context.WithCancel(t.Context())
	g := New(Options{Path: path, Version: "v1", Log: slog.New(slog.DiscardHandler)})
	ended := make(chan struct{})
	ready := false
	go func() {
		defer close(ended)
		if err := g.Run(ctx, world, func() { ready = true }); err != nil {
			t.Log("run:", err)
		}
	}()
	synctest.Wait()
	r := &running{Gateway: g, t: t, m: m, path: path, stop: func() { cancel(); <-ended }}
	t.Cleanup(r.stop)
	if !ready {
		return nil
	}
	return r
}

var (
	visitor  = netip.MustParseAddr("192.0.2.2")
	visitor6 = netip.MustParseAddr("2001:db8::7")
)

// touch touches ports as a visitor does, one after the other.
func (r *running) touch(a netip.Addr, ports ...uint16) {
	for _, p := range ports {
		r.Hear([]knock.Heard{{Source: a, Place: knock.Place{Medium: knock.Connections, Port: p}, Time: time.Now(), Proven: true}})
		synctest.Wait()
	}
}

// status is the first door's status.
func (r *running) status() control.Door {
	r.t.Helper()
	s, _ := r.Status()
	if len(s.Doors) == 0 {
		r.t.Fatal("the gateway has no doors")
	}
	return s.Doors[0]
}

func (r *running) wantState(want string) {
	r.t.Helper()
	if got := r.status(); got.State != want {
		r.t.Errorf("the door is %s (%s), want %s", got.State, got.Reason, want)
	}
}

// order gives an operator's order and returns what it was answered.
func (r *running) order(order any) string {
	r.t.Helper()
	reply, err := r.Do(r.t.Context(), "operator alice (uid 1000)", order)
	if err != nil {
		return "error: " + err.Error()
	}
	return reply.Message
}

// events are the audit trail's events so far.
func (m *machine) events() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, r := range m.trail {
		all = append(all, r.Event)
	}
	return strings.Join(all, " ")
}

func configPath(t *testing.T) string { return filepath.Join(t.TempDir(), "doorward.toml") }

const sshDoor = `
[door.ssh]
ports = ["22/tcp"]
[door.ssh.service]
unit = "ssh.service"
[door.ssh.presence]
logins = "journal"
[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
`
