package gateway

import (
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// Who knocked right is answered when the fence has what that led to, beside the turns
// and without the disk. The sender may be somebody else, who is not to be flooded by way
// of the gateway: so many answers go out in a second and no more, and none to wrong
// knocks, which anybody can make in another's name.
const (
	visitorsPerSecond  = 1000
	maxVisitorsWaiting = 256
)

// visitors are told what their knocks led to.
type visitors struct {
	due    []toTell
	out    chan func()
	second time.Time // the one that sent counts for
	sent   int
}

// toTell is what a visitor is to be told at the end of the turn.
type toTell struct {
	of      knock.Outcome
	grant   grantKey // that it tells of, if it is Open
	verdict knock.Verdict
}

// newVisitors has room for as many as may wait.
func newVisitors() visitors { return visitors{out: make(chan func(), maxVisitorsWaiting)} }

// answers has the visitor told what a right knock led to, by the door's effects of it.
func (d *guarded) answers(v knock.Verdict, source netip.Prefix, effects []door.Effect) {
	if v.Answer == nil || !v.Path.From.IsValid() {
		return
	}
	d.gw.visitors.due = append(d.gw.visitors.due,
		toTell{of: ledTo(source, effects), grant: grantKey{d.name(), source}, verdict: v})
}

// ledTo is what a right knock led to: a grant, its refusal, or that it waits for the
// service.
func ledTo(source netip.Prefix, effects []door.Effect) knock.Outcome {
	for _, e := range effects {
		switch e := e.(type) {
		case door.Give:
			if e.Source == source {
				return knock.Outcome{Open: true, Until: e.Until}
			}
		case door.Record:
			if e.Event == audit.EventRefused {
				return knock.Outcome{}
			}
		}
	}
	return knock.Outcome{Waits: true}
}

// outcomes takes the turn's outcomes, before the fence is changed: a grant may have
// another end by now, or none.
func (g *Gateway) outcomes() []toTell {
	due := g.visitors.due
	g.visitors.due = nil
	for i := range due {
		o := &due[i]
		if until, changes := g.changes.grants[o.grant]; o.of.Open && changes {
			o.of = knock.Outcome{Open: !until.IsZero(), Until: until}
		}
	}
	return due
}

// answerVisitors answers those whose outcome has happened. What the kernel does not
// have yet has not.
func (g *Gateway) answerVisitors(now time.Time, due []toTell) {
	v := &g.visitors
	for _, o := range due {
		if o.of.Open && !g.kernelHas(o.grant) {
			continue
		}
		if !v.may(now) {
			continue
		}
		select {
		case v.out <- func() { g.answerVisitor(o) }:
		default: // a visitor knocks again
		}
	}
}

// may counts an answer, and says whether there are not too many.
func (v *visitors) may(now time.Time) bool {
	if now.Sub(v.second) >= time.Second {
		v.second, v.sent = now, 0
	}
	v.sent++
	return v.sent <= visitorsPerSecond
}

// answerVisitor runs beside the turns.
func (g *Gateway) answerVisitor(o toTell) {
	payload := o.verdict.Answer(o.of)
	if payload == nil {
		return
	}
	if err := g.world.Datagrams.Answer(o.verdict.Path, payload); err != nil {
		g.log.Warn("cannot answer a visitor", "door", o.grant.door, "err", err)
	}
}

// answerOn sends the answers until the gateway ends.
func (g *Gateway) answerOn() {
	for {
		select {
		case answer := <-g.visitors.out:
			answer()
		case <-g.ctx.Done():
			return
		}
	}
}

// kernelHas says whether the kernel has a grant that it was given.
func (g *Gateway) kernelHas(k grantKey) bool {
	_, waits := g.changes.grants[k]
	return g.fenceProblem == "" && !waits
}
