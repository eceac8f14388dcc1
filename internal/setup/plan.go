// Package setup makes a first configuration: it proposes what a machine suggests,
// writes the text, puts the file in place, and says what is left to do until the
// machine is guarded and visitors get in.
//
// What it knows of the machine it is handed in a [Machine]; besides that it checks which
// ports are free, and Place writes the file. A fact about the machine only ever leads to
// a proposal: whatever is written passes config.Parse first.
package setup

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/share"
	"github.com/doorward/doorward/internal/tables"
)

// Plan is what a first configuration is to say. Text's result is checked by
// config.Parse before it is written, so that nothing here has to be valid. A Plan is
// not safe for concurrent use.
type Plan struct {
	Door   string
	Ports  []string // as they are written in the configuration; none: what the machine proposes
	Unit   string   // "none" for a service that always runs, "" for what the machine proposes
	Host   string   // name or address by which visitors reach the machine, "" if it is not given
	Kind   knock.Drafted
	Chosen map[string][]string // about the knock, by the names of the kind's choices
	Former Former              // the file that is overwritten
	Keep   bool                // the door keeps the knocks that it has in Former, if any

	why    string  // why that unit, a sentence
	knocks []draft // that the door is to have
	logins string  // what to say about logins, "" for a door without SSH
	unseen string  // why nobody would be seen to be in, "" where they would
}

// draft is a knock, with its keys as the kind writes them.
type draft struct{ kind, keys string }

// Kinds are those of which a knock can be drafted, the one that is proposed first.
func Kinds() (all []knock.Drafted) {
	for _, k := range kinds.All {
		if d, ok := k.(knock.Drafted); ok {
			all = append(all, d)
		}
	}
	return all
}

// Named returns the kind of that name of which a knock can be drafted; the error says
// which there are.
func Named(name string) (knock.Drafted, error) {
	var names []string
	for _, k := range Kinds() {
		if k.Name() == name {
			return k, nil
		}
		names = append(names, strconv.Quote(k.Name()))
	}
	return nil, fmt.Errorf("%q is no kind of knock that can be written: allowed are %s", name, tables.Listed(names))
}

// New returns a plan in which nothing is chosen, for the first kind of knock that can be
// drafted.
func New() Plan {
	p := Plan{Kind: Kinds()[0], Chosen: map[string][]string{}, Keep: true}
	for _, k := range Kinds() {
		for _, c := range k.Choices() {
			if c.Default != "" {
				p.Chosen[c.Name] = []string{c.Default}
			}
		}
	}
	return p
}

// ErrNoPorts is what Propose returns when no ports are given and the machine suggests
// none.
var ErrNoPorts = errors.New("no ports are given")

// Propose fills in what is not given from what the machine has, and drafts the knock. To
// call it again, after another choice, call it on a copy that was made before.
func (p *Plan) Propose(m Machine) error {
	if len(p.Ports) == 0 {
		if p.Ports = p.ProposedPorts(m); len(p.Ports) == 0 {
			return ErrNoPorts
		}
	}
	door := p.guarded()
	if p.ssh(m) {
		p.proposeSSH(m)
		door = p.guarded()
	}
	if !door.SSH() {
		if err := m.Unseen(door); err != nil && !errors.Is(err, fs.ErrPermission) {
			p.unseen = strings.Join(strings.Fields(err.Error()), " ") // on one line
		}
	}
	return p.draft(m, door)
}

// ProposedPorts returns the ports that the machine suggests for a door of this name: for
// "ssh" those of its SSH server, for others none.
func (p *Plan) ProposedPorts(m Machine) (ports []string) {
	if p.Door != "ssh" {
		return nil
	}
	unit := p.Unit
	if found, _, ok := m.sshUnit(); ok && !p.managed() {
		unit = found
	}
	for _, n := range m.sshPorts(unit) {
		ports = append(ports, fmt.Sprintf("%d/tcp", n))
	}
	return ports
}

// ProposedUnit returns the unit that the machine suggests, "none" for none.
func (p *Plan) ProposedUnit(m Machine) string {
	if p.ssh(m) {
		if unit, _, ok := m.sshUnit(); ok {
			return unit
		}
	}
	return "none"
}

// ProposedHost returns the name or address that the former file gives, or else the
// machine suggests, "" for none.
func (p *Plan) ProposedHost(m Machine) string {
	return cmp.Or(p.Former.Host(), m.host())
}

// ssh reports whether an SSH server is behind the door, as far as that is known: by the
// configuration's own rule, or by the server's ports.
func (p *Plan) ssh(m Machine) bool {
	door := p.guarded()
	if door.SSH() {
		return true
	}
	if p.managed() {
		return false // something else is behind it
	}
	unit, _, _ := m.sshUnit()
	return slices.ContainsFunc(m.sshPorts(unit), func(n uint16) bool {
		return port.Within(door.Ports, port.Port{Proto: port.TCP, Number: n})
	})
}

// guarded returns the door as far as it is known. It may have mistakes in it.
func (p *Plan) guarded() *config.Door {
	d := &config.Door{Name: p.Door}
	for _, text := range p.Ports {
		if r, err := port.ParseRange(text); err == nil {
			d.Ports = append(d.Ports, r)
		}
	}
	if p.managed() {
		d.Service = &config.Service{Unit: p.Unit}
	}
	return d
}

// managed reports whether the door starts and stops a unit.
func (p *Plan) managed() bool { return p.Unit != "" && p.Unit != "none" }

// proposeSSH fills in what this machine has of an SSH server.
func (p *Plan) proposeSSH(m Machine) {
	if unit, why, ok := m.sshUnit(); ok && (p.Unit == "" || p.Unit == unit) {
		p.Unit, p.why = unit, strings.ToUpper(why[:1])+why[1:]+"."
	}
	if !p.guarded().SSH() {
		return // to config it is a door like any other
	}
	switch log := m.authLog(); {
	case m.hasJournal():
		p.logins = `Where logins are read: "auto" finds systemd's journal here.`
	case log != "":
		p.logins = fmt.Sprintf(`Where logins are read: "auto" finds %s here.`, log)
	default:
		p.logins = "Where logins are read. There is neither a journal nor an auth log here. Until\n" +
			`# there is one, the door stays dark and ignores knocks; "off" does without logins.`
	}
}

// draft makes the kind write the knock: the former one where that is to be kept.
func (p *Plan) draft(m Machine, door *config.Door) error {
	if p.Keep {
		if p.knocks = p.formerKnocks(); len(p.knocks) > 0 {
			return nil
		}
	}
	named := m.named()
	taken := func(at port.Port) bool {
		return named[at] || slices.Contains(scanned[:], at.Number) || Taken(at)
	}
	lots := share.Lots(&config.Config{Doors: []config.Door{*door}}, taken, rand.Reader)
	keys, err := p.Kind.Draft(p.Chosen, lots)
	p.knocks = []draft{{p.Kind.Name(), keys}}
	return err
}

// Taken reports whether a program on this machine has a port.
func Taken(p port.Port) bool {
	at := ":" + strconv.Itoa(int(p.Number))
	var c io.Closer
	var err error
	if p.Proto == port.UDP {
		c, err = net.ListenPacket("udp", at)
	} else {
		c, err = net.Listen("tcp", at)
	}
	if err != nil {
		return true
	}
	return c.Close() != nil
}
