package config

import (
	"fmt"
	"net/netip"

	"github.com/doorward/doorward/internal/port"
)

// claim is a port or range that a door guards or listens on, and where the
// file says so.
type claim struct {
	value
	door string
	port port.Range
}

// claimUnit is a unit that a door starts and stops.
type claimUnit struct {
	value
	door, unit string
}

// places are the claims of all doors, which may not touch each other.
type places struct {
	guarded, listened []claim
	units             []claimUnit
}

// where says which door it is that lays a claim, and where.
func (p claim) where() string {
	return fmt.Sprintf("door %q, line %d", p.door, p.at.line)
}

// disjoint notes every pair of claims that cannot both be. Of the two the one
// that stands later in the file has the mistake, and it names the other.
func (c *checker) disjoint(p *places, metrics string) {
	c.pairs(p.guarded, p.guarded, func(later, earlier claim) {
		if later.door == earlier.door {
			c.wrong(later.value, fmt.Sprintf("overlaps %q of the same door", earlier.port), "")
			return
		}
		c.wrong(later.value, fmt.Sprintf("door %q overlaps %q of %s",
			later.door, earlier.port, earlier.where()), "ports that one door alone guards")
	})
	c.pairs(p.guarded, p.listened, func(guarded, listener claim) {
		c.wrong(listener.value, fmt.Sprintf("a listener of door %q on a port that is guarded: %q of %s",
			listener.door, guarded.port, guarded.where()),
			"ports that no door guards: the fence would keep every touch away")
	})
	c.pairs(p.listened, p.listened, func(later, earlier claim) {
		if later.door == earlier.door && sameList(later.key, earlier.key) {
			return // told as "listed twice" already
		}
		c.wrong(later.value, fmt.Sprintf("door %q listens on a port of another knock: %s",
			later.door, earlier.where()), "ports that one knock alone listens on")
	})
	c.metricsApart(p, metrics)
	c.unitsApart(p.units)
}

// pairs calls f for all pairs of a and b that overlap, each pair once. Within
// one list the element that stands later in the file comes first.
func (c *checker) pairs(a, b []claim, f func(x, y claim)) {
	same := len(a) > 0 && len(b) > 0 && &a[0] == &b[0]
	for i, x := range a {
		for j, y := range b {
			if same && j >= i || !x.port.Overlaps(y.port) {
				continue
			}
			if same && x.at.before(y.at) {
				x, y = y, x
			}
			f(x, y)
		}
	}
}

// before says whether p stands before o in the file.
func (p position) before(o position) bool {
	return p.line < o.line || p.line == o.line && p.column < o.column
}

// sameList says whether two elements' keys, such as a[0] and a[1], are of one
// list.
func sameList(a, b string) bool { return listOf(a) == listOf(b) }

func listOf(key string) string {
	for i := len(key) - 1; i >= 0; i-- {
		if key[i] == '[' {
			return key[:i]
		}
	}
	return key
}

// metricsApart notes a listener on the port of the metrics. A guarded port is
// no mistake: a door in front of the metrics is a good idea.
func (c *checker) metricsApart(p *places, metrics string) {
	a, err := netip.ParseAddrPort(metrics)
	if err != nil {
		return
	}
	for _, l := range p.listened {
		if l.port.First == a.Port() {
			c.wrong(l.value, fmt.Sprintf("the port of gateway.metrics, %q", metrics),
				"ports that nothing else listens on")
		}
	}
}

// unitsApart notes a unit of two doors: one door's idleness would stop it under
// the other's visitors.
func (c *checker) unitsApart(units []claimUnit) {
	first := map[string]claimUnit{}
	for _, u := range units {
		e, taken := first[u.unit]
		if !taken {
			first[u.unit] = u
			continue
		}
		if u.at.before(e.at) {
			u, e = e, u
		}
		c.wrong(u.value, fmt.Sprintf("door %q starts and stops the unit of door %q, line %d",
			u.door, e.door, e.at.line), "units of one door").Hint =
			"make it one door: its ports may be several"
	}
}
