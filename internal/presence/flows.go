//go:build linux

package presence

import (
	"net/netip"
	"slices"
	"syscall"

	"github.com/doorward/doorward/internal/conntrack"
	"github.com/doorward/doorward/internal/port"
)

// fewPorts is how many ports of a protocol the kernel is asked for one by one. Each
// is a walk through its table; of more ports it is asked for all of the protocol.
const fewPorts = 3

// kernel lists what connection tracking knows; *conntrack.Conn is one.
type kernel interface {
	List(f conntrack.Filter, each func(conntrack.Entry)) error
}

// tracked is what connection tracking knows of a door's ports.
type tracked struct {
	ports  []port.Range
	kernel kernel
	found  []flow
}

// flow is an entry that may be a visitor's.
type flow struct {
	proto           port.Proto
	original, reply conntrack.Tuple
	letIn           bool
}

// asCame returns the flow as its visitor has it, and where it ends behind any
// translation; false if nobody came in by it. One that was let in may have been
// begun by the server, or by who is behind a published port, so that visitors'
// datagrams answer it. An entry has one visitor: read the other way round, the port
// that they come from would be taken for a door's.
func (f *flow) asCame(here *addresses) (c Connection, end netip.AddrPort, ok bool) {
	as, end := f.original, f.reply.From
	switch {
	case here.has(as.To.Addr()):
	case !f.letIn:
		return Connection{}, end, false
	case f.proto == port.UDP && here.has(f.reply.To.Addr()):
		as, end = f.reply, f.original.From
	}
	return Connection{f.proto, as.To, as.From}, end, !here.has(as.From.Addr())
}

// flows finds the entries that may be visitors' by what is known without asking
// whose addresses are whose.
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

// isLive says whether a connection is live to connection tracking, of which the
// state SYN_RECV lasts until the handshake is completed.
func isLive(state uint8) bool {
	return state == conntrack.Established || state == conntrack.FinWait || state == conntrack.CloseWait
}

// take keeps an entry if one of its directions is to a guarded port.
func (t *tracked) take(proto port.Proto, e *conntrack.Entry) {
	if t.guards(proto, e.Original.To) || e.LetIn && t.guards(proto, e.Reply.To) {
		t.found = append(t.found, flow{proto, e.Original, e.Reply, e.LetIn})
	}
}

func (t *tracked) guards(proto port.Proto, to netip.AddrPort) bool {
	return matches(t.ports, port.Port{Proto: proto, Number: to.Port()})
}

// visitors are who came in from elsewhere, by flows and by sockets. A value is true
// for a socket, of which it is open who began. What is both, be it by another
// name, is the flow.
func (t *tracked) visitors(sockets []Connection, here *addresses) map[Connection]bool {
	in := make(map[Connection]bool)
	ends := make(map[Connection]bool) // flows as their sockets name them
	for _, f := range t.found {
		if c, end, ok := f.asCame(here); ok && t.guards(c.Proto, c.Local) {
			in[c] = false
			ends[Connection{c.Proto, end, c.Remote}] = true
		}
	}
	for _, s := range sockets {
		if _, known := in[s]; !known && !ends[s] && !here.has(s.Remote.Addr()) {
			in[s] = true
		}
	}
	return in
}

// dropBegun takes the sockets' connections that were begun here out of in.
func (t *tracked) dropBegun(in map[Connection]bool) error {
	for _, proto := range []port.Proto{port.TCP, port.UDP} {
		if !anySocket(in, proto) {
			continue
		}
		err := t.list(proto, func(p uint16) []conntrack.Filter { return []conntrack.Filter{{FromPort: p}} }, func(e conntrack.Entry) {
			c := Connection{proto, e.Original.From, e.Original.To}
			if in[c] && !e.PickedUp && !(proto == port.UDP && e.LetIn) {
				delete(in, c)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func anySocket(in map[Connection]bool, proto port.Proto) bool {
	for c, socket := range in {
		if socket && c.Proto == proto {
			return true
		}
	}
	return false
}

// list calls each with the entries of proto that the filters for each port want;
// for port 0 they are for all ports.
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

// singles are the ports of a protocol, each once, or 0 when they are not few.
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
