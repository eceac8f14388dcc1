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
	g.changes.page.invalidate() // the sets of grants may be others now
	g.atTheFence(func() event {
		err := g.guard(c)
		var back error
		if err != nil {
			back = g.guard(inUse)
		}
		return func(now time.Time) {
			if err != nil {
				err = fmt.Errorf("raise the fence: %w", err)
				g.grantsLost = true // what doors had that went and came back
				g.compareAll()
			}
			if g.fencing.mixed = back; back != nil {
				g.down(now, back)
			}
			then(now, errors.Join(err, back))
		}
	})
}

// repairIfDue looks at the fence and puts it right, if somebody else may have changed
// it, if it has not taken a change, or when it is time to try again.
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
			err = g.guard(inUse)
		}
		return func(now time.Time) { g.repaired(now, all, differs, err) }
	})
}

// repaired takes in that the fence stands as it should, after it differed or not, or
// why it does not. It has it take what waits, and has all grants compared if
// somebody else has changed something.
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

// down takes in why the fence does not stand as it should. It is tried again.
func (g *Gateway) down(now time.Time, why error) {
	if g.fenceProblem == "" {
		g.log.Error("the fence is down and cannot be repaired; trying again", "err", why)
		g.record(now, audit.EventError, "", "the fence is down: "+why.Error())
	}
	g.fenceProblem = why.Error()
	g.retryFence = now.Add(fenceRetry)
}

// changeFence has the fence take the turn's changes. What it does not take waits. A
// door that it is about to guard no more has a transaction of its own, since it may
// be gone already; what that does not take waits for the door's end, or for its
// staying.
func (g *Gateway) changeFence() error {
	if err := g.changeThose(g.stays, false); err != nil {
		return err
	}
	goes := func(name string) bool { return g.fencing.goes[name] }
	_ = g.changeThose(goes, false)
	gone := func(name string) bool { return !goes(name) } // what waits at others went with them
	maps.DeleteFunc(g.changes.grants, func(k grantKey, _ time.Time) bool { return gone(k.door) })
	maps.DeleteFunc(g.changes.emptied, func(name string, _ bool) bool { return gone(name) })
	return nil
}

// stays says whether the fence guards a door and is not about to guard it no more.
func (g *Gateway) stays(name string) bool { return g.door(name) != nil && !g.fencing.goes[name] }

// changeThose has the fence take the changes of some doors in one transaction, without
// what is given if they only end.
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

// maxApart bounds in how many parts changes that are refused are tried.
const maxApart = 64

// changeApart is changeFence for a fence that stands and may have refused what is at
// one of the doors, as the kernel does for a door of single use that is full: that
// holds up nothing at the others, nor what ends at this one.
func (g *Gateway) changeApart() error {
	err := g.changeFence()
	if err == nil {
		return nil
	}
	tries := maxApart - 1
	return g.halve(err, g.changes.atDoors(g.stays), &tries)
}

// halve tries what was refused at some doors in halves.
func (g *Gateway) halve(why error, doors []string, tries *int) error {
	if len(doors) <= 1 {
		_ = g.changeThose(func(name string) bool { return slices.Contains(doors, name) }, true) // why says enough
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
			refused = cmp.Or(refused, g.halve(err, half, tries)) // the first says enough
		}
	}
	return refused
}
