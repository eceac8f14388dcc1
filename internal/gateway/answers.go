package gateway

import (
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// A right knock is answered when the fence has what it led to, in the background and
// without waiting for the disk. The sender may be somebody else, who must not be flooded
// by means of the gateway: the number of answers a second is limited, and what opens
// nothing, as anybody can send in another's name, gets one only where the source is proven.
// Whose source is proven has asked for the answer.
const (
	visitorsPerSecond  = 1000
	maxVisitorsWaiting = 4096
)

// visitors are those to be told what their knocks led to.
type visitors struct {
	due    []toTell
	out    chan func()
	second time.Time // that sent is counted for
	sent   int
}

// toTell is what a visitor is to be told at the end of the turn.
type toTell struct {
	of      knock.Outcome
	grant   grantKey // that it reports, if it is Open
	verdict knock.Verdict
}

// newVisitors makes room for as many visitors as may wait.
func newVisitors() visitors { return visitors{out: make(chan func(), maxVisitorsWaiting)} }

// tellLater has the visitor told at the end of the turn what a knock has led to, and once
// more when a grant that waits for the service is given, or never will be.
func (d *guarded) tellLater(v knock.Verdict, k door.Knock, of knock.Outcome) {
	if v.Answer == nil || !v.Path.From.IsValid() {
		return
	}
	of.Ports = d.conf.Ports
	t := toTell{of: of, grant: grantKey{d.name(), k.Source}, verdict: v}
	d.gw.visitors.due = append(d.gw.visitors.due, t)
	if of.Waits {
		d.expected.add(d.gw.whoIs(k.By), t)
	}
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
				return knock.Outcome{Refused: knock.RefusedCrowded}
			}
		}
	}
	return knock.Outcome{Waits: true}
}

// outcomes collects the turn's outcomes, before the fence is changed: a grant may have
// another end by now, or none.
func (g *Gateway) outcomes() []toTell {
	due := g.visitors.due
	g.visitors.due = nil
	for i := range due {
		o := &due[i]
		until, changes := g.changes.grants[o.grant]
		switch {
		case !o.of.Open || !changes:
		case until.IsZero():
			o.of = knock.Outcome{Refused: knock.RefusedEnded, Ports: o.of.Ports}
		default:
			o.of.Until = until
		}
	}
	return due
}

// answerVisitors answers those whose outcome has taken effect. A grant that the kernel
// does not have yet has not.
func (g *Gateway) answerVisitors(now time.Time, due []toTell) {
	v := &g.visitors
	for _, o := range due {
		if o.of.Open && !g.kernelHas(o.grant) {
			o.of = knock.Outcome{Refused: knock.RefusedKernel, Ports: o.of.Ports}
		}
		if o.of.Refused != "" && !o.verdict.Proven || o.of.Closed && !g.kernelHas(o.grant) {
			continue
		}
		if !o.verdict.Proven && !v.may(now) {
			continue
		}
		select {
		case v.out <- func() { g.answerVisitor(o) }:
		default: // a visitor knocks again
		}
	}
}

// may counts an answer, and says whether it is within the limit.
func (v *visitors) may(now time.Time) bool {
	if now.Sub(v.second) >= time.Second {
		v.second, v.sent = now, 0
	}
	v.sent++
	return v.sent <= visitorsPerSecond
}

// answerVisitor hands an answer to answerOn, in the background.
func (g *Gateway) answerVisitor(o toTell) {
	if o.of.Open {
		o.of.Left = max(0, o.of.Until.Sub(g.world.Now()))
	}
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
