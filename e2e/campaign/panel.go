//go:build linux

package main

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/doorward/doorward/e2e/campaign/judge"
)

// The panel's door is everybody's: all touches add up, they are judged every two
// seconds, and the right ones open it to all until it goes dark. One visitor
// alone uses it, so that what it must do is known from what this one did.

// panelVisitor knocks and tries.
func (c *campaign) panelVisitor(ctx context.Context, dice *rand.Rand) error {
	p := panel{c: c, six: func() bool { return dice.IntN(2) == 0 }}
	// Before each knock the door is dark, and hears: what became of the one
	// before is over.
	const rest = max(idle+4*time.Second, judged+penalty+time.Second)
	for sleep(ctx, rest+between(dice, 0, time.Second)) {
		p.shut()
		if dice.IntN(3) == 0 {
			begun := c.now()
			wrong := p.touch(59031) // to be left alone: everybody is ignored for the penalty
			if !sleep(ctx, judged+c.quick) {
				break
			}
			p.touch(59030)
			p.touch(59032)
			if !wrong || len(c.events.During(judge.Span{Begin: begun, End: c.now()})) > 0 {
				p.until = c.now() + mayStay // the wrong one may have been lost, and the right one not
				continue
			}
			p.shut()
			c.count("panel: knocks that a penalty kept out")
			continue
		}
		p.opens(ctx, dice)
	}
	return nil
}

// mayStay is how long after a knock the door may be open, if nobody comes: it is
// judged, the service starts, nobody is in for long enough.
const mayStay = judged + slow + idle + 4*time.Second

// panel is what is known of the door.
type panel struct {
	c     *campaign
	six   func() bool
	until judge.Moment // when it may last be open
}

func (p *panel) source() (netip.AddrPort, netip.Addr) {
	a, server := p.c.net.source(p.six()), server4
	if a.Is6() {
		server = server6
	}
	return netip.AddrPortFrom(a, 10000), netip.MustParseAddr(server)
}

// touch touches a listener from a source of its own.
func (p *panel) touch(port uint16) bool {
	from, server := p.source()
	fd, r := connect(from, netip.AddrPortFrom(server, port))
	if fd >= 0 {
		hangUp(fd)
	}
	return r == judge.In
}

// try tries the door from a source of its own.
func (p *panel) try() (judge.Result, judge.Span) {
	from, server := p.source()
	s := judge.Span{Begin: p.c.now()}
	fd, r := connect(from, netip.AddrPortFrom(server, panelPort))
	if fd >= 0 {
		hangUp(fd)
	}
	s.End = p.c.now()
	p.c.count("tries")
	if r == judge.In {
		p.until = max(p.until, s.End+idle+4*time.Second) // it may count as presence
	}
	return r, s
}

// shut tries the door, which must be shut if it cannot be open.
func (p *panel) shut() {
	for range 3 {
		if p.c.now() < p.until {
			return
		}
		known := p.until
		r, s := p.try()
		through := r == judge.In || r == judge.Answered
		// Where the machine stalled, presence may have been seen late.
		late := p.c.events.During(judge.Span{Begin: known - 10*time.Second, End: s.End}, judge.Stall)
		if through && len(late) == 0 && len(p.c.events.During(s, judge.Unguarded)) == 0 {
			p.c.broken("P1, P2: door panel let %s, although it should have been dark since %.3f\n%s", r, known.Seconds(),
				p.c.happened(judge.Span{Begin: s.Begin - 20*time.Second, End: s.End}))
		}
	}
	p.c.count("panel: seen shut")
}

// opens knocks rightly, two sources together; the door must open to a third.
func (p *panel) opens(ctx context.Context, dice *rand.Rand) {
	begun := p.c.now()
	whole := p.touch(59030)
	sleep(ctx, between(dice, 0, within/2))
	whole = p.touch(59032) && whole
	p.until = max(p.until, p.c.now()+mayStay)
	for p.c.now()-begun < judged+slow {
		if r, _ := p.try(); r == judge.In {
			p.c.count("panel: opened to all")
			return
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return
		}
	}
	// It hears nobody during a penalty, which may come from what was mangled before.
	s := judge.Span{Begin: begun - 10*time.Second, End: p.c.now()}
	if happened := p.c.events.During(s); whole && len(happened) == 0 {
		p.c.broken("P4: door panel did not open within %s of a right knock at %.3f", judged+slow, begun.Seconds())
		return
	}
	p.c.count("panel: kept from opening by torments")
}
