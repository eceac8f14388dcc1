//go:build linux

// Package conntrack reads the entries of the kernel's connection tracking over
// ctnetlink, and removes them. It is the one place that has the numbers of
// linux/netfilter/nfnetlink_conntrack.h; internal/fence and internal/presence decide
// what an entry means for a door.
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

// Labels that the fence puts on connections. They are bits of the last of the 16
// bytes of labels that a connection has: bits 126 and 127, since the lowest byte comes
// first. Other rulesets number their labels from 0, so these are unlikely to collide
// with theirs.
const (
	LabelsLen = 16
	Asked     = 0x40 // a door let its first packet pass
	LetIn     = 0x80 // a door let its handshake, or its first datagram, pass
)

// Status bits, IPS_* of nf_conntrack_common.h.
const (
	SeenReply = 1 << 1  // there was a packet in each direction
	Assured   = 1 << 2  // it is not dropped early when the table is full
	DstNAT    = 1 << 5  // its destination is translated
	Offload   = 1 << 14 // a flow table forwards it (nf_flow_table.rst), and its state is not reported
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
	Proto    uint8 // IPPROTO_TCP, IPPROTO_UDP, ...; for protocols without ports, those of the tuples are 0
	Original Tuple // of the first packet, as it came
	Reply    Tuple // of an answer to it, as that comes, so that it shows what was translated
	Status   uint32
	State    uint8 // of TCP; 0 if it was not reported
	// PickedUp says that tracking began in the middle of a TCP connection, so that
	// the first packet tracked need not be the connection's first.
	PickedUp bool
	LetIn    bool // it has the fence's label of that name

	name []byte // the attributes that identify it
}

// Filter says which entries are wanted: those that match all of its fields.
type Filter struct {
	Family uint8 // AF_INET or AF_INET6
	Proto  uint8
	// Ports of the original direction, or the port that answers go to; 0 for any.
	FromPort, ToPort uint16
	ReplyToPort      uint16 // not together with the other two
	Status           uint32 // bits that must be set
}

// Conn is a connection to ctnetlink. It is not safe for concurrent use. An error that
// Is nfnetlink.ErrBroken is about the connection itself.
type Conn struct{ nl *nfnetlink.Conn }

// Dial makes a connection for the thread's network namespace, which the caller must
// Close. Visible reports whether it can be used.
func Dial() (*Conn, error) {
	nl, err := nfnetlink.Dial()
	if err != nil {
		return nil, err
	}
	return Over(nl), nil
}

// Over makes a Conn that uses nl. Whenever the Conn is used, no other answer may be
// awaited on nl.
func Over(nl *nfnetlink.Conn) *Conn { return &Conn{nl} }

// Close ends the connection; see nfnetlink.Conn.
func (c *Conn) Close() error { return c.nl.Close() }

// Visible returns nil if entries can be listed, and otherwise the reason why not:
// without CAP_NET_ADMIN an error that Is fs.ErrPermission; any other error means that
// this kernel has no ctnetlink.
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

// List calls each for all entries that match f, in no particular order. An entry may
// come twice if the kernel enlarges its table meanwhile. The kernel walks its whole
// table once, which has the entries of all network namespaces (at most
// nf_conntrack_max of each), and sends only the entries that match; before Linux 5.8 it
// sends all those of the family. Memory holds the entries of one message at a time.
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
		return fmt.Errorf("list the entries of connection tracking: %w", err)
	}
	return nil
}

// Delete removes an entry. If it has ended meanwhile, the error Is ENOENT. A newer entry
// between the same ends is not removed, since it has another ID, unless the kernel has
// put it into the same piece of memory (nf_ct_get_id).
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

// wants reports whether e matches f, since older kernels do not filter.
func (f *Filter) wants(e *Entry) bool {
	is := func(want, got uint16) bool { return want == 0 || want == got }
	return e.Proto == f.Proto && e.Status&f.Status == f.Status &&
		is(f.FromPort, e.Original.From.Port()) && is(f.ToPort, e.Original.To.Port()) &&
		is(f.ReplyToPort, e.Reply.To.Port())
}

// attributes returns the filter as the kernel reads it. Before Linux 5.17 the kernel
// ignores the status. There is one set of flags for each direction; early kernels
// confuse the two, so a filter has only one of them.
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
