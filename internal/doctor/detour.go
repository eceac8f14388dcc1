//go:build linux

package doctor

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/port"
)

// detour is what a rule of somebody's does with packets on their way in: it
// sends them to another port or another address than they were for.
type detour struct {
	where string       // table and chain
	from  []port.Range // what was asked for
	addr  netip.Addr   // where it goes; invalid for this machine
	to    uint16       // the port there; 0 for the one that was asked for
	hands bool         // tproxy: to a listener of that port, unchanged
	vague bool         // where it goes is in a map, or cannot be read
}

// everyPort are all ports that a door could guard.
var everyPort = []port.Range{{Proto: port.TCP, First: 1, Last: 65535}, {Proto: port.UDP, First: 1, Last: 65535}}

// maxDepth is NFT_JUMP_STACK_SIZE of the kernel's net/netfilter/nf_tables.h.
const maxDepth = 16

// maxChains bounds the work on a ruleset whose chains call each other over and
// over.
const maxChains = 1 << 14

// survey reads the detours of one base chain and of the chains that it calls.
type survey struct {
	conn   *nftables.Conn
	table  *nftables.Table
	where  string
	proxy  map[uint64]*expr.TProxy // by the rule's handle
	chains int
	found  []detour
}

// detours reads what a base chain sends elsewhere. Chains that are called by
// maps are followed with what was matched until then.
func detours(conn *nftables.Conn, t *nftables.Table, base string) ([]detour, error) {
	proxy, err := tproxies(t)
	if err != nil {
		return nil, err
	}
	s := survey{conn: conn, table: t, where: "table " + familyName(t.Family) + " " + t.Name + ", chain ", proxy: proxy}
	err = s.chain(base, everyPort, 0)
	return s.found, err
}

