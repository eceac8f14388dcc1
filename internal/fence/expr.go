//go:build linux

package fence

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nf_tables.h and nf_conntrack_common.h that
// golang.org/x/sys/unix does not have.
const (
	bitwiseOp      = 6 // NFTA_BITWISE_OP
	dynsetAdd      = 0 // NFT_DYNSET_OP_ADD
	dynsetUpdate   = 1 // NFT_DYNSET_OP_UPDATE
	dynsetDelete   = 2 // NFT_DYNSET_OP_DELETE
	ctInvalid      = 1 << 0
	ctEstablished  = 1 << 1
	ctOriginal     = 0  // IP_CT_DIR_ORIGINAL
	ctReply        = 1  // IP_CT_DIR_REPLY
	rtnUnicast     = 1  // RTN_UNICAST
	loopback       = 1  // LOOPBACK_IFINDEX
	nftaSetExpr    = 17 // NFTA_SET_EXPR
	nftaSetUdata   = 13 // NFTA_SET_USERDATA
	nftaSetCount   = 20 // NFTA_SET_COUNT
	limitRate      = 1  // NFTA_LIMIT_RATE
	limitUnit      = 2  // NFTA_LIMIT_UNIT
	limitBurst     = 3  // NFTA_LIMIT_BURST
	socketKey      = 1  // NFTA_SOCKET_KEY
	socketDreg     = 2  // NFTA_SOCKET_DREG
	socketWildcard = 2  // NFT_SOCKET_WILDCARD
	tcpSyn         = 0x02
	tcpRst         = 0x04
	tcpAck         = 0x10
	tcpSynAck      = 0x12
	tcpSynRstAck   = 0x16
	tcpFastOpen    = 34  // RFC 7413, section 4.1.1
	tcpExperiment  = 254 // RFC 6994; fast open had this one first
	offsetSequence = 4   // in the TCP header (RFC 9293, section 3.1)
	offsetAck      = 8
	offsetLength   = 12
	offsetFlags    = 13
	nobody         = 0xffffffff // INVALID_UID
)

// expr is one expression of a rule as an element of NFTA_RULE_EXPRESSIONS, its
// attributes in the order in which the kernel dumps them.
type expr []byte

func expression(name string, build func(a *attrs)) expr {
	var a attrs
	elem := a.open(unix.NFTA_LIST_ELEM)
	a.str(unix.NFTA_EXPR_NAME, name)
	data := a.open(unix.NFTA_EXPR_DATA)
	build(&a)
	a.close(data)
	a.close(elem)
	return expr(a)
}

func join(parts ...[]expr) []byte {
	var b []byte
	for _, part := range parts {
		for _, e := range part {
			b = append(b, e...)
		}
	}
	return b
}

func meta(key uint32) expr {
	return expression("meta", func(a *attrs) {
		a.u32(unix.NFTA_META_KEY, key)
		a.u32(unix.NFTA_META_DREG, unix.NFT_REG_1)
	})
}

func nfcmp(op uint32, v ...byte) expr {
	return expression("cmp", func(a *attrs) {
		a.u32(unix.NFTA_CMP_SREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_CMP_OP, op)
		a.value(unix.NFTA_CMP_DATA, v)
	})
}

// register gives a 32-bit register that begins a 128-bit one that one's number,
// as the kernel does in its dumps.
func register(r uint32) uint32 {
	if n := r - unix.NFT_REG32_00; r >= unix.NFT_REG32_00 && n%4 == 0 {
		return unix.NFT_REG_1 + n/4
	}
	return r
}

func payload(base, offset, length, reg uint32) expr {
	return expression("payload", func(a *attrs) {
		a.u32(unix.NFTA_PAYLOAD_DREG, register(reg))
		a.u32(unix.NFTA_PAYLOAD_BASE, base)
		a.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
		a.u32(unix.NFTA_PAYLOAD_LEN, length)
	})
}

// and masks the first register.
func and(mask ...byte) expr { return bitwise(mask, make([]byte, len(mask))) }

