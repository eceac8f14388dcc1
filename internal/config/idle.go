package config

import (
	"fmt"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// idleNever is what presence.idle says of a door that never goes dark by itself.
const idleNever = "never"

// idle notes an idle that the rest of the door contradicts: absence can be noticed
// only where presence can, and a door that is open to everybody until it goes dark
// must be able to.
func (d *Door) idle(key tables.Value) {
	switch {
	case key.V == idleNever && d.forAll():
		key.Wrong(`a knock with scope = "door" opens to everybody until the door goes dark`,
			fmt.Sprintf(`%q to %q, or scope = "source" for every knock`,
				tables.Short(idleSpan.Min), tables.Short(idleSpan.Max)))
	case key.V != idleNever && !d.Presence.Connections && d.Presence.Logins == LoginsOff:
		d.unseen(key, "nobody would ever be seen: connections = false, and no logins are read").Hint =
			`set connections = true, name a source of logins, or set idle = "never"`
	}
}

// unseen notes that a door would go dark while people are using it, since they are not
// seen.
func (d *Door) unseen(key tables.Value, why string) *tables.Mistake {
	does := "would go dark"
	if d.Service != nil {
		does += ", and its service be stopped,"
	}
	if !key.Given() {
		key.V = tables.Short(d.Presence.Idle)
		why = "the default does not work here: " + why
	}
	return key.Wrong(fmt.Sprintf("%s; the door %s while people are using it", why, does), fmt.Sprintf("%q", idleNever))
}

// ByFlows reports whether presence at the door depends on the flows of connection
// tracking: whoever uses one of its UDP ports is seen only there, and no logins are
// read.
func (d *Door) ByFlows() bool {
	udp := false
	for _, r := range d.Ports {
		udp = udp || r.Proto == port.UDP
	}
	return udp && d.Presence.Idle > 0 && d.Presence.Connections && d.Presence.Logins == LoginsOff
}

// Blind returns a mistake for each door whose presence depends on flows (see ByFlows),
// on a machine where they cannot be seen; why says what prevents it. The text is that
// of the configuration, the file's name is only for messages.
func (c *Config) Blind(file string, text []byte, why string) []*tables.Mistake {
	root, err := tables.Parse(file, text)
	if err != nil {
		return tables.Mistakes(err)
	}
	doors, _ := root.At("door").Table()
	for i := range c.Doors {
		d := &c.Doors[i]
		if !d.ByFlows() {
			continue
		}
		table, _ := doors.At(d.Name).Table()
		presence, _ := table.At("presence").Table()
		d.unseen(presence.At("idle"), "flows over UDP cannot be seen here: "+why).Hint =
			`name a source of logins, or set idle = "never"`
	}
	return tables.Mistakes(root.Err())
}
