package gateway

import (
	"net/netip"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// partyEnd is that some may not knock any more: their grants end at all doors, which takes
// more than one turn where there are very many.
type partyEnd struct {
	of    door.Withdrawal
	whose map[string]map[string]bool // at each door, unless of says it
	by    control.Caller             // who ordered it, nobody if nobody did
	cut   func(party string) bool    // whose connections end, too; nil for nobody's
	then  func(now time.Time, ended int)

	doors []string // still to come
	from  int      // where in the first of them
	ended int
	saved int // of these, those that were on disk before the latest part
}

// endParties begins with it.
func (g *Gateway) endParties(now time.Time, e *partyEnd) {
	for _, d := range g.doors {
		e.doors = append(e.doors, d.name())
	}
	g.endPartiesOn(now, e)
}

// partsPerTurn is how many doors, or parts of them, a turn walks through.
const partsPerTurn = 8

// endPartiesOn goes on with it, and comes back in another turn if that is not all.
func (g *Gateway) endPartiesOn(now time.Time, e *partyEnd) {
	g.callers.now = e.by
	defer func() { g.callers.now = control.Caller{} }()
	for range partsPerTurn {
		if len(e.doors) == 0 || e.ended-e.saved >= maxBatch {
			break
		}
		d, next := g.door(e.doors[0]), 0
		if d != nil { // else it is no longer guarded
			var ended int
			var effects []door.Effect
			effects, ended, next = d.door.Withdraw(now, e.at(d.name()), e.from)
			d.apply(effects)
			e.ended += ended
		}
		if e.from = next; next == 0 {
			e.doors = e.doors[1:]
		}
	}
	again := func(time.Time, error) {
		g.async(func() event { return func(now time.Time) { g.endPartiesOn(now, e) } })
	}
	switch {
	case len(e.doors) == 0:
		if e.cut != nil {
			g.cutSessions(e.cut)
		}
		e.then(now, e.ended)
	case e.ended-e.saved >= maxBatch: // so that what waits for the disk is bounded
		e.saved = e.ended
		g.onDisk(now, again)
	default:
		again(now, nil)
	}
}

// at is whose grants end at a door.
func (e *partyEnd) at(name string) door.Withdrawal {
	of := e.of
	if of.Party == "" {
		of.Whose = func(party string) bool { return e.whose[name][party] }
	}
	return of
}

// endStrangers ends the grants of those who may not knock any more although no change has
// said so: a file was changed while no daemon ran, or the configuration names another. It
// looks when every file was read once since rules came into use.
func (g *Gateway) endStrangers(now time.Time) {
	if !g.strangersDue || !g.filesRead() || !g.keepReading.since.IsZero() {
		return
	}
	g.strangersDue = false
	for _, k := range g.keeps {
		g.carryOut(now, k, control.Caller{}, knock.Change{Recheck: true}, nil)
	}
}

// strangers are those who have grants by a kind's knocks, and may not knock there any more,
// by the door.
func (g *Gateway) strangers(now time.Time, k *keep) map[string]map[string]bool {
	found := make(map[string]map[string]bool)
	for _, d := range g.doors {
		for party := range d.door.Parties() {
			if !k.banned(now, d.name(), party) {
				continue
			}
			if found[d.name()] == nil {
				found[d.name()] = make(map[string]bool)
			}
			found[d.name()][party] = true
		}
	}
	return found
}

// whoOf is the inverse of party, for the parties of one kind.
func whoOf(kind, party string) (by string, ours bool) {
	if party == kind {
		return "", true
	}
	return strings.CutPrefix(party, kind+" ")
}

// elsewhereThan returns those sources of a source's address family that are others.
func elsewhereThan(source netip.Prefix) func(netip.Prefix) bool {
	return func(other netip.Prefix) bool {
		return other != source && other != door.Any && other.Addr().Is4() == source.Addr().Is4()
	}
}
