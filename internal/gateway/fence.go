package gateway

import (
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/knock"
)

const (
	// fenceRetry is the pause between tries to put a fence right.
	fenceRetry = time.Second
	// expirySlack is how much earlier than the doors' clock the kernel may end
	// a grant without somebody else having ended it.
	expirySlack = time.Second
)

// fenceDoors is what the fence must know of a configuration.
func fenceDoors(c *config.Config) []fence.Door {
	var doors []fence.Door
	for _, d := range c.Doors {
		f := fence.Door{Name: d.Name, Ports: d.Ports,
			Reject: d.Refuse == config.Reject, SingleUse: d.SingleUse, Always: d.Always}
		for _, p := range hears(d) {
			if p.Medium == knock.Connections {
				f.Listen = append(f.Listen, p.Port)
			}
		}
		doors = append(doors, f)
	}
	return doors
}

// raise makes the fence guard the doors of a configuration.
func (g *Gateway) raise(c *config.Config) error {
	g.changes.spending.overtaken() // the sets of grants may be others now
	return g.world.Fence.Guard(fenceDoors(c))
}

// reconcile puts the fence right, and makes the kernel's grants and the doors'
// the same: what no door knows is revoked; what the kernel lost with the table
// or would not take is given again; what it no longer has although the table
// stood has ended.
func (g *Gateway) reconcile(now time.Time) {
	g.resync, g.retryFence = false, time.Time{}
	g.changes.spending.overtaken()
	if err := g.repairFence(now); err != nil {
		if g.broken == "" {
			g.log.Error("the fence is down and cannot be put right; trying again", "err", err)
			g.record(now, audit.EventError, "", "the fence is down: "+err.Error())
		}
		g.broken = err.Error()
		g.retryFence = now.Add(fenceRetry)
		return
	}
	g.broken, g.lost = "", false
	clear(g.ungiven)
}

func (g *Gateway) repairFence(now time.Time) error {
	differs := g.world.Fence.Check()
	if differs != nil {
		if err := g.raise(g.config); err != nil {
			return err
		}
		g.lost = true
		g.repairs++
		g.record(now, audit.EventRepaired, "", "the fence had been changed ("+differs.Error()+"); it stands again")
	}
	grants, err := g.world.Fence.Grants()
	if err != nil {
		return err
	}
	kernel := make(map[grantKey]bool, len(grants))
	for _, f := range grants {
		kernel[grantKey{f.Door, f.Source}] = true
	}
	var give []fence.Grant
	for _, d := range g.doors {
		give = append(give, g.compare(now, d, kernel, g.lost)...)
	}
	var revoke []fence.Grant
	for k := range kernel {
		revoke = append(revoke, fence.Grant{Door: k.door, Source: k.source})
	}
	if len(give)+len(revoke) == 0 {
		return nil
	}
	return g.world.Fence.Change(give, revoke)
}

// compare takes the grants of one door out of kernel and returns those to give
// again. Of a single-use grant that went with the table nobody knows whether it
// was spent, so it is not.
func (g *Gateway) compare(now time.Time, d *guarded, kernel map[grantKey]bool, lost bool) []fence.Grant {
	var give []fence.Grant
	everybodys := false // grant has ended, and is to go in the other family too
	ends := make(map[fence.Grant]time.Time)
	for _, c := range d.door.View().Grants {
		for _, source := range families(c.Source) {
			key := fence.Grant{Door: d.name(), Source: source}
			if c.Until.After(ends[key]) {
				ends[key] = c.Until
			}
		}
	}
	for f, until := range ends {
		key := grantKey{f.Door, f.Source}
		left := until.Sub(now)
		switch {
		case left > 0 && g.ungiven[key]:
			delete(kernel, key)
			f.Until = until
			give = append(give, f)
		case kernel[key]:
			delete(kernel, key)
		case left <= 0:
		case lost && !d.conf.SingleUse:
			f.Until = until
			give = append(give, f)
		case left > expirySlack:
			reason := "somebody else removed it from the kernel"
			if d.conf.SingleUse {
				reason = spentReason
			}
			source := f.Source
			if source.Bits() == 0 {
				source, everybodys = door.Any, true
			}
			d.carry(d.door.Ended(now, source, reason))
		}
	}
	if everybodys {
		for _, source := range families(door.Any) {
			kernel[grantKey{d.name(), source}] = true // which no door knows
		}
	}
	return give
}
