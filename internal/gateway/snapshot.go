package gateway

import (
	"sync"
	"time"

	"github.com/doorward/doorward/internal/config"
)

// snapshotShare is the share of the loop that making snapshots may take: after one, none
// is made for this many times as long as it took.
const snapshotShare = 10

// snapshotCache holds the latest snapshot of the state. The loop makes one for all who
// wait, however many they are, and publishes it when what it shows is on disk. It stays
// valid until something changes, so that requests in between do not touch the loop at
// all. A touch never waits for more than the one snapshot that is being made, and the
// loop makes none for ten times as long afterwards.
type snapshotCache[T any] struct {
	made int // snapshots, for tests; belongs to the loop

	mu        sync.Mutex
	last      *snapshot[T] // the current state; nil once something has changed
	wanted    *snapshot[T] // by those who asked since the latest turn began
	making    *snapshot[T] // by those who asked before; it is made at the end of the turn
	notBefore time.Time    // no snapshot is made until then
	version   int          // times that something has changed
}

// snapshot is what a cache holds. It is not changed after done is closed.
type snapshot[T any] struct {
	done    chan struct{}
	of      T
	doors   []config.Door // the doors in it, for what only the kernel knows
	version int           // the cache's version when it was made
}

// ask returns the snapshot of the current state, which may not be done yet, and whether
// the loop must be woken because somebody waits.
func (b *snapshotCache[T]) ask() (s *snapshot[T], wake bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.last != nil:
		return b.last, false
	case b.wanted != nil:
		return b.wanted, false
	}
	b.wanted = &snapshot[T]{done: make(chan struct{})}
	return b.wanted, true
}

// turn begins a turn: a snapshot that was asked for by now is made at its end, so that it
// includes whatever happened before the request.
func (b *snapshotCache[T]) turn(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.making == nil && !now.Before(b.notBefore) {
		b.making, b.wanted = b.wanted, nil
	}
}

// invalidate drops the snapshot: something has changed.
func (b *snapshotCache[T]) invalidate() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = nil
	b.version++
}

// make makes the snapshot that somebody waits for, nil if nobody does.
func (b *snapshotCache[T]) make(now func() time.Time, doors []config.Door, tell func(time.Time) T) *snapshot[T] {
	b.mu.Lock()
	s := b.making
	b.making = nil
	b.mu.Unlock()
	if s != nil {
		s.doors = doors
		b.fill(s, now, tell)
	}
	return s
}

// fill writes the current state into a snapshot.
func (b *snapshotCache[T]) fill(s *snapshot[T], now func() time.Time, tell func(time.Time) T) {
	begun := now()
	s.of = tell(begun)
	b.made++
	ended := now()
	b.mu.Lock()
	defer b.mu.Unlock()
	s.version, b.notBefore = b.version, ended.Add(snapshotShare*ended.Sub(begun))
}

// publish hands a snapshot to those who wait, and to whoever asks from now on, unless
// something has changed since it was made.
func (b *snapshotCache[T]) publish(s *snapshot[T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.version == b.version {
		b.last = s
	}
	close(s.done) // only now, so that whoever asks again finds it published
}

// dueAt returns when a turn is due for those who wait.
func (b *snapshotCache[T]) dueAt() (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.notBefore, b.wanted != nil
}

// readSnapshot returns a snapshot of the current state, false if the gateway ends first.
func readSnapshot[T any](g *Gateway, b *snapshotCache[T]) (*snapshot[T], bool) {
	s, wake := b.ask()
	if wake {
		select {
		case g.wake <- struct{}{}:
		default: // it is awake already
		}
	}
	select {
	case <-s.done:
		return s, true
	case <-g.ended:
		return nil, false
	}
}

// beginTurn and endTurn are what a turn does for those who ask.
func (g *Gateway) beginTurn(now time.Time) {
	g.statusCache.turn(now)
	g.metricsCache.turn(now)
}

func (g *Gateway) endTurn(now time.Time) {
	publishOnDisk(g, now, &g.statusCache, g.standing)
	publishOnDisk(g, now, &g.metricsCache, g.metricsNow)
}

// publishOnDisk makes the snapshot that somebody waits for and publishes it when what it
// shows is on disk. Nobody waits for a slow disk: the snapshot then says so.
func publishOnDisk[T any](g *Gateway, now time.Time, b *snapshotCache[T], tell func(time.Time) T) {
	s := b.make(g.world.Now, g.config.Doors, tell)
	if s == nil {
		return
	}
	waited := false
	g.onDisk(now, func(_ time.Time, err error) {
		if waited && err != nil {
			s.doors = g.config.Doors
			b.fill(s, g.world.Now, tell)
		}
		b.publish(s)
	})
	waited = true
}

// invalidateSnapshots drops the published snapshots.
func (g *Gateway) invalidateSnapshots() {
	g.statusCache.invalidate()
	g.metricsCache.invalidate()
}

// snapshotDue returns when a turn is due for those who ask.
func (g *Gateway) snapshotDue() (time.Time, bool) {
	s, asked := g.statusCache.dueAt()
	v, checked := g.metricsCache.dueAt()
	if checked && (!asked || v.Before(s)) {
		return v, true
	}
	return s, asked
}
