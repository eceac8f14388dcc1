//go:build linux

package main

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/doorward/doorward/e2e/campaign/judge"
)

// episode is one source's visit to one door. While it is live the prober tries
// that door from the source, and sometimes another one.
type episode struct {
	door   *door
	source netip.Addr
	always bool

	busy sync.RWMutex // held for reading while the prober tries
	over bool         // guarded by busy

	mu     sync.Mutex // guards what follows
	knocks []judge.Knock
	tries  map[*door][]judge.Try
	ports  uint16   // how many source ports were used
	said   [][]byte // of sealed knocks, by the visitor and to them
}

// from is the episode's source with a port that it has not used before: a
// datagram from a used one would belong to the conversation of before.
func (e *episode) from() netip.AddrPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ports++
	return netip.AddrPortFrom(e.source, 10000+e.ports)
}

// try tries a new connection to a door. Where a grant is good for one, the answer
// to a SYN shows nothing yet: of several handshakes one is completed.
func (e *episode) try(c *campaign, d *door) judge.Result {
	t := judge.Try{Span: judge.Span{Begin: c.now()}}
	if d.Datagrams {
		t.Result = ask(e.from(), d.target(e.source))
	} else {
		var fd int
		if fd, t.Result = connect(e.from(), d.target(e.source)); t.Result == judge.In {
			if d.SingleUse && talk(fd, "are you?", echoWithin) != nil {
				t.Result = judge.Silent
			}
			hangUp(fd)
		}
	}
	t.End = c.now()
	e.mu.Lock()
	e.tries[d] = append(e.tries[d], t)
	e.mu.Unlock()
	c.count("tries")
	return t.Result
}

// echoWithin is how long the echo of a new connection may take.
const echoWithin = 700 * time.Millisecond

// knocksAtOnce has several of the visitor's programs knock at once, or several visitors
// behind one address: their touches come mixed.
func (e *episode) knocksAtOnce(ctx context.Context, c *campaign, dice *rand.Rand) {
	var all sync.WaitGroup
	for range 2 + dice.IntN(3) {
		own := rand.New(rand.NewPCG(dice.Uint64(), 0))
		all.Go(func() {
			err := c.net.outside.Do(func() error { e.knock(ctx, c, judge.Right, own); return nil })
			if err != nil {
				c.broken("the campaign itself: a knock cannot be sent: %v", err)
			}
		})
	}
	all.Wait()
	c.count("knocks at once")
}

// knock touches ports in turn, as the kind wants it.
func (e *episode) knock(ctx context.Context, c *campaign, kind judge.Kind, dice *rand.Rand) {
	if e.door.sealed != nil {
		e.knockSealed(ctx, c, kind, dice)
		return
	}
	ports := e.door.right
	switch kind {
	case judge.Wrong:
		ports = e.door.wrong[dice.IntN(len(e.door.wrong))]
	case judge.Half:
		ports = ports[:1]
		if dice.IntN(2) == 0 {
			ports = []uint16{ports[0], ports[0]} // the same twice is not two
		}
	}
	pause := between(dice, 0, 20*time.Millisecond)
	if dice.IntN(8) == 0 {
		pause = between(dice, 0, within/2)
	}
	k := judge.Knock{Span: judge.Span{Begin: c.now()}, Kind: kind, Whole: true}
	for i, port := range ports {
		if i > 0 && !sleep(ctx, pause) {
			k.Whole = false
			break
		}
		to := netip.AddrPortFrom(e.door.target(e.source).Addr(), port)
		fd, r := connect(e.from(), to)
		if r != judge.In {
			k.Whole = false
			break
		}
		if fd >= 0 {
			hangUp(fd)
		}
	}
	k.End = c.now()
	// A stall may have made it slower than a knock may be.
	k.Whole = k.Whole && k.End-k.Begin < within
	e.mu.Lock()
	e.knocks = append(e.knocks, k)
	e.mu.Unlock()
	c.count("knocks, " + kind.String())
}

// parts are the histories to be judged: one for each door that was tried.
func (e *episode) parts() []*judge.Episode {
	e.mu.Lock()
	defer e.mu.Unlock()
	var parts []*judge.Episode
	for d, tries := range e.tries {
		p := &judge.Episode{Door: d.Door, Source: e.source, Tries: tries}
		if d == e.door {
			p.Knocks, p.Always = e.knocks, e.always
		}
		parts = append(parts, p)
	}
	return parts
}

