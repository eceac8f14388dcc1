package gateway

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/store"
	"github.com/doorward/doorward/internal/tables"
)

// begin raises the fence, brings back what survived and sets the doors going. The fence
// comes first: until there is one, nothing else matters. Where the kernel has none, it is
// raised from the file alone, before anything needs a disk. Where one stands, it guards
// already, and must not be replaced by that of a file that was rolled back: the grants of
// the doors in use would be lost.
func (g *Gateway) begin() error {
	now := g.world.Now()
	g.countingSince = now
	if err := g.guardAtOnce(); err != nil {
		return err
	}
	if err := g.watchFence(); err != nil {
		return err
	}
	state, err := g.openStore()
	if err != nil {
		return err
	}
	g.changes = newChanges()
	if err := g.choose(now, state.Applied, state.Rebooted); err != nil {
		return err
	}
	if err := g.guard(g.config); err != nil {
		return fmt.Errorf("raise the fence: %w", err)
	}
	if err := g.confine(g.toServe()); err != nil {
		return err
	}
	g.listeners = &listeners{log: g.log, tcp: g.world.Touches, udp: g.world.Datagrams}
	for _, m := range g.makeKeeps(state.Marks) {
		g.marks.keep(m)
	}
	g.forgetMarks()
	g.useKeeps(now, g.config)
	saved := make(map[string]door.Saved)
	for _, d := range state.Doors {
		saved[d.Name] = loadedDoor(d)
	}
	g.recallLogins(now)
	g.byName = make(map[string]*guarded, len(g.config.Doors))
	for _, c := range g.config.Doors {
		d := g.newGuarded(c, saved[c.Name], now)
		if state.Rebooted {
			d = g.newGuarded(c, door.Saved{}, now)
		}
		g.addDoor(d)
		if before := saved[c.Name].State; before != door.Dark && d.door.Saved().State == door.Dark {
			g.changes.record(audit.Record{Time: now, Door: c.Name, Event: audit.EventDark,
				Reason: d.door.Saved().Reason + ", and was " + before.String()})
		}
	}
	if err := g.restoreGrants(now, state.Grants); err != nil {
		return err
	}
	g.restorePenalties(now, state.Penalties)
	for _, name := range slices.Sorted(maps.Keys(saved)) {
		if g.door(name) == nil {
			g.endDoor(now, name, "door "+name+" is no longer guarded")
		}
	}
	for _, d := range g.doors {
		d.start(g.ctx)
	}
	g.record(now, audit.EventStarted, "", fmt.Sprintf("version %s guards %s", g.opts.Version, countDoors(g.config)))
	if aside := g.store.SetAside(); aside != "" {
		g.record(now, audit.EventError, "", "the store was damaged and was moved to "+aside+
			"; what only it had is lost")
	}
	if g.storeProblem != "" {
		g.record(now, audit.EventError, "", "nothing is saved until the daemon is restarted: "+g.storeProblem)
	}
	g.compareAll()
	// Who is in by now is from before; whoever comes from here on was let in by a grant that
	// is known. So nobody is heard before this look, which costs a list of sockets. What keeps
	// it from seeing them is reported by the checks for presence.
	_, _, _ = g.readSessions(g.config.Doors)
	g.turn(nil)
	return nil
}

// guardAtOnce raises the fence from the configuration file if the kernel has
// none that stands. A file that cannot be used raises nothing: the store may
// have the one before.
func (g *Gateway) guardAtOnce() error {
	stands, err := g.world.Fence.Stands()
	if err != nil {
		return fmt.Errorf("look whether the fence stands: %w", err)
	}
	if stands {
		return nil
	}
	c, _, err := g.world.Config(g.opts.Path)
	if err != nil {
		return nil // choose reports it
	}
	if err := g.guard(c); err != nil {
		return fmt.Errorf("raise the fence: %w", err)
	}
	return nil
}

// openStore opens what survives and reads it. A store that cannot be opened or read is no
// reason to leave the doors unguarded: the gateway goes on without one, as if there had
// never been any, so that all doors begin dark. Only if another daemon has it does this
// one end: there is one gateway, and this is not it.
func (g *Gateway) openStore() (store.State, error) {
	kept, err := g.world.Open()
	var state store.State
	if err == nil {
		state, err = kept.Load()
	}
	switch {
	case err == nil:
		g.store = kept
		close(g.opened)
		return state, nil
	case errors.Is(err, store.ErrLocked):
		return store.State{}, err
	}
	g.log.Error("cannot keep state: the doors are guarded and right knocks open them, but penalties, open doors "+
		"and the audit trail are lost when the daemon stops; fix this and restart it", "err", err)
	g.storeProblem = err.Error()
	g.store = store.InMemory()
	close(g.opened)
	return g.store.Load()
}

// end records the daemon's end in the audit trail. The fence stays up.
func (g *Gateway) end() {
	now := g.world.Now()
	g.applying = nil
	g.changes.recordAll(g.sums.All(now))
	g.changes.recordAll(g.shares.All(now))
	g.record(now, audit.EventStopped, "", "stopped; the fence stays up and grants expire by themselves")
	g.markLast()
	g.writer.tryAgain()
	g.flush(now)
	g.finish()
}

// endDoor forgets a door that the configuration no longer has, and records that.
func (g *Gateway) endDoor(now time.Time, name, reason string) {
	g.changes.endDoor(name)
	g.changes.add(name, door.Clear{})
	g.changes.add(name, door.PardonAll{})
	g.keepMarks(name)
	g.changes.record(audit.Record{Time: now, Door: name, Event: audit.EventApplied, Reason: reason})
	g.forgetOrders(func(k orderKey) bool { return k.door == name })
}

