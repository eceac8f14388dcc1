package config

import (
	"fmt"

	"github.com/doorward/doorward/internal/port"
)

// idleNever is what presence.idle says of a door that never goes dark by itself.
const idleNever = "never"

// idle notes an idle that the rest of the door contradicts: who is in must be
// seen for their absence to be, and what is open to everybody until the door goes
// dark needs a door that does.
func (c *checker) idle(table value, d *Door) {
	key := c.child(table, "idle")
	switch {
	case key.v == idleNever && d.anyScope(ScopeDoor):
		c.wrong(key, `a knock with scope = "door" opens to everybody until the door goes dark`,
			fmt.Sprintf(`%q to %q, or scope = "source" for every knock`, Short(idleSpan.min), Short(idleSpan.max)))
	case key.v != idleNever && !d.Presence.Connections && d.Presence.Logins == LoginsOff:
		c.unseen(key, d, "nobody is ever seen to be in: connections = false, and no logins are read").Hint =
			`write connections = true, or name a place for logins, or write idle = "never"`
	}
}

// unseen notes that a door would go dark under whoever is in, since they are not
// seen.
func (c *checker) unseen(key value, d *Door, why string) *Mistake {
	does := "would go dark"
	if d.Service != nil {
		does += ", and its service be stopped,"
	}
	if !key.given() {
		key.v = Short(d.Presence.Idle)
		why = "the default does not do: " + why
	}
	return c.wrong(key, fmt.Sprintf("%s; the door %s under whoever is in", why, does), fmt.Sprintf("%q", idleNever))
}

// ByFlows says whether presence at the door hangs on the flows of connection
// tracking: who talks to one of its UDP ports is seen there alone, and no logins
// are read.
func (d *Door) ByFlows() bool {
	udp := false
	for _, r := range d.Ports {
		udp = udp || r.Proto == port.UDP
	}
	return udp && d.Presence.Idle > 0 && d.Presence.Connections && d.Presence.Logins == LoginsOff
}

// Blind returns a mistake for each door whose presence hangs on flows, for a
// machine where they cannot be seen, and why. The text is that of the
// configuration, the file's name is only for messages.
func (c *Config) Blind(file string, text []byte, why string) []*Mistake {
	check := &checker{file: file, at: locate(text)}
	for i := range c.Doors {
		d := &c.Doors[i]
		if !d.ByFlows() {
			continue
		}
		check.unseen(check.idleOf(d), d, "flows over UDP cannot be seen here: "+why).Hint =
			`name a place for logins, or write idle = "never"`
	}
	return check.found
}

// idleOf is what the text, whose mistakes are none, has as the door's idle.
func (c *checker) idleOf(d *Door) value {
	v := value{key: "door." + d.Name, at: position{1, 1}}
	for _, name := range []string{"", "presence", "idle"} {
		if name != "" {
			v.key = joinKey(v.key, name)
		}
		if at, ok := c.at[v.key]; ok {
			v.at = at
			if name == "idle" {
				v.v = Short(d.Presence.Idle)
			}
		}
	}
	return v
}
