package gateway

import (
	"maps"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// callers are whose orders have an effect now, and whose have one that is still to
// come: of a door whose service has to start or to stop, and of a configuration on its
// way into use, the records are made turns later, and are to tell the same of who
// ordered it. What is held is bounded by the knocks that may wait for a service; a
// restart forgets it, and with it all but the name.
type callers struct {
	now   control.Caller
	later map[orderKey]*audit.Operator
}

// orderKey is what an order was about, as the records of it have it: a door and a
// source, a door alone, or neither.
type orderKey struct{ door, source, by string }

// wait has what comes of an order later be told with who gave it.
func (c *callers) wait(door, source string, by control.Caller) {
	if by.Operator == nil {
		return
	}
	if c.later == nil {
		c.later = make(map[orderKey]*audit.Operator)
	}
	c.later[orderKey{door, source, by.Name}] = by.Operator
}

// sign adds to a record who ordered what it tells of.
func (c *callers) sign(r audit.Record) audit.Record {
	key := orderKey{r.Door, r.Source, r.By}
	switch {
	case r.By == "":
	case c.now.Operator != nil && r.By == c.now.Name:
		r.Operator = c.now.Operator
	default:
		r.Operator = c.later[key]
	}
	switch r.Event {
	case audit.EventGranted, audit.EventRefused, audit.EventExpired:
		delete(c.later, key)
	case audit.EventRevoked:
		c.forget(func(k orderKey) bool { return k.door == r.Door && k.source == r.Source })
	case audit.EventDark, audit.EventFailsafe:
		c.forget(func(k orderKey) bool { return k.door == r.Door && k.door != "" })
	}
	return r
}

func (c *callers) forget(which func(orderKey) bool) {
	maps.DeleteFunc(c.later, func(k orderKey, _ *audit.Operator) bool { return which(k) })
}
