package gateway

import (
	"fmt"
	"iter"
	"time"

	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/store"
)

// restoreGrants brings back who grants were given to, as the store has it, at doors that
// are open. The kernel's grants, which are the truth, are compared with these in the
// background: those that it has lost meanwhile have ended, and one that was given in the
// moment before a crash, and is not in the store, stands: the visitor was let in. Nobody
// is let in at a door that is not open, so grants that a crash left there are removed.
// Grants that are over by now end in the first turns.
func (g *Gateway) restoreGrants(now time.Time, claims iter.Seq[store.Grant]) error {
	g.neverCompared = true
	for _, d := range g.doors {
		if d.door.Saved().State != door.Open {
			g.changes.add(d.name(), door.Clear{})
		}
	}
	if claims == nil {
		return nil
	}
	for c := range claims {
		d := g.door(c.Door)
		switch {
		case d == nil || d.door.Saved().State != door.Open:
			if !g.changes.clearedGrants[c.Door] {
				g.changes.clearGrants(c.Door)
			}
		case !door.Somebody(c.Source):
			g.changes.add(c.Door, door.DropClaim{Source: c.Source, By: c.By})
		default:
			d.door.Restore(door.Claim{Source: c.Source, By: c.By, Until: now.Add(c.Left(now)), For: c.For})
		}
	}
	return g.compareEverybodys(now)
}

// compareEverybodys compares the grants to everybody right away, with two queries a door:
// presence would extend one that has ended.
func (g *Gateway) compareEverybodys(now time.Time) error {
	var about []grantKey
	for _, d := range g.doors {
		if !d.door.GrantEnd(now, door.Any).IsZero() {
			about = append(about, grantKey{d.name(), door.Any})
		}
	}
	if len(about) == 0 {
		return nil
	}
	ends, err := g.kernelEnds(about)
	if err != nil {
		return fmt.Errorf("read the grants that stand: %w", err)
	}
	for i, k := range about {
		g.compare(now, k, ends[i])
	}
	return nil
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
			g.changes.setPenalty(store.PenaltyKey{Door: p.Door, Knock: p.Knock, Source: p.Source}, nil)
			continue
		}
		d.door.RestorePenalty(now, door.Penalty{Name: p.Knock, Source: p.Source, Until: now.Add(left), For: p.For, Times: p.Times,
			Reason: p.Reason})
		back := p.Until.Sub(now.Round(0)) > left // the clock was set back; the next start must not begin the penalty again
		if over := left <= 0 && p.For > 0; back || over {
			p.Until = now.Add(left)
			if over {
				p.For = 0
			}
			g.changes.setPenalty(store.PenaltyKey{Door: p.Door, Knock: p.Knock, Source: p.Source}, &p)
		}
	}
}