func (s *survey) chain(name string, from []port.Range, depth int) error {
	s.chains++
	if depth > maxDepth || s.chains > maxChains {
		return nil
	}
	rules, err := s.conn.GetRules(s.table, &nftables.Chain{Name: name, Table: s.table})
	if err != nil {
		return err
	}
	for _, r := range rules {
		rd := reading{survey: s, from: from, values: map[uint32]value{}}
		called, err := rd.rule(r, s.where+name)
		if err != nil {
			return err
		}
		for _, c := range called {
			if err := s.chain(c, rd.from, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// value is what a register holds: a field of the packet, or data of the rule.
type value struct {
	field field
	data  []byte
}

type field int

const (
	other field = iota
	protocol
	destination // port
)

// reading is a rule as far as it is read.
type reading struct {
	*survey
	from   []port.Range
	values map[uint32]value
}

// rule reads one rule, and returns the chains that it calls.
func (r *reading) rule(rule *nftables.Rule, where string) (called []string, err error) {
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			r.load(e.Register, e.Key == expr.MetaKeyL4PROTO && !e.SourceRegister, protocol)
		case *expr.Payload:
			ip4 := e.Base == expr.PayloadBaseNetworkHeader && e.Offset == 9 && e.Len == 1
			r.load(e.DestRegister, ip4, protocol)
			if e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2 && e.Len == 2 {
				r.load(e.DestRegister, true, destination)
			}
		case *expr.Immediate:
			r.values[e.Register] = value{data: e.Data}
		case *expr.Cmp:
			r.compare(e)
		case *expr.Range:
			if e.Op == expr.CmpOpEq && r.values[e.Register].field == destination {
				r.among([][2][]byte{{e.FromData, e.ToData}})
			}
		case *expr.Lookup:
			chains, err := r.lookup(e)
			if err != nil {
				return nil, err
			}
			called = append(called, chains...)
		case *expr.Match:
			r.match(e.Info)
		case *expr.Verdict:
			if e.Chain != "" {
				called = append(called, e.Chain)
			}
		default:
			r.end(e, where)
		}
	}
	if e := r.proxy[rule.Handle]; e != nil {
		r.end(e, where)
	}
	return called, nil
}

// load notes which field a register has, if it is one that counts.
func (r *reading) load(register uint32, counts bool, f field) {
	if !counts {
		f = other
	}
	r.values[register] = value{field: f}
}

// compare narrows what the rule is about. What is said with "not" is left as
// it is: the rule may then be about less than is told.
func (r *reading) compare(e *expr.Cmp) {
	switch v := r.values[e.Register]; {
	case v.field == protocol && e.Op == expr.CmpOpEq && len(e.Data) == 1:
		r.only(port.Proto(e.Data[0]))
	case v.field != destination || len(e.Data) != 2:
	case e.Op == expr.CmpOpEq:
		r.among([][2][]byte{{e.Data, e.Data}})
	case e.Op == expr.CmpOpGte:
		r.among([][2][]byte{{e.Data, {255, 255}}})
	case e.Op == expr.CmpOpLte:
		r.among([][2][]byte{{{0, 1}, e.Data}})
	}
}

// only leaves the ports of one protocol.
func (r *reading) only(p port.Proto) {
	r.from = slices.DeleteFunc(slices.Clone(r.from), func(f port.Range) bool { return f.Proto != p })
}

// among leaves the ports that are in one of the intervals, which are of numbers
// as the network writes them.
func (r *reading) among(intervals [][2][]byte) {
	var left []port.Range
	for _, f := range r.from {
		for _, i := range intervals {
			first := max(f.First, binary.BigEndian.Uint16(i[0]))
			last := min(f.Last, binary.BigEndian.Uint16(i[1]))
			if first <= last {
				left = append(left, port.Range{Proto: f.Proto, First: first, Last: last})
			}
		}
	}
	r.from = left
}

// lookup narrows by a set of ports, or returns the chains that a map calls.
func (r *reading) lookup(e *expr.Lookup) (called []string, err error) {
	v := r.values[e.SourceRegister]
	if e.IsDestRegSet {
		r.values[e.DestRegister] = value{} // nobody knows
	}
	if e.Invert || !e.IsDestRegSet && v.field == other {
		return nil, nil
	}
	set, err := r.conn.GetSetByName(r.table, e.SetName)
	if err != nil {
		return nil, err
	}
	elements, err := r.conn.GetSetElements(set)
	if err != nil {
		return nil, err
	}
	for _, el := range elements {
		if c := calledBy(el.Val); e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT && c != "" {
			called = append(called, c)
		}
	}
	if v.field == destination {
		r.among(intervals(set, elements))
	}
	return called, nil
}

// calledBy is the chain of a verdict in a map, "" for none, from the attributes
// NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN.
func calledBy(verdict []byte) (chain string) {
	d, err := netlink.NewAttributeDecoder(verdict)
	if err != nil {
		return ""
	}
	for d.Next() {
		if d.Type() == unix.NFTA_VERDICT_CHAIN {
			chain = d.String()
		}
	}
	return chain
}

// intervals are the ports of a set. An element of an interval set begins an
// interval or ends one, just before it.
func intervals(set *nftables.Set, elements []nftables.SetElement) (all [][2][]byte) {
	elements = slices.DeleteFunc(slices.Clone(elements), func(e nftables.SetElement) bool { return len(e.Key) < 2 })
	slices.SortFunc(elements, func(a, b nftables.SetElement) int { return slices.Compare(a.Key, b.Key) })
	for i, e := range elements {
		switch {
		case e.IntervalEnd:
		case !set.Interval:
			all = append(all, [2][]byte{e.Key[:2], e.Key[:2]})
		case i+1 < len(elements) && elements[i+1].IntervalEnd:
			end := binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(elements[i+1].Key)-1)
			all = append(all, [2][]byte{e.Key[:2], end})
		default:
			all = append(all, [2][]byte{e.Key[:2], {255, 255}})
		}
	}
	return all
}

// match narrows as iptables has it.
func (r *reading) match(info xt.InfoAny) {
	ports := func(p port.Proto, d [2]uint16) {
		r.only(p)
		r.among([][2][]byte{{binary.BigEndian.AppendUint16(nil, d[0]), binary.BigEndian.AppendUint16(nil, d[1])}})
	}
	switch i := info.(type) {
	case *xt.Tcp:
		if i.InvFlags&xt.TcpInvDestPorts == 0 {
			ports(port.TCP, i.DstPorts)
		}
	case *xt.Udp:
		if i.InvFlags&xt.UdpInvDestPorts == 0 {
			ports(port.UDP, i.DstPorts)
		}
	}
}

// end notes where the rule sends what is left, if it does.
func (r *reading) end(e expr.Any, where string) {
	d := detour{where: where, from: r.from}
	switch e := e.(type) {
	case *expr.Redir:
		r.read(&d, 0, e.RegisterProtoMin)
	case *expr.NAT:
		if e.Type != expr.NATTypeDestNAT {
			return
		}
		r.read(&d, e.RegAddrMin, e.RegProtoMin)
	case *expr.TProxy:
		d.hands = true
		r.read(&d, 0, e.RegPort)
	case *expr.Target:
		if !d.readTarget(e) {
			return
		}
	default:
		return
	}
	if len(d.from) > 0 {
		r.found = append(r.found, d)
	}
}

// read reads where it goes from registers, of which 0 is none.
func (r *reading) read(d *detour, addr, number uint32) {
	if addr != 0 {
		a, ok := netip.AddrFromSlice(r.values[addr].data)
		d.addr, d.vague = a, d.vague || !ok
	}
	if number != 0 {
		data := r.values[number].data
		if len(data) < 2 {
			d.vague = true
			return
		}
		d.to = binary.BigEndian.Uint16(data)
	}
}

// readTarget reads where a rule of iptables sends packets, and says whether it does.
func (d *detour) readTarget(e *expr.Target) bool {
	var addr []byte
	switch i := e.Info.(type) {
	case *xt.NatIPv4MultiRangeCompat:
		if len(*i) != 1 {
			return false
		}
		addr, d.to = (*i)[0].MinIP, (*i)[0].MinPort
	case *xt.NatRange:
		addr, d.to = i.MinIP, i.MinPort
	case *xt.NatRange2:
		addr, d.to = i.MinIP, i.MinPort
	default:
		d.vague = true
	}
	switch e.Name {
	case "REDIRECT":
		return true
	case "TPROXY":
		d.hands = true
		return d.tproxy(e.Info)
	case "DNAT":
		a, ok := netip.AddrFromSlice(addr)
		if ok && !a.IsUnspecified() {
			d.addr = a.Unmap()
		} else {
			d.vague = true
		}
		return true
	}
	return false
}

// tproxy reads the port of xt_tproxy_target_info in the kernel's
// linux/netfilter/xt_TPROXY.h, which both revisions have behind their mark,
// mask and address.
func (d *detour) tproxy(info xt.InfoAny) bool {
	raw, ok := info.(*xt.Unknown)
	if !ok {
		return true
	}
	for size, at := range map[int]int{16: 12, 28: 24} {
		if len(*raw) >= size && len(*raw) < size+8 {
			d.to, d.vague = binary.BigEndian.Uint16((*raw)[at:]), false
		}
	}
	return true
}
