package config

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/tables"
)

// longOpen is the open_for above which a grant is a door left ajar.
const longOpen = time.Hour

// Warnings returns what is allowed but probably not meant, one sentence each, in the
// order of the doors.
func (c *Config) Warnings() []string {
	var w []string
	if a, err := netip.ParseAddrPort(c.Gateway.Metrics); err == nil && !a.Addr().IsLoopback() {
		w = append(w, fmt.Sprintf("gateway.metrics: %s: anyone who can reach this address can read the metrics, "+
			"without a password: a loopback address keeps them on this machine", c.Gateway.Metrics))
	}
	for i := range c.Doors {
		d := &c.Doors[i]
		for _, text := range append(d.warnings(), d.knockWarnings()...) {
			w = append(w, fmt.Sprintf("door %q: %s", d.Name, text))
		}
	}
	return w
}

// warnings returns those about the door itself.
func (d *Door) warnings() []string {
	var w []string
	if d.OpenFor > longOpen && !d.forAll() {
		w = append(w, fmt.Sprintf("open_for = %q: established connections outlive the grant, "+
			"so a minute is enough to get in", tables.Short(d.OpenFor)))
	}
	if idle := d.Presence.Idle; 0 < idle && idle < d.OpenFor && !d.forAll() {
		w = append(w, fmt.Sprintf("presence.idle = %q is shorter than open_for = %q: "+
			"a door that goes dark takes its grants with it", tables.Short(d.Presence.Idle), tables.Short(d.OpenFor)))
	}
	for _, p := range d.Always {
		if p.Bits() == 0 {
			w = append(w, fmt.Sprintf("always = [\"%s\"]: everybody may come in without knocking", p))
		}
	}
	if idle := d.Presence.Idle; d.Service == nil && idle > 0 && idle != max(idleSpan.Unset, d.OpenFor) &&
		!d.forAll() {
		w = append(w, "presence.idle stops nothing here: the door has no service")
	}
	return w
}

// forAll reports whether one of the door's knocks opens to everybody.
func (d *Door) forAll() bool {
	return slices.ContainsFunc(d.Knocks, func(k Knock) bool { return k.ForAll() })
}

// knockWarnings returns those about the door's knocks.
func (d *Door) knockWarnings() (w []string) {
	for i, k := range d.Knocks {
		for _, text := range k.Warnings() {
			w = append(w, fmt.Sprintf("knock[%d]: %s", i, text))
		}
	}
	return w
}
