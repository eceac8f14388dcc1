package config

import (
	"fmt"
	"net/netip"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// claim is a port or range that a door guards or hears knocks at, and where the
// file says so.
type claim struct {
	tables.Value
	door  string
	knock int // which of the door's knocks, from 0
	port  port.Range
}

// claimUnit is a unit that a door starts and stops.
type claimUnit struct {
	tables.Value
	door, unit string
}

// places are the claims of all doors, which may not touch each other.
type places struct {
	guarded, heard []claim
	units          []claimUnit
}

// where says which door it is that lays a claim, and where.
func (p claim) where() string {
	return fmt.Sprintf("door %q, line %d", p.door, p.Line())
}

// disjoint notes every pair of claims that cannot both be. Of the two the one
// that stands later in the file has the mistake, and it names the other.
func (p *places) disjoint(metrics string) {
	overlaps(p.guarded, func(later, earlier claim) {
		if later.door == earlier.door {
			later.Wrong(fmt.Sprintf("overlaps %q of the same door", earlier.port), "")
			return
		}
		later.Wrong(fmt.Sprintf("door %q overlaps %q of %s",
			later.door, earlier.port, earlier.where()), "ports that one door alone guards")
	})
	overlaps(p.heard, func(later, earlier claim) {
		if later.door == earlier.door && later.knock == earlier.knock {
			return
		}
		later.Wrong(fmt.Sprintf("door %q listens on a port of another knock: %s",
			later.door, earlier.where()), "ports that one knock alone listens on")
	})
	for _, guarded := range p.guarded {
		for _, l := range p.heard {
			if guarded.port.Overlaps(l.port) {
				l.behind(guarded)
			}
		}
	}
	p.metricsApart(metrics)
	unitsApart(p.units)
}

// behind notes a knock that the fence would keep away.
func (p claim) behind(guarded claim) {
	what := "touch"
	if p.port.Proto == port.UDP {
		what = "packet"
	}
	p.Wrong(fmt.Sprintf("a listener of door %q on a port that is guarded: %q of %s",
		p.door, guarded.port, guarded.where()),
		"ports that no door guards: the fence would keep every "+what+" away")
}

// overlaps calls f for all pairs of claims that overlap, each pair once, the one
// that stands later in the file first.
func overlaps(claims []claim, f func(later, earlier claim)) {
	for i, x := range claims {
		for _, y := range claims[:i] {
			switch {
			case !x.port.Overlaps(y.port):
			case x.Before(y.Value):
				f(y, x)
			default:
				f(x, y)
			}
		}
	}
}

// metricsApart notes a listener on the port of the metrics. A guarded port is
// no mistake: a door in front of the metrics is a good idea.
func (p *places) metricsApart(metrics string) {
	a, err := netip.ParseAddrPort(metrics)
	if err != nil {
		return
	}
	for _, l := range p.heard {
		if l.port.Contains(port.Port{Proto: port.TCP, Number: a.Port()}) {
			l.Wrong(fmt.Sprintf("the port of gateway.metrics, %q", metrics),
				"ports that nothing else listens on")
		}
	}
}

// unitsApart notes a unit of two doors: one door's idleness would stop it under
// the other's visitors.
func unitsApart(units []claimUnit) {
	first := map[string]claimUnit{}
	for _, u := range units {
		e, taken := first[u.unit]
		if !taken {
			first[u.unit] = u
			continue
		}
		if u.Before(e.Value) {
			u, e = e, u
		}
		u.Wrong(fmt.Sprintf("door %q starts and stops the unit of door %q, line %d",
			u.door, e.door, e.Line()), "units of one door").Hint =
			"make it one door: its ports may be several"
	}
}
