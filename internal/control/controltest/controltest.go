// Package controltest has a control.Backend that a test drives, so that the
// control socket's clients can be tested without a daemon.
package controltest

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// Given is an order that the backend was given.
type Given struct {
	By       string
	Operator *audit.Operator
	Order    any
}

// Backend answers from what a test sets. Its methods may be called by several
// goroutines.
type Backend struct {
	mu      sync.Mutex // guards what follows
	status  control.Status
	newer   chan struct{}
	records []audit.Record
	given   []Given
	queries []control.LogQuery
	do      func(context.Context, Given) (control.Reply, error)
	logErr  error
	gone    uint64 // records up to this ID were dropped
	explain func(source netip.Addr, door string) (control.Explanation, error)
	diff    control.Diff
	diffErr error
}

// New returns a backend with s as its snapshot, whose Do answers "done". If s has no
// time it gets the present one.
func New(s control.Status) *Backend {
	if s.Time.IsZero() {
		s.Time = time.Now()
	}
	return &Backend{
		status: s,
		newer:  make(chan struct{}),
		do: func(context.Context, Given) (control.Reply, error) {
			return control.Reply{Message: "done"}, nil
		},
		explain: func(source netip.Addr, _ string) (control.Explanation, error) {
			return control.Explanation{Time: s.Time, Source: source.String()}, nil
		},
	}
}

// Status returns the snapshot.
func (b *Backend) Status() (control.Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, b.newer
}

// Newer returns a channel that is closed by the next Change.
func (b *Backend) Newer() <-chan struct{} {
	_, newer := b.Status()
	return newer
}

// ReadMetrics returns metrics that follow from the snapshot.
func (b *Backend) ReadMetrics() control.GatewayMetrics {
	s, _ := b.Status()
	v := control.GatewayMetrics{Version: s.Version, Warnings: len(s.Warnings), Problems: s.Problems, Pending: s.Pending != nil,
		Config:  control.ConfigMetrics{ID: "0123456789abcdef", Loaded: s.Started, LoadedOK: true},
		FenceUp: s.Fence.Up, FenceOwned: s.Fence.Owned, FenceRepairs: s.Fence.Repairs,
		Store: control.StoreMetrics{Up: true, Commits: &control.Spans{}},
		Turns: &control.Spans{}, Waits: &control.Spans{},
		Datagrams: map[string]uint64{"foreign": 1}, Events: map[string]map[string]uint64{"": s.Events}}
	for _, d := range s.Doors {
		of := control.DoorMetrics{Name: d.Name, State: d.State, Sessions: d.Sessions, PacketsRefused: d.PacketsRefused,
			Grants: max(d.GrantsTotal, len(d.Grants)), Penalties: max(d.PenaltiesTotal, len(d.Penalties)),
			Refusals: map[string]uint64{"port": uint64(len(d.Refusals))}, LastDark: d.Since, Logs: new(bool)}
		if d.Service != "" {
			of.Service = control.ServiceStopped
			if d.Running {
				of.Service = control.ServiceRunning
			}
		}
		v.Doors = append(v.Doors, of)
	}
	return v
}

// Do notes the order and answers with the function set by OnDo.
func (b *Backend) Do(ctx context.Context, by control.Caller, order any) (control.Reply, error) {
	b.mu.Lock()
	g := Given{by.Name, by.Operator, order}
	b.given = append(b.given, g)
	do := b.do
	b.mu.Unlock()
	return do(ctx, g)
}

// Diff returns what OnDiff set.
func (b *Backend) Diff(context.Context) (control.Diff, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.diff, b.diffErr
}

// OnDiff sets what Diff returns.
func (b *Backend) OnDiff(d control.Diff, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.diff, b.diffErr = d, err
}

// Log returns the records that q selects; a source must be the same as q's.
func (b *Backend) Log(q control.LogQuery) (control.LogPage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queries = append(b.queries, q)
	p := control.LogPage{Through: q.After, Gone: b.gone}
	for _, r := range b.records {
		p.Last = max(p.Last, r.ID)
		if r.ID > q.After && (q.Door == "" || q.Door == r.Door) && (q.Source == "" || q.Source == r.Source) &&
			(len(q.Events) == 0 || slices.Contains(q.Events, r.Event)) &&
			!r.Time.Before(q.Since) && (q.Until.IsZero() || r.Time.Before(q.Until)) {
			p.Records = append(p.Records, r)
		}
	}
	p.Through = max(p.Through, p.Last)
	if n := len(p.Records); n > q.Limit && q.Oldest {
		p.Records = p.Records[:q.Limit]
		p.Through = p.Records[q.Limit-1].ID
	} else {
		p.Records = p.Records[max(0, n-q.Limit):]
	}
	if p.Gone <= q.After || !q.Oldest {
		p.Gone = 0
	}
	return p, b.logErr
}

// Drop drops the records up to an ID from the trail, as if there were no room for them.
func (b *Backend) Drop(id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = slices.DeleteFunc(slices.Clone(b.records), func(r audit.Record) bool { return r.ID <= id })
	b.gone = id
}

// Explain answers with the function set by OnExplain.
func (b *Backend) Explain(_ context.Context, source netip.Addr, door string) (control.Explanation, error) {
	b.mu.Lock()
	explain := b.explain
	b.mu.Unlock()
	return explain(source, door)
}

// OnExplain sets the function that answers Explain.
func (b *Backend) OnExplain(f func(source netip.Addr, door string) (control.Explanation, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.explain = f
}

// Change publishes a snapshot that f has changed. f must not change the contents of
// slices and maps of the old one, but replace them.
func (b *Backend) Change(f func(*control.Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.status)
	close(b.newer)
	b.newer = make(chan struct{})
}

// Append adds records to the audit trail, and publishes a snapshot.
func (b *Backend) Append(records ...audit.Record) {
	b.mu.Lock()
	b.records = append(b.records, records...)
	b.mu.Unlock()
	b.Change(func(*control.Status) {})
}

// OnDo sets the function that answers orders.
func (b *Backend) OnDo(f func(context.Context, Given) (control.Reply, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.do = f
}

// FailLog makes Log return err.
func (b *Backend) FailLog(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logErr = err
}

// Given returns the orders so far.
func (b *Backend) Given() []Given {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.given)
}

// Queries returns the queries of Log so far.
func (b *Backend) Queries() []control.LogQuery {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.queries)
}

// Serve serves b on a new socket until the test ends, or until stop is called,
// which returns when the server has ended.
func Serve(t testing.TB, b control.Backend) (path string, stop func()) {
	t.Helper()
	// Not t.TempDir, whose path may be too long for a socket.
	dir, err := os.MkdirTemp("", "dw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "control.sock")
	return path, ServeAt(t, b, path)
}

// ServeAt is like Serve, but listens at path.
func ServeAt(t testing.TB, b control.Backend, path string) (stop func()) {
	t.Helper()
	l, err := control.Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, b, l)
}

// serve runs the server on l.
func serve(t testing.TB, b control.Backend, l net.Listener) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := control.NewServer(b, slog.New(slog.NewTextHandler(io.Discard, nil)))
	go func() { ended <- s.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
