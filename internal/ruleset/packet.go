//go:build linux

package ruleset

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/port"
)

// Packet is the first packet of a connection on its way to this machine: a SYN,
// or a UDP datagram. A field that is left out may be anything.
type Packet struct {
	IPv6        bool
	Ports       port.Range   // one of these
	Source      netip.Addr   // invalid for any
	Destination netip.Addr   // one of this machine's; invalid for any of them
	Own         []netip.Addr // this machine's addresses
	// Interface is the name of the interface where it arrives, and Index the number;
	// "" and 0 for any interface except the loopback. Routed says that the route back
	// to the source goes through that interface, too.
	Interface string
	Index     uint32
	Routed    bool
}

// The bits of "ct state": NF_CT_STATE_INVALID_BIT, NF_CT_STATE_BIT(IP_CT_NEW) and
// NF_CT_STATE_UNTRACKED_BIT of the kernel's linux/netfilter/nf_conntrack_common.h.
const (
	ctInvalid   = 1
	ctNew       = 8
	ctUntracked = 64
)

// flight is a packet as the chains have left it so far.
type flight struct {
	Packet
	ports   value
	dst     value
	mark    value
	ctMark  value
	ctState value
	notrack truth // whether a rule kept it out of connection tracking
	tracked truth // whether it has a connection
	judged  bool  // whether it has a connection is decided
	// rewritten says whether its destination was changed, and away whether it is now
	// another host.
	rewritten, away truth
	blind           [3]bool // by base of payload: a rule has written to that header
}

func (p *Packet) depart() *flight {
	number16 := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	f := &flight{Packet: *p, mark: number(0), ctMark: number(0), ctState: number(ctInvalid)}
	f.ports = between(number16(p.Ports.First), number16(p.Ports.Last)).named(Port)
	f.dst = p.addr(p.Destination).named("destination address")
	return f
}

// addr returns the value of an address of the packet's family.
func (p *Packet) addr(a netip.Addr) value {
	if a.IsValid() {
		return exact(a.AsSlice())
	}
	if p.IPv6 {
		return unknown(16)
	}
	return unknown(4)
}

// iif and iifname return what meta says about the interface where the packet arrives.
func (p *Packet) iif() value {
	if p.Index != 0 {
		return number(p.Index)
	}
	v := unknown(4).named("interface")
	v.not = binary.NativeEndian.AppendUint32(nil, 1) // the loopback's number in every namespace
	return v
}

func (p *Packet) iifname() value {
	name := make([]byte, unix.IFNAMSIZ)
	if p.Interface != "" {
		copy(name, p.Interface)
		return exact(name)
	}
	v := unknown(unix.IFNAMSIZ).named("interface")
	copy(name, "lo")
	v.not = name
	return v
}

// field is a part of a header: its offset, and what is known of it.
type field struct {
	at int
	value
}

// header returns the fields of a header of which something is known.
func (f *flight) header(base uint32) []field {
	free := func(known, open byte) value { return bits([]byte{known}, []byte{open}) }
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && f.IPv6:
		return []field{{0, free(0x60, 0x0f)}, {6, exact([]byte{byte(f.Ports.Proto)})},
			{8, f.addr(f.Source).named("source address")}, {24, f.dst}}
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER:
		// No options, and not a fragment; "don't fragment" may be set.
		return []field{{0, exact([]byte{0x45})}, {6, bits([]byte{0, 0}, []byte{0x40, 0})},
			{9, exact([]byte{byte(f.Ports.Proto)})}, {12, f.addr(f.Source).named("source address")}, {16, f.dst}}
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && f.Ports.Proto == port.TCP:
		// A SYN, perhaps with RFC 3168's ECE and CWR.
		return []field{{0, unknown(2).named("source port")}, {2, f.ports}, {8, exact(make([]byte, 4))},
			{12, free(0, 0xf0)}, {13, free(0x02, 0xc0)}, {18, exact(make([]byte, 2))}}
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		return []field{{0, unknown(2).named("source port")}, {2, f.ports}}
	}
	return nil
}

