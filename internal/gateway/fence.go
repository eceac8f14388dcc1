package gateway

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/fence"
)

// fenceRetry is the pause between tries to put a fence right.
const fenceRetry = time.Second

// fenceDoors is what the fence must know of a configuration.
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

// raise makes the fence guard the doors of a configuration.
func (g *Gateway) raise(c *config.Config) error {
	g.changes.page.overtaken() // the sets of grants may be others now
	return g.world.Fence.Guard(fenceDoors(c))
}

// reconcile puts the fence right, has it take what it would not take before, and has
// all grants compared if somebody else has changed something.
func (g *Gateway) reconcile(now time.Time) {
	all := g.resync
	g.resync, g.retryFence = false, time.Time{}
	repaired, err := g.repairFence(now)
	if err != nil {
		if g.broken == "" {
			g.log.Error("the fence is down and cannot be put right; trying again", "err", err)
			g.record(now, audit.EventError, "", "the fence is down: "+err.Error())
		}
		g.broken = err.Error()
		g.retryFence = now.Add(fenceRetry)
	} else {
		g.broken = ""
	}
	if all || repaired {
		g.compareAll()
	}
}

// repairFence puts the fence right, and says whether somebody had changed it.
func (g *Gateway) repairFence(now time.Time) (changed bool, err error) {
	if differs := g.world.Fence.Check(); differs != nil {
		if err := g.raise(g.config); err != nil {
			return true, err
		}
		g.lost, changed = true, true
		g.repairs++
		g.record(now, audit.EventRepaired, "", "the fence had been changed ("+differs.Error()+"); it stands again")
	}
	tries := mostApart
	return changed, g.changeApart(g.changes.atDoors(), &tries)
}

// mostApart bounds in how many parts changes that are refused are tried.
const mostApart = 64

// changeFence has the fence take the turn's changes, or only those at the doors in
// some, without what is given if they only end. What it does not take waits for the
// next turn.
func (g *Gateway) changeFence(some map[string]bool, ends bool) error {
	among := func(name string) bool { return some == nil || some[name] }
	c := g.changes.fence(func(name string) bool { return among(name) && g.door(name) != nil })
	if ends {
		c.Give = nil
	}
	if len(c.Empty)+len(c.Give)+len(c.Revoke) > 0 {
		if err := g.world.Fence.Change(c); err != nil {
			return err
		}
	}
	maps.DeleteFunc(g.changes.grants, func(k grantKey, until time.Time) bool { return among(k.door) && !(ends && !until.IsZero()) })
	maps.DeleteFunc(g.changes.emptied, func(name string, _ bool) bool { return among(name) })
	return nil
}

// changeApart is changeFence for a fence that stands and may have refused what is at
// one of the doors, as the kernel does for a door of single use that is full: that
// holds up nothing at the others, nor what ends at this one.
func (g *Gateway) changeApart(doors []string, tries *int) error {
	some := make(map[string]bool, len(doors))
	for _, name := range doors {
		some[name] = true
	}
	*tries--
	err := g.changeFence(some, false)
	if err == nil {
		return nil
	}
	if len(doors) == 1 {
		_ = g.changeFence(some, true) // err says enough
		return err
	}
	var refused error
	for half := range slices.Chunk(doors, (len(doors)+1)/2) {
		if *tries == 0 {
			return err
		}
		refused = cmp.Or(refused, g.changeApart(half, tries)) // the first says enough
	}
	return refused
}
