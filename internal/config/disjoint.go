package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// claim is a port or range that a door guards or hears a knock at, and where the
// file says so.
type claim struct {
	tables.Value
	door  string
	knock int // which of the door's knocks, from 1; 0: it is guarded
	port  port.Range
	of    Knock // that hears there
}

// sharer returns the rule of a knock that may hear where others of its kind do, nil for
// any other.
func (c claim) sharer() knock.Sharer {
	if _, kept := kinds.Named(c.of.Kind).(knock.Keeper); !kept {
		return nil
	}
	rule, _ := c.of.Rule.(knock.Sharer)
	return rule
}

// shared is what knocks that share a port have in common.
type shared struct {
	kind string
	port port.Range
}

// claimUnit is a unit that a door starts and stops.
type claimUnit struct {
	tables.Value
	door, unit string
}

// places are the claims of all doors, which may not overlap.
type places struct {
	claims []claim
	units  []claimUnit
}

// where names the door that makes the claim, and its line.
func (c claim) where() string { return fmt.Sprintf("door %q, line %d", c.door, c.Line()) }

// disjoint notes every pair of claims that exclude each other. They are compared in
// the order of their ports, so that a thousand doors take only a moment.
func (p *places) disjoint(metrics string) {
	slices.SortFunc(p.claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.port.Proto, b.port.Proto), cmp.Compare(a.port.First, b.port.First), cmp.Compare(a.Line(), b.Line()))
	})
	p.sharedAlike()
	for i, x := range p.claims {
		for _, y := range p.claims[i+1:] {
			if !x.port.Overlaps(y.port) {
				break // nor does any that begins later
			}
			if x.door != y.door && x.of.Kind == y.of.Kind && x.sharer() != nil && y.sharer() != nil {
				continue
			}
			if x.Before(y.Value) {
				y.clashes(x)
			} else {
				x.clashes(y)
			}
		}
	}
	p.metricsApart(metrics)
	unitsApart(p.units)
}

// sharedAlike notes knocks that share a port and cannot. Each is compared with the first
// in the file alone, so that one that differs is one mistake.
func (p *places) sharedAlike() {
	first := make(map[shared]claim)
	at := func(c claim) shared { return shared{c.of.Kind, c.port} }
	for _, c := range p.claims {
		if c.sharer() == nil {
			continue
		}
		if f, ok := first[at(c)]; !ok || c.Before(f.Value) {
			first[at(c)] = c
		}
	}
	for _, c := range p.claims {
		rule, f := c.sharer(), first[at(c)]
		if rule == nil || f.door == c.door {
			continue
		}
		if err := rule.Shares(f.of.Rule); err != nil {
			c.Wrong(fmt.Sprintf("shares a port with a knock of %s, and cannot: %v", f.where(), err), "knocks that agree there, or a port of its own")
		}
	}
}

// clashes notes that two claims overlap. The mistake is that of the one that stands
// later in the file, and names the other; but between a knock and a guarded port it is
// always the knock's.
func (c claim) clashes(earlier claim) {
	switch {
	case c.knock == 0 && earlier.knock > 0:
		earlier.clashes(c)
	case c.knock > 0 && earlier.knock == 0:
		away := "every touch away"
		if c.port.Proto == port.UDP {
			away = "every packet away"
		}
		c.Wrong(fmt.Sprintf("a listener of door %q is on a guarded port: %q of %s", c.door, earlier.port, earlier.where()),
			"ports that no door guards: the fence would keep "+away)
	case c.knock > 0 && (c.door != earlier.door || c.knock != earlier.knock):
		c.Wrong(fmt.Sprintf("door %q listens on a port of another knock: %s", c.door, earlier.where()),
			"ports that only one knock listens on")
	case c.knock > 0: // the same knock: its kind checks that
	case c.door == earlier.door:
		c.Wrong(fmt.Sprintf("overlaps %q of the same door", earlier.port), "")
	default:
		c.Wrong(fmt.Sprintf("door %q overlaps %q of %s", c.door, earlier.port, earlier.where()),
			"ports that only one door guards")
	}
}

// metricsApart notes a listener on the port of the metrics. A guarded port is
// no mistake: a door in front of the metrics is a good idea.
func (p *places) metricsApart(metrics string) {
	a, err := netip.ParseAddrPort(metrics)
	if err != nil {
		return
	}
	for _, l := range p.claims {
		if l.knock > 0 && l.port.Contains(port.Port{Proto: port.TCP, Number: a.Port()}) {
			l.Wrong(fmt.Sprintf("the port of gateway.metrics, %q", metrics),
				"ports that nothing else listens on")
		}
	}
}

// unitsApart notes a unit of two doors: when one of them is idle, the unit would be
// stopped while the other's visitors use it.
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
