package gateway

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/store"
	"github.com/doorward/doorward/internal/tables"
)

// checked is a configuration that was read and found good.
type checked struct {
	config  *config.Config
	text    []byte
	blinds  []*tables.Mistake // what only this machine makes a mistake
	walled  error             // why this process cannot serve it from inside its cage
	problem error             // why it cannot be used after all; then there is no config
}

// applying is a configuration that is on its way into use, or is to be kept: it is
// read beside the turns, and what a restart is to do is on disk before anything
// changes. Neither is waited for for longer than slowDisk.
type applying struct {
	by      string
	confirm time.Duration
	reading time.Time // when the file began to be read, zero when it was
	done    func(control.Reply, error)
}

// givenUp is when the file is not waited for any more, zero for never.
func (a *applying) givenUp() time.Time {
	if a == nil || a.reading.IsZero() {
		return time.Time{}
	}
	return a.reading.Add(slowDisk)
}

// orderApply carries out an order about configurations, one at a time.
func (g *Gateway) orderApply(now time.Time, by string, o control.ApplyRequest, done func(control.Reply, error)) {
	confirm, err := duration(o.Confirm, 0)
	switch {
	case g.applying != nil || g.rollingBack:
		err = &control.Error{Message: "another configuration is being taken into use, which takes some seconds at most",
			Hint: "doorward status, and the same again"}
	case o.Action == "undo":
		g.undo(now, by, "undone by "+by, func(_ time.Time, reply control.Reply, err error) { g.answer(reply, err, done) })
		return
	case o.Action == "keep":
		g.keep(now, by, done)
		return
	case o.Action != "apply":
		err = unknown(o)
	}
	if err != nil {
		done(control.Reply{}, err)
		return
	}
	g.apply(now, &applying{by: by, confirm: confirm, reading: now, done: done})
}

// apply reads the configuration file anew and takes it into use. With a confirm
// time what ran before comes back after it, unless the operator keeps the new
// one: that promise is on disk before anything changes.
func (g *Gateway) apply(now time.Time, a *applying) {
	g.applying = a
	path := g.opts.Path
	g.async(func() event {
		c, err := g.read(path)
		return func(now time.Time) {
			if g.applying != a {
				return // it was given up
			}
			a.reading = time.Time{}
			if err == nil {
				err = g.acceptable(c, a.confirm)
			}
			if err != nil {
				g.settle(a, control.Reply{}, err)
				return
			}
			g.tryPorts(c.config, func(now time.Time, err error) {
				switch {
				case g.applying != a: // the daemon ends
				case err != nil:
					g.settle(a, control.Reply{}, fmt.Errorf("nothing was changed: %w", err))
				default:
					g.promise(now, a, c)
				}
			})
		}
	})
}

// read reads and checks the configuration file, and whether this process can serve
// it on this machine. It runs beside the turns.
func (g *Gateway) read(path string) (c checked, err error) {
	if c.config, c.text, err = g.world.Config(path); err != nil {
		return c, &control.Error{Message: "nothing was changed: " + err.Error(), Hint: "doorward check " + path}
	}
	c.blinds = g.blind(c.config, c.text)
	c.walled = g.confine(c.config)
	return c, nil
}

// acceptable says why a configuration cannot be taken into use now.
func (g *Gateway) acceptable(c checked, confirm time.Duration) error {
	if g.applied.Pending != nil && confirm > 0 {
		return &control.Error{
			Message: "a configuration waits to be confirmed already, until " + g.applied.Deadline.Format(time.TimeOnly),
			Hint:    "doorward apply --keep, or doorward apply --undo"}
	}
	if confirm > 0 && g.unkept != "" {
		return &control.Error{
			Message: "nothing was changed: a restart would not roll it back, since nothing is kept: " + g.unkept,
			Hint:    "mend that and systemctl restart doorward, or doorward apply without --confirm"}
	}
	if c.config.Gateway != g.config.Gateway {
		return &control.Error{
			Message: "nothing was changed: the keys of [gateway] are read at the start only",
			Hint:    "systemctl restart doorward"}
	}
	if c.walled != nil {
		return fmt.Errorf("nothing was changed: %w", c.walled)
	}
	if blind := c.blinds; len(blind) > 0 {
		return &control.Error{Message: "nothing was changed: " + inOneLine(blind), Hint: blind[0].Hint}
	}
	return nil
}

