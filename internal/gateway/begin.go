package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/store"
)

// begin raises the fence, brings back what survived and sets the doors going.
// The fence comes first: until there is one, nothing else matters. Where the
// kernel has none, it is raised from the file alone, before anything is asked of
// a disk. Where one stands, it guards already, and must not be made that of a
// file that was rolled back: the grants of the doors in use would go.
func (g *Gateway) begin() error {
	now := g.world.Now()
	if err := g.guardAtOnce(); err != nil {
		return err
	}
	var err error
	if g.meddled, err = g.world.Fence.Watch(g.ctx); err != nil {
		return fmt.Errorf("watch the fence: %w", err)
	}
	state, err := g.openStore()
	if err != nil {
		return err
	}
	g.changes = newChanges()
	if err := g.choose(state.Applied, state.Rebooted); err != nil {
		return err
	}
	if err := g.raise(g.config); err != nil {
		return fmt.Errorf("raise the fence: %w", err)
	}
	if err := g.confine(g.config); err != nil {
		return err
	}
	grants, err := g.world.Fence.Grants()
	if err != nil {
		return fmt.Errorf("read the grants that stand: %w", err)
	}
	g.ear = &ear{log: g.log, ear: g.world.Ear}
	saved := make(map[string]door.Saved)
	for _, d := range state.Doors {
		saved[d.Name] = loadedDoor(d)
	}
	for _, c := range g.config.Doors {
		d := g.newGuarded(c, saved[c.Name], now)
		if state.Rebooted {
			d = g.newGuarded(c, door.Saved{}, now)
		}
		g.doors = append(g.doors, d)
		if before := saved[c.Name].State; before != door.Dark && d.door.Saved().State == door.Dark {
			g.changes.record(audit.Record{Time: now, Door: c.Name, Event: audit.EventDark,
				Reason: d.door.Saved().Reason + ", and was " + before.String()})
		}
	}
	g.restoreGrants(now, state.Grants, grants)
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
		g.record(now, audit.EventError, "", "the store was damaged and is set aside as "+aside+
			"; penalties and the audit trail begin anew")
	}
	if g.unkept != "" {
		g.record(now, audit.EventError, "", "nothing is kept until the daemon is started again: "+g.unkept)
	}
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
		return nil // choose tells it
	}
	if err := g.raise(c); err != nil {
		return fmt.Errorf("raise the fence: %w", err)
	}
	return nil
}

// openStore opens what survives and reads it. A store that cannot be opened or
// read is no reason to leave the doors unguarded: the gateway goes on without
// one, as if there had never been any, so that all doors begin dark. Only that
// another daemon has it is: there is one warden, and this is not it.
func (g *Gateway) openStore() (store.State, error) {
	kept, err := g.world.Open()
	var state store.State
	if err == nil {
		state, err = kept.Load()
	}
	switch {
	case err == nil:
		g.store = kept
		return state, nil
	case errors.Is(err, store.ErrLocked):
		return store.State{}, err
	}
	g.log.Error("the state cannot be kept: the doors are guarded and right knocks open, but penalties, open doors "+
		"and the audit trail are forgotten with the daemon; mend it and start the daemon again", "err", err)
	g.unkept = err.Error()
	g.store = store.InMemory()
	return store.State{}, nil
}

// end says goodbye in the audit trail. The fence stands on.
func (g *Gateway) end() {
	now := g.world.Now()
	g.applying = nil
	g.changes.recordAll(g.sums.All(now))
	g.record(now, audit.EventStopped, "", "the daemon ends; the fence stands and grants run out by themselves")
	g.flush(now)
	g.finish()
}

// restoreGrants joins the kernel's grants, which are the truth, with what the
// store knows of who they were given to. Nobody is let in at a door that is not
// open, so what a crash left standing there goes. At an open door a grant stands
// that was given in the moment before a crash, without a word in the store: the
// visitor was let in.
func (g *Gateway) restoreGrants(now time.Time, claims []store.Grant, grants []fence.Grant) {
	left := make(map[grantKey]time.Duration)
	for _, f := range grants {
		source := f.Source
		if source.Bits() == 0 {
			source = door.Any
		}
		left[grantKey{f.Door, source}] = f.Until.Sub(now)
	}
	ends := g.restoreClaims(now, claims, left)
	for key, length := range left {
		d := g.door(key.door)
		end, known := ends[key]
		switch {
		case d == nil: // went with the door
		case length <= 0 || d.door.Saved().State != door.Open:
			g.changes.grants[key] = time.Time{}
		case !known || length-end > expirySlack:
			d.carry(d.door.Adopt(now, door.Claim{Source: key.source, By: "before the restart", Until: now.Add(length)}))
		}
	}
	for key := range ends {
		if left[key] <= 0 {
			d := g.door(key.door)
			d.carry(d.door.Ended(now, key.source, "the kernel lost it while no daemon ran"))
		}
	}
}

