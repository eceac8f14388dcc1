//go:build linux

package fence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/doorward/doorward/internal/port"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctMsgGet    = 1 // IPCTNL_MSG_CT_GET
	ctMsgDelete = 2 // IPCTNL_MSG_CT_DELETE

	ctaOriginal    = 1 // CTA_TUPLE_ORIG
	ctaReply       = 2 // CTA_TUPLE_REPLY
	ctaID          = 12
	ctaZone        = 18
	ctaLabels      = 22
	ctaFilter      = 25
	ctaFilterFlags = 1 // CTA_FILTER_ORIG_FLAGS

	ctaIP        = 1 // CTA_TUPLE_IP
	ctaProto     = 2 // CTA_TUPLE_PROTO
	ctaProtoNum  = 1
	ctaSrcPort   = 2
	ctaDstPort   = 3
	ctaSourceIP4 = 1
	ctaSourceIP6 = 3

	filterProtocol = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM of net/netfilter/nf_internals.h
)

// EndFlows ends the flows over UDP that doors have let these sources in for, by
// removing their entries from connection tracking: what comes next needs a grant
// again. A source that has another grant, or is in always, comes in anew. Until
// means nothing. A flow that stood when the fence first rose is not known to have
// come in by a door, and goes on; over TCP a live socket is the session, which is
// not for the fence to end.
//
// It reads all entries of both families once, however many sources there are: at
// most nf_conntrack_max, of which the kernel leaves all but UDP out (Linux 5.8).
func (f *Fence) EndFlows(ends []Grant) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do("end flows", func(c *conn) error {
		sources, err := f.flowSources(ends)
		if err != nil {
			return err
		}
		for _, fam := range families() {
			if err := c.endFlows(fam, sources); err != nil {
				return err
			}
		}
		return nil
	})
}

// flowSource is whose flows to which ports end.
type flowSource struct {
	ports  []port.Range
	source netip.Prefix
}

func (f *Fence) flowSources(ends []Grant) ([]flowSource, error) {
	var sources []flowSource
	for _, e := range ends {
		if _, _, err := f.place(e); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(f.doors, func(d Door) bool { return d.Name == e.Door })
		sources = append(sources, flowSource{f.doors[i].Ports, canonical(e.Source)})
	}
	return sources, nil
}

// endFlows removes the entries of one family.
func (c *conn) endFlows(fam family, sources []flowSource) error {
	msgs, err := c.ask(conntrackMessage(ctMsgGet, netlink.Dump, fam, udpOnly()))
	if err != nil {
		return fmt.Errorf("list what connection tracking knows: %w", err)
	}
	for _, m := range msgs {
		e, err := decodeFlow(m)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(sources, e.isOf) {
			continue
		}
		// It may have ended, or have been made anew, in between: the id tells.
		err = c.delete(conntrackMessage(ctMsgDelete, netlink.Acknowledge, fam, e.name))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove the flow of %s from connection tracking: %w", e.source, err)
		}
	}
	return nil
}

func (c *conn) delete(m netlink.Message) error {
	_, err := c.ask(m)
	return err
}

func conntrackMessage(typ int, flags netlink.HeaderFlags, fam family, data attrs) netlink.Message {
	m := message(typ, flags, append(header(fam.nfproto), data...))
	m.Header.Type = netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | typ)
	return m
}

// udpOnly asks for UDP alone; kernels that know no filter send all.
func udpOnly() attrs {
	const nested = unix.NLA_F_NESTED
	var a attrs
	tuple := a.open(ctaOriginal | nested)
	proto := a.open(ctaProto | nested)
	a.u8(ctaProtoNum, unix.IPPROTO_UDP)
	a.close(proto)
	a.close(tuple)
	filter := a.open(ctaFilter | nested)
	a.bytes(ctaFilterFlags, native(filterProtocol))
	a.close(filter)
	return a
}

// flow is an entry of connection tracking.
type flow struct {
	udp, letIn bool
	source     netip.Addr
	to         uint16 // the port that was sent to
	by         uint16 // the port that answers, after any translation
	name       attrs  // what tells it from others, to remove it
}

func (e flow) isOf(s flowSource) bool {
	if !e.udp || !e.letIn || !s.source.Contains(e.source) {
		return false
	}
	return slices.ContainsFunc(s.ports, func(r port.Range) bool {
		in := func(p uint16) bool { return r.First <= p && p <= r.Last }
		return r.Proto == port.UDP && (in(e.to) || in(e.by))
	})
}

func decodeFlow(m netlink.Message) (flow, error) {
	var e flow
	err := each([]netlink.Message{m}, func(ad *netlink.AttributeDecoder) {
		for ad.Next() {
			switch typ := int(ad.Type()); typ {
			case ctaOriginal:
				e.name.bytes(typ|unix.NLA_F_NESTED, ad.Bytes())
				ad.Nested(decodeTuple(&e.source, &e.udp, ctaDstPort, &e.to))
			case ctaReply:
				var answers netip.Addr
				ad.Nested(decodeTuple(&answers, &e.udp, ctaSrcPort, &e.by))
			case ctaID, ctaZone:
				e.name.bytes(typ, ad.Bytes())
			case ctaLabels:
				b := ad.Bytes()
				e.letIn = len(b) >= labelsLen && b[labelsLen-1]&letIn != 0
			}
		}
	})
	return e, err
}

// decodeTuple reads an address pair's source, whether it is UDP, and one port.
func decodeTuple(source *netip.Addr, udp *bool, which int, number *uint16) func(*netlink.AttributeDecoder) error {
	ip := func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			if typ := ad.Type(); typ == ctaSourceIP4 || typ == ctaSourceIP6 {
				*source, _ = netip.AddrFromSlice(ad.Bytes())
			}
		}
		return nil
	}
	proto := func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch int(ad.Type()) {
			case ctaProtoNum:
				*udp = ad.Uint8() == unix.IPPROTO_UDP
			case which:
				if b := ad.Bytes(); len(b) == 2 {
					*number = binary.BigEndian.Uint16(b)
				}
			}
		}
		return nil
	}
	return func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch int(ad.Type()) {
			case ctaIP:
				ad.Nested(ip)
			case ctaProto:
				ad.Nested(proto)
			}
		}
		return nil
	}
}
