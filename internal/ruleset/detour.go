//go:build linux

package ruleset

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/port"
)

// Detour is a rule's redirection of packets on their way in, to a port or an address
// other than the one they were sent to.
type Detour struct {
	Chain *Chain       // the chain of the rule
	From  []port.Range // the ports that packets were sent to
	Addr  netip.Addr   // where they are sent instead; invalid for this machine
	To    uint16       // the port there; 0 for the one that they were sent to
	Hands bool         // tproxy: packets go, unchanged, to a listener on that port
	Vague bool         // where they go is in a map, or cannot be read
}

// everyPort is all ports that a packet may be sent to.
var everyPort = []port.Range{{Proto: port.TCP, First: 1, Last: 65535}, {Proto: port.UDP, First: 1, Last: 65535}}

// maxFollowed bounds the work on a ruleset whose chains call each other over and
// over.
const maxFollowed = 1 << 14

// Detours returns the detours of IP packets before they are routed. Into chains that
// are called through a map, it follows all packets that matched until then.
func (s *Ruleset) Detours() []Detour {
	var all []Detour
	for _, c := range s.Chains {
		if c.Hook == "prerouting" && (c.Family == "ip" || c.Family == "ip6" || c.Family == "inet") {
			v := survey{rules: s}
			v.chain(c, everyPort, 0)
			all = append(all, v.found...)
		}
	}
	return all
}

// survey collects the detours of one base chain and of the chains that it calls.
type survey struct {
	rules  *Ruleset
	chains int
	found  []Detour
}

func (v *survey) chain(c *Chain, from []port.Range, depth int) {
	v.chains++
	if c == nil || depth > maxDepth || v.chains > maxFollowed {
		return
	}
	for _, r := range c.Rules {
		d := reading{survey: v, in: c, from: from, holds: map[uint32]held{}}
		for _, e := range r.Exprs {
			d.expr(e)
		}
		for _, name := range d.called {
			v.chain(v.rules.chain(c, name), d.from, depth+1)
		}
	}
}

// held is the content of a register: a field of the packet, or data of the rule.
type held struct {
	protocol, destination bool
	data                  []byte
}

// reading is the state of reading one rule.
type reading struct {
	*survey
	in     *Chain
	from   []port.Range
	holds  map[uint32]held // by index
	called []string
}

// expr reads one expression.
func (r *reading) expr(e Expr) {
	switch e.Name {
	case "meta":
		r.load(e, unix.NFTA_META_DREG, held{protocol: e.number(unix.NFTA_META_KEY) == unix.NFT_META_L4PROTO})
	case "payload":
		base, at, n := e.number(unix.NFTA_PAYLOAD_BASE), e.number(unix.NFTA_PAYLOAD_OFFSET), e.number(unix.NFTA_PAYLOAD_LEN)
		r.load(e, unix.NFTA_PAYLOAD_DREG, held{protocol: base == unix.NFT_PAYLOAD_NETWORK_HEADER && at == 9 && n == 1,
			destination: base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && at == 2 && n == 2})
	case "immediate":
		if v := e.verdict(); v != nil {
			r.call(*v)
			return
		}
		r.load(e, unix.NFTA_IMMEDIATE_DREG, held{data: e.data(unix.NFTA_IMMEDIATE_DATA)})
	case "cmp":
		r.compare(e)
	case "range":
		first, last := e.data(unix.NFTA_RANGE_FROM_DATA), e.data(unix.NFTA_RANGE_TO_DATA)
		if r.at(e, unix.NFTA_RANGE_SREG).destination && e.number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_EQ {
			r.among(span{from: first, to: last})
		}
	case "lookup":
		r.lookup(e)
	case "match":
		r.match(e)
	default:
		r.end(e)
	}
}

func (r *reading) call(v verdict) {
	if v.chain != "" {
		r.called = append(r.called, v.chain)
	}
}

// load notes what an expression puts into a register; the attribute register has its
// number.
func (r *reading) load(e Expr, register uint16, h held) {
	if e.has(register) {
		r.holds[index(e.number(register))] = h
	}
}

// at returns the content of a register; the attribute register has its number.
func (r *reading) at(e Expr, register uint16) held { return r.holds[index(e.number(register))] }

// compare narrows down the ports of the rule. Negated comparisons are ignored, so the
// rule may apply to fewer ports than are reported.
func (r *reading) compare(e Expr) {
	h, op, data := r.at(e, unix.NFTA_CMP_SREG), e.number(unix.NFTA_CMP_OP), e.data(unix.NFTA_CMP_DATA)
	switch {
	case h.protocol && op == unix.NFT_CMP_EQ && len(data) == 1:
		r.only(port.Proto(data[0]))
	case !h.destination:
	case op == unix.NFT_CMP_EQ:
		r.among(span{from: data, to: data})
	case op == unix.NFT_CMP_GTE:
		r.among(span{from: data, to: []byte{255, 255}})
	case op == unix.NFT_CMP_LTE:
		r.among(span{from: []byte{0, 1}, to: data})
	}
}