// promise puts on disk what a restart is to do, and then takes the configuration
// into use. What was in use before goes on until then, and may be rolled back.
func (g *Gateway) promise(now time.Time, a *applying, c checked) {
	next := store.Applied{Confirmed: c.text}
	if a.confirm > 0 {
		next = store.Applied{Confirmed: g.applied.Confirmed, Pending: c.text, Deadline: now.Add(a.confirm), For: a.confirm, By: a.by}
	}
	g.saveApplied(next)
	g.onDisk(now, func(now time.Time, err error) {
		if g.applying != a {
			return // the daemon ends, and the next one uses the file
		}
		if err != nil {
			g.saveApplied(g.applied) // which may be another one by now
			g.settle(a, control.Reply{}, fmt.Errorf("nothing was changed: %w", err))
			return
		}
		g.use(now, c, func(now time.Time, before checked, left []string, err error) {
			g.taken(now, a, next, before, left, err)
		})
	})
}

// taken takes in that a configuration is in use, or why it is not. A daemon that
// ends meanwhile leaves it to the next one, which uses the file.
func (g *Gateway) taken(now time.Time, a *applying, next store.Applied, before checked, left []string, err error) {
	if err != nil {
		g.saveApplied(g.applied)
		g.unchanged(now, a, fmt.Errorf("nothing was changed: %w", err))
		return
	}
	g.applied, g.fallback = next, before
	g.saveApplied(next)
	g.forgetMarks()
	reply := control.Reply{Message: fmt.Sprintf("%s is in use: %s", g.opts.Path, countDoors(g.config))}
	if a.confirm > 0 {
		reply.Message += ", until " + next.Deadline.Format(time.TimeOnly) + " unless it is kept"
		reply.Until = &next.Deadline
	}
	reply.Message = strings.Join(append([]string{reply.Message}, left...), "; ")
	g.record(now, audit.EventApplied, a.by, reply.Message)
	g.settle(a, reply, nil)
}

// unchanged answers why a configuration did not come into use, when the disk knows
// that it did not.
func (g *Gateway) unchanged(now time.Time, a *applying, why error) {
	g.applying, g.ear.trying = nil, nil
	g.onDisk(now, func(_ time.Time, err error) {
		if err != nil {
			why = errors.Join(why, fmt.Errorf("a restart would not know that: %w", err))
		}
		a.done(control.Reply{}, why)
	})
}

// settle ends what was on its way, and answers.
func (g *Gateway) settle(a *applying, reply control.Reply, err error) {
	g.applying, g.ear.trying = nil, nil
	g.answer(reply, err, a.done)
}

// giveUpReading has nobody wait for a file that cannot be read for long.
func (g *Gateway) giveUpReading(now time.Time) {
	if t := g.applying.givenUp(); !t.IsZero() && !now.Before(t) {
		g.settle(g.applying, control.Reply{}, fmt.Errorf("nothing was changed: %s has not been read for %s", g.opts.Path, slowDisk))
	}
}

// saveApplied has the store keep which configuration is in use.
func (g *Gateway) saveApplied(a store.Applied) { g.changes.applied = &a }

// keep confirms the configuration that waits. It is told to be kept when that is on
// disk; if it was rolled back until then, it is not.
func (g *Gateway) keep(now time.Time, by string, done func(control.Reply, error)) {
	if g.applied.Pending == nil {
		done(control.Reply{}, &control.Error{Message: "no configuration waits to be confirmed"})
		return
	}
	a := &applying{by: by, done: done}
	g.applying = a
	next := store.Applied{Confirmed: g.applied.Pending}
	g.saveApplied(next)
	g.onDisk(now, func(now time.Time, err error) {
		if g.applying != a {
			return
		}
		if err == nil && (g.applied.Pending == nil || g.rollingBack) {
			err = &control.Error{Message: "the new configuration was rolled back before the disk had taken that it is kept"}
		}
		if err != nil {
			g.saveApplied(g.applied)
			g.settle(a, control.Reply{}, err)
			return
		}
		g.applied, g.fallback = next, checked{}
		g.forgetMarks()
		g.settled = &control.Settled{Time: now, By: by, Kept: true}
		g.record(now, audit.EventApplied, by, "the new configuration is kept")
		g.settle(a, control.Reply{Message: "the new configuration is kept"}, nil)
	})
}