// registry is the live episodes.
type registry struct {
	mu  sync.Mutex // guards all
	all []*episode
}

func (r *registry) add(e *episode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

func (r *registry) remove(e *episode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range r.all {
		if o == e {
			r.all = append(r.all[:i], r.all[i+1:]...)
			return
		}
	}
}

// any returns one of the live episodes.
func (r *registry) any(dice *rand.Rand) *episode {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) == 0 {
		return nil
	}
	return r.all[dice.IntN(len(r.all))]
}

// prober tries doors from the sources of live episodes, whatever they are: granted,
// expired, penalised, strange.
func (c *campaign) prober(ctx context.Context, dice *rand.Rand) error {
	all := c.doors
	for sleep(ctx, between(dice, 0, 30*time.Millisecond)) {
		e := c.live.any(dice)
		if e == nil {
			continue
		}
		d := e.door
		if dice.IntN(8) == 0 && !e.always {
			d = all[dice.IntN(len(all))]
			if d.Name == e.door.Name {
				d = e.door
			}
		}
		c.tryWhileLive(e, d)
	}
	return nil
}

// tryWhileLive tries unless the episode has just ended: its history is judged
// when nobody adds to it any more.
func (c *campaign) tryWhileLive(e *episode, d *door) {
	e.busy.RLock()
	defer e.busy.RUnlock()
	if !e.over {
		e.try(c, d)
	}
}

// visitor makes one visit after the other, each from a source of its own.
func (c *campaign) visitor(ctx context.Context, dice *rand.Rand) error {
	all := c.doors
	for sleep(ctx, between(dice, 0, time.Second)) {
		d := all[dice.IntN(len(all))]
		// Now and then nobody visits ssh, so that it goes dark.
		if d.Name == "ssh" && int(c.now().Seconds())%30 >= 12 {
			d = all[1+dice.IntN(len(all)-1)]
		}
		e := &episode{door: d, tries: map[*door][]judge.Try{}}
		six := dice.IntN(2) == 0
		if d.Name == "web" && dice.IntN(6) == 0 {
			e.source, e.always = c.net.neighbour(six), true
		} else {
			e.source = c.net.source(six)
		}
		c.live.add(e)
		c.visit(ctx, e, dice)
		c.live.remove(e)
		e.busy.Lock()
		e.over = true
		e.busy.Unlock()
		c.ended <- e
	}
	return nil
}

// visit is what the visitor of an episode does.
func (c *campaign) visit(ctx context.Context, e *episode, dice *rand.Rand) {
	d := e.door
	if e.always || dice.IntN(6) == 0 { // a stranger does not knock
		sleep(ctx, between(dice, 2*time.Second, 6*time.Second))
		return
	}
	for range 1 + dice.IntN(5) {
		kind := judge.Right
		switch dice.IntN(10) {
		case 0, 1:
			kind = judge.Wrong
		case 2:
			kind = judge.Half
		}
		if kind == judge.Right && dice.IntN(4) == 0 {
			e.knocksAtOnce(ctx, c, dice)
		} else {
			e.knock(ctx, c, kind, dice)
		}
		if kind == judge.Right {
			c.wait(ctx, e)
		}
		// What is left of a knock that was lost must not become part of the
		// next one.
		pause := between(dice, within+100*time.Millisecond, 3*time.Second)
		if kind != judge.Right && dice.IntN(2) == 0 {
			pause += d.Opens + penalty - within // until the penalty has ended, and not for much longer
		}
		if !sleep(ctx, pause) {
			return
		}
	}
	sleep(ctx, d.OpenFor+d.Opens/2+time.Second)
}

// wait is the visitor's who has knocked and wants in.
func (c *campaign) wait(ctx context.Context, e *episode) {
	begun := c.now()
	for ctx.Err() == nil && c.now()-begun < e.door.Opens {
		r := e.try(c, e.door)
		if r == judge.In || r == judge.Answered && !e.door.Rejects {
			took := c.now() - begun
			if e.door.Opens == c.quick && len(c.events.During(judge.Span{Begin: begun, End: begun + took})) == 0 {
				c.atMost("longest until a right knock had opened, ms (no service to start)", took.Milliseconds())
			}
			return
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return
		}
	}
}
