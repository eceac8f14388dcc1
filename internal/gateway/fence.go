package gateway

import (
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
	return changed, g.changeFence()
}

// changeFence has the fence take the turn's changes. What it does not take waits for
// the next turn.
func (g *Gateway) changeFence() error {
	c := g.changes.fence(func(name string) bool { return g.door(name) != nil })
	if len(c.Empty)+len(c.Give)+len(c.Revoke) > 0 {
		if err := g.world.Fence.Change(c); err != nil {
			return err
		}
	}
	clear(g.changes.grants)
	clear(g.changes.emptied)
	return nil
}
