//go:build linux

package fence

import (
	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nf_conntrack_common.h and others that
// golang.org/x/sys/unix does not have, and of TCP.
const (
	ctInvalid      = 1 << 0
	ctEstablished  = 1 << 1
	ctOriginal     = 0 // IP_CT_DIR_ORIGINAL
	ctReply        = 1 // IP_CT_DIR_REPLY
	rtnUnicast     = 1 // RTN_UNICAST
	loopback       = 1 // LOOPBACK_IFINDEX
	tcpSyn         = 0x02
	tcpRst         = 0x04
	tcpAck         = 0x10
	tcpSynAck      = 0x12
	tcpSynRstAck   = 0x16
	tcpFastOpen    = 34  // RFC 7413, section 4.1.1
	tcpExperiment  = 254 // RFC 6994; fast open used this one first
	offsetSequence = 4   // in the TCP header (RFC 9293, section 3.1)
	offsetAck      = 8
	offsetLength   = 12
	offsetFlags    = 13
	nobody         = 0xffffffff // INVALID_UID
)

// setLabel adds a label to the connection.
func setLabel(label byte) []nft.Expr { return nft.SetLabels(labels(label)) }

// hasLabel matches when the connection has the label.
func hasLabel(label byte) []nft.Expr {
	return []nft.Expr{nft.CT(unix.NFT_CT_LABELS), nft.And(labels(label)...), nft.Cmp(unix.NFT_CMP_EQ, labels(label)...)}
}

// labels returns a connection's 128 bits of labels with those of one byte set.
func labels(last byte) []byte {
	l := make([]byte, labelsLen)
	l[labelsLen-1] = last
	return l
}

// socketBound matches a full socket (neither a handshake nor the remains of a connection)
// for the packet's addresses that is bound to one address: a connection, or a listener on
// that address alone; or else one that is bound to all addresses, which only a listener
// is.
func socketBound(toOne bool) []nft.Expr {
	toAll := byte(1)
	if toOne {
		toAll = 0
	}
	return []nft.Expr{nft.Wildcard(), nft.Cmp(unix.NFT_CMP_EQ, toAll)}
}

// hasOption matches a TCP segment that has the option.
func hasOption(kind uint8) []nft.Expr {
	return []nft.Expr{nft.Option(kind), nft.Cmp(unix.NFT_CMP_EQ, 1)}
}

// isProto matches a transport protocol, whatever IPv6 extension headers precede it.
func isProto(p byte) []nft.Expr {
	return []nft.Expr{nft.Meta(unix.NFT_META_L4PROTO), nft.Cmp(unix.NFT_CMP_EQ, p)}
}

// isSyn matches the segment that requests a new connection, or with NEQ all others: SYN
// without ACK (RFC 9293, section 3.10.7.2).
func isSyn(op uint32) []nft.Expr { return hasFlags(tcpSynAck, op, tcpSyn) }

// hasFlags compares those of a TCP segment's flags that mask has.
func hasFlags(mask byte, op uint32, flags byte) []nft.Expr {
	return append(isProto(unix.IPPROTO_TCP), inSegment(offsetFlags, 1), nft.And(mask), nft.Cmp(op, flags))
}

// inSegment loads bytes of the TCP segment into the first register.
func inSegment(offset, length uint32) nft.Expr {
	return nft.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, offset, length, unix.NFT_REG_1)
}

// hasBit matches when the conntrack value has one of the bits.
func hasBit(key uint32, bits uint32) []nft.Expr {
	return []nft.Expr{nft.CT(key), nft.And(nft.Native(bits)...), nft.Cmp(unix.NFT_CMP_NEQ, 0, 0, 0, 0)}
}

// destinationPort loads the destination port into the first register.
func destinationPort() nft.Expr {
	return nft.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, unix.NFT_REG_1)
}
