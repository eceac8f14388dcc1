package config

import (
	"fmt"
	"net/netip"
	"time"
)

// longOpen is the open_for above which a grant is a door left ajar.
const longOpen = time.Hour

// Warnings returns what can be, but is probably not meant, one sentence each,
// in the order of the doors.
func (c *Config) Warnings() []string {
	var w []string
	if a, err := netip.ParseAddrPort(c.Gateway.Metrics); err == nil && !a.Addr().IsLoopback() {
		w = append(w, fmt.Sprintf("gateway.metrics: %s: whoever reaches this address reads the metrics, "+
			"without a password: a loopback address keeps them here", c.Gateway.Metrics))
	}
	for i := range c.Doors {
		d := &c.Doors[i]
		for _, text := range append(d.warnings(), d.knockWarnings()...) {
			w = append(w, fmt.Sprintf("door %q: %s", d.Name, text))
		}
	}
	return w
}

// warnings are those about the door itself.
func (d *Door) warnings() []string {
	var w []string
	if d.OpenFor > longOpen && !d.anyScope(ScopeDoor) {
		w = append(w, fmt.Sprintf("open_for = %q: connections that stand live on without a grant, "+
			"so that a minute is enough to get in", Short(d.OpenFor)))
	}
	if idle := d.Presence.Idle; 0 < idle && idle < d.OpenFor && !d.anyScope(ScopeDoor) {
		w = append(w, fmt.Sprintf("presence.idle = %q is shorter than open_for = %q: "+
			"a door that goes dark takes its grants with it", Short(d.Presence.Idle), Short(d.OpenFor)))
	}
	for _, p := range d.Always {
		if p.Bits() == 0 {
			w = append(w, fmt.Sprintf("always = [\"%s\"]: everybody may come in without knocking", p))
		}
	}
	if idle := d.Presence.Idle; d.Service == nil && idle > 0 && idle != max(idleSpan.unset, d.OpenFor) &&
		!d.anyScope(ScopeDoor) {
		w = append(w, "presence.idle stops nothing here: the door has no service")
	}
	return w
}

// anyScope says whether one of the door's knocks has the scope.
func (d *Door) anyScope(s Scope) bool {
	for _, k := range d.Knocks {
		if k.Scope == s {
			return true
		}
	}
	return false
}

// knockWarnings are those about the door's knocks.
func (d *Door) knockWarnings() []string {
	var w []string
	for i, k := range d.Knocks {
		key := indexKey("knock", i)
		if len(k.Touch) == len(k.Listen) {
			w = append(w, key+": every port of listen is to be touched: a port scan opens the door, "+
				"so leave at least one alone")
		}
		if len(k.Touch) == 1 {
			w = append(w, key+": one touch is the whole knock: who finds the port has found the way in")
		}
		if k.Scope == ScopeDoor {
			w = append(w, key+`: scope = "door": the right knock of one visitor opens to everybody, `+
				"and the wrong one of a stranger deafens the door for all")
		}
		if k.Penalty == 0 && len(k.Touch) < len(k.Listen) {
			w = append(w, key+`: penalty = "0s": a wrong knock costs nothing, so that all can be tried`)
		}
	}
	return w
}
