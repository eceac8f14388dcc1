package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/service"
)

// listenTime is how long a service that runs may take until it listens. A
// visitor who was let in before that would be told that nothing is there.
const listenTime = 3 * time.Second

// keeper has a door's service started and stopped, one thing at a time and the
// latest wish last, and reports what it does. Its fields belong to the
// goroutine of Run.
type keeper struct {
	gw      *Gateway
	svc     Service
	conf    config.Door
	ctx     context.Context
	report  func(now time.Time, w word)
	wanted  bool // the latest wish
	busy    bool // a start, a stop or a second look is under way
	again   bool // there was a wish while it was busy
	stale   bool // there was a change meanwhile, so what is known is old
	running bool // as last seen
	known   bool // it was seen, or done
	news    service.Status
	leave   permission
	metered meteredStarts
}

// word is how a service stands, as its door is to hear it: at the end of an order,
// or by itself.
type word struct {
	runs   bool
	halted bool   // it was stopped as one is that somebody orders to stop; the door has not
	detail string // of one that died
	err    error  // of an order
}

// newKeeper returns the keeper of a door's service and starts watching it, in a
// goroutine that ends with ctx.
func (g *Gateway) newKeeper(ctx context.Context, c config.Door, report func(time.Time, word)) *keeper {
	k := &keeper{gw: g, svc: g.world.Service(c), conf: c, ctx: ctx, report: report}
	g.tasks.Go(func() {
		err := k.svc.Watch(ctx, func(s service.Status) {
			g.post(func(now time.Time) { k.observed(now, s) })
		})
		if err != nil && ctx.Err() == nil {
			g.log.Error("cannot watch the service", "door", c.Name, "service", k.svc.String(), "err", err)
		}
	})
	return k
}

// want has the service started or stopped.
func (k *keeper) want(run bool) {
	k.wanted = run
	if k.busy {
		k.again = true
		return
	}
	k.do(run)
}

// do starts or stops the service, for as long as that takes or the service's
// time.
func (k *keeper) do(run bool) {
	k.busy, k.again = true, false
	conf := k.conf
	k.gw.async(func() event {
		ctx, cancel := context.WithTimeout(k.ctx, conf.Service.Timeout)
		defer cancel()
		var err error
		if run {
			if err = k.svc.Start(ctx); err == nil {
				k.gw.awaitListening(ctx, conf.Ports)
			}
		} else {
			err = k.svc.Stop(ctx)
		}
		return func(now time.Time) { k.did(now, run, err) }
	})
}

// did takes in the end of a start or a stop. A keeper whose time is over, since
// its door went or has another service now, has nothing more to say.
func (k *keeper) did(now time.Time, run bool, err error) {
	if k.ctx.Err() != nil {
		return
	}
	k.busy = false
	k.ordered(err)
	if run {
		k.started(err)
	}
	if k.again && k.wanted != run {
		k.do(k.wanted)
		return
	}
	k.again = false
	w := word{runs: run, err: err}
	switch {
	case err == nil:
		k.running, k.known = run, true
	case errors.Is(err, service.ErrOvertaken):
		w = word{halted: true}
	}
	k.report(now, w)
	if k.stale && !k.busy {
		k.lookAgain()
	}
}

// started takes in how a start ended. One that was overtaken by another order neither
// failed nor went well.
func (k *keeper) started(err error) {
	switch {
	case err == nil:
		k.metered.failed = ""
	case !errors.Is(err, service.ErrOvertaken):
		k.metered.failed = err.Error()
		k.metered.failures++
	}
}

// observed takes in a change of the service. While the keeper itself changes
// it, that is no news; what counts is how it stands afterwards. So it is with news
// that comes late: it may be how things stood on the way.
func (k *keeper) observed(now time.Time, s service.Status) {
	if k.ctx.Err() != nil {
		return
	}
	k.news = s
	if k.busy {
		k.stale = true
		return
	}
	lasts := s.State == service.Running || s.State == service.Stopped || s.State == service.Failed
	if k.known && lasts && k.running != (s.State == service.Running) {
		k.lookAgain()
		return
	}
	k.sees(now, s)
}

// sees takes in how the service stands.
func (k *keeper) sees(now time.Time, s service.Status) {
	switch s.State {
	case service.Running:
		k.running, k.known, k.metered.failed = true, true, ""
		k.report(now, word{runs: true})
	case service.Stopped:
		k.running, k.known = false, true
		k.report(now, word{halted: true})
	case service.Failed:
		if k.wanted {
			k.metered.failed = cmp.Or(s.Detail, s.State.String())
		}
		k.running, k.known = false, true
		k.report(now, word{detail: cmp.Or(s.Detail, s.State.String())})
	case service.Starting:
		if !k.wanted && s.PID != 0 { // it may never be done with that
			k.report(now, word{runs: true})
		}
	}
}

// lookAgain asks how the service stands. Where that cannot be asked, the latest
// news is believed.
func (k *keeper) lookAgain() {
	k.busy, k.stale = true, false
	timeout := k.conf.Service.Timeout
	k.gw.async(func() event {
		ctx, cancel := context.WithTimeout(k.ctx, timeout)
		defer cancel()
		s, err := k.svc.Status(ctx)
		return func(now time.Time) {
			k.busy = false
			switch {
			case k.ctx.Err() != nil:
				return
			case k.again:
				k.do(k.wanted)
			case err != nil:
				k.gw.log.Error("cannot ask how the service stands", "door", k.conf.Name, "err", err)
				k.sees(now, k.news)
			default:
				k.sees(now, s)
			}
			if k.stale && !k.busy {
				k.lookAgain()
			}
		}
	})
}

// serviceAnswered hands what a service does to its door.
func (d *guarded) serviceAnswered(now time.Time, w word) {
	switch {
	case w.err != nil:
		verb := "stop"
		if w.runs {
			verb = "start"
		}
		d.carry(d.door.Failed(now, fmt.Sprintf("%s %s: %v", verb, d.service.svc, w.err)))
	case w.runs:
		d.carry(d.door.Runs(now))
	case w.halted:
		d.carry(d.door.Halted(now))
	default:
		d.carry(d.door.Stopped(now, w.detail))
	}
}

// awaitListening returns when something listens on each of the TCP ports (of a
// range: on one of it), or after listenTime. It is no error when nothing does:
// the port may be forwarded to where no socket of this host is seen.
func (g *Gateway) awaitListening(ctx context.Context, ports []port.Range) {
	ctx, cancel := context.WithTimeout(ctx, listenTime)
	defer cancel()
	for _, r := range ports {
		if r.Proto != port.TCP {
			continue
		}
		for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
			if g.world.Listening(r) {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

// state says how an operator finds the service.
func (k *keeper) state() string {
	if k.running {
		return "runs on"
	}
	return "is stopped: start it if it is needed"
}
