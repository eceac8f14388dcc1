package gateway

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/knock"
)

// A process that does not run hears touches late: one that is stopped, or on a machine
// that is stopped or overloaded. A listener that has no descriptors to accept with hears
// late, too. That is not the visitors' fault, so that the clock by which their knocks are
// judged stands still meanwhile. While a machine is suspended the monotonic clock does so
// by itself (CLOCK_MONOTONIC in clock_gettime(2)). Slow turns are not a gap: the listener
// goes on hearing, and says when.
//
// A gap is noticed by a timer that ticks while somebody is in the middle of a knock, or
// by the gateway itself if it looks earlier. Whichever comes first, no touch is processed
// and no knock judged before the gap is known.
//
// A stranger costs four ticks a second while their knock is under way, and each batch of
// touches two locks, however many doors and sources there are. A gap costs two additions
// for each knock of the configuration.
const (
	stallCheckEvery = 250 * time.Millisecond
	stallAfter      = time.Second      // since the previous tick; shorter stalls are not noticed
	stallWarnAfter  = 10 * time.Second // more than a busy machine explains
)

// gap is a while in which nobody could be heard.
type gap struct{ from, to time.Time }

// stallDetector finds out when nobody could be heard. Its zero value never ticks.
type stallDetector struct {
	now    func() time.Time
	behind func() bool // the listener cannot hear what came

	mu      sync.Mutex  // guards what follows
	timer   *time.Timer // nil unless the gateway runs
	last    time.Time   // when all was well for the last time, zero while there is no need to know
	stalled bool        // that was too long ago: a gap goes on
	gaps    []gap       // that were not taken
	waiting int         // batches of touches that wait for the gateway
}

// start makes the stall detector tick when it is needed, until end.
func (s *stallDetector) start(now func() time.Time, behind func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.behind = now, behind
	s.timer = time.AfterFunc(time.Hour, s.check)
	s.timer.Stop()
}

func (s *stallDetector) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	s.timer = nil
}

// queued notes that something was heard. From then on it has to be known whether the
// process runs, even while the touches wait for the gateway.
func (s *stallDetector) queued(hs []knock.Heard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting++
	if s.last.IsZero() && len(hs) > 0 {
		s.arm(hs[0].Time)
	}
}

// dequeued notes that a batch of what was heard no longer waits.
func (s *stallDetector) dequeued() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
}

// update makes the stall detector tick as long as somebody is in the middle of a knock,
// or may be.
func (s *stallDetector) update(now time.Time, underway bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.timer == nil:
	case underway && s.last.IsZero():
		s.arm(now)
	case !underway && s.waiting <= 0:
		s.timer.Stop()
		s.last, s.stalled = time.Time{}, false
	}
}

// arm starts the ticks; all was well at the given moment.
func (s *stallDetector) arm(well time.Time) {
	if s.timer == nil {
		return
	}
	s.last = well
	s.timer.Reset(stallCheckEvery)
}

func (s *stallDetector) check() {
	behind := s.behind()
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil || s.last.IsZero() {
		return
	}
	s.timer.Reset(stallCheckEvery)
	s.note(now)
	if !behind {
		s.last, s.stalled = now, false
	}
}

// note notes a gap until now, if there is one.
func (s *stallDetector) note(now time.Time) {
	if s.last.IsZero() || !s.stalled && now.Sub(s.last) <= stallAfter || !now.After(s.last) {
		return
	}
	if n := len(s.gaps); n > 0 && s.gaps[n-1].to.Equal(s.last) {
		s.gaps[n-1].to = now
	} else {
		s.gaps = append(s.gaps, gap{s.last, now})
	}
	s.last, s.stalled = now, true
}

// take returns the gaps until now that were not taken before, in order. It does not wait
// for a tick.
func (s *stallDetector) take(now time.Time) []gap {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(now)
	gaps := s.gaps
	s.gaps = nil
	return gaps
}

// takeGaps learns of gaps until now.
func (g *Gateway) takeGaps(now time.Time) {
	gaps := g.stalls.take(now)
	g.gaps = append(g.gaps, gaps...)
	if len(gaps) == 0 || !g.gapLogged.IsZero() && now.Sub(g.gapLogged) < time.Minute {
		return
	}
	g.gapLogged = now
	longest := slices.MaxFunc(gaps, func(a, b gap) int { return int(a.to.Sub(a.from) - b.to.Sub(b.from)) })
	lasted, level := longest.to.Sub(longest.from), slog.LevelInfo
	if lasted >= stallWarnAfter {
		level = slog.LevelWarn
	}
	g.log.Log(g.ctx, level, "knocks could not be heard for a while: was the daemon stopped, or is the machine overloaded? "+
		"Knocks under way are not judged for that time", "for", lasted.Round(time.Millisecond).String())
}

// applyGaps passes to the recognisers the gaps that began before a moment. What was
// heard before those has been judged.
func (g *Gateway) applyGaps(until time.Time) {
	for len(g.gaps) > 0 && g.gaps[0].from.Before(until) {
		for _, d := range g.doors {
			d.gap(g.gaps[0].from, g.gaps[0].to)
		}
		g.gaps = g.gaps[1:]
	}
}