// restoreClaims brings back the claims that still have time to run at doors
// that are open, and returns how long the longest to each grant has. That one
// ends with the kernel's grant, but for a kernel that was told of more time than
// the store.
func (g *Gateway) restoreClaims(now time.Time, claims []store.Grant, left map[grantKey]time.Duration) map[grantKey]time.Duration {
	slices.SortStableFunc(claims, func(a, b store.Grant) int { return cmp.Compare(b.Left(now), a.Left(now)) })
	ends := make(map[grantKey]time.Duration)
	for _, c := range claims {
		d, length := g.door(c.Door), c.Left(now)
		if d == nil || d.door.Saved().State != door.Open || length <= 0 || !door.Somebody(c.Source) {
			g.changes.claims[store.GrantKey{Door: c.Door, Source: c.Source, By: c.By}] = nil
			continue
		}
		key := grantKey{c.Door, c.Source}
		_, longer := ends[key]
		if kernel := left[key]; kernel > 0 && (kernel < length || !longer && kernel-length <= expirySlack) {
			length = kernel
		}
		d.door.Restore(door.Claim{Source: c.Source, By: c.By, Until: now.Add(length), For: c.For})
		ends[key] = max(ends[key], length)
	}
	return ends
}

// restorePenalties brings back the penalties that still have time to run, and
// those that are over and still count for the next.
func (g *Gateway) restorePenalties(now time.Time, penalties []store.Penalty) {
	for _, p := range penalties {
		d := g.door(p.Door)
		left := p.Left(now)
		if left == 0 {
			left = min(0, p.Until.Sub(now.Round(0)))
		}
		if remembered := left + door.Remembered; d == nil || remembered <= 0 || left <= 0 && p.Source == door.Any || !door.Somebody(p.Source) {
			g.changes.penalties[store.PenaltyKey{Door: p.Door, Source: p.Source}] = nil
			continue
		}
		d.door.RestorePenalty(now, door.Penalty{Source: p.Source, Until: now.Add(left), For: p.For, Times: p.Times,
			Reason: p.Reason})
		back := p.Until.Sub(now.Round(0)) > left // the clock was set back; the next start is not to begin it anew
		if over := left <= 0 && p.For > 0; back || over {
			p.Until = now.Add(left)
			if over {
				p.For = 0
			}
			g.changes.penalties[store.PenaltyKey{Door: p.Door, Source: p.Source}] = &p
		}
	}
}

// endDoor forgets a door that the configuration no longer has, and says so in
// its trail.
func (g *Gateway) endDoor(now time.Time, name, reason string) {
	g.changes.endDoor(name)
	g.changes.record(audit.Record{Time: now, Door: name, Event: audit.EventApplied, Reason: reason})
}

// choose decides which configuration to start with. The file is used unless it
// was applied and then rolled back, or cannot be used: then the one before is,
// since a gateway that does not start guards nothing after a reboot.
func (g *Gateway) choose(applied store.Applied, rebooted bool) error {
	c, text, err := g.world.Config(g.opts.Path)
	g.applied = applied
	if applied.Pending != nil {
		// From now on its time is this clock's, whatever the wall clock does.
		now := g.world.Now()
		g.applied.Deadline = now.Add(applied.Left(now))
		if rebooted || !now.Before(g.applied.Deadline) {
			g.forgetPending()
		}
	}
	switch {
	case err == nil && g.applied.Pending != nil && slices.Equal(text, g.applied.Pending):
		// Still waiting to be confirmed.
		g.fallback = g.parsed(g.applied.Confirmed)
	case err == nil && g.applied.Pending == nil && !slices.Equal(text, g.applied.Rejected):
		g.applied = store.Applied{Confirmed: text}
	case err == nil && g.applied.Pending != nil:
		// Neither kept nor undone, and the file has changed again since.
		g.applied = store.Applied{Confirmed: text}
	case g.applied.Confirmed == nil:
		if err == nil {
			err = errors.New("it was rolled back, and there is none before it")
		}
		return err
	default:
		before := g.parsed(g.applied.Confirmed)
		if before.problem != nil {
			return errors.Join(err, fmt.Errorf("the configuration used before cannot be used either: %w", before.problem))
		}
		why := "was rolled back"
		if err != nil {
			why = "cannot be used: " + err.Error()
		}
		g.applied.Pending, g.applied.Deadline = nil, time.Time{}
		g.warnings = append(g.warnings, fmt.Sprintf("the configuration used before is in use: %s %s", g.opts.Path, why))
		g.log.Error("the configuration used before is in use", "file", g.opts.Path, "why", why)
		c, text = before.config, before.text
	}
	g.config, g.blinds = c, g.blind(c, text)
	g.warnings = append(g.warnings, g.warningsOf(c)...)
	// If the disk takes nothing, the next start decides the same.
	g.saveApplied(g.applied)
	return nil
}

// parsed is a configuration that was in use before.
func (g *Gateway) parsed(text []byte) checked {
	c, err := config.Parse(g.opts.Path, text)
	if err != nil {
		return checked{problem: err}
	}
	return checked{config: c, text: text, blinds: g.blind(c, text)}
}

// confine locks the process in, or says why it cannot serve c from inside.
func (g *Gateway) confine(c *config.Config) error {
	if g.opts.Confine == nil {
		return nil
	}
	return g.opts.Confine(c)
}

// forgetPending rolls the record of a configuration back that nobody kept.
func (g *Gateway) forgetPending() {
	g.applied = store.Applied{Confirmed: g.applied.Confirmed, Rejected: g.applied.Pending}
}
