//go:build linux

package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Messages and attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	msgGet    = 1 // IPCTNL_MSG_CT_GET
	msgDelete = 2 // IPCTNL_MSG_CT_DELETE
	msgStats  = 4 // IPCTNL_MSG_CT_GET_STATS_CPU

	ctaOriginal  = 1 // CTA_TUPLE_ORIG
	ctaReply     = 2 // CTA_TUPLE_REPLY
	ctaStatus    = 3
	ctaProtoInfo = 4
	ctaID        = 12
	ctaZone      = 18
	ctaLabels    = 22
	ctaFilter    = 25

	ctaTupleIP       = 1
	ctaTupleProto    = 2
	ctaFromIP4       = 1 // CTA_IP_V4_SRC
	ctaToIP4         = 2
	ctaFromIP6       = 3
	ctaToIP6         = 4
	ctaProtoNum      = 1
	ctaProtoFromPort = 2 // CTA_PROTO_SRC_PORT
	ctaProtoToPort   = 3

	ctaInfoTCP         = 1 // CTA_PROTOINFO_TCP
	ctaTCPState        = 1
	ctaTCPFlagsForward = 4 // CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: struct nf_ct_tcp_flags
	ctaTCPFlagsReply   = 5

	ctaFilterOriginal = 1 // CTA_FILTER_ORIG_FLAGS
	ctaFilterReply    = 2
)

// Bits of CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS, of net/netfilter/nf_internals.h.
const (
	filterProtocol = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM
	filterFromPort = 1 << 4 // CTA_FILTER_F_CTA_PROTO_SRC_PORT
	filterToPort   = 1 << 5
)

// liberal is IP_CT_TCP_FLAG_BE_LIBERAL of nf_conntrack_tcp.h. The kernel sets it
// on both sides of a connection that it takes up in mid-stream, since it knows
// neither's window (nf_conntrack_proto_tcp.c, tcp_new; sysctl
// nf_conntrack_tcp_loose).
const liberal = 0x08

// Decode reads one message of a list. What is not in it is zero.
func Decode(data []byte) (Entry, error) {
	var e Entry
	var flags [2]uint8
	if len(data) < 4 { // struct nfgenmsg
		return e, fmt.Errorf("ctnetlink sent a message of %d bytes", len(data))
	}
	ad, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return e, fmt.Errorf("decode ctnetlink's answer: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch typ := ad.Type(); typ {
		case ctaOriginal:
			e.named(typ|unix.NLA_F_NESTED, ad.Bytes())
			ad.Nested(decodeTuple(&e.Original, &e.Proto))
		case ctaReply:
			ad.Nested(decodeTuple(&e.Reply, &e.Proto))
		case ctaStatus:
			e.Status = ad.Uint32()
		case ctaProtoInfo:
			ad.Nested(decodeInfo(&e.State, &flags))
		case ctaID, ctaZone:
			e.named(typ, ad.Bytes())
		case ctaLabels:
			b := ad.Bytes()
			e.LetIn = len(b) >= LabelsLen && b[LabelsLen-1]&LetIn != 0
		}
	}
	if err := ad.Err(); err != nil {
		return e, fmt.Errorf("decode ctnetlink's answer: %w", err)
	}
	e.PickedUp = flags[0]&flags[1]&liberal != 0
	return e, nil
}

// named appends an attribute to the entry's name, as it came.
func (e *Entry) named(typ uint16, v []byte) {
	e.name = binary.NativeEndian.AppendUint16(e.name, uint16(unix.SizeofNlAttr+len(v)))
	e.name = binary.NativeEndian.AppendUint16(e.name, typ)
	e.name = append(e.name, v...)
	for len(e.name)%unix.NLA_ALIGNTO != 0 {
		e.name = append(e.name, 0)
	}
}

// decodeTuple reads addresses, ports and the protocol.
func decodeTuple(t *Tuple, protocol *uint8) func(*netlink.AttributeDecoder) error {
	var from, to netip.Addr
	var fromPort, toPort uint16
	ip := func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch ad.Type() {
			case ctaFromIP4, ctaFromIP6:
				from, _ = netip.AddrFromSlice(ad.Bytes())
			case ctaToIP4, ctaToIP6:
				to, _ = netip.AddrFromSlice(ad.Bytes())
			}
		}
		return nil
	}
	proto := func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch ad.Type() {
			case ctaProtoNum:
				*protocol = ad.Uint8()
			case ctaProtoFromPort:
				fromPort = ad.Uint16()
			case ctaProtoToPort:
				toPort = ad.Uint16()
			}
		}
		return nil
	}
	return func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch ad.Type() {
			case ctaTupleIP:
				ad.Nested(ip)
			case ctaTupleProto:
				ad.Nested(proto)
			}
		}
		*t = Tuple{netip.AddrPortFrom(from, fromPort), netip.AddrPortFrom(to, toPort)}
		return nil
	}
}

// decodeInfo reads what is known of a connection over TCP.
func decodeInfo(state *uint8, flags *[2]uint8) func(*netlink.AttributeDecoder) error {
	tcp := func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch typ := ad.Type(); typ {
			case ctaTCPState:
				*state = ad.Uint8()
			case ctaTCPFlagsForward, ctaTCPFlagsReply:
				if b := ad.Bytes(); len(b) > 0 {
					flags[typ-ctaTCPFlagsForward] = b[0]
				}
			}
		}
		return nil
	}
	return func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			if ad.Type() == ctaInfoTCP {
				ad.Nested(tcp)
			}
		}
		return nil
	}
}
