//go:build linux

package ruleset

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/port"
)

// match reports whether a match of iptables holds, as read from its structure in the
// kernel's linux/netfilter/xt_*.h. Matches that are not read here depend on something
// unknown.
func (s *step) match(e Expr) (holds truth, why string) {
	name, revision, info := e.text(unix.NFTA_MATCH_NAME), e.number(unix.NFTA_MATCH_REV), e.Attrs[unix.NFTA_MATCH_INFO]
	switch {
	case name == "comment":
		return yes, ""
	case slices.Contains([]string{"rt", "frag", "ah", "hbh", "dst", "mh"}, name):
		return no, "" // the packet has no extension headers
	case name == "tcp" && len(info) >= 12:
		return s.xtTCP(info)
	case name == "udp" && len(info) >= 9:
		const source, destination = 1, 2 // XT_UDP_INV_SRCPT, _DSTPT
		return s.xtPorts(info, port.UDP, info[8]&source != 0, info[8]&destination != 0)
	case name == "multiport" && revision == 1 && len(info) >= 48:
		return s.xtMultiport(info)
	case name == "addrtype" && revision == 1 && len(info) >= 8:
		return s.xtAddrtype(info)
	case name == "conntrack" && revision >= 2 && len(info) >= 156:
		const state, alias = 1, 1 << 13 // XT_CONNTRACK_STATE, and as "-m state" writes it
		if binary.NativeEndian.Uint16(info[146:])&^alias == state {
			mask := uint32(binary.NativeEndian.Uint16(info[150:]))
			return s.xtState(mask, 256, binary.NativeEndian.Uint16(info[148:])&state != 0)
		}
		return maybe, "connection"
	case name == "state" && len(info) >= 4:
		return s.xtState(binary.NativeEndian.Uint32(info), 64, false)
	}
	return maybe, fmt.Sprintf("match %q of iptables", name)
}

func orNot(t truth, inverted bool) truth {
	if inverted {
		return t.invert()
	}
	return t
}

// xtPorts reads the ranges of source and destination ports that xt_tcp and
// xt_udp begin with.
func (s *step) xtPorts(info []byte, proto port.Proto, notSource, notDestination bool) (truth, string) {
	if s.Ports.Proto != proto {
		return no, ""
	}
	source := s.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2)
	destination := s.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
	from := orNot(source.in(big(info[0:]), big(info[2:])), notSource)
	to := orNot(destination.in(big(info[4:]), big(info[6:])), notDestination)
	if to == maybe {
		return min(from, to), destination.of
	}
	return min(from, to), source.of
}

// big converts a number from host to network byte order.
func big(b []byte) []byte {
	return binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(b))
}

// xtTCP reads struct xt_tcp.
func (s *step) xtTCP(info []byte) (truth, string) {
	const source, destination, flags, option = 1, 2, 4, 8 // XT_TCP_INV_*
	inverted := info[11]
	t, why := s.xtPorts(info, port.TCP, inverted&source != 0, inverted&destination != 0)
	if t == no {
		return t, why
	}
	v := s.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1).masked(info[9:10], []byte{0})
	t = min(t, orNot(v.in(info[10:11], info[10:11]), inverted&flags != 0))
	if info[8] != 0 || inverted&option != 0 {
		return min(t, maybe), "options"
	}
	return t, why
}

// xtMultiport reads struct xt_multiport_v1.
func (s *step) xtMultiport(info []byte) (truth, string) {
	const source, destination = 0, 1 // XT_MULTIPORT_SOURCE, _DESTINATION
	kind, count := info[0], min(int(info[1]), 15)
	if s.Ports.Proto != port.TCP && s.Ports.Proto != port.UDP {
		return no, ""
	}
	var at []value
	if kind != destination {
		at = append(at, s.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2))
	}
	if kind != source {
		at = append(at, s.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2))
	}
	t, why := no, ""
	for i := 0; i < count; i++ {
		first := big(info[2+2*i:])
		last := first
		if info[32+i] != 0 && i+1 < count {
			i++
			last = big(info[2+2*i:])
		}
		for _, v := range at {
			in := v.in(first, last)
			if in == maybe {
				why = v.of
			}
			t = max(t, in)
		}
	}
	return orNot(t, info[47] != 0), why
}

