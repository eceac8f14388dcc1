package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
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

// checked is a configuration that was read and is valid.
type checked struct {
	config          *config.Config
	text            []byte
	hash            string            // of text
	machineMistakes []*tables.Mistake // what is a mistake on this machine only
	walled          error             // why this process cannot serve it from inside its sandbox
	problem         error             // why it cannot be used after all; then there is no config
	// differs are the keys that differ from those of others, by their hashes. It is filled
	// in the background, since that takes long.
	differs map[string][]string
}

// applying is a configuration that is on its way into use, or is to be kept: it is read
// in the background, and what a restart is to do is on disk before anything changes.
// Neither is waited for longer than slowDisk.
type applying struct {
	by      string
	confirm time.Duration
	force   bool
	reading time.Time // when the file began to be read, zero when it was
	checked           // what was read
	done    func(control.Reply, error)
}

// givenUp is when waiting for the file ends, zero for never.
func (a *applying) givenUp() time.Time {
	if a == nil || a.reading.IsZero() {
		return time.Time{}
	}
	return a.reading.Add(slowDisk)
}

// orderApply carries out an order about configurations, one at a time.
func (g *Gateway) orderApply(now time.Time, by string, o control.ApplyRequest, done func(control.Reply, error)) {
	if by == bySignal {
		done = g.tellRefused(done)
	}
	confirm, err := duration(o.Confirm, 0)
	switch {
	case err != nil:
	case g.applying != nil || g.rollingBack:
		err = &control.Error{Code: control.CodeRefused,
			Message: "another configuration is being applied, which takes a few seconds at most",
			Hint:    "doorward status, then try again"}
	case o.Action == "apply":
		err = g.mayReplace(o.Force)
	case o.Action != "keep" && o.Action != "undo":
		err = unknown(o)
	case !g.waits(o.ID):
		reply, err := g.endedAlready(o)
		g.answer(reply, err, done)
		return
	}
	switch {
	case err != nil:
		done(control.Reply{}, err)
	case o.Action == "keep":
		g.keep(now, by, done)
	case o.Action == "undo":
		g.undo(now, by, control.EndUndone, func(_ time.Time, reply control.Reply, err error) { g.answer(reply, err, done) })
	default:
		g.apply(now, &applying{by: by, confirm: confirm, force: o.Force, reading: now, done: g.loading(done)})
	}
}

// bySignal is who asks for a reload by SIGHUP.
const bySignal = "SIGHUP"

// tellRefused records in the audit trail why a signal has changed nothing, since its
// sender gets no answer. A reason from elsewhere may name a knock's ports.
func (g *Gateway) tellRefused(done func(control.Reply, error)) func(control.Reply, error) {
	return func(reply control.Reply, err error) {
		if err != nil {
			why := err.Error()
			if causeOf(err) != nil {
				why = "nothing was changed: " + g.opts.Path + " cannot be used; doorward apply says why"
			}
			g.record(g.world.Now(), audit.EventError, bySignal, why)
		}
		done(reply, err)
	}
}

// apply reads the configuration file again and puts it into use. With a confirm time
// the previous configuration comes back after that time, unless the operator keeps the
// new one: that promise is on disk before anything changes.
func (g *Gateway) apply(now time.Time, a *applying) {
	g.applying = a
	path, inUse, fallback := g.opts.Path, g.inUse(), g.fallback
	g.async(func() event {
		c, err := g.read(path)
		if err == nil {
			c.compareWith(inUse, fallback)
		}
		return func(now time.Time) {
			if g.applying != a {
				return // it was abandoned
			}
			a.reading, a.checked = time.Time{}, c
			switch {
			case err == nil && g.applied.Pending == nil && bytes.Equal(c.text, g.applied.Confirmed):
				g.settleKept(a, g.inUseAlready(now, a))
				return
			case err == nil:
				err = g.acceptable(a)
			}
			if err != nil {
				g.settle(a, control.Reply{}, err)
				return
			}
			g.tryPorts(c.config, func(now time.Time, err error) {
				switch {
				case g.applying != a: // the daemon ends
				case err != nil:
					g.settle(a, control.Reply{}, unchanged(err))
				default:
					g.promise(now, a)
				}
			})
		}
	})
}