// payload returns what is known of n bytes of a header.
func (f *flight) payload(base, at uint32, n int) value {
	if int(base) < len(f.blind) && f.blind[base] {
		return unknown(n).named("header, which a rule has changed")
	}
	known, free := make([]byte, n), unknown(n).free
	of := "contents"
	for _, h := range f.header(base) {
		first, end := max(int(at), h.at), min(int(at)+n, h.at+len(h.min))
		if first >= end {
			continue
		}
		if first == int(at) && end == int(at)+n {
			return h.part(first-h.at, n)
		}
		p := bits(h.min, h.free)
		copy(known[first-int(at):], p.min[first-h.at:end-h.at])
		copy(free[first-int(at):], p.free[first-h.at:end-h.at])
		if !h.exact() && h.of != "" {
			of = h.of
		}
	}
	return bits(known, free).named(of)
}

// meta returns what is known of a key of enum nft_meta_keys.
func (f *flight) meta(key uint32) value {
	family := byte(unix.NFPROTO_IPV4)
	ether := []byte{0x08, 0x00}
	if f.IPv6 {
		family, ether = unix.NFPROTO_IPV6, []byte{0x86, 0xdd}
	}
	switch key {
	case unix.NFT_META_PROTOCOL:
		return exact(ether)
	case unix.NFT_META_NFPROTO:
		return exact([]byte{family})
	case unix.NFT_META_L4PROTO:
		return exact([]byte{byte(f.Ports.Proto)})
	case unix.NFT_META_MARK:
		return f.mark.named("mark")
	case unix.NFT_META_IIF:
		return f.iif()
	case unix.NFT_META_IIFNAME:
		return f.iifname()
	case unix.NFT_META_OIF:
		return number(0) // an incoming packet has none
	case unix.NFT_META_OIFNAME:
		return exact(make([]byte, unix.IFNAMSIZ))
	case unix.NFT_META_PKTTYPE:
		return exact([]byte{unix.PACKET_HOST})
	}
	return unknown(16).named(metaNames[key])
}

// metaNames are words for keys whose values are not known.
var metaNames = map[uint32]string{
	unix.NFT_META_LEN: "length", unix.NFT_META_IIFTYPE: "kind of interface", unix.NFT_META_IIFGROUP: "interface's group",
	unix.NFT_META_SKUID: "socket's owner", unix.NFT_META_SKGID: "socket's owner", unix.NFT_META_CPU: "processor",
	unix.NFT_META_PRANDOM: "random number", 30: "time", 31: "day", 32: "hour", // NFT_META_TIME_NS, _DAY and _HOUR
}

// ct returns what is known of a key of enum nft_ct_keys.
func (f *flight) ct(key uint32) value {
	switch key {
	case unix.NFT_CT_STATE:
		return f.ctState.named("state of its connection")
	case unix.NFT_CT_MARK:
		return f.ctMark.named("mark of its connection")
	case unix.NFT_CT_STATUS:
		// IPS_SRC_NAT and IPS_DST_NAT are known, the rest is not.
		known, free := uint32(0), ^uint32(1<<4|1<<5)
		switch f.rewritten {
		case yes:
			known = 1 << 5
		case maybe:
			free |= 1 << 5
		}
		return bits(number(known).min, number(free).min).named("status of its connection")
	case unix.NFT_CT_DIRECTION:
		return exact([]byte{0})
	}
	return unknown(16).named("connection")
}

// fib returns what is known of the result of a look-up in the routing table (enum
// nft_fib_result and nft_fib_flags).
func (f *flight) fib(result, flags uint32) value {
	back := flags&unix.NFTA_FIB_F_SADDR != 0 && f.Routed
	switch {
	case result == unix.NFT_FIB_RESULT_ADDRTYPE && flags == unix.NFTA_FIB_F_SADDR:
		return number(unix.RTN_UNICAST)
	case result == unix.NFT_FIB_RESULT_ADDRTYPE && flags == unix.NFTA_FIB_F_DADDR && f.rewritten == no:
		return number(unix.RTN_LOCAL)
	case result == unix.NFT_FIB_RESULT_OIF && back && flags&unix.NFTA_FIB_F_PRESENT != 0:
		return exact([]byte{1, 0, 0, 0}) // nft_reg_store8
	case result == unix.NFT_FIB_RESULT_OIF && back:
		return f.iif()
	case result == unix.NFT_FIB_RESULT_OIFNAME && back && flags&unix.NFTA_FIB_F_PRESENT == 0:
		return f.iifname()
	}
	return unknown(16).named("routes")
}

// local reports whether an address is this machine's.
func (p *Packet) local(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(p.Own, a.Unmap()) }
