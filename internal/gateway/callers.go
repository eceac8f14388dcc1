package gateway

import (
	"maps"
	"net/netip"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// callers are the operators whose orders take effect now, and those whose orders are
// still to take effect: when a door's service has to start or stop, or a configuration is
// on its way into use, the records are made turns later, and must name the same caller.
// What is held is bounded by the knocks that may wait for a service; a restart forgets
// it, except for the name.
type callers struct {
	now   control.Caller
	later map[orderKey]ordered
}

// orderKey is what an order was about, as its records say: a door and a source, a door
// alone, or neither.
type orderKey struct{ door, source, by string }

// ordered is an order of which something is still to come.
type ordered struct {
	by     *audit.Operator
	source netip.Prefix
}

// wait remembers who gave an order, for the records of what comes of it later.
func (c *callers) wait(door string, source netip.Prefix, by control.Caller) {
	if by.Operator == nil {
		return
	}
	if c.later == nil {
		c.later = make(map[orderKey]ordered)
	}
	c.later[keyOf(door, source, by.Name)] = ordered{by.Operator, source}
}

// keyOf returns what an order was about; the source is empty if it was about none.
func keyOf(name string, source netip.Prefix, by string) orderKey {
	if source == noSource {
		return orderKey{name, "", by}
	}
	return orderKey{name, door.SourceString(source), by}
}

// sign adds to a record who ordered what it reports.
func (g *Gateway) sign(r audit.Record) audit.Record {
	c := &g.callers
	key := orderKey{r.Door, r.Source, r.By}
	switch {
	case r.By == "":
	case c.now.Operator != nil && r.By == c.now.Name:
		r.Operator = c.now.Operator
	default:
		r.Operator = c.later[key].by
	}
	switch r.Event {
	case audit.EventGranted, audit.EventRefused, audit.EventExpired:
		delete(c.later, key)
	case audit.EventRevoked:
		g.forgetOrders(func(k orderKey) bool { return k.door == r.Door && k.source == r.Source })
	case audit.EventDark, audit.EventFailsafe:
		g.forgetOrders(func(k orderKey) bool { return k.door == r.Door && k.door != "" })
	}
	return r
}

// forgetOrders forgets those orders that are over. Somebody may wait for a door that
// goes dark to open again, and for a grant in place of one that ends.
func (g *Gateway) forgetOrders(which func(orderKey) bool) {
	maps.DeleteFunc(g.callers.later, func(k orderKey, o ordered) bool {
		if !which(k) {
			return false
		}
		d := g.door(k.door)
		return d == nil || o.source == noSource || !d.door.Waits(o.source, k.by)
	})
}