// xtAddrtype reads struct xt_addrtype_info_v1. The source is a stranger's, the
// destination this machine's.
func (s *step) xtAddrtype(info []byte) (truth, string) {
	const invertSource, invertDestination, onInterface = 1, 2, 4 | 8
	source, destination := binary.NativeEndian.Uint16(info), binary.NativeEndian.Uint16(info[2:])
	flags := binary.NativeEndian.Uint32(info[4:])
	is := func(mask uint16, kind int) truth {
		if mask&(1<<kind) != 0 {
			return yes
		}
		return no
	}
	t := yes
	if source != 0 {
		t = min(t, orNot(is(source, unix.RTN_UNICAST), flags&invertSource != 0))
	}
	if destination != 0 {
		to := maybe
		if s.rewritten == no && flags&onInterface == 0 {
			to = orNot(is(destination, unix.RTN_LOCAL), flags&invertDestination != 0)
		}
		t = min(t, to)
	}
	if flags&onInterface != 0 {
		t = min(t, maybe)
	}
	return t, "routes"
}

// xtState compares the state of the packet's connection. Its bit for "untracked"
// differs between the matches.
func (s *step) xtState(mask, untracked uint32, inverted bool) (truth, string) {
	if !s.ctState.exact() {
		return maybe, "state of its connection"
	}
	state := binary.NativeEndian.Uint32(s.ctState.min)
	if state == ctUntracked {
		state = untracked
	}
	t := no
	if mask&state != 0 {
		t = yes
	}
	return orNot(t, inverted), ""
}

// target evaluates a target of iptables.
func (s *step) target(e Expr) (done bool) {
	name, info := e.text(unix.NFTA_TARGET_NAME), e.Attrs[unix.NFTA_TARGET_INFO]
	switch name {
	case "LOG", "NFLOG", "ULOG", "TRACE", "AUDIT", "TCPMSS", "DSCP", "TOS", "TTL", "HL", "CLASSIFY", "CHECKSUM",
		"TEE", "SET", "RATEEST", "IDLETIMER", "LED":
		return false
	case "MARK":
		s.mark = unknown(4)
		return false
	case "CONNMARK":
		s.mark, s.ctMark = unknown(4), unknown(4)
		return false
	case "NOTRACK":
		s.untrack()
		return false
	case "CT":
		const notrack = 1 // XT_CT_NOTRACK
		if len(info) >= 2 && binary.NativeEndian.Uint16(info)&notrack != 0 {
			s.untrack()
		}
		return false
	case "REJECT":
		return s.ends(dropped)
	case "SNAT", "MASQUERADE":
		return s.ends(accepted)
	case "DNAT", "REDIRECT":
		return s.xtRedirect(name, info)
	case "TPROXY":
		return s.anything("sockets") // it drops packets without a socket
	}
	return s.anything(fmt.Sprintf("target %q of iptables, which doorward does not know", name))
}

// natRange is the addresses and ports, from the first to the last, to which a target
// of iptables sends packets.
type natRange struct {
	flags       uint32
	from, to    []byte // addresses
	first, last []byte // ports
}

// parseNAT reads struct nf_nat_ipv4_multi_range_compat, nf_nat_range or
// nf_nat_range2 of linux/netfilter/nf_nat.h, by their size.
func parseNAT(info []byte, ipv6 bool) (n natRange, ok bool) {
	switch {
	case len(info) >= 40: // with addresses of 16 bytes
		n = natRange{binary.NativeEndian.Uint32(info), info[4:20], info[20:36], info[36:38], info[38:40]}
	case len(info) >= 20 && !ipv6: // one range
		n = natRange{binary.NativeEndian.Uint32(info[4:]), info[8:12], info[12:16], info[16:18], info[18:20]}
	default:
		return n, false
	}
	if !ipv6 {
		n.from, n.to = n.from[:4], n.to[:4]
	}
	return n, true
}

func (s *step) xtRedirect(name string, info []byte) (done bool) {
	const specified = 2 // NF_NAT_RANGE_PROTO_SPECIFIED
	n, ok := parseNAT(info, s.IPv6)
	if !ok {
		return s.anything(fmt.Sprintf("target %q of iptables, whose form doorward does not know", name))
	}
	ports := s.ports
	if n.flags&specified != 0 {
		ports = between(n.first, n.last)
	}
	if name == "REDIRECT" {
		return s.send(ports.named("port that it is redirected to"), netip.Addr{}, true)
	}
	a, _ := netip.AddrFromSlice(n.from)
	return s.send(ports.named("port that it is redirected to"), a, bytes.Equal(n.from, n.to) && !a.IsUnspecified())
}