// inUseAlready handles an apply that changes nothing. That the file was rolled back, or
// that this machine cannot serve all of it, may no longer be true.
func (g *Gateway) inUseAlready(now time.Time, a *applying) control.Reply {
	g.machineMistakes = a.machineMistakes
	g.warnings = g.warningsOf(g.config)
	g.readFiles(now, true)
	reply := control.Reply{Message: g.opts.Path + " is already in use: nothing has changed"}
	g.recordConfig(now, a.by, reply.Message, a.checked, a.checked)
	return reply
}

// unchanged is the error of an apply that was begun and changed nothing.
func unchanged(why error) error {
	return &control.Error{Code: control.CodeFailed, Message: "nothing was changed: " + why.Error(), Cause: why}
}

// read reads and checks the configuration file, and whether this process can serve it on
// this machine. It runs in the background.
func (g *Gateway) read(path string) (c checked, err error) {
	if c.config, c.text, err = g.world.Config(path); err != nil {
		hint := "doorward check " + path
		if errors.Is(err, fs.ErrPermission) {
			hint += "; if that can read it, systemctl restart doorward: a running daemon reads the file only where it was at the start"
		}
		return c, &control.Error{Code: control.CodeRefused, Message: "nothing was changed: " + err.Error(), Hint: hint, Cause: err}
	}
	c.judge(g)
	return c, nil
}

// judge notes what depends on this process and this machine.
func (c *checked) judge(g *Gateway) {
	c.hash = config.Hash(c.text)
	c.machineMistakes = g.machineMistakesOf(c.config, c.text)
	c.walled = g.confine(c.config)
}

// acceptable says why a configuration cannot be put into use now, although it is valid.
func (g *Gateway) acceptable(a *applying) error {
	refused := func(why, hint string) *control.Error {
		return &control.Error{Code: control.CodeRefused, Message: "nothing was changed: " + why, Hint: hint}
	}
	switch {
	case a.confirm > 0 && g.storeProblem != "":
		return refused("a restart would not roll it back, since nothing can be saved: "+g.storeProblem,
			"fix that and systemctl restart doorward, or doorward apply without --confirm")
	case a.confirm == 0 && !a.force && g.applied.Rejected != nil && bytes.Equal(a.text, g.applied.Rejected):
		return refused(g.opts.Path+" was rolled back, and has not changed since",
			"change it, or doorward apply --confirm 60s; doorward apply --force uses it for good")
	case a.config.Gateway.AtStart() != g.config.Gateway.AtStart():
		return refused("the keys of [gateway] are read at the start only", "systemctl restart doorward")
	case a.walled != nil:
		e := refused(a.walled.Error(), "")
		e.Cause = a.walled
		return e
	case len(a.machineMistakes) > 0:
		return refused(inOneLine(a.machineMistakes), a.machineMistakes[0].Hint)
	}
	return nil
}

// promise saves to disk what a restart is to do, and then puts the configuration into
// use. The previous one stays in use until then, and may itself be rolled back.
func (g *Gateway) promise(now time.Time, a *applying) {
	next := store.Applied{Confirmed: a.text}
	if a.confirm > 0 {
		next = store.Applied{Confirmed: g.applied.Confirmed, Pending: a.text, ID: g.nextID(now),
			Deadline: now.Add(a.confirm), For: a.confirm, By: a.by}
	}
	next.Ended = g.endsBy(now, replacing(g.applied, next), a.by)
	g.saveApplied(next)
	g.onDisk(now, func(now time.Time, err error) {
		if g.applying != a {
			return // the daemon ends, and the next one uses the file
		}
		if err != nil {
			g.saveApplied(g.applied) // which may be another one by now
			g.settle(a, control.Reply{}, unchanged(err))
			return
		}
		g.use(now, a.checked, func(now time.Time, before checked, left []string, err error) {
			g.taken(now, a, next, before, left, err)
		})
	})
}

// taken handles the news that a configuration is in use, or why it is not. A daemon that
// ends meanwhile leaves it to the next one, which uses the file.
func (g *Gateway) taken(now time.Time, a *applying, next store.Applied, before checked, left []string, err error) {
	if err != nil {
		g.saveApplied(g.applied)
		g.tookNothing(now, a, err)
		return
	}
	next.Ended = g.endsBy(now, replacing(g.applied, next), a.by) // it may have ended by itself meanwhile
	if g.applied.Pending == nil {                                // else what was kept last stays the one to go back to
		g.fallback = before
	}
	if g.fallback.differs = map[string][]string{a.hash: a.keysSince(g.fallback)}; next.Pending == nil {
		g.fallback = checked{}
	}
	g.applied = next
	g.saveApplied(next)
	g.forgetMarks()
	reply := control.Reply{Message: fmt.Sprintf("%s is in use: %s", g.opts.Path, countDoors(g.config)), Changed: true, Pending: next.ID}
	if a.confirm > 0 {
		reply.Message += ", until " + spelled(next.Deadline) + " unless it is kept"
		reply.Until = &next.Deadline
	}
	if more := len(left) - maxLeft; more > 0 {
		left = append(left[:maxLeft], fmt.Sprintf("and %d more, in doorward log", more))
	}
	reply.Message = strings.Join(append([]string{reply.Message}, left...), "; ")
	g.recordConfig(now, a.by, reply.Message, before, a.checked)
	g.settleKept(a, reply)
}

