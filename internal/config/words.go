package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// Told describes in words what counts as presence at the door.
func (d *Door) Told() string {
	p := &d.Presence
	if p.Idle == 0 {
		what := `presence does not count: idle = "never", so the door goes dark only on doorward close`
		if p.Logins != LoginsOff {
			what += ", or when all log data is missing"
		}
		return what
	}
	var by []string
	if where := p.where(); where != "" {
		by = append(by, fmt.Sprintf("a login in %s, for %s", where, tables.Short(p.Idle)))
	}
	if p.Connections {
		by = append(by, d.connectionWords()...)
	}
	return "in use while there is: " + strings.Join(by, "; ")
}

// where says where logins are read, "" for nowhere.
func (p *Presence) where() string {
	switch p.Logins {
	case LoginsAuto:
		return "the journal or the auth log"
	case LoginsJournal:
		return "the journal"
	case LoginsFiles:
		return tables.Listed(p.Files)
	}
	return ""
}

// connectionWords says which connections count.
func (d *Door) connectionWords() []string {
	of := func(proto port.Proto) string {
		var ports []string
		for _, r := range d.Ports {
			if r.Proto == proto {
				ports = append(ports, r.String())
			}
		}
		return tables.Listed(ports)
	}
	var by []string
	if tcp := of(port.TCP); tcp != "" {
		by = append(by, "a live TCP connection to "+tcp+
			" (a socket of this machine, or a flow to where the port is forwarded)")
	}
	if udp := of(port.UDP); udp != "" {
		by = append(by, "a flow over UDP to "+udp+" that was answered, until a few minutes after its last packet")
	}
	return by
}

// Clashes says which guarded UDP ports, and with listeners also which ports of knocks,
// this machine may assign to a socket that asks for no port, and what to type to
// prevent that; both are "" if there are none.
func (c *Config) Clashes(l port.Local, listeners bool) (what, do string) {
	var given []port.Range
	var words []string
	add := func(ranges []port.Range, of string) {
		if len(ranges) == 0 {
			return
		}
		given = append(given, ranges...)
		var names []string
		for _, r := range ranges {
			names = append(names, r.String())
		}
		words = append(words, fmt.Sprintf("%s (%s)", tables.Listed(names), of))
	}
	for i := range c.Doors {
		d := &c.Doors[i]
		var guarded, heard []port.Range
		for _, r := range d.Ports {
			if r.Proto == port.UDP {
				guarded = append(guarded, l.Gives(r)...)
			}
		}
		for _, p := range d.hears() {
			heard = append(heard, l.Gives(p.Range())...)
		}
		add(guarded, fmt.Sprintf("guarded by door %s", d.Name))
		if listeners {
			add(heard, fmt.Sprintf("listeners of door %s", d.Name))
		}
	}
	if len(given) == 0 {
		return "", ""
	}
	const file = "/etc/sysctl.d/60-doorward.conf"
	what = fmt.Sprintf("%s: this machine assigns ports %d to %d to sockets that do not ask for one, such as those of "+
		"outgoing connections: one of them may hold the port when it is needed", tables.Listed(words), l.First, l.Last)
	do = fmt.Sprintf("echo net.ipv4.ip_local_reserved_ports=%s >%s && sysctl -p %[2]s", l.Reserving(given), file)
	return what, do
}

// hears returns the places of all the door's knocks, sorted by medium and port.
func (d *Door) hears() (all []knock.Place) {
	for _, k := range d.Knocks {
		all = append(all, k.Hears()...)
	}
	slices.SortFunc(all, func(a, b knock.Place) int {
		return cmp.Or(cmp.Compare(a.Medium, b.Medium), cmp.Compare(a.Port, b.Port))
	})
	return all
}