// only keeps the ports of one protocol.
func (r *reading) only(p port.Proto) {
	r.from = slices.DeleteFunc(slices.Clone(r.from), func(f port.Range) bool { return f.Proto != p })
}

// among keeps the ports that are in one of the spans.
func (r *reading) among(spans ...span) {
	var left []port.Range
	for _, f := range r.from {
		for _, s := range spans {
			if len(s.from) < 2 || len(s.to) < 2 {
				continue
			}
			first := max(f.First, binary.BigEndian.Uint16(s.from))
			last := min(f.Last, binary.BigEndian.Uint16(s.to))
			if first <= last {
				left = append(left, port.Range{Proto: f.Proto, First: first, Last: last})
			}
		}
	}
	r.from = left
}

// lookup narrows down the ports by a set of them, or notes the chains that a map calls.
func (r *reading) lookup(e Expr) {
	key := r.at(e, unix.NFTA_LOOKUP_SREG)
	r.load(e, unix.NFTA_LOOKUP_DREG, held{}) // the result is not known
	set := r.rules.set(r.in, e.text(unix.NFTA_LOOKUP_SET))
	if set == nil || e.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0 {
		return
	}
	if e.has(unix.NFTA_LOOKUP_DREG) && e.number(unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT {
		for _, el := range set.Elements {
			if _, v := parseData(el.Data); v != nil {
				r.call(*v)
			}
		}
	}
	if key.destination {
		r.among(set.spans()...)
	}
}

// match narrows down the ports by a match of iptables: struct xt_tcp or xt_udp.
func (r *reading) match(e Expr) {
	info := e.Attrs[unix.NFTA_MATCH_INFO]
	for name, of := range map[string]struct {
		proto    port.Proto
		inverted int
	}{"tcp": {port.TCP, 11}, "udp": {port.UDP, 8}} {
		const destination = 2 // XT_TCP_INV_DSTPT, XT_UDP_INV_DSTPT
		if e.text(unix.NFTA_MATCH_NAME) == name && len(info) > of.inverted && info[of.inverted]&destination == 0 {
			r.only(of.proto)
			r.among(span{from: big(info[4:]), to: big(info[6:])})
		}
	}
}

// tproxyRegPort is NFTA_TPROXY_REG_PORT, which golang.org/x/sys/unix does not have.
const tproxyRegPort = 3

// end notes the detour if e is one. It is for the ports that are left.
func (r *reading) end(e Expr) {
	d := Detour{Chain: r.in, From: r.from}
	switch {
	case e.Name == "redir":
		r.goes(&d, e, 0, unix.NFTA_REDIR_REG_PROTO_MIN)
	case e.Name == "nat" && e.number(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT:
		r.goes(&d, e, unix.NFTA_NAT_REG_ADDR_MIN, unix.NFTA_NAT_REG_PROTO_MIN)
	case e.Name == "tproxy":
		d.Hands = true
		r.goes(&d, e, 0, tproxyRegPort)
	case e.Name != "target" || !d.target(e):
		return
	}
	if len(d.From) > 0 {
		r.found = append(r.found, d)
	}
}

// goes reads the destination of a detour from registers; the attributes addr and
// number have their numbers.
func (r *reading) goes(d *Detour, e Expr, addr, number uint16) {
	if addr != 0 && e.number(addr) != 0 {
		a, ok := netip.AddrFromSlice(r.at(e, addr).data)
		d.Addr, d.Vague = a, !ok
	}
	if e.number(number) == 0 {
		return
	}
	data := r.at(e, number).data
	if len(data) < 2 {
		d.Vague = true
		return
	}
	d.To = binary.BigEndian.Uint16(data)
}

// target reads the destination of a target of iptables, and reports whether it is a
// detour.
func (d *Detour) target(e Expr) bool {
	name, info := e.text(unix.NFTA_TARGET_NAME), e.Attrs[unix.NFTA_TARGET_INFO]
	switch name {
	case "REDIRECT", "DNAT":
		n, ok := parseNAT(info, d.Chain.Family == "ip6")
		if ok {
			d.To = binary.BigEndian.Uint16(n.first)
		}
		d.Vague = !ok
		if name == "DNAT" {
			a, _ := netip.AddrFromSlice(n.from)
			d.Vague = !a.IsValid() || a.IsUnspecified()
			if !d.Vague {
				d.Addr = a
			}
		}
		return true
	case "TPROXY":
		d.Hands, d.Vague = true, true
		// In both revisions of xt_tproxy_target_info (the kernel's
		// linux/netfilter/xt_TPROXY.h), the port follows mark, mask and address.
		for size, at := range map[int]int{16: 12, 28: 24} {
			if len(info) >= size && len(info) < size+8 {
				d.To, d.Vague = binary.BigEndian.Uint16(info[at:]), false
			}
		}
		return true
	}
	return false
}