// maxLeft limits how many doors and services that went one answer lists.
const maxLeft = 8

// tookNothing answers why a configuration did not come into use, once that is on disk.
func (g *Gateway) tookNothing(now time.Time, a *applying, why error) {
	g.applying, g.listeners.trying = nil, nil
	g.onDisk(now, func(_ time.Time, err error) {
		if err != nil {
			why = errors.Join(why, fmt.Errorf("a restart would not know of that: %w", err))
		}
		a.done(control.Reply{}, unchanged(why))
	})
}

// settle ends the apply that was under way, and answers it.
func (g *Gateway) settle(a *applying, reply control.Reply, err error) {
	g.applying, g.listeners.trying = nil, nil
	g.answer(reply, err, a.done)
}

// settleKept is settle for a change that is done and on disk except for its record, which
// may come later: that does not make the order fail, and a restart would not forget the
// change.
func (g *Gateway) settleKept(a *applying, reply control.Reply) {
	done := a.done
	a.done = func(reply control.Reply, err error) {
		if unsaved, ok := causeOf(err).(*unsavedError); ok { // and nothing else is wrong
			reply.Message += "; the record of it is not on disk yet: " + unsaved.why.Error()
			err = nil
		}
		done(reply, err)
	}
	g.settle(a, reply, nil)
}

// causeOf returns the cause of an error that is answered, nil if the answer does not
// include it.
func causeOf(err error) error {
	if told, ok := errors.AsType[*control.Error](err); ok {
		return told.Cause
	}
	return nil
}

// giveUpReading stops waiting for a file that takes too long to read.
func (g *Gateway) giveUpReading(now time.Time) {
	if t := g.applying.givenUp(); !t.IsZero() && !now.Before(t) {
		g.settle(g.applying, control.Reply{}, unchanged(fmt.Errorf("%s has not been read for %s", g.opts.Path, slowDisk)))
	}
}

// saveApplied has the store keep which configuration is in use.
func (g *Gateway) saveApplied(a store.Applied) { g.changes.applied = &a }

// use puts a checked configuration into use once the fence guards its doors, and then
// calls then: with the previous configuration and what an operator should know about
// doors and services that went, or with an error, after which the previous one is still
// in use.
func (g *Gateway) use(now time.Time, next checked, then func(now time.Time, before checked, left []string, err error)) {
	g.raise(now, next.config, func(now time.Time, err error) {
		if err != nil {
			then(now, checked{}, nil, err)
			return
		}
		before := g.inUse()
		then(now, before, g.takeOn(now, next), nil)
	})
}

// takeOn makes the doors of a configuration that the fence guards the gateway's own.
// Doors that stay keep all they know. It returns what an operator should know about doors
// and services that went.
func (g *Gateway) takeOn(now time.Time, next checked) (left []string) {
	c := next.config
	old := g.byName
	g.config, g.hash, g.machineMistakes, g.doors, g.knocksByPlace = c, next.hash, next.machineMistakes, nil, nil
	g.byName = make(map[string]*guarded, len(c.Doors))
	g.warnings = g.warningsOf(c)
	g.useKeeps(now, c)
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
	g.sessionTable.keepOnly(c.Doors)
	g.refreshSessions(c.Doors)
	return left
}

// machineMistakesOf is what keeps c from knowing who is in on this machine: doors whose
// presence depends on flows, where flows cannot be seen.
func (g *Gateway) machineMistakesOf(c *config.Config, text []byte) []*tables.Mistake {
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

// warningsOf returns what an operator should know about the configuration in use. Doors
// are guarded whatever else is wrong with it, so something that is a mistake on this
// machine only is a warning too.
func (g *Gateway) warningsOf(c *config.Config) []string {
	w := c.Warnings()
	for _, m := range g.machineMistakes {
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