// undo goes back to the configuration before the one that waits, and has then
// called. A port of a knock that was taken meanwhile is no reason to stay: the ear
// tries it again.
func (g *Gateway) undo(now time.Time, by, why string, then func(time.Time, control.Reply, error)) {
	if g.applied.Pending == nil {
		then(now, control.Reply{}, &control.Error{Message: "no configuration waits to be confirmed; there is nothing to undo"})
		return
	}
	if g.fallback.config == nil {
		then(now, control.Reply{}, fmt.Errorf("the configuration before cannot be read: %w", g.fallback.problem))
		return
	}
	g.rollingBack = true
	g.use(now, g.fallback, func(now time.Time, _ checked, _ []string, err error) {
		g.rollingBack = false
		if err != nil {
			then(now, control.Reply{}, fmt.Errorf("roll back: %w", err))
			return
		}
		g.forgetPending()
		g.fallback = checked{}
		g.saveApplied(g.applied)
		g.forgetMarks()
		g.settled = &control.Settled{Time: now, By: by}
		message := "the configuration from before is in use again: " + why
		g.warnings = append(g.warnings, fmt.Sprintf("%s was rolled back (%s) and is not in use", g.opts.Path, why))
		g.record(now, audit.EventApplied, by, message)
		then(now, control.Reply{Message: message}, nil)
	})
}

// lapses is when a configuration that nobody keeps is rolled back, zero for never. What
// is under way at the fence ends first: it may be what takes its place.
func (g *Gateway) lapses() time.Time {
	if g.applied.Pending == nil || g.rollingBack || g.fencing.busy {
		return time.Time{}
	}
	return g.applied.Deadline
}

// checkApplied rolls back a configuration that nobody kept.
func (g *Gateway) checkApplied(now time.Time) {
	if t := g.lapses(); t.IsZero() || now.Before(t) {
		return
	}
	g.undo(now, "", "nobody confirmed the new one in time", func(now time.Time, _ control.Reply, err error) {
		if err != nil {
			g.log.Error("cannot roll the configuration back", "err", err)
			g.applied.Deadline = now.Add(fenceRetry)
		}
	})
}

// use takes a checked configuration into use, when the fence guards its doors, and
// has then called: with what was in use before and what an operator should know of
// doors and services that went, or with an error, after which that is in use
// still.
func (g *Gateway) use(now time.Time, next checked, then func(now time.Time, before checked, left []string, err error)) {
	g.raise(now, next.config, func(now time.Time, err error) {
		if err != nil {
			then(now, checked{}, nil, err)
			return
		}
		before := checked{config: g.config, text: g.applied.Confirmed, blinds: g.blinds}
		then(now, before, g.takeOn(now, next), nil)
	})
}

// takeOn has the doors of a configuration that the fence guards be the gateway's.
// Those that stay keep all they know. It returns what an operator should know of
// doors and services that went.
func (g *Gateway) takeOn(now time.Time, next checked) (left []string) {
	c := next.config
	old := g.byName
	g.config, g.blinds, g.doors, g.listeners = c, next.blinds, nil, nil
	g.byName = make(map[string]*guarded, len(c.Doors))
	g.warnings = g.warningsOf(c)
	for _, conf := range c.Doors {
		d := old[conf.Name]
		if d == nil {
			d = g.newGuarded(conf, door.Saved{}, now)
			d.start(g.ctx)
		} else if told := d.reconfigure(now, conf); told != "" {
			left = append(left, told)
		}
		delete(old, conf.Name)
		g.addDoor(d)
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		left = append(left, old[name].leave())
		g.endDoor(now, name, left[len(left)-1])
	}
	g.roll.keepOnly(c.Doors)
	g.meet(c.Doors)
	return left
}

// blind is what keeps c from knowing who is in on this machine: doors whose
// presence hangs on flows, where those cannot be seen.
func (g *Gateway) blind(c *config.Config, text []byte) []*tables.Mistake {
	if !slices.ContainsFunc(c.Doors, func(d config.Door) bool { return d.ByFlows() }) {
		return nil
	}
	if err := g.world.FlowsVisible(); err != nil {
		return c.Blind(g.opts.Path, text, err.Error())
	}
	return nil
}

// inOneLine writes mistakes one after the other.
func inOneLine(all []*tables.Mistake) string {
	var words []string
	for _, m := range all {
		words = append(words, m.Error())
	}
	return strings.Join(words, "; ")
}

// warningsOf is what an operator should know of a configuration that is in use.
// Doors are guarded whatever else is wrong with it, so that a mistake that only
// this machine makes one is a warning too.
func (g *Gateway) warningsOf(c *config.Config) []string {
	w := c.Warnings()
	for _, m := range g.blinds {
		w = append(w, m.Error()+"; "+m.Hint)
	}
	return w
}

// countDoors says how many doors a configuration has.
func countDoors(c *config.Config) string {
	if len(c.Doors) == 1 {
		return "1 door"
	}
	return fmt.Sprintf("%d doors", len(c.Doors))
}
