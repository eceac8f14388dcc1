//go:build linux

package presence

import (
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/doorward/doorward/internal/conntrack"
	"github.com/doorward/doorward/internal/port"
)

// fewPorts is up to how many ports of a protocol are queried one by one. Each query walks
// the kernel's table; for more ports the whole protocol is queried.
const fewPorts = 3

// kernel lists what connection tracking knows; *conntrack.Conn is one.
type kernel interface {
	List(f conntrack.Filter, each func(conntrack.Entry)) error
}

// tracked is who came in from elsewhere through a door's ports.
type tracked struct {
	ports  []port.Range
	kernel kernel
	// own are this host's addresses. They are read only when somebody is there.
	own func() (*addresses, error)
	err error // own's
	// in is true for a socket that is not a known flow, so that it is not known which
	// side began it.
	in   map[Connection]bool
	ends map[Connection]bool // flows, by the addresses of their sockets
}

func newTracked(ports []port.Range, own func() (*addresses, error)) *tracked {
	return &tracked{ports: ports, own: sync.OnceValues(own), in: make(map[Connection]bool), ends: make(map[Connection]bool)}
}

// flows collects the entries that are visitors'.
func (t *tracked) flows() error {
	err := t.list(port.UDP, func(p uint16) []conntrack.Filter {
		if p == 0 {
			return []conntrack.Filter{{Status: conntrack.SeenReply}}
		}
		return []conntrack.Filter{
			{Status: conntrack.SeenReply, ToPort: p},
			{Status: conntrack.SeenReply, ReplyToPort: p},
		}
	}, func(e conntrack.Entry) { t.take(port.UDP, &e) })
	if err != nil {
		return err
	}
	return t.list(port.TCP, func(p uint16) []conntrack.Filter {
		return []conntrack.Filter{{Status: conntrack.Assured | conntrack.DstNAT, ToPort: p}}
	}, func(e conntrack.Entry) {
		if e.Status&conntrack.Offload != 0 || isLive(e.State) {
			t.take(port.TCP, &e)
		}
	})
}

// isLive says whether connection tracking considers a connection live; its state SYN_RECV
// lasts until the handshake is completed.
func isLive(state uint8) bool {
	return state == conntrack.Established || state == conntrack.FinWait || state == conntrack.CloseWait
}

// take adds an entry, if it is a visitor's to one of the ports.
func (t *tracked) take(proto port.Proto, e *conntrack.Entry) {
	if !t.guards(proto, e.Original.To) && !(e.LetIn && t.guards(proto, e.Reply.To)) {
		return
	}
	here, err := t.own()
	if err != nil {
		t.err = err
		return
	}
	as, end := asCame(e, here)
	if t.guards(proto, as.To) && !here.has(as.From.Addr()) && (e.LetIn || here.has(as.To.Addr())) {
		t.in[Connection{Proto: proto, Local: as.To, Remote: as.From}] = false
		t.ends[Connection{Proto: proto, Local: end, Remote: as.From}] = true
	}
}

// asCame returns an entry's direction towards this host, and where that ends after any
// translation. A flow that was let in may have been begun by the server, or by the host
// behind a published port, so that visitors' datagrams are replies in it. No entry is
// read both ways: the port that a visitor comes from may be another door's.
func asCame(e *conntrack.Entry, here *addresses) (as conntrack.Tuple, end netip.AddrPort) {
	if e.LetIn && e.Proto == uint8(port.UDP) && !here.has(e.Original.To.Addr()) && here.has(e.Reply.To.Addr()) {
		return e.Reply, e.Original.From
	}
	return e.Original, e.Reply.From
}

func (t *tracked) guards(proto port.Proto, to netip.AddrPort) bool {
	return port.Within(t.ports, port.Port{Proto: proto, Number: to.Port()})
}

// hold adds a socket. If it is also a flow, even under another address, it counts as the
// flow.
func (t *tracked) hold(s Connection) {
	here, err := t.own()
	if err != nil {
		t.err = err
		return
	}
	if _, known := t.in[s]; !known && !t.ends[s] && !here.has(s.Remote.Addr()) {
		t.in[s] = true
	}
}

// dropBegun removes the sockets' connections that were begun here from in.
func (t *tracked) dropBegun() error {
	for _, proto := range []port.Proto{port.TCP, port.UDP} {
		if !t.anySocket(proto) {
			continue
		}
		err := t.list(proto, func(p uint16) []conntrack.Filter { return []conntrack.Filter{{FromPort: p}} }, func(e conntrack.Entry) {
			c := Connection{Proto: proto, Local: e.Original.From, Remote: e.Original.To}
			if t.in[c] && !e.PickedUp && !(proto == port.UDP && e.LetIn) {
				delete(t.in, c)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tracked) anySocket(proto port.Proto) bool {
	for c, socket := range t.in {
		if socket && c.Proto == proto {
			return true
		}
	}
	return false
}

// list calls each with the entries of proto that match the filters for each port; port 0
// stands for all ports.
func (t *tracked) list(proto port.Proto, filters func(uint16) []conntrack.Filter, each func(conntrack.Entry)) error {
	for _, p := range singles(t.ports, proto) {
		for _, f := range filters(p) {
			f.Proto = uint8(proto)
			for _, f.Family = range []uint8{syscall.AF_INET, syscall.AF_INET6} {
				if err := t.kernel.List(f, each); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// singles returns the ports of a protocol, each once, or 0 if there are more than a few.
func singles(ports []port.Range, proto port.Proto) []uint16 {
	var all []uint16
	for _, r := range ports {
		if r.Proto != proto {
			continue
		}
		if int(r.Last-r.First)+len(all) >= fewPorts {
			return []uint16{0}
		}
		for p := int(r.First); p <= int(r.Last); p++ {
			all = append(all, uint16(p))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
