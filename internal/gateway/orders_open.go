package gateway

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/tables"
)

// waiter is an operator who waits for the result of an order to open a door. There are at
// most as many as there are connections to the control socket, plus those whose client
// has gone, until the next one comes.
type waiter struct {
	ctx    context.Context // ends when nobody waits any more
	source netip.Prefix
	by     string
	wait   time.Duration
	until  time.Time // when waiting ends
	done   replier
}

// open gives a source a grant, now or when the service runs, and answers only then if the
// operator wants to wait.
func (g *Gateway) open(ctx context.Context, now time.Time, by control.Caller, o control.Open, done replier) {
	d, err := g.named(o.Door)
	if err != nil {
		done(control.Reply{}, err)
		return
	}
	w := &waiter{ctx: ctx, source: o.Source, by: by.Name, wait: o.Wait, until: now.Add(o.Wait), done: done}
	effects, err := d.door.Open(now, w.source, cmp.Or(o.For, d.conf.OpenFor), by.Name)
	if err != nil {
		done(control.Reply{}, &control.Error{Code: control.CodeRefused, Message: err.Error(), Hint: "doorward arm " + o.Door})
		return
	}
	waits := d.door.Waits(w.source, by.Name)
	if waits {
		g.callers.wait(d.name(), w.source, by)
	}
	if waits && w.wait == 0 {
		d.apply(effects)
		reply := d.reply(w.source, fmt.Sprintf("door %s opens for %s as soon as %s runs", d.name(), whom(w.source), d.service.svc))
		reply.Changed = true
		g.answer(reply, nil, done)
		return
	}
	d.waiters = slices.DeleteFunc(d.waiters, func(w *waiter) bool { return w.ctx.Err() != nil })
	d.waiters = append(d.waiters, w)
	d.apply(effects)
}

// reply returns a reply about a source at the door in its current state.
func (d *guarded) reply(source netip.Prefix, message string) control.Reply {
	r := control.Reply{Message: message, Door: d.name(), State: d.state()}
	if source != noSource {
		r.Source = door.SourceString(source)
	}
	return r
}

// whom returns a source as it reads in a sentence.
func whom(source netip.Prefix) string {
	if source == door.Any {
		return "everybody"
	}
	return door.SourceString(source)
}

// settle answers those whose source no longer waits for the service: according to the
// door's effects it was let in, or will not be. why is the reason, where the effects have
// none.
func (d *guarded) settle(effects []door.Effect, why string) {
	d.waiters = slices.DeleteFunc(d.waiters, func(w *waiter) bool {
		if len(effects) > 0 && d.door.Waits(w.source, w.by) {
			return false
		}
		reply, err := d.cameTo(w, effects, why)
		d.gw.answer(reply, err, w.done)
		return true
	})
}

// cameTo returns the result of an order to open.
func (d *guarded) cameTo(w *waiter, effects []door.Effect, why string) (control.Reply, error) {
	who := door.SourceString(w.source)
	for _, e := range effects {
		r, ok := e.(door.Record)
		concerned := r.Source == who || r.Source == ""
		switch {
		case !ok || !concerned:
		case r.Event == audit.EventGranted && r.By == w.by: // by the latest of several identical orders
			reply := d.reply(w.source, fmt.Sprintf("door %s is open for %s for %s", d.name(), whom(w.source), tables.Short(r.Until.Sub(r.Time))))
			reply.Changed, reply.Until = true, r.Until
			return reply, nil
		case r.Event == audit.EventRevoked:
			why = r.By + " has closed it to " + whom(w.source)
		case slices.Contains(failures, r.Event):
			why = r.Reason
		}
	}
	return control.Reply{}, &control.Error{Code: control.CodeFailed,
		Message: fmt.Sprintf("door %s has not opened for %s: %s", d.name(), whom(w.source), why), Hint: d.whereToLook()}
}

// failures are the events whose reason says why somebody who waits for the service is not
// let in.
var failures = []string{audit.EventError, audit.EventFailsafe, audit.EventRefused, audit.EventExpired}

// whereToLook returns what to type next when a door has not opened.
func (d *guarded) whereToLook() string {
	if s := d.conf.Service; s != nil && s.Unit != "" {
		return fmt.Sprintf("systemctl status %s; journalctl -u %[1]s; doorward log %s", s.Unit, d.name())
	}
	return "doorward log " + d.name()
}

// giveUp answers those who have waited for as long as they wanted to.
func (d *guarded) giveUp(now time.Time) {
	d.waiters = slices.DeleteFunc(d.waiters, func(w *waiter) bool {
		if now.Before(w.until) {
			return false
		}
		w.done(control.Reply{}, &control.Error{Code: control.CodeTimeout,
			Message: fmt.Sprintf("door %s has not opened for %s within %s, and opens as soon as %s runs", d.name(), whom(w.source), tables.Short(w.wait), d.service.svc),
			Hint:    fmt.Sprintf("doorward status %s; doorward close %[1]s --source %s cancels the order", d.name(), door.SourceString(w.source))})
		return true
	})
}

// givesUp returns when giveUp has something to do, false for never.
func (d *guarded) givesUp() (next time.Time, some bool) {
	for _, w := range d.waiters {
		if !some || w.until.Before(next) {
			next, some = w.until, true
		}
	}
	return next, some
}

// goes answers those who wait for a door that is about to go.
func (d *guarded) goes() {
	d.settle(nil, "it is no longer guarded")
	d.expectNothing()
}
