//go:build linux

package nftables

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
	nftaSetCount   = 20 // NFTA_SET_COUNT
	limitRate      = 1  // NFTA_LIMIT_RATE
	limitUnit      = 2  // NFTA_LIMIT_UNIT
	limitBurst     = 3  // NFTA_LIMIT_BURST
	socketKey      = 1  // NFTA_SOCKET_KEY
	socketDreg     = 2  // NFTA_SOCKET_DREG
	socketWildcard = 2  // NFT_SOCKET_WILDCARD
)

// Expr is one expression of a rule as an element of NFTA_RULE_EXPRESSIONS, its
// attributes in the order in which the kernel dumps them.
type Expr []byte

func expression(name string, data attrs) Expr {
	return Expr(attrs{}.bytes(unix.NFTA_LIST_ELEM, attrs{}.str(unix.NFTA_EXPR_NAME, name).bytes(unix.NFTA_EXPR_DATA, data)))
}

// Join puts expressions together as the Exprs of a Rule.
func Join(parts ...[]Expr) []byte {
	var b []byte
	for _, part := range parts {
		for _, e := range part {
			b = append(b, e...)
		}
	}
	return b
}

// Meta puts a property of the packet that is not in its bytes into the first register:
// NFT_META_*, four bytes at most.
func Meta(key uint32) Expr { return MetaTo(key, unix.NFT_REG_1) }

// MetaTo is Meta for any register.
func MetaTo(key, reg uint32) Expr {
	return expression("meta", attrs{}.u32(unix.NFTA_META_KEY, key).u32(unix.NFTA_META_DREG, register(reg)))
}

// SetMeta gives the packet the property that is in the first register.
func SetMeta(key uint32) Expr {
	return expression("meta", attrs{}.u32(unix.NFTA_META_KEY, key).u32(unix.NFTA_META_SREG, unix.NFT_REG_1))
}

// Immediate puts bytes into the first register.
func Immediate(v ...byte) Expr {
	return expression("immediate", attrs{}.
		u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1).
		value(unix.NFTA_IMMEDIATE_DATA, v))
}

// Cmp matches when the first register compares to v as op (NFT_CMP_*) says.
func Cmp(op uint32, v ...byte) Expr {
	return expression("cmp", attrs{}.
		u32(unix.NFTA_CMP_SREG, unix.NFT_REG_1).
		u32(unix.NFTA_CMP_OP, op).
		value(unix.NFTA_CMP_DATA, v))
}

// register returns, for a 32-bit register at the beginning of a 128-bit one, the
// number of the latter, as the kernel does in its dumps; any other r is returned as
// it is.
func register(r uint32) uint32 {
	if n := r - unix.NFT_REG32_00; r >= unix.NFT_REG32_00 && n%4 == 0 {
		return unix.NFT_REG_1 + n/4
	}
	return r
}

// Payload puts bytes of a header into a register.
func Payload(base, offset, length, reg uint32) Expr {
	return expression("payload", attrs{}.
		u32(unix.NFTA_PAYLOAD_DREG, register(reg)).
		u32(unix.NFTA_PAYLOAD_BASE, base).
		u32(unix.NFTA_PAYLOAD_OFFSET, offset).
		u32(unix.NFTA_PAYLOAD_LEN, length))
}

// And masks the first register.
func And(mask ...byte) Expr { return bitwise(mask, make([]byte, len(mask))) }

// Xor inverts bits of the first register.
func Xor(bits ...byte) Expr { return bitwise(slices.Repeat([]byte{0xff}, len(bits)), bits) }

func bitwise(mask, xor []byte) Expr {
	return expression("bitwise", attrs{}.
		u32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1).
		u32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1).
		u32(unix.NFTA_BITWISE_LEN, uint32(len(mask))).
		u32(bitwiseOp, unix.NFT_BITWISE_BOOL).
		value(unix.NFTA_BITWISE_MASK, mask).
		value(unix.NFTA_BITWISE_XOR, xor))
}

// CT puts what connection tracking knows about the packet (NFT_CT_*) into the first
// register.
func CT(key uint32) Expr {
	return expression("ct", attrs{}.u32(unix.NFTA_CT_DREG, unix.NFT_REG_1).u32(unix.NFTA_CT_KEY, key))
}

// CTOf is CT for the keys that have a direction. In the original one, addresses and
// ports are those before any translation.
func CTOf(key uint32, direction uint8) Expr {
	return expression("ct", attrs{}.
		u32(unix.NFTA_CT_DREG, unix.NFT_REG_1).
		u32(unix.NFTA_CT_KEY, key).
		u8(unix.NFTA_CT_DIRECTION, direction))
}

// SetLabels adds labels to the connection. The kernel keeps the labels that are
// there (nft_ct_set_eval), and does nothing for a packet that is not tracked.
func SetLabels(labels []byte) []Expr {
	return []Expr{
		Immediate(labels...),
		expression("ct", attrs{}.
			u32(unix.NFTA_CT_SREG, unix.NFT_REG_1).
			u32(unix.NFTA_CT_KEY, unix.NFT_CT_LABELS)),
	}
}

