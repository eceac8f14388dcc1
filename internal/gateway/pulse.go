package gateway

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/knock"
)

// Touches are heard late by a process that does not run: one that is stopped, on
// a machine that is stopped or has far too much to do. An ear that has nothing to
// accept with hears late, too. That is not the visitors' fault, so that the clock
// by which their knocks are judged stands still meanwhile. While a machine is
// suspended the monotonic clock does so by itself (CLOCK_MONOTONIC in
// clock_gettime(2)). Slow turns are no gap: the ear hears on, and says when.
//
// What notices a gap is a timer that beats while somebody is in the middle of a
// knock, and the gateway itself, should it look before that. Whoever comes first
// after a gap, no touch is taken in and no knock judged before it is known.
//
// A stranger costs four beats a second while their knock is under way, and each
// batch of touches two locks, however many doors and sources there are. A gap
// costs two additions for each knock of the configuration.
const (
	pulseEvery = 250 * time.Millisecond
	gapAfter   = time.Second      // since the beat before; what is shorter is not noticed
	gapIsOdd   = 10 * time.Second // what a machine that has much to do does not explain
)

// gap is a while in which nobody could be heard.
type gap struct{ from, to time.Time }

// pulse tells when nobody could be heard. Its zero value never beats.
type pulse struct {
	now    func() time.Time
	behind func() bool // the ear cannot hear what came

	mu      sync.Mutex  // guards what follows
	timer   *time.Timer // nil unless the gateway runs
	last    time.Time   // when all was well for the last time, zero while there is no need to know
	over    bool        // that was too long ago: a gap goes on
	gaps    []gap       // that were not taken
	waiting int         // batches of touches that wait for the gateway
}

// run has the pulse beat when it is needed, until end.
func (p *pulse) run(now func() time.Time, behind func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.behind = now, behind
	p.timer = time.AfterFunc(time.Hour, p.beat)
	p.timer.Stop()
}

func (p *pulse) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
	p.timer = nil
}

// hear takes in that something was heard. From the first of it on it has to be
// known whether the process runs, also while they wait for the gateway.
func (p *pulse) hear(hs []knock.Heard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting++
	if p.last.IsZero() && len(hs) > 0 {
		p.start(hs[0].Time)
	}
}

// taken takes in that a batch of what was heard waits no more.
func (p *pulse) taken() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
}

// keep has the pulse beat as long as somebody is in the middle of a knock, or may be.
func (p *pulse) keep(now time.Time, underway bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.timer == nil:
	case underway && p.last.IsZero():
		p.start(now)
	case !underway && p.waiting <= 0:
		p.timer.Stop()
		p.last, p.over = time.Time{}, false
	}
}

// start begins to beat; all was well at a moment.
func (p *pulse) start(well time.Time) {
	if p.timer == nil {
		return
	}
	p.last = well
	p.timer.Reset(pulseEvery)
}

func (p *pulse) beat() {
	behind := p.behind()
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil || p.last.IsZero() {
		return
	}
	p.timer.Reset(pulseEvery)
	p.note(now)
	if !behind {
		p.last, p.over = now, false
	}
}

// note notes a gap until now, if there is one.
func (p *pulse) note(now time.Time) {
	if p.last.IsZero() || !p.over && now.Sub(p.last) <= gapAfter || !now.After(p.last) {
		return
	}
	if n := len(p.gaps); n > 0 && p.gaps[n-1].to.Equal(p.last) {
		p.gaps[n-1].to = now
	} else {
		p.gaps = append(p.gaps, gap{p.last, now})
	}
	p.last, p.over = now, true
}

// take returns the gaps until now that were not taken before, in order. It need
// not wait for a beat: who comes first after a gap notices it.
func (p *pulse) take(now time.Time) []gap {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note(now)
	gaps := p.gaps
	p.gaps = nil
	return gaps
}

// lookBack learns of gaps until now.
func (g *Gateway) lookBack(now time.Time) {
	gaps := g.pulse.take(now)
	g.gaps = append(g.gaps, gaps...)
	if len(gaps) == 0 || !g.gapTold.IsZero() && now.Sub(g.gapTold) < time.Minute {
		return
	}
	g.gapTold = now
	longest := slices.MaxFunc(gaps, func(a, b gap) int { return int(a.to.Sub(a.from) - b.to.Sub(b.from)) })
	lasted, level := longest.to.Sub(longest.from), slog.LevelInfo
	if lasted >= gapIsOdd {
		level = slog.LevelWarn
	}
	g.log.Log(g.ctx, level, "nobody could be heard for a while: was the daemon stopped, or has the machine too much to do? "+
		"No knock that was under way is judged for that time", "for", lasted.Round(time.Millisecond).String())
}

// passOver tells the recognisers of the gaps that began before a moment. What
// was heard before those has been judged.
func (g *Gateway) passOver(until time.Time) {
	for len(g.gaps) > 0 && g.gaps[0].from.Before(until) {
		for _, d := range g.doors {
			d.gap(g.gaps[0].from, g.gaps[0].to)
		}
		g.gaps = g.gaps[1:]
	}
}
