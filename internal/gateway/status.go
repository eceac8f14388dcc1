package gateway

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// Status returns how things stand and a channel that is closed when they have
// changed (control.Backend). It is made when it is asked for, so that a knock
// never waits for a list of grants that nobody reads, and at the end of a turn:
// what it tells is in the kernel and on disk.
// After the gateway's end it says that, and nothing else.
func (g *Gateway) Status() (control.Status, <-chan struct{}) {
	g.newer.Lock()
	newer := g.newer.c
	g.newer.Unlock()
	done := make(chan control.Status, 1)
	over := control.Status{Warnings: []string{"the daemon ends"}, Doors: []control.Door{}}
	select {
	case g.events <- func(time.Time) {
		g.asked = append(g.asked, func(now time.Time) { done <- g.status(now) })
	}:
	case <-g.ended:
		return over, newer
	}
	select {
	case s := <-done:
		return s, newer
	case <-g.ended:
		return over, newer
	}
}

func (g *Gateway) status(now time.Time) control.Status {
	s := control.Status{
		Time: now, Version: g.opts.Version, Started: g.started, Config: g.opts.Path,
		Warnings: g.allWarnings(), Settled: g.settled, Events: maps.Clone(g.told),
		Fence: control.Fence{Up: g.broken == "", Owned: g.world.Fence.Owned(), Repairs: g.repairs, Mismatch: g.broken},
		Doors: make([]control.Door, 0, len(g.doors)),
	}
	if g.applied.Pending != nil {
		s.Pending = &control.Pending{Until: g.applied.Deadline, By: g.applied.By}
	}
	refused, err := g.world.Fence.Refused()
	if err != nil {
		g.log.Warn("cannot read how many packets were refused", "err", err)
	}
	for _, d := range g.doors {
		s.Doors = append(s.Doors, d.status(refused[d.name()]))
		if d.door.Saved().State == door.Open {
			continue // its latest look says who is in
		}
		if standing, err := g.world.Sessions(d.conf.Ports); err == nil {
			s.Doors[len(s.Doors)-1].Sessions = len(standing)
		}
	}
	return s
}

// allWarnings is what an operator should act on.
func (g *Gateway) allWarnings() []string {
	all := slices.Concat([]string{}, g.opts.Warnings, g.warnings)
	for _, p := range []struct{ what, problem string }{
		{"the fence is down: ", g.broken},
		{"", g.ear.problem},
		{"nothing is kept, so that a restart would forget penalties, open doors and the audit trail; " +
			"mend this and start the daemon again: ", g.unkept},
		{"nothing is saved, so that a restart would forget it: ", g.unsaved},
	} {
		if p.problem != "" {
			all = append(all, p.what+p.problem)
		}
	}
	for _, d := range g.doors {
		for _, o := range d.oddities {
			all = append(all, "door "+d.name()+": "+o)
		}
		if v := d.door.Saved(); v.State == door.Failsafe {
			all = append(all, "door "+d.name()+" is in failsafe, dark and deaf: "+v.Reason)
		}
	}
	return all
}

func (d *guarded) status(refused uint64) control.Door {
	v := d.door.View()
	s := control.Door{
		Name: d.name(), State: v.State.String(), Since: v.Since, Reason: v.Reason,
		Ports: []string{}, Running: true, Sessions: v.Connections, Refused: refused,
		LastSeen: moment(v.LastSeen), DarkAt: moment(v.DarkAt),
		Grants: []control.Grant{}, Penalties: []control.Penalty{},
		Refusals: append([]audit.Record{}, d.refusals...),
	}
	for _, p := range d.conf.Ports {
		s.Ports = append(s.Ports, p.String())
	}
	if d.service != nil {
		s.Service, s.Running = d.service.svc.String(), d.service.running
	}
	for _, c := range v.Grants {
		last := len(s.Grants) - 1
		source := door.SourceString(c.Source)
		if last < 0 || s.Grants[last].Source != source {
			s.Grants = append(s.Grants, control.Grant{Source: source, Expires: c.Until, For: []string{c.By}})
			continue
		}
		s.Grants[last].For = append(s.Grants[last].For, c.By)
		if c.Until.After(s.Grants[last].Expires) {
			s.Grants[last].Expires = c.Until
		}
	}
	for _, p := range v.Penalties {
		s.Penalties = append(s.Penalties, control.Penalty{Source: door.SourceString(p.Source), Until: p.Until, Reason: p.Reason})
	}
	return s
}

// moment is a pointer to a time, nil for the zero time.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// level is how loud an event is told: at info unless an operator acts on it.
func level(event string) slog.Level {
	switch event {
	case audit.EventFailsafe, audit.EventError:
		return slog.LevelError
	case audit.EventRepaired:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// logRecord tells the log what the audit trail has.
func (g *Gateway) logRecord(r audit.Record) {
	var args []any
	for _, a := range []struct{ key, value string }{
		{"door", r.Door}, {"source", r.Source}, {"by", r.By}, {"reason", r.Reason},
	} {
		if a.value != "" {
			args = append(args, a.key, a.value)
		}
	}
	if r.Until != nil {
		args = append(args, "until", r.Until.Format(time.RFC3339))
	}
	g.log.Log(context.Background(), level(r.Event), r.Event, args...)
}

// Alive says whether the gateway makes a turn within the given time.
func (g *Gateway) Alive(ctx context.Context, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	done := make(chan struct{})
	select {
	case g.events <- func(time.Time) { close(done) }:
	case <-ctx.Done():
		return false
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
