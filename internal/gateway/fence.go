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
	"github.com/doorward/doorward/internal/fence"
)

// fenceRetry is the pause between attempts to repair the fence.
const fenceRetry = time.Second

// fencing is the work on the fence in the background, one task at a time: it is checked
// and repaired, or made to guard the doors of another configuration. Knocks are heard
// meanwhile, and grants are changed as ever, where the fence accepts them.
type fencing struct {
	busy    bool
	waiting []event         // tasks to begin when that has ended
	goes    map[string]bool // doors that it no longer guards when that has ended
	look    bool            // it is to be checked
	doubt   bool            // it has refused a change: changes wait until it was checked
	mixed   error           // why the doors may be a mixture of two configurations
}

// fenceDoors returns what the fence must know about a configuration.
func fenceDoors(c *config.Config) []fence.Door {
	var doors []fence.Door
	for _, d := range c.Doors {
		f := fence.Door{Name: d.Name, Ports: d.Ports,
			Reject: d.Refuse == config.Reject, SingleUse: d.SingleUse, Always: d.Always}
		for _, p := range hears(d) {
			f.Listen = append(f.Listen, p.Range())
		}
		doors = append(doors, f)
	}
	return doors
}

// guard makes the fence guard the doors of a configuration. It takes long where there are
// many, so except at the start it is called in the background: see guardBeside.
func (g *Gateway) guard(c *config.Config) error { return g.world.Fence.Guard(fenceDoors(c)) }

// guardBeside is guard for a task in the background. Nobody else can change the fence
// while a part of this is under way in the kernel, so it must not wait for a core.
func (g *Gateway) guardBeside(c *config.Config) error {
	g.urgent()
	return g.guard(c)
}

// atTheFence runs a task on the fence in the background.
func (g *Gateway) atTheFence(work func() event) {
	g.fencing.busy = true
	g.async(func() event {
		ended := work()
		return func(now time.Time) {
			f := &g.fencing
			f.busy, f.goes = false, nil
			ended(now)
			for len(f.waiting) > 0 && !f.busy {
				begin := f.waiting[0]
				f.waiting = f.waiting[1:]
				begin(now)
			}
		}
	})
}

// raise makes the fence guard the doors of another configuration, and then calls then.
// After an error it guards those of the one in use, or will as soon as possible. A door
// that is about to go keeps its grants for as long as it is there; no new ones reach it.
func (g *Gateway) raise(now time.Time, c *config.Config, then after) {
	if g.fencing.busy {
		g.fencing.waiting = append(g.fencing.waiting, func(now time.Time) { g.raise(now, c, then) })
		return
	}
	inUse := g.config
	goes := make(map[string]bool)
	for _, d := range inUse.Doors {
		goes[d.Name] = true
	}
	for _, d := range c.Doors {
		delete(goes, d.Name)
	}
	g.fencing.goes = goes
	g.changes.page.invalidate() // the sets of grants may have been replaced
	g.atTheFence(func() event {
		err := g.guardBeside(c)
		var back error
		if err != nil {
			back = g.guardBeside(inUse)
		}
		return func(now time.Time) {
			if err != nil {
				err = fmt.Errorf("raise the fence: %w", err)
				g.grantsLost = true // the grants of doors that went and came back
				g.compareAll()
			}
			if g.fencing.mixed = back; back != nil {
				g.down(now, back)
			}
			then(now, errors.Join(err, back))
		}
	})
}

// repairIfDue checks the fence and repairs it, if somebody else may have changed it, if
// it has refused a change, or when it is time to try again.
func (g *Gateway) repairIfDue(now time.Time) {
	f := &g.fencing
	due := g.resync || f.look || f.doubt || !g.retryFence.IsZero() && !now.Before(g.retryFence)
	if !due || f.busy {
		return
	}
	all, mixed, inUse := g.resync, f.mixed, g.config
	g.resync, f.look, g.retryFence = false, false, time.Time{}
	g.atTheFence(func() event {
		differs := g.world.Fence.Check()
		if differs == nil {
			differs = mixed
		}
		var err error
		if differs != nil {
			err = g.guardBeside(inUse)
		}
		return func(now time.Time) { g.repaired(now, all, differs, err) }
	})
}