// xor turns bits of the first register over.
func xor(bits ...byte) expr { return bitwise(slices.Repeat([]byte{0xff}, len(bits)), bits) }

func bitwise(mask, xor []byte) expr {
	return expression("bitwise", func(a *attrs) {
		a.u32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		a.u32(bitwiseOp, unix.NFT_BITWISE_BOOL)
		a.value(unix.NFTA_BITWISE_MASK, mask)
		a.value(unix.NFTA_BITWISE_XOR, xor)
	})
}

func ct(key uint32) expr {
	return expression("ct", func(a *attrs) {
		a.u32(unix.NFTA_CT_DREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_CT_KEY, key)
	})
}

// ctOf is ct for what a connection was like in one direction, before any address
// was translated.
func ctOf(key uint32, direction uint8) expr {
	return expression("ct", func(a *attrs) {
		a.u32(unix.NFTA_CT_DREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_CT_KEY, key)
		a.u8(unix.NFTA_CT_DIRECTION, direction)
	})
}

// setLabel adds a label to the connection. The kernel only ever adds to those
// that are there (nft_ct_set_eval), and passes over what is not tracked.
func setLabel(label byte) []expr {
	return []expr{
		expression("immediate", func(a *attrs) {
			a.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1)
			a.value(unix.NFTA_IMMEDIATE_DATA, labels(label))
		}),
		expression("ct", func(a *attrs) {
			a.u32(unix.NFTA_CT_SREG, unix.NFT_REG_1)
			a.u32(unix.NFTA_CT_KEY, unix.NFT_CT_LABELS)
		}),
	}
}

// hasLabel matches when the connection has the label.
func hasLabel(label byte) []expr {
	return []expr{ct(unix.NFT_CT_LABELS), and(labels(label)...), nfcmp(unix.NFT_CMP_EQ, labels(label)...)}
}

// labels are a connection's 128 bits of labels with those of one byte set.
func labels(last byte) []byte {
	l := make([]byte, labelsLen)
	l[labelsLen-1] = last
	return l
}

// socketBound matches a full socket (neither a handshake nor the remains of a
// connection) for the packet's addresses that is bound to one address, a
// connection or a listener on that address alone; or else one that is bound to
// all, which only a listener is.
func socketBound(toOne bool) []expr {
	toAll := byte(1)
	if toOne {
		toAll = 0
	}
	return []expr{expression("socket", func(a *attrs) {
		a.u32(socketKey, socketWildcard)
		a.u32(socketDreg, unix.NFT_REG_1)
	}), nfcmp(unix.NFT_CMP_EQ, toAll)}
}

// tcpOption matches a TCP segment that has the option.
func tcpOption(kind uint8) []expr {
	return []expr{expression("exthdr", func(a *attrs) {
		a.u32(unix.NFTA_EXTHDR_DREG, unix.NFT_REG_1)
		a.u8(unix.NFTA_EXTHDR_TYPE, kind)
		a.u32(unix.NFTA_EXTHDR_OFFSET, 0)
		a.u32(unix.NFTA_EXTHDR_LEN, 1)
		a.u32(unix.NFTA_EXTHDR_FLAGS, unix.NFT_EXTHDR_F_PRESENT)
		a.u32(unix.NFTA_EXTHDR_OP, unix.NFT_EXTHDR_OP_TCPOPT)
	}), nfcmp(unix.NFT_CMP_EQ, 1)}
}

// fibType asks the routing table what kind of address the destination is.
func fibType(flags uint32) expr {
	return expression("fib", func(a *attrs) {
		a.u32(unix.NFTA_FIB_DREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		a.u32(unix.NFTA_FIB_FLAGS, flags)
	})
}

// in matches when the first register's key is in the set.
func in(set string) expr { return lookup(set, 0) }

// notIn matches when the first register is not in the set.
func notIn(set string) expr { return lookup(set, unix.NFT_LOOKUP_F_INV) }

func lookup(set string, flags uint32) expr {
	return expression("lookup", func(a *attrs) {
		a.str(unix.NFTA_LOOKUP_SET, set)
		a.u32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_LOOKUP_FLAGS, flags)
	})
}

