package gateway

import (
	"slices"
	"time"

	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
)

// spentReason is told of a grant that its first connection took away.
const spentReason = "it was spent by its first connection"

// spending is a reading of the kernel beside the turns: which grants of doors with
// single_use are not there any more.
type spending struct {
	given map[grantKey]bool // what was given since it began, or was about to be then
	void  bool              // the fence was raised or all grants were compared meanwhile
}

// gives takes in that a grant was given. The reading can have asked for it before.
func (s *spending) gives(k grantKey) {
	if s != nil {
		s.given[k] = true
	}
}

// overtaken takes in that what the reading finds says nothing any more.
func (s *spending) overtaken() {
	if s != nil {
		s.void = true
	}
}

// lookForSpent asks the kernel for the grants of doors with single_use, beside the
// turns, unless it is being asked already. What is about to run out is left to the
// doors' own clock.
func (g *Gateway) lookForSpent(now time.Time) {
	if g.changes.spending != nil {
		return
	}
	var asked []grantKey
	for _, d := range g.doors {
		if !d.conf.SingleUse {
			continue
		}
		asked = slices.Grow(asked, d.door.Granted())
		for source, until := range d.door.Sources() {
			if until.Sub(now) > expirySlack {
				asked = append(asked, grantKey{d.name(), source})
			}
		}
	}
	if len(asked) == 0 {
		return
	}
	s := &spending{given: make(map[grantKey]bool)}
	for k := range g.changes.grants {
		s.gives(k) // it reaches the kernel with this turn's end
	}
	g.changes.spending = s
	g.async(func() event {
		grants := make([]fence.Grant, 0, len(asked))
		for _, k := range asked {
			for _, source := range families(k.source) {
				grants = append(grants, fence.Grant{Door: k.door, Source: source})
			}
		}
		gone, err := g.world.Fence.Missing(grants)
		return func(now time.Time) { g.spent(now, s, gone, err) }
	})
}

// spent takes in which grants the kernel does not have. What has been given since
// it was asked is there, whatever it said, and while the fence is down there is
// nothing in it.
func (g *Gateway) spent(now time.Time, s *spending, gone []fence.Grant, err error) {
	g.changes.spending = nil
	if err != nil {
		g.log.Warn("cannot tell which grants were spent; asking again", "err", err)
		return
	}
	if s.void || g.broken != "" {
		return
	}
	var d *guarded
	for _, f := range gone {
		if d == nil || d.name() != f.Door {
			d = g.door(f.Door)
		}
		key := grantKey{f.Door, f.Source}
		if key.source.Bits() == 0 {
			key.source = door.Any
		}
		if d == nil || !d.conf.SingleUse || s.given[key] || d.door.GrantEnd(key.source).Sub(now) <= expirySlack {
			continue
		}
		d.carry(d.door.Ended(now, key.source, spentReason))
		if key.source == door.Any {
			g.changes.add(f.Door, door.Revoke{Source: door.Any}) // one connection, of either family
		}
	}
}
