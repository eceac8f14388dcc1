//go:build linux

package fence

import (
	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nf_tables.h and nf_conntrack_common.h that
// golang.org/x/sys/unix does not have.
const (
	bitwiseOp     = 6 // NFTA_BITWISE_OP
	dynsetDelete  = 2 // NFT_DYNSET_OP_DELETE
	ctEstablished = 1 << 1
	ctUntracked   = 1 << 6
	ctConfirmed   = 1 << 3 // IPS_CONFIRMED
	rtnUnicast    = 1      // RTN_UNICAST
	loopback      = 1      // LOOPBACK_IFINDEX
	nftaSetExpr   = 17     // NFTA_SET_EXPR
	limitRate     = 1      // NFTA_LIMIT_RATE
	limitUnit     = 2      // NFTA_LIMIT_UNIT
	limitBurst    = 3      // NFTA_LIMIT_BURST
	tcpSyn        = 0x02
	tcpSynAck     = 0x12
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
func and(mask ...byte) expr {
	return expression("bitwise", func(a *attrs) {
		a.u32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		a.u32(bitwiseOp, unix.NFT_BITWISE_BOOL)
		a.value(unix.NFTA_BITWISE_MASK, mask)
		a.value(unix.NFTA_BITWISE_XOR, make([]byte, len(mask)))
	})
}

func ct(key uint32) expr {
	return expression("ct", func(a *attrs) {
		a.u32(unix.NFTA_CT_DREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_CT_KEY, key)
	})
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
func spend(set string) expr {
	return expression("dynset", func(a *attrs) {
		a.u32(unix.NFTA_DYNSET_SREG_KEY, unix.NFT_REG_1)
		a.u32(unix.NFTA_DYNSET_OP, dynsetDelete)
		a.str(unix.NFTA_DYNSET_SET_NAME, set)
		a.u64(unix.NFTA_DYNSET_TIMEOUT, 0)
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
func isSyn(op uint32) []expr {
	return append(isProto(unix.IPPROTO_TCP),
		payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1, unix.NFT_REG_1),
		and(tcpSynAck), nfcmp(op, tcpSyn))
}

// hasBit matches when the conntrack value has one of the bits.
func hasBit(key uint32, bits uint32) []expr {
	return []expr{ct(key), and(native(bits)...), nfcmp(unix.NFT_CMP_NEQ, 0, 0, 0, 0)}
}

// destinationPort puts the destination port into the first register.
func destinationPort() expr {
	return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, unix.NFT_REG_1)
}
