//go:build linux

// Package conntrack reads the kernel's connection tracking over ctnetlink, and
// takes entries out of it. It is the one place that knows the numbers of
// linux/netfilter/nfnetlink_conntrack.h; what an entry means for a door is for
// internal/fence and internal/presence to say.
//
// It tracks nothing itself and subscribes to no events.
package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
)

// Labels that the fence puts on connections, in the last byte of the 16 that a
// connection has: the topmost bits, 126 and 127, where the lowest byte comes
// first. They are kept clear of those that a ruleset numbers from 0.
const (
	LabelsLen = 16
	Asked     = 0x40 // a door let its first packet pass
	LetIn     = 0x80 // a door let its handshake, or its first datagram, pass
)

// Status bits, IPS_* of nf_conntrack_common.h.
const (
	SeenReply = 1 << 1  // there was a packet in each direction
	Assured   = 1 << 2  // it is not thrown out early, when the table is full
	DstNAT    = 1 << 5  // its destination is translated
	Offload   = 1 << 14 // a flow table forwards it (nf_flow_table.rst), and its state is not told
)

// States of TCP, of nf_conntrack_tcp.h.
const (
	Established = 3
	FinWait     = 4
	CloseWait   = 5
)

// Tuple is one direction of a connection: who sends, and to whom.
type Tuple struct{ From, To netip.AddrPort }

// Entry is one connection that the kernel knows, or one flow over UDP.
type Entry struct {
	Proto    uint8 // IPPROTO_TCP, IPPROTO_UDP, ...; ports are 0 but for those that have some
	Original Tuple // as the first packet came
	Reply    Tuple // as an answer to it comes, so that it shows what was translated
	Status   uint32
	State    uint8 // of TCP; 0 where it is not told
	// PickedUp says that tracking began in the middle of a connection over TCP, so
	// that the first packet it saw need not be the first there was.
	PickedUp bool
	LetIn    bool // it has the fence's label of that name

	name []byte // the attributes that tell it from all others
}

// Filter says which entries are wanted: those for which all of it holds.
type Filter struct {
	Family uint8 // AF_INET or AF_INET6
	Proto  uint8
	// Ports of the original direction, or the one that answers go to; 0 for any.
	FromPort, ToPort uint16
	ReplyToPort      uint16 // not beside the others
	Status           uint32 // bits that are set
}

// Conn is a connection to ctnetlink. It is not for concurrent use. Of its errors
// those that are nfnetlink.ErrBroken are of the connection itself.
type Conn struct{ nl *nfnetlink.Conn }

// Dial makes a connection for the thread's network namespace, for the caller to
// Close. Visible says whether it can be used.
func Dial() (*Conn, error) {
	nl, err := nfnetlink.Dial()
	if err != nil {
		return nil, err
	}
	return Over(nl), nil
}

// Over makes a Conn of a netfilter netlink connection, on which no answer is
// awaited whenever the Conn is used.
func Over(nl *nfnetlink.Conn) *Conn { return &Conn{nl} }

// Close ends the connection; see nfnetlink.Conn.
func (c *Conn) Close() error { return c.nl.Close() }

// Visible returns nil if entries can be listed. Else it says why not: without CAP_NET_ADMIN it is an error that Is
// fs.ErrPermission, and any other means that this kernel has no ctnetlink.
func (c *Conn) Visible() error {
	// The counters of each processor: a list that costs little.
	err := c.nl.Ask(message(msgStats, netlink.Dump, unix.AF_UNSPEC, nil), func(netlink.Message) error { return nil })
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("not allowed to list connections (CAP_NET_ADMIN): %w", err)
	case err != nil:
		return fmt.Errorf("this kernel has no ctnetlink (CONFIG_NF_CT_NETLINK, module nf_conntrack_netlink): %w", err)
	}
	return nil
}

// List calls each with all entries that f wants, in no order. One may come twice,
// if the kernel makes its table larger meanwhile. What is not wanted does not
// leave the kernel, which for that walks its table once, all network namespaces'
// entries (nf_conntrack_max for each at most); before Linux 5.8 it sends all that
// are of the family. Memory is for the entries of one message.
func (c *Conn) List(f Filter, each func(Entry)) error {
	data, err := f.attributes()
	if err != nil {
		return err
	}
	d := newDecoder()
	err = c.nl.Ask(message(msgGet, netlink.Dump, f.Family, data), func(m netlink.Message) error {
		e, err := d.decode(m)
		if err == nil && f.wants(&e) {
			each(e)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list what connection tracking knows: %w", err)
	}
	return nil
}

// Delete takes an entry out. One that has ended meanwhile is an error that Is
// ENOENT; another one between the same ends is distinguished by its id, as long as the
// kernel has not put it into the same piece of memory (nf_ct_get_id).
func (c *Conn) Delete(e Entry) error {
	family := uint8(unix.AF_INET)
	if e.Original.From.Addr().Is6() {
		family = unix.AF_INET6
	}
	err := c.nl.Ask(message(msgDelete, netlink.Acknowledge, family, e.name), func(netlink.Message) error { return nil })
	if err != nil {
		return fmt.Errorf("remove the entry of %s to %s from connection tracking: %w", e.Original.From, e.Original.To, err)
	}
	return nil
}

// message makes a request.
func message(typ int, flags netlink.HeaderFlags, family uint8, attributes []byte) netlink.Message {
	return nfnetlink.Message(unix.NFNL_SUBSYS_CTNETLINK, typ, flags, append(nfnetlink.Header(family), attributes...))
}

// wants filters what an older kernel does not.
func (f *Filter) wants(e *Entry) bool {
	is := func(want, got uint16) bool { return want == 0 || want == got }
	return e.Proto == f.Proto && e.Status&f.Status == f.Status &&
		is(f.FromPort, e.Original.From.Port()) && is(f.ToPort, e.Original.To.Port()) &&
		is(f.ReplyToPort, e.Reply.To.Port())
}

// attributes are the filter as the kernel takes it. It looks at the status since
// Linux 5.17, and else takes no notice of it. It has one set of flags for each
// direction; early kernels mix the two up, so that a filter names but one.
func (f *Filter) attributes() ([]byte, error) {
	tuple, flags := ctaOriginal, ctaFilterOriginal
	if f.ReplyToPort != 0 {
		tuple, flags = ctaReply, ctaFilterReply
	}
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	told := uint32(filterProtocol)
	ae.Nested(uint16(tuple), func(tuple *netlink.AttributeEncoder) error {
		tuple.Nested(ctaTupleProto, func(proto *netlink.AttributeEncoder) error {
			proto.Uint8(ctaProtoNum, f.Proto)
			if f.FromPort != 0 {
				told |= filterFromPort
				proto.Uint16(ctaProtoFromPort, f.FromPort)
			}
			if to := f.ToPort | f.ReplyToPort; to != 0 {
				told |= filterToPort
				proto.Uint16(ctaProtoToPort, to)
			}
			return nil
		})
		return nil
	})
	ae.Nested(ctaFilter, func(filter *netlink.AttributeEncoder) error {
		filter.Bytes(uint16(flags), binary.NativeEndian.AppendUint32(nil, told))
		return nil
	})
	if f.Status != 0 {
		ae.Uint32(ctaStatus, f.Status)
	}
	return ae.Encode()
}
