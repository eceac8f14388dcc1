//go:build linux

package fence

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nf_tables.h that golang.org/x/sys/unix does not have.
const (
	bitwiseOp      = 6  // NFTA_BITWISE_OP
	dynsetAdd      = 0  // NFT_DYNSET_OP_ADD
	dynsetUpdate   = 1  // NFT_DYNSET_OP_UPDATE
	dynsetDelete   = 2  // NFT_DYNSET_OP_DELETE
	nftaSetExpr    = 17 // NFTA_SET_EXPR
	nftaSetUdata   = 13 // NFTA_SET_USERDATA
	nftaSetCount   = 20 // NFTA_SET_COUNT
	limitRate      = 1  // NFTA_LIMIT_RATE
	limitUnit      = 2  // NFTA_LIMIT_UNIT
	limitBurst     = 3  // NFTA_LIMIT_BURST
	socketKey      = 1  // NFTA_SOCKET_KEY
	socketDreg     = 2  // NFTA_SOCKET_DREG
	socketWildcard = 2  // NFT_SOCKET_WILDCARD
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

// setLabels adds labels to the connection. The kernel only ever adds to those
// that are there (nft_ct_set_eval), and passes over what is not tracked.
func setLabels(labels []byte) []expr {
	return []expr{
		expression("immediate", func(a *attrs) {
			a.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1)
			a.value(unix.NFTA_IMMEDIATE_DATA, labels)
		}),
		expression("ct", func(a *attrs) {
			a.u32(unix.NFTA_CT_SREG, unix.NFT_REG_1)
			a.u32(unix.NFTA_CT_KEY, unix.NFT_CT_LABELS)
		}),
	}
}

// wildcard asks whether the full socket for the packet's addresses is bound to all
// addresses: 1, or 0 for one that is bound to one. Without one the rule ends.
func wildcard() expr {
	return expression("socket", func(a *attrs) {
		a.u32(socketKey, socketWildcard)
		a.u32(socketDreg, unix.NFT_REG_1)
	})
}

// tcpOption asks whether the segment has an option: 1, or 0.
func tcpOption(kind uint8) expr {
	return expression("exthdr", func(a *attrs) {
		a.u32(unix.NFTA_EXTHDR_DREG, unix.NFT_REG_1)
		a.u8(unix.NFTA_EXTHDR_TYPE, kind)
		a.u32(unix.NFTA_EXTHDR_OFFSET, 0)
		a.u32(unix.NFTA_EXTHDR_LEN, 1)
		a.u32(unix.NFTA_EXTHDR_FLAGS, unix.NFT_EXTHDR_F_PRESENT)
		a.u32(unix.NFTA_EXTHDR_OP, unix.NFT_EXTHDR_OP_TCPOPT)
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
