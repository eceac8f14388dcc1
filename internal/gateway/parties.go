package gateway

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// partyEnd is that some may not knock any more, or not so long: their grants end at all
// doors, which takes more than one turn where there are very many.
type partyEnd struct {
	of      door.Withdrawal
	judged  *keep // whose rules say which grants end; nil: of says it
	nobodys bool  // those of which nobody knows whose they are end, too, where the keep has a knock
	by      control.Caller
	cut     func(party string) bool // whose connections end, too; nil for nobody's
	then    func(now time.Time, ended int)

	doors []string // still to come
	from  int      // where in the first of them
	ended int
	saved int // of these, those that were on disk before the latest part
}

// endParties begins with it.
func (g *Gateway) endParties(now time.Time, e *partyEnd) {
	for _, d := range g.doors {
		if e.judged == nil && e.of.Party == "" {
			break // connections alone
		}
		e.doors = append(e.doors, d.name())
		if e.nobodys && d.hasKnock(e.judged.kind) && g.neverCompared {
			d.disowned = true // what the comparison still finds
		}
		if e.nobodys && d.hasKnock(e.judged.kind) && d.unlisted {
			g.compareAll() // which ends what no door knows
		}
	}
	g.endPartiesOn(now, e)
}

// partsPerTurn is how many doors with grants, or parts of them, a turn walks through.
const partsPerTurn = 8

// endPartiesOn goes on with it, and comes back in another turn if that is not all.
func (g *Gateway) endPartiesOn(now time.Time, e *partyEnd) {
	g.callers.now = e.by
	defer func() { g.callers.now = control.Caller{} }()
	for parts := 0; parts < partsPerTurn && len(e.doors) > 0 && e.ended-e.saved < maxBatch; {
		d, next := g.door(e.doors[0]), 0
		if d != nil { // else it is no longer guarded
			if d.door.Granted() > 0 {
				parts++
			}
			var ended int
			var effects []door.Effect
			effects, ended, next = d.door.Withdraw(now, g.withdrawal(now, d, e), e.from)
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

// nobodys is in whose name a door has a grant that the kernel had and the store did not.
const nobodys = "before the restart"

// withdrawal is what ends at a door. What is known of somebody is asked for once in a part, as
// long as they are few.
func (g *Gateway) withdrawal(now time.Time, d *guarded, e *partyEnd) door.Withdrawal {
	of := e.of
	if e.judged == nil {
		return of
	}
	ends := e.nobodys && d.hasKnock(e.judged.kind)
	known := make(map[string]knock.Standing)
	of.Once = d.conf.SingleUse
	of.Judge = func(by string, source netip.Prefix) door.Judgement {
		if by == nobodys {
			return door.Judgement{Ends: ends}
		}
		standing, asked := known[by]
		if !asked {
			standing = e.judged.standing(now, d.name(), by)
			known[by] = standing
		}
		return judgement(now, standing, source)
	}
	return of
}

// judgement is what a standing says of a grant, by the clock of now.
func judgement(now time.Time, of knock.Standing, source netip.Prefix) door.Judgement {
	if of == nil {
		return door.Judgement{Ends: true}
	}
	until, stands := of(source.Addr())
	if !stands || until.IsZero() {
		return door.Judgement{Ends: !stands}
	}
	return door.Judgement{Until: now.Add(until.Sub(now))}
}

// hasKnock says whether one of the door's knocks is of a kind.
func (d *guarded) hasKnock(kind string) bool {
	return slices.ContainsFunc(d.conf.Knocks, func(k config.Knock) bool { return k.Kind == kind })
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
	g.rechecked = true
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