// choose decides which configuration to start with. The file is used unless it was
// applied and then rolled back, or cannot be used: then the previous one is, since a
// gateway that does not start guards nothing after a reboot.
func (g *Gateway) choose(at time.Time, applied store.Applied, rebooted bool) error {
	c, text, err := g.world.Config(g.opts.Path)
	g.applied = applied
	latest := g.inUse()
	latest.hash = config.Hash(latest.text)
	if applied.Pending != nil {
		// From now on its time is this clock's, whatever the wall clock does.
		g.applied.Deadline = at.Add(applied.Left(at))
		switch {
		case rebooted:
			g.forgetPending(at, control.EndRebooted, "")
		case !at.Before(g.applied.Deadline):
			g.forgetPending(at, control.EndExpired, "")
		case applied.ID == 0: // an earlier version has promised it
			g.applied.ID = g.nextID(at)
		}
	}
	told := g.opts.Path + " has changed since it was last used, and is in use from this start on"
	switch {
	case err == nil && g.applied.Pending != nil && slices.Equal(text, g.applied.Pending):
		// Still waiting to be confirmed.
		g.fallback = g.parsed(g.applied.Confirmed)
		g.fallback.compareWith(checked{text: text, hash: config.Hash(text)})
		if g.fallback.problem != nil {
			why := "cannot go back to the previous configuration, so the new one stays in use: " + g.fallback.problem.Error()
			g.warnings = append(g.warnings, why+"; doorward apply --keep, or fix the file and doorward apply --force")
			g.log.Error("cannot go back to the previous configuration", "why", g.fallback.problem)
		}
	case err == nil && g.applied.Pending == nil && slices.Equal(text, g.applied.Confirmed):
		// In use already; what was rolled back stays so.
	case err == nil && (g.applied.Pending != nil || !slices.Equal(text, g.applied.Rejected)):
		// If a configuration was waiting, it was neither kept nor undone, and the file
		// has changed since.
		g.applied = store.Applied{Confirmed: text, Ended: g.endsBy(at, control.EndReplaced, "")}
	case g.applied.Confirmed == nil:
		if err == nil {
			err = errors.New("it was rolled back, and there is no earlier one")
		}
		return err
	default:
		before := g.parsed(g.applied.Confirmed)
		if before.problem != nil {
			return errors.Join(err, fmt.Errorf("the previous configuration cannot be used either: %w", before.problem))
		}
		why, inTrail := whyNot(err)
		instead := "the previous configuration is in use: " + g.opts.Path + " "
		told = instead + inTrail
		if g.applied.Pending != nil {
			g.forgetPending(at, control.EndReplaced, "")
		}
		g.metered.loads.failed = true
		g.warnings = append(g.warnings, instead+why)
		g.log.Error("the previous configuration is in use", "file", g.opts.Path, "why", why)
		c, text = before.config, before.text
	}
	g.config, g.hash, g.machineMistakes = c, config.Hash(text), g.machineMistakesOf(c, text)
	if !g.metered.loads.failed {
		g.metered.loads.latest = g.world.Now()
	}
	g.warnings = append(g.warnings, g.warningsOf(c)...)
	if now := g.inUse(); latest.hash != "" && latest.hash != now.hash {
		g.recordConfig(at, "", told, latest, now)
	}
	// If the disk cannot be written, the next start decides the same.
	g.saveApplied(g.applied)
	return nil
}

// whyNot says why a start does not use the file, and how much of that the trail may say:
// a mistake may be in a knock. err is nil for a file that was rolled back.
func whyNot(err error) (why, inTrail string) {
	switch {
	case err == nil:
		why = "was rolled back"
	case len(tables.Mistakes(err)) > 0:
		return "cannot be used: " + err.Error(), "cannot be used; doorward check says why"
	default:
		why = "cannot be used: " + err.Error()
	}
	return why, why
}

// parsed is a configuration that was in use before.
func (g *Gateway) parsed(text []byte) checked {
	c, err := config.Parse(g.opts.Path, text)
	if err != nil {
		return checked{problem: err}
	}
	return checked{config: c, text: text, hash: config.Hash(text), machineMistakes: g.machineMistakesOf(c, text)}
}

// toServe is what the process must be able to serve from inside its sandbox: the
// configuration that it starts with, and the doors of the one that comes back unless this
// one is kept.
func (g *Gateway) toServe() *config.Config {
	if g.fallback.config == nil {
		return g.config
	}
	both := *g.config
	both.Doors = slices.Concat(both.Doors, g.fallback.config.Doors)
	return &both
}

// confine confines the process, or says why it cannot serve c from inside its sandbox.
func (g *Gateway) confine(c *config.Config) error {
	if g.opts.Confine == nil {
		return nil
	}
	return g.opts.Confine(c)
}

// watchFence has the loop told when somebody else changes the fence. Where the kernel lets
// nobody else, there is no watch: the kernel would write down each change of grants for
// it, and wake it, which takes longer than the change (nf_tables_api.c,
// nf_tables_setelem_notify). A connection that breaks, and the ownership with it, fails a
// change or a check, after which the fence is checked.
func (g *Gateway) watchFence() (err error) {
	if g.world.Fence.Owned() {
		return nil
	}
	if g.fenceChanged, err = g.world.Fence.Watch(g.ctx); err != nil {
		return fmt.Errorf("watch the fence: %w", err)
	}
	return nil
}