// vmap carries out the verdict that the map has for the first register.
func vmap(set string) expr {
	return expression("lookup", func(a *attrs) {
		a.str(unix.NFTA_LOOKUP_SET, set)
		a.u32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
		a.u32(unix.NFTA_LOOKUP_FLAGS, 0)
	})
}

// spend removes the first register's key from the set.
func spend(set string) expr { return dynset(dynsetDelete, set, 0) }

// keep adds the first register's key to the set, or has it stay for ttl from now
// on. What follows in the rule is not done when the set is full.
func keep(set string, ttl time.Duration) expr { return dynset(dynsetUpdate, set, ttl) }

// turn adds the first register's key to the set unless it is there, and matches
// if its own limit lets it.
func turn(set string, ttl time.Duration) expr { return dynset(dynsetAdd, set, ttl) }

func dynset(op uint32, set string, ttl time.Duration) expr {
	return expression("dynset", func(a *attrs) {
		a.u32(unix.NFTA_DYNSET_SREG_KEY, unix.NFT_REG_1)
		a.u32(unix.NFTA_DYNSET_OP, op)
		a.str(unix.NFTA_DYNSET_SET_NAME, set)
		a.u64(unix.NFTA_DYNSET_TIMEOUT, uint64(ttl/time.Millisecond))
		a.u32(unix.NFTA_DYNSET_FLAGS, 0)
	})
}

func count(counter string) expr {
	return expression("objref", func(a *attrs) {
		a.str(unix.NFTA_OBJREF_IMM_NAME, counter)
		a.u32(unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_COUNTER)
	})
}

// reset answers a TCP segment with a reset.
func reset() expr {
	return expression("reject", func(a *attrs) {
		a.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST)
	})
}

// unreachable answers with an ICMP error of the packet's family.
func unreachable() expr {
	return expression("reject", func(a *attrs) {
		a.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH)
		a.u8(unix.NFTA_REJECT_ICMP_CODE, unix.NFT_REJECT_ICMPX_PORT_UNREACH)
	})
}

// verdict ends a rule: accept, drop, or go on in a chain.
func verdict(code int32, chain string) expr {
	return expression("immediate", func(a *attrs) {
		a.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		data := a.open(unix.NFTA_IMMEDIATE_DATA)
		a.verdict(code, chain)
		a.close(data)
	})
}

func (a *attrs) verdict(code int32, chain string) {
	v := a.open(unix.NFTA_DATA_VERDICT)
	a.u32(unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		a.str(unix.NFTA_VERDICT_CHAIN, chain)
	}
	a.close(v)
}

func accept() expr { return verdict(nfAccept, "") }

func drop() expr { return verdict(nfDrop, "") }

// Verdicts of linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)

// isProto matches a transport protocol, whatever IPv6 extension headers lead
// to it.
func isProto(p byte) []expr {
	return []expr{meta(unix.NFT_META_L4PROTO), nfcmp(unix.NFT_CMP_EQ, p)}
}

// isSyn matches the segment that asks for a new connection, or with NEQ all
// others: SYN without ACK (RFC 9293, section 3.10.7.2).
func isSyn(op uint32) []expr { return hasFlags(tcpSynAck, op, tcpSyn) }

// hasFlags compares those of a TCP segment's flags that mask has.
func hasFlags(mask byte, op uint32, flags byte) []expr {
	return append(isProto(unix.IPPROTO_TCP), inSegment(offsetFlags, 1), and(mask), nfcmp(op, flags))
}

// inSegment puts bytes of the TCP segment into the first register.
func inSegment(offset, length uint32) expr {
	return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, offset, length, unix.NFT_REG_1)
}

// hasBit matches when the conntrack value has one of the bits.
func hasBit(key uint32, bits uint32) []expr {
	return []expr{ct(key), and(native(bits)...), nfcmp(unix.NFT_CMP_NEQ, 0, 0, 0, 0)}
}

// destinationPort puts the destination port into the first register.
func destinationPort() expr {
	return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, unix.NFT_REG_1)
}
