// Package removal gives a machine back before doorward is removed from it, so that
// nobody is locked out and nothing is exposed by surprise.
//
// Once the daemon has gone, no knock opens anything. So the doors by which people
// reach the machine itself, SSH and VPNs, are opened for good: their services run, and
// the fence no longer guards them. Those services decide by themselves who gets in.
// All other doors stay closed, since nobody is locked out of the machine by that,
// and what is behind them may rely on being out of reach: the fence stands until
// the next boot, and a message says what to type to open them. With All every door is
// opened.
//
// The service of a door that is opened is started if it ran when the door was first
// guarded, or if systemd starts it at boot. That of a way in is started in any case
// where doorward was in use, and enabled if at boot only doorward would have started
// it. Nothing else about services is changed.
package removal

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
)

// Door is a door of the machine from which doorward is removed.
type Door struct {
	Name    string
	Ports   string // as people write them: "22/tcp, 2222/tcp"
	WayIn   bool   // people reach the machine itself through it
	Unit    string // the unit behind it, by its canonical name; "" for none
	Boot    bool   // systemd starts the unit at boot
	Ran     bool   // the service ran when the door was first guarded
	Command string // the program behind it, "" for none
	Runs    bool   // the service runs; true where there is none
}

// Machine is what a plan depends on.
type Machine struct {
	Fence bool // the table stands in the kernel
	Boot  bool // the daemon is started at boot
	Doors []Door
}

// Plan is what is done to the machine. Doors are indexes of the machine's.
type Plan struct {
	Open   []int // no longer guarded
	Closed []int // guarded until the next boot
	Start  []int // those of Open whose service is to be started
	Enable []int // those of Open whose unit is to be started at boot from now on
	Later  []int // those of Closed whose unit is to be started when the fence goes
}

// WayIn reports whether people reach the machine itself through a door: whether it
// guards an SSH server or a VPN, as far as its ports and its unit show that.
func WayIn(d *config.Door) bool {
	if d.SSH() || slices.ContainsFunc(vpnPorts, func(p port.Port) bool { return port.Within(d.Ports, p) }) {
		return true
	}
	return d.Service != nil && slices.ContainsFunc(accessUnits, func(prefix string) bool {
		return strings.HasPrefix(d.Service.Unit, prefix)
	})
}

// vpnPorts are those of IKE, OpenVPN and WireGuard.
var vpnPorts = []port.Port{
	{Proto: port.UDP, Number: 500}, {Proto: port.UDP, Number: 4500},
	{Proto: port.UDP, Number: 1194}, {Proto: port.TCP, Number: 1194},
	{Proto: port.UDP, Number: 51820},
}

// accessUnits are the prefixes of the names of units that let people in.
var accessUnits = []string{"dropbear", "ipsec", "ocserv", "openvpn", "ssh", "strongswan", "tailscaled", "wg-quick@"}

// startTime is how long a unit may take to start that no door of a configuration names.
const startTime = 30 * time.Second

// knownBy returns doors, followed by one for each other way in among units, and the
// units that are none. Which ports those doors guarded is no longer known.
func knownBy(doors []config.Door, units []string) (*config.Config, []string) {
	var others []string
	for _, name := range units {
		d := config.Door{Name: name, Service: &config.Service{Unit: name, Timeout: startTime}}
		switch {
		case !WayIn(&d):
			others = append(others, name)
		case !slices.ContainsFunc(doors, func(d config.Door) bool { return d.Service.Unit == name }):
			doors = append(doors, d)
		}
	}
	return &config.Config{Doors: doors}, others
}

// For returns the plan. With all, every door is opened.
func For(m Machine, all bool) Plan {
	var p Plan
	for i, d := range m.Doors {
		if !d.WayIn && !all {
			if m.Fence {
				p.Closed = append(p.Closed, i)
				if !d.Runs && d.Unit != "" && (d.Boot || d.Ran) {
					p.Later = append(p.Later, i)
				}
			}
			continue
		}
		p.Open = append(p.Open, i)
		// Where neither the fence stands nor anything starts at boot, doorward has not
		// been in use: then it was not doorward that stopped the service.
		used := m.Fence || m.Boot
		if !d.Runs && (d.Boot || d.Ran || d.WayIn && used) {
			p.Start = append(p.Start, i)
		}
		if d.WayIn && d.Unit != "" && !d.Boot && m.Boot {
			p.Enable = append(p.Enable, i)
		}
	}
	return p
}

// Outcome is what came of a plan.
type Outcome struct {
	Failed map[int]error // by door: its service was not started, or will not be at boot
	Fence  bool          // the table stands
}

// Words says what was done, and what is left to do, for people. Each line that begins
// with four spaces is a command.
func Words(m Machine, p Plan, o Outcome) string {
	var b strings.Builder
	for _, i := range p.Open {
		d := &m.Doors[i]
		name := d.Name
		if d.Ports != "" {
			name += " (" + d.Ports + ")"
		}
		fmt.Fprintf(&b, "door %s is open to everybody: %s\n", name, openWords(d, slices.Contains(p.Start, i), o.Failed[i]))
		if slices.Contains(p.Enable, i) && o.Failed[i] == nil {
			fmt.Fprintf(&b, "%s is enabled now: after a boot nothing else would have started it. To undo that, type:\n"+
				"    systemctl disable %[1]s\n", d.Unit)
		}
	}
	if !o.Fence || len(p.Closed) == 0 {
		return b.String()
	}
	for _, i := range p.Closed {
		d := &m.Doors[i]
		fmt.Fprintf(&b, "door %s (%s) STAYS CLOSED until the next boot: %s\n", d.Name, d.Ports, closedWords(d))
	}
	b.WriteString("To open what is closed, as it was without doorward, type as root:\n    nft delete table inet doorward\n")
	for _, i := range p.Later {
		fmt.Fprintf(&b, "    systemctl start %s\n", m.Doors[i].Unit)
	}
	b.WriteString("FROM THE NEXT BOOT ON NOTHING GUARDS IT.")
	var boot []string
	for _, i := range p.Closed {
		if d := m.Doors[i]; d.Unit != "" && d.Boot {
			boot = append(boot, d.Unit)
		}
	}
	if len(boot) > 0 {
		slices.Sort(boot)
		fmt.Fprintf(&b, " To keep systemd from starting it then, type:\n    systemctl disable %s",
			strings.Join(slices.Compact(boot), " "))
	}
	b.WriteString("\n")
	return b.String()
}

// othersWords says what to type for units that doorward may have stopped, and that no
// configuration names any more.
func othersWords(units []string) string {
	if len(units) == 0 {
		return ""
	}
	return "doorward may have stopped other units, which are left as they are. To start them, with nothing to guard them, type:\n" +
		"    systemctl start " + strings.Join(units, " ") + "\n"
}

func openWords(d *Door, started bool, failed error) string {
	what := cmp.Or(d.Unit, d.Command)
	switch {
	case failed != nil:
		return fmt.Sprintf("but %s DOES NOT RUN, or will not after a boot: %v. Once that is fixed, type:\n"+
			"    systemctl enable --now %[1]s", what, failed)
	case what == "":
		return "doorward no longer guards it"
	case started:
		return what + " was stopped, and runs again"
	case d.Runs:
		return what + " runs"
	}
	return what + " does not run, and is not started at boot either"
}

func closedWords(d *Door) string {
	switch what := cmp.Or(d.Unit, d.Command); {
	case what == "":
		return "doorward does not know what is behind it"
	case d.Runs:
		return what + " runs"
	default:
		return what + " is stopped"
	}
}
