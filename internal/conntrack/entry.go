//go:build linux

package conntrack

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
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
// on both sides of a connection that it picks up in mid-stream, since it knows the
// window of neither (nf_conntrack_proto_tcp.c, tcp_new; sysctl
// nf_conntrack_tcp_loose).
const liberal = 0x08

// decoder reads the messages of a list, one after the other.
type decoder struct {
	entry  Entry
	sides  [2]side
	fields nfnetlink.Fields // read a message into entry and sides
}

func newDecoder() *decoder {
	d := &decoder{}
	e, original, reply := &d.entry, d.sides[0].fields(&d.entry.Proto), d.sides[1].fields(&d.entry.Proto)
	name := func(ad *netlink.AttributeDecoder) { e.named(ad.Type(), ad.Bytes()) }
	d.fields = nfnetlink.Fields{
		ctaOriginal: func(ad *netlink.AttributeDecoder) {
			e.named(ctaOriginal|unix.NLA_F_NESTED, ad.Bytes())
			original.Nested(ad)
		},
		ctaReply:  reply.Nested,
		ctaStatus: nfnetlink.Number(&e.Status),
		ctaProtoInfo: nfnetlink.Fields{ctaInfoTCP: nfnetlink.Fields{
			ctaTCPState:        nfnetlink.Number(&e.State),
			ctaTCPFlagsForward: d.sides[0].flagged,
			ctaTCPFlagsReply:   d.sides[1].flagged,
		}.Nested}.Nested,
		ctaID:   name,
		ctaZone: name,
		ctaLabels: func(ad *netlink.AttributeDecoder) {
			b := ad.Bytes()
			e.LetIn = len(b) >= LabelsLen && b[LabelsLen-1]&LetIn != 0
		},
	}
	return d
}

// decode reads one message. What the message does not have is zero.
func (d *decoder) decode(m netlink.Message) (Entry, error) {
	d.entry, d.sides = Entry{}, [2]side{}
	err := nfnetlink.Attributes(m, d.fields.Read)
	d.entry.Original, d.entry.Reply = d.sides[0].tuple(), d.sides[1].tuple()
	d.entry.PickedUp = d.sides[0].flags&d.sides[1].flags&liberal != 0
	return d.entry, err
}

// side is what an entry says about one direction.
type side struct {
	from, to         netip.Addr
	fromPort, toPort uint16
	flags            uint8 // of TCP
}

func (s *side) tuple() Tuple {
	return Tuple{netip.AddrPortFrom(s.from, s.fromPort), netip.AddrPortFrom(s.to, s.toPort)}
}

// fields read a tuple's attributes into s and protocol.
func (s *side) fields(protocol *uint8) nfnetlink.Fields {
	from, to := address(&s.from), address(&s.to)
	return nfnetlink.Fields{
		ctaTupleIP: nfnetlink.Fields{ctaFromIP4: from, ctaFromIP6: from, ctaToIP4: to, ctaToIP6: to}.Nested,
		ctaTupleProto: nfnetlink.Fields{
			ctaProtoNum:      nfnetlink.Number(protocol),
			ctaProtoFromPort: nfnetlink.Number(&s.fromPort),
			ctaProtoToPort:   nfnetlink.Number(&s.toPort),
		}.Nested,
	}
}

func address(to *netip.Addr) func(*netlink.AttributeDecoder) {
	return func(ad *netlink.AttributeDecoder) { *to, _ = netip.AddrFromSlice(ad.Bytes()) }
}

// flagged reads struct nf_ct_tcp_flags.
func (s *side) flagged(ad *netlink.AttributeDecoder) {
	if b := ad.Bytes(); len(b) > 0 {
		s.flags = b[0]
	}
}

// named appends an attribute, as it came, to the entry's name.
func (e *Entry) named(typ uint16, v []byte) {
	e.name = binary.NativeEndian.AppendUint16(e.name, uint16(unix.SizeofNlAttr+len(v)))
	e.name = binary.NativeEndian.AppendUint16(e.name, typ)
	e.name = append(e.name, v...)
	for len(e.name)%unix.NLA_ALIGNTO != 0 {
		e.name = append(e.name, 0)
	}
}
