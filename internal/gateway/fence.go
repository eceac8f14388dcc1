package gateway

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/fence"
)

// fenceRetry is the pause between tries to put a fence right.
const fenceRetry = time.Second

// fencing is what is done with the fence beside the turns, one thing at a time: it
// is looked at and put right, or made to guard the doors of another configuration.
// Knocks are heard meanwhile, and grants are changed as ever, where it takes them.
type fencing struct {
	busy    bool
	waiting []event         // what is to be begun when that has ended
	goes    map[string]bool // doors that it guards no more when that has ended
	look    bool            // it is to be looked at
	doubt   bool            // it has not taken a change: they wait until it was looked at
	mixed   error           // why some doors may be of one configuration and some of another
}

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

// guard makes the fence guard the doors of a configuration. It takes long where
// there are many, so that but at the start it is called beside the turns.
func (g *Gateway) guard(c *config.Config) error { return g.world.Fence.Guard(fenceDoors(c)) }

// atTheFence does something with the fence beside the turns.
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

// raise has the fence guard the doors of another configuration, and then called. With
// an error it guards those of the one in use, or will as soon as that can be. A door
// that goes lets in whom it let in for as long as it is there; nobody is told more of
// it than that.
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
	g.changes.page.overtaken() // the sets of grants may be others now
	g.atTheFence(func() event {
		err := g.guard(c)
		var back error
		if err != nil {
			back = g.guard(inUse)
		}
		return func(now time.Time) {
			if err != nil {
				err = fmt.Errorf("raise the fence: %w", err)
				g.lost = true // what doors had that went and came back
				g.compareAll()
			}
			if g.fencing.mixed = back; back != nil {
				g.down(now, back)
			}
			then(now, errors.Join(err, back))
		}
	})
}

// mendIfDue looks at the fence and puts it right, if somebody else may have changed
// it, if it has not taken a change, or when it is time to try again.
func (g *Gateway) mendIfDue(now time.Time) {
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
			err = g.guard(inUse)
		}
		return func(now time.Time) { g.mended(now, all, differs, err) }
	})
}

// mended takes in that the fence stands as it should, after it differed or not, or
// why it does not. It has it take what waits, and has all grants compared if
// somebody else has changed something.
func (g *Gateway) mended(now time.Time, all bool, differs, err error) {
	g.fencing.doubt = false
	if differs != nil && err == nil {
		g.fencing.mixed = nil
		g.lost = true
		g.repairs++
		g.record(now, audit.EventRepaired, "", "the fence had been changed ("+differs.Error()+"); it stands again")
	}
	if err == nil {
		err = g.changeFence()
	}
	g.writer.news = g.writer.news || all || err != nil || g.broken != ""
	if g.broken = ""; err != nil {
		g.down(now, err)
	}
	if all || differs != nil {
		g.compareAll()
	}
}

// down takes in why the fence does not stand as it should. It is tried again.
func (g *Gateway) down(now time.Time, why error) {
	if g.broken == "" {
		g.log.Error("the fence is down and cannot be put right; trying again", "err", why)
		g.record(now, audit.EventError, "", "the fence is down: "+why.Error())
	}
	g.broken = why.Error()
	g.retryFence = now.Add(fenceRetry)
}

// changeFence has the fence take the turn's changes. What it does not take waits. A
// door that it is about to guard no more has a transaction of its own, since it may
// be gone already; what that does not take waits for the door's end, or for its
// staying.
func (g *Gateway) changeFence() error {
	goes := g.fencing.goes
	if err := g.changeThose(func(name string) bool { return g.door(name) != nil && !goes[name] }); err != nil {
		return err
	}
	leave := func(name string) bool { return !goes[name] }
	if g.changeThose(func(name string) bool { return goes[name] }) == nil {
		leave = func(string) bool { return true }
	}
	maps.DeleteFunc(g.changes.grants, func(k grantKey, _ time.Time) bool { return leave(k.door) })
	maps.DeleteFunc(g.changes.emptied, func(name string, _ bool) bool { return leave(name) })
	return nil
}

// changeThose has the fence take the changes of some doors, in one transaction.
func (g *Gateway) changeThose(doors func(name string) bool) error {
	c := g.changes.fence(doors)
	if len(c.Empty)+len(c.Give)+len(c.Revoke) == 0 {
		return nil
	}
	return g.world.Fence.Change(c)
}