// Wildcard puts into the first register whether the full socket for the packet's
// addresses is bound to all addresses (1) or to one (0). If there is no such socket,
// the rule ends.
func Wildcard() Expr {
	return expression("socket", attrs{}.u32(socketKey, socketWildcard).u32(socketDreg, unix.NFT_REG_1))
}

// Option puts into the first register whether the TCP segment has an option: 1 or 0.
func Option(kind uint8) Expr {
	return expression("exthdr", attrs{}.
		u32(unix.NFTA_EXTHDR_DREG, unix.NFT_REG_1).
		u8(unix.NFTA_EXTHDR_TYPE, kind).
		u32(unix.NFTA_EXTHDR_OFFSET, 0).
		u32(unix.NFTA_EXTHDR_LEN, 1).
		u32(unix.NFTA_EXTHDR_FLAGS, unix.NFT_EXTHDR_F_PRESENT).
		u32(unix.NFTA_EXTHDR_OP, unix.NFT_EXTHDR_OP_TCPOPT))
}

// FibType puts into the first register what type of address (RTN_*) the routing table
// says the one is that flags (NFTA_FIB_F_*) select.
func FibType(flags uint32) Expr {
	return expression("fib", attrs{}.
		u32(unix.NFTA_FIB_DREG, unix.NFT_REG_1).
		u32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE).
		u32(unix.NFTA_FIB_FLAGS, flags))
}

// In matches when the first register's key is in the set.
func In(set string) Expr { return lookup(set, 0) }

// NotIn matches when the first register's key is not in the set.
func NotIn(set string) Expr { return lookup(set, unix.NFT_LOOKUP_F_INV) }

func lookup(set string, flags uint32) Expr {
	return expression("lookup", attrs{}.
		str(unix.NFTA_LOOKUP_SET, set).
		u32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1).
		u32(unix.NFTA_LOOKUP_FLAGS, flags))
}

// VMap carries out the verdict that the map has for the first register's key.
func VMap(set string) Expr {
	return expression("lookup", attrs{}.
		str(unix.NFTA_LOOKUP_SET, set).
		u32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1).
		u32(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT).
		u32(unix.NFTA_LOOKUP_FLAGS, 0))
}

// Delete removes the first register's key from the set.
func Delete(set string) Expr { return dynset(dynsetDelete, set, 0) }

// Update adds the first register's key to the set, or makes it stay for ttl from now
// on. If the set is full, the rule ends.
func Update(set string, ttl time.Duration) Expr { return dynset(dynsetUpdate, set, ttl) }

// Add adds the first register's key to the set unless it is there, and matches if
// the element's own limit allows it.
func Add(set string, ttl time.Duration) Expr { return dynset(dynsetAdd, set, ttl) }

func dynset(op uint32, set string, ttl time.Duration) Expr {
	return expression("dynset", attrs{}.
		u32(unix.NFTA_DYNSET_SREG_KEY, unix.NFT_REG_1).
		u32(unix.NFTA_DYNSET_OP, op).
		str(unix.NFTA_DYNSET_SET_NAME, set).
		u64(unix.NFTA_DYNSET_TIMEOUT, uint64(ttl/time.Millisecond)).
		u32(unix.NFTA_DYNSET_FLAGS, 0))
}

// Count adds the packet to a counter.
func Count(counter string) Expr {
	return expression("objref", attrs{}.
		str(unix.NFTA_OBJREF_IMM_NAME, counter).
		u32(unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_COUNTER))
}

// Reset answers a TCP segment with a reset.
func Reset() Expr {
	return expression("reject", attrs{}.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST))
}

// Unreachable answers with an ICMP error of the packet's family.
func Unreachable() Expr {
	return expression("reject", attrs{}.
		u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH).
		u8(unix.NFTA_REJECT_ICMP_CODE, unix.NFT_REJECT_ICMPX_PORT_UNREACH))
}

// Verdict ends a rule: it accepts or drops the packet, or continues in a chain.
func Verdict(code int32, chain string) Expr {
	return expression("immediate", attrs{}.
		u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT).
		bytes(unix.NFTA_IMMEDIATE_DATA, verdict(code, chain)))
}

func verdict(code int32, chain string) attrs {
	v := attrs{}.u32(unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		v = v.str(unix.NFTA_VERDICT_CHAIN, chain)
	}
	return attrs{}.bytes(unix.NFTA_DATA_VERDICT, v)
}

// Accept lets the packet pass.
func Accept() Expr { return Verdict(PolicyAccept, "") }

// Drop discards the packet silently.
func Drop() Expr { return Verdict(nfDrop, "") }

// Verdicts of linux/netfilter.h.
const (
	nfDrop       = 0
	PolicyAccept = 1
)