// repaired handles the result of a check: the fence is as it should be, whether it
// differed or not, or why it is not. Waiting changes are then made, and all grants are
// compared if somebody else has changed something.
func (g *Gateway) repaired(now time.Time, all bool, differs, err error) {
	g.fencing.doubt = false
	if differs != nil && err == nil {
		g.fencing.mixed = nil
		g.grantsLost = true
		g.repairs++
		g.record(now, audit.EventRepaired, "", "the fence had been changed ("+differs.Error()+"); repaired")
	}
	if err == nil {
		err = g.changeApart()
	}
	g.writer.news = g.writer.news || all || err != nil || g.fenceProblem != ""
	if g.fenceProblem = ""; err != nil {
		g.down(now, err)
	}
	if all || differs != nil {
		g.compareAll()
	}
}

// down notes why the fence is not as it should be. It is tried again.
func (g *Gateway) down(now time.Time, why error) {
	if g.fenceProblem == "" {
		g.log.Error("the fence is down and cannot be repaired; trying again", "err", why)
		g.record(now, audit.EventError, "", "the fence is down: "+why.Error())
	}
	g.fenceProblem = why.Error()
	g.retryFence = now.Add(fenceRetry)
}

// changeFence makes the turn's changes at the fence. Changes that it refuses wait. A door
// that it is about to stop guarding has a transaction of its own, since it may be gone
// already; changes refused there wait until the door has gone, or is known to stay.
func (g *Gateway) changeFence() error {
	if err := g.changeThose(g.stays, false); err != nil {
		return err
	}
	goes := func(name string) bool { return g.fencing.goes[name] }
	_ = g.changeThose(goes, false)
	gone := func(name string) bool { return !goes(name) } // what waits for other doors went with them
	maps.DeleteFunc(g.changes.grants, func(k grantKey, _ time.Time) bool { return gone(k.door) })
	maps.DeleteFunc(g.changes.emptied, func(name string, _ bool) bool { return gone(name) })
	return nil
}

// stays says whether the fence guards a door and is not about to stop guarding it.
func (g *Gateway) stays(name string) bool { return g.door(name) != nil && !g.fencing.goes[name] }

// changeThose makes the changes of some doors in one transaction, leaving out new grants
// if only ends are wanted.
func (g *Gateway) changeThose(doors func(name string) bool, ends bool) error {
	c := g.changes.fence(doors)
	if ends {
		c.Give = nil
	}
	if len(c.Empty)+len(c.Give)+len(c.Revoke) > 0 {
		if err := g.world.Fence.Change(c); err != nil {
			return err
		}
	}
	maps.DeleteFunc(g.changes.grants, func(k grantKey, until time.Time) bool { return doors(k.door) && !(ends && !until.IsZero()) })
	maps.DeleteFunc(g.changes.emptied, func(name string, _ bool) bool { return doors(name) })
	return nil
}

// maxApart limits into how many parts refused changes are split.
const maxApart = 64

// changeApart is changeFence for a fence that stands and may have refused a change at one
// of the doors, as the kernel does at a full single-use door: that must hold up no other
// door, nor what ends at this one.
func (g *Gateway) changeApart() error {
	err := g.changeFence()
	if err == nil {
		return nil
	}
	tries := maxApart - 1
	return g.halve(err, g.changes.atDoors(g.stays), &tries)
}

// halve tries the refused changes of some doors in halves.
func (g *Gateway) halve(why error, doors []string, tries *int) error {
	if len(doors) <= 1 {
		_ = g.changeThose(func(name string) bool { return slices.Contains(doors, name) }, true) // why is reported already
		return why
	}
	var refused error
	for half := range slices.Chunk(doors, (len(doors)+1)/2) {
		if *tries == 0 {
			return why
		}
		*tries--
		some := make(map[string]bool, len(half))
		for _, name := range half {
			some[name] = true
		}
		if err := g.changeThose(func(name string) bool { return some[name] }, false); err != nil {
			refused = cmp.Or(refused, g.halve(err, half, tries)) // the first one suffices
		}
	}
	return refused
}
