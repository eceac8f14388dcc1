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

// listenTime is how long a running service may take until it listens. A visitor who was
// let in earlier would find the port closed.
const listenTime = 3 * time.Second

// controller starts and stops a door's service, one operation at a time and the latest
// wish last, and reports the outcome. Its fields belong to the goroutine of Run.
type controller struct {
	gw         *Gateway
	svc        Service
	conf       config.Door
	ctx        context.Context
	report     func(now time.Time, w serviceReport)
	wanted     bool // the latest wish
	busy       bool // a start, a stop or a second look is under way
	again      bool // there was a wish while it was busy
	stale      bool // there was a change meanwhile, so what is known is old
	running    bool // as last seen
	known      bool // it was seen, or done
	news       service.Status
	permission permission
	metered    meteredStarts
}

// serviceReport is the state of a service, as its door is to learn it: at the end of an
// order, or unasked.
type serviceReport struct {
	runs   bool
	halted bool   // it was stopped by somebody's order, not the door's
	detail string // of one that died
	err    error  // of an order
}

// newController returns the controller of a door's service and starts watching it, in a
// goroutine that ends with ctx.
func (g *Gateway) newController(ctx context.Context, c config.Door, report func(time.Time, serviceReport)) *controller {
	k := &controller{gw: g, svc: g.world.Service(c), conf: c, ctx: ctx, report: report}
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

// setWanted says whether the service is to run.
func (c *controller) setWanted(run bool) {
	c.wanted = run
	if c.busy {
		c.again = true
		return
	}
	c.do(run)
}

// do starts or stops the service, within the service's timeout.
func (c *controller) do(run bool) {
	c.busy, c.again = true, false
	conf := c.conf
	c.gw.async(func() event {
		ctx, cancel := context.WithTimeout(c.ctx, conf.Service.Timeout)
		defer cancel()
		var err error
		if run {
			if err = c.svc.Start(ctx); err == nil {
				c.gw.awaitListening(ctx, conf.Ports)
			}
		} else {
			err = c.svc.Stop(ctx)
		}
		return func(now time.Time) { c.done(now, run, err) }
	})
}

// done handles the end of a start or a stop. A controller that was retired, since its
// door went or has another service now, reports nothing more.
func (c *controller) done(now time.Time, run bool, err error) {
	if c.ctx.Err() != nil {
		return
	}
	c.busy = false
	c.ordered(err)
	if run {
		c.started(err)
	}
	if c.again && c.wanted != run {
		c.do(c.wanted)
		return
	}
	c.again = false
	w := serviceReport{runs: run, err: err}
	switch {
	case err == nil:
		c.running, c.known = run, true
	case errors.Is(err, service.ErrOvertaken):
		w = serviceReport{halted: true}
	}
	c.report(now, w)
	if c.stale && !c.busy {
		c.lookAgain()
	}
}

// started notes how a start ended. One that was overtaken by another order neither failed
// nor succeeded.
func (c *controller) started(err error) {
	switch {
	case err == nil:
		c.metered.failed = ""
	case !errors.Is(err, service.ErrOvertaken):
		c.metered.failed = err.Error()
		c.metered.failures++
	}
}

// observed handles a change of the service. While the controller itself changes the
// service, that is no news; what counts is its state afterwards. The same goes for late
// news: it may be a state on the way.
func (c *controller) observed(now time.Time, s service.Status) {
	if c.ctx.Err() != nil {
		return
	}
	c.news = s
	if c.busy {
		c.stale = true
		return
	}
	lasts := s.State == service.Running || s.State == service.Stopped || s.State == service.Failed
	if c.known && lasts && c.running != (s.State == service.Running) {
		c.lookAgain()
		return
	}
	c.update(now, s)
}

// update notes the state of the service.
func (c *controller) update(now time.Time, s service.Status) {
	switch s.State {
	case service.Running:
		c.running, c.known, c.metered.failed = true, true, ""
		c.report(now, serviceReport{runs: true})
	case service.Stopped:
		c.running, c.known = false, true
		c.report(now, serviceReport{halted: true})
	case service.Failed:
		if c.wanted {
			c.metered.failed = cmp.Or(s.Detail, s.State.String())
		}
		c.running, c.known = false, true
		c.report(now, serviceReport{detail: cmp.Or(s.Detail, s.State.String())})
	case service.Starting:
		if !c.wanted && s.PID != 0 { // it may never finish starting
			c.report(now, serviceReport{runs: true})
		}
	}
}

// lookAgain asks for the state of the service. Where that fails, the latest news counts.
func (c *controller) lookAgain() {
	c.busy, c.stale = true, false
	timeout := c.conf.Service.Timeout
	c.gw.async(func() event {
		ctx, cancel := context.WithTimeout(c.ctx, timeout)
		defer cancel()
		s, err := c.svc.Status(ctx)
		return func(now time.Time) {
			c.busy = false
			switch {
			case c.ctx.Err() != nil:
				return
			case c.again:
				c.do(c.wanted)
			case err != nil:
				c.gw.log.Error("cannot ask for the service's status", "door", c.conf.Name, "err", err)
				c.update(now, c.news)
			default:
				c.update(now, s)
			}
			if c.stale && !c.busy {
				c.lookAgain()
			}
		}
	})
}

// serviceReported hands a service's report to its door.
func (d *guarded) serviceReported(now time.Time, w serviceReport) {
	switch {
	case w.err != nil:
		verb := "stop"
		if w.runs {
			verb = "start"
		}
		d.apply(d.door.Failed(now, fmt.Sprintf("%s %s: %v", verb, d.service.svc, w.err)))
	case w.runs:
		d.apply(d.door.Runs(now))
	case w.halted:
		d.apply(d.door.Halted(now))
	default:
		d.apply(d.door.Stopped(now, w.detail))
	}
}

// awaitListening returns when something listens on each of the TCP ports (of a range: on
// one of it), or after listenTime. It is not an error if nothing does: the port may be
// forwarded elsewhere, to no socket of this host.
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

// state returns the state of the service, for operators.
func (c *controller) state() string {
	if c.running {
		return "keeps running"
	}
	return "is stopped: start it if it is needed"
}
