//go:build linux

package ruleset

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// number returns an attribute that is a number in nf_tables' form, or 0 if there is
// none.
func (e Expr) number(attr uint16) uint32 {
	b := e.Attrs[attr]
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (e Expr) has(attr uint16) bool { _, ok := e.Attrs[attr]; return ok }

func (e Expr) text(attr uint16) string {
	return string(bytes.TrimRight(e.Attrs[attr], "\x00"))
}

// verdict returns the verdict of an immediate expression, or nil if it has none.
func (e Expr) verdict() *verdict {
	if e.Name != "immediate" {
		return nil
	}
	_, v := parseData(e.Attrs[unix.NFTA_IMMEDIATE_DATA])
	return v
}

// data returns the value (NFTA_DATA_VALUE) inside an attribute.
func (e Expr) data(attr uint16) []byte { return dataValue(e.Attrs[attr]) }

func dataValue(b []byte) []byte {
	value, _ := parseData(b)
	return value
}

// parseData reads attributes of enum nft_data_attributes.
func parseData(b []byte) (value []byte, v *verdict) {
	data, err := attributes(b)
	if err != nil {
		return nil, nil
	}
	if inner, ok := data[unix.NFTA_DATA_VERDICT]; ok {
		attrs, err := attributes(inner)
		e := Expr{Attrs: attrs}
		if err != nil || len(attrs[unix.NFTA_VERDICT_CODE]) != 4 {
			return nil, nil
		}
		v = &verdict{code: int32(e.number(unix.NFTA_VERDICT_CODE)), chain: e.text(unix.NFTA_VERDICT_CHAIN)}
	}
	return data[unix.NFTA_DATA_VALUE], v
}

// understood has the attributes that are read here, by the names of the expressions.
// An expression with any other attribute may mean something else.
var understood = map[string][]uint16{
	"immediate": {unix.NFTA_IMMEDIATE_DREG, unix.NFTA_IMMEDIATE_DATA},
	"cmp":       {unix.NFTA_CMP_SREG, unix.NFTA_CMP_OP, unix.NFTA_CMP_DATA},
	"range":     {unix.NFTA_RANGE_SREG, unix.NFTA_RANGE_OP, unix.NFTA_RANGE_FROM_DATA, unix.NFTA_RANGE_TO_DATA},
	"lookup":    {unix.NFTA_LOOKUP_SET, unix.NFTA_LOOKUP_SREG, unix.NFTA_LOOKUP_DREG, unix.NFTA_LOOKUP_SET_ID, unix.NFTA_LOOKUP_FLAGS},
	"bitwise": {unix.NFTA_BITWISE_SREG, unix.NFTA_BITWISE_DREG, unix.NFTA_BITWISE_LEN, unix.NFTA_BITWISE_MASK,
		unix.NFTA_BITWISE_XOR, bitwiseOp},
	"byteorder": {unix.NFTA_BYTEORDER_SREG, unix.NFTA_BYTEORDER_DREG, unix.NFTA_BYTEORDER_OP, unix.NFTA_BYTEORDER_LEN,
		unix.NFTA_BYTEORDER_SIZE},
	"payload": {unix.NFTA_PAYLOAD_DREG, unix.NFTA_PAYLOAD_BASE, unix.NFTA_PAYLOAD_OFFSET, unix.NFTA_PAYLOAD_LEN,
		unix.NFTA_PAYLOAD_SREG, unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFTA_PAYLOAD_CSUM_OFFSET, unix.NFTA_PAYLOAD_CSUM_FLAGS},
	"meta":   {unix.NFTA_META_DREG, unix.NFTA_META_KEY, unix.NFTA_META_SREG},
	"ct":     {unix.NFTA_CT_DREG, unix.NFTA_CT_KEY, unix.NFTA_CT_DIRECTION, unix.NFTA_CT_SREG},
	"fib":    {unix.NFTA_FIB_DREG, unix.NFTA_FIB_RESULT, unix.NFTA_FIB_FLAGS},
	"match":  {unix.NFTA_MATCH_NAME, unix.NFTA_MATCH_REV, unix.NFTA_MATCH_INFO},
	"target": {unix.NFTA_TARGET_NAME, unix.NFTA_TARGET_REV, unix.NFTA_TARGET_INFO},
	"objref": {unix.NFTA_OBJREF_IMM_TYPE, unix.NFTA_OBJREF_IMM_NAME, unix.NFTA_OBJREF_SET_SREG, unix.NFTA_OBJREF_SET_NAME},
	"redir":  {unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFTA_REDIR_REG_PROTO_MAX, unix.NFTA_REDIR_FLAGS},
	"nat": {unix.NFTA_NAT_TYPE, unix.NFTA_NAT_FAMILY, unix.NFTA_NAT_REG_ADDR_MIN, unix.NFTA_NAT_REG_ADDR_MAX,
		unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX, unix.NFTA_NAT_FLAGS},
}

// bitwiseOp is NFTA_BITWISE_OP, which golang.org/x/sys/unix does not have.
const bitwiseOp = 6

// conditions are expressions that only decide whether a rule goes on, with words for
// what they depend on.
var conditions = map[string]string{
	"limit": "rate", "quota": "amount so far", "connlimit": "number of connections", "dynset": "contents of a set at that time",
	"socket": "sockets", "tproxy": "sockets", "osf": "operating system",
}

// loads are expressions that put an unknown value into a register, with the attribute
// that has the register's number.
var loads = map[string]uint16{
	"rt": unix.NFTA_RT_DREG, "hash": unix.NFTA_HASH_DREG, "numgen": unix.NFTA_NG_DREG, "xfrm": 1, "tunnel": 2,
}

// expr evaluates one expression, and reports whether the rule ends there.
func (s *step) expr(e Expr) (done bool) {
	if all, ok := understood[e.Name]; ok {
		for attr := range e.Attrs {
			if !slices.Contains(all, attr) {
				return s.anything(fmt.Sprintf("expression %q, whose attribute %d doorward does not know", e.Name, attr))
			}
		}
	}
	switch e.Name {
	case "counter", "log", "last", "dup", "notrack", "flow_offload", "masq", "reject", "redir", "nat", "objref":
		return s.action(e)
	case "immediate":
		if v := e.verdict(); v != nil {
			return s.decide(*v)
		}
		s.registers.store(e.number(unix.NFTA_IMMEDIATE_DREG), exact(e.data(unix.NFTA_IMMEDIATE_DATA)))
	case "cmp":
		data := e.data(unix.NFTA_CMP_DATA)
		v := s.registers.load(e.number(unix.NFTA_CMP_SREG), len(data))
		return s.only(v.compare(e.number(unix.NFTA_CMP_OP), data), v.of)
	case "range":
		from, to := e.data(unix.NFTA_RANGE_FROM_DATA), e.data(unix.NFTA_RANGE_TO_DATA)
		v := s.registers.load(e.number(unix.NFTA_RANGE_SREG), len(from))
		t := v.in(from, to)
		if e.number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ {
			t = t.invert()
		}
		return s.only(t, v.of)
	case "lookup":
		return s.lookup(e)
	case "bitwise", "byteorder":
		s.compute(e)
	case "exthdr":
		return s.options(e)
	case "ct":
		return s.connection(e)
	case "payload", "meta", "fib":
		s.field(e)
	case "match":
		t, why := s.match(e)
		return s.only(t, why)
	case "target":
		return s.target(e)
	default:
		return s.other(e)
	}
	return false
}

// other evaluates an expression whose attributes are not looked at.
func (s *step) other(e Expr) (done bool) {
	if register, ok := loads[e.Name]; ok {
		s.registers.store(e.number(register), unknown(16).named(e.Name))
		return s.only(maybe, e.Name)
	}
	why, ok := conditions[e.Name]
	if !ok {
		return s.anything(fmt.Sprintf("expression %q, which doorward does not know", e.Name))
	}
	if e.Name == "socket" {
		s.registers.store(e.number(socketRegister), unknown(16).named(why))
	}
	return s.only(maybe, why)
}

// socketRegister is NFTA_SOCKET_DREG, which golang.org/x/sys/unix does not have.
const socketRegister = 2

// options evaluates an expression about options of TCP, or about extension headers of
// IPv6, which the packet does not have.
func (s *step) options(e Expr) (done bool) {
	const ofIPv6, present = 0, 1 // NFT_EXTHDR_OP_IPV6, NFT_EXTHDR_F_PRESENT
	register, extension := e.number(unix.NFTA_EXTHDR_DREG), e.number(unix.NFTA_EXTHDR_OP) == ofIPv6
	switch {
	case extension && e.number(unix.NFTA_EXTHDR_FLAGS)&present != 0:
		s.registers.store(register, exact(make([]byte, 4)))
		return false
	case extension:
		return s.only(no, "")
	}
	s.registers.store(register, unknown(16).named("options"))
	return s.only(maybe, "options")
}

// compute evaluates an expression that computes one value from another.
func (s *step) compute(e Expr) {
	if e.Name == "bitwise" {
		n := int(e.number(unix.NFTA_BITWISE_LEN))
		v := s.registers.load(e.number(unix.NFTA_BITWISE_SREG), min(n, 16))
		if e.number(bitwiseOp) != 0 { // NFT_BITWISE_MASK_XOR
			v = unknown(len(v.min)).named(v.of)
		} else {
			v = v.masked(e.data(unix.NFTA_BITWISE_MASK), e.data(unix.NFTA_BITWISE_XOR))
		}
		s.registers.store(e.number(unix.NFTA_BITWISE_DREG), v)
		return
	}
	n, size := int(e.number(unix.NFTA_BYTEORDER_LEN)), int(e.number(unix.NFTA_BYTEORDER_SIZE))
	v := s.registers.load(e.number(unix.NFTA_BYTEORDER_SREG), min(n, 16))
	little := binary.NativeEndian.Uint16([]byte{1, 0}) == 1
	switch {
	case size != 2 && size != 4 && size != 8:
		v = unknown(len(v.min)).named(v.of)
	case little:
		v = v.swapped(size)
	}
	s.registers.store(e.number(unix.NFTA_BYTEORDER_DREG), v)
}

// field evaluates an expression that reads or changes a field of the packet, or a
// property that the kernel knows of it.
func (s *step) field(e Expr) {
	switch e.Name {
	case "payload":
		base := e.number(unix.NFTA_PAYLOAD_BASE)
		if e.has(unix.NFTA_PAYLOAD_SREG) {
			if int(base) < len(s.blind) {
				s.blind[base] = true
			}
			return
		}
		v := s.payload(base, e.number(unix.NFTA_PAYLOAD_OFFSET), int(min(e.number(unix.NFTA_PAYLOAD_LEN), 64)))
		s.registers.store(e.number(unix.NFTA_PAYLOAD_DREG), v)
	case "meta":
		key := e.number(unix.NFTA_META_KEY)
		if !e.has(unix.NFTA_META_SREG) {
			v := s.meta(key)
			if key == unix.NFT_META_NFPROTO && s.base.Family == "netdev" {
				v = unknown(1) // there it is the hook's, not the packet's
			}
			s.registers.store(e.number(unix.NFTA_META_DREG), v)
		} else if key == unix.NFT_META_MARK {
			s.change(&s.mark, s.registers.load(e.number(unix.NFTA_META_SREG), 4))
		}
	case "fib":
		s.registers.store(e.number(unix.NFTA_FIB_DREG), s.fib(e.number(unix.NFTA_FIB_RESULT), e.number(unix.NFTA_FIB_FLAGS)))
	}
}

// connection evaluates an expression that reads or changes a field of the packet's
// connection. Without a connection the rule ends, unless it reads the state.
func (s *step) connection(e Expr) (done bool) {
	key := e.number(unix.NFTA_CT_KEY)
	if e.has(unix.NFTA_CT_SREG) {
		if key == unix.NFT_CT_MARK && s.tracked != no {
			s.change(&s.ctMark, s.registers.load(e.number(unix.NFTA_CT_SREG), 4))
		}
		return false
	}
	s.registers.store(e.number(unix.NFTA_CT_DREG), s.ct(key))
	return key != unix.NFT_CT_STATE && s.only(s.tracked, "connection")
}

// lookup evaluates a look-up in a set or a map.
func (s *step) lookup(e Expr) (done bool) {
	set := s.rules.set(s.chain, e.text(unix.NFTA_LOOKUP_SET))
	if set == nil {
		return s.anything("contents of a set that cannot be read")
	}
	key := s.registers.key(e.number(unix.NFTA_LOOKUP_SREG), set.KeyLen)
	found, t := set.find(key)
	why := ""
	for _, k := range key {
		if !k.exact() && why == "" {
			why = k.of
		}
	}
	if !e.has(unix.NFTA_LOOKUP_DREG) {
		if e.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0 {
			t = t.invert()
		}
		return s.only(t, why)
	}
	if done = s.only(t, why); done {
		return true
	}
	if register := e.number(unix.NFTA_LOOKUP_DREG); register != unix.NFT_REG_VERDICT {
		v := unknown(16).named(why)
		if len(found) == 1 {
			v = exact(dataValue(found[0].Data))
		}
		s.registers.store(register, v)
		return false
	}
	return s.any(found, why)
}

// any carries out one of several verdicts; it is not known which.
func (s *step) any(found []Element, why string) (done bool) {
	if len(found) > 1 {
		s.only(maybe, why)
	}
	done = true
	for _, f := range found {
		_, v := parseData(f.Data)
		if v == nil {
			return s.anything("contents of a map that cannot be read")
		}
		done = s.decide(*v) && done
	}
	return done
}

// near returns the spans that a key may be in: at most one if the key is known
// exactly, however large the set is.
func (t *Set) near(key []keyPart) []span {
	all := t.spans()
	if t.Concat || len(key) != 1 || !key[0].exact() {
		return all
	}
	// Spans do not overlap, so it is the last one that begins at or before the key.
	i, _ := slices.BinarySearchFunc(all, key[0].min, func(s span, b []byte) int {
		if bytes.Compare(s.from, b) <= 0 {
			return -1
		}
		return 1
	})
	return all[max(i-1, 0):i]
}

// find returns the elements that a key may match, and whether it matches one.
func (t *Set) find(key []keyPart) (found []Element, holds truth) {
	for _, s := range t.near(key) {
		h := s.holds(key)
		if h == yes && s.Depends {
			h = maybe
		}
		if h == yes {
			return []Element{s.Element}, yes
		}
		if h == maybe {
			found = append(found, s.Element)
			holds = maybe
		}
	}
	for _, e := range t.Elements {
		if e.CatchAll {
			return append(found, e), yes
		}
	}
	return found, holds
}

// action evaluates an expression that does something with the packet.
func (s *step) action(e Expr) (done bool) {
	switch e.Name {
	case "notrack":
		s.untrack()
	case "masq":
		return s.ends(accepted)
	case "reject":
		return s.ends(dropped)
	case "redir":
		return s.redirect(e, unix.NFTA_REDIR_REG_PROTO_MIN, netip.Addr{}, true)
	case "nat":
		if e.number(unix.NFTA_NAT_TYPE) != unix.NFT_NAT_DNAT {
			return s.ends(accepted)
		}
		size := 4
		if s.IPv6 {
			size = 16
		}
		register := e.number(unix.NFTA_NAT_REG_ADDR_MIN)
		if register == 0 {
			return s.redirect(e, unix.NFTA_NAT_REG_PROTO_MIN, netip.Addr{}, true)
		}
		v := s.registers.load(register, size)
		a, _ := netip.AddrFromSlice(v.min)
		return s.redirect(e, unix.NFTA_NAT_REG_PROTO_MIN, a, v.exact() && !e.several(unix.NFTA_NAT_REG_ADDR_MIN))
	case "objref":
		return s.object(e)
	}
	return false
}

// object evaluates a reference to a named object, by its type (NFT_OBJECT_* of
// linux/netfilter/nf_tables.h).
func (s *step) object(e Expr) (done bool) {
	const counter, quota, ctHelper, limit, connLimit, ctTimeout, secMark, ctExpect = 1, 2, 3, 4, 5, 7, 8, 9
	switch e.number(unix.NFTA_OBJREF_IMM_TYPE) {
	case counter, ctHelper, ctTimeout, secMark, ctExpect:
		return false
	case quota, limit, connLimit:
		return s.only(maybe, "state of an object")
	}
	return s.anything("state of an object whose type doorward does not know")
}

// several reports whether a range has more than one value. The attribute least names
// the register of its first value, and the next attribute that of its last.
func (e Expr) several(least uint16) bool {
	return e.has(least+1) && e.number(least+1) != e.number(least)
}

// redirect sends the packet to another port, and to the address to, if that is known;
// an invalid one is this machine's.
func (s *step) redirect(e Expr, portRegister uint16, to netip.Addr, known bool) (done bool) {
	v := s.ports
	if register := e.number(portRegister); register != 0 {
		v = s.registers.load(register, 2)
		if e.several(portRegister) {
			v = unknown(2)
		}
	}
	return s.send(v.named("port that it is redirected to"), to, known)
}

func (s *step) send(ports value, to netip.Addr, known bool) (done bool) {
	s.change(&s.ports, ports)
	s.dst = unknown(len(s.dst.min)).named("destination address")
	s.become(&s.rewritten)
	switch {
	case !known && s.away == no:
		s.away = maybe
	case known && to.IsValid() && !s.local(to):
		s.become(&s.away)
	}
	return s.ends(accepted)
}
