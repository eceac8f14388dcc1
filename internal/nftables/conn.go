//go:build linux

// Package nftables speaks nf_tables' netlink protocol for one table of the family
// inet: it writes transactions (Batch), reads the table and its sets back (Conn.Read),
// and hears of changes by others (Conn.Watch). It decides nothing and knows of no
// doors; internal/fence says what the table is to be.
//
// The messages are written byte by byte as the kernel shows them in its dumps
// (nf_tables_api.c and linux/netfilter/nf_tables.h), so that what should be and what
// is compare without interpretation. (The library google/nftables v0.3.0 sends no
// table flags and user data, and no list of elements longer than 64 KiB.)
package nftables

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// maxElements is how many elements go into one message, whose list has a
	// 16-bit length. A port with the longest chain name takes elementSize.
	maxElements = 512
	elementSize = 96

	// messageSize holds any answer: a list, of which the kernel sends at most
	// 32 KiB at a time, or an error with the whole message that it is about.
	messageSize = 128 << 10

	// bufferSize bounds one transaction, which the kernel takes only in one
	// piece: a million grants. It is a limit, not memory that is held.
	bufferSize = 128 << 20

	// replyTime is a safeguard: the kernel answers a change before the send
	// returns, and makes each part of a list as it is read.
	replyTime = 10 * time.Second
)

// Conn is a netlink connection to nf_tables, for the caller to Close. It is not safe
// for concurrent use, but for Close. A table is owned by it, not by the process:
// while it lives, no other socket changes an owned table.
//
// Of its errors those for which IsBroken is true are of the connection itself, and
// what became of the request is open. All others are the kernel's refusals, after
// which nothing was done and the connection goes on.
type Conn struct {
	Netlink *netlink.Conn // for other subsystems of netfilter, while no answer is awaited
	PortID  uint32        // of this end, as the kernel names the origin of a change; 0 after Connect
	NetNS   uint64        // names the socket's network namespace; 0 before Linux 5.14
	Heard   int           // messages from the kernel so far: what reading costs

	table string
}

// Dial connects for changes to the table, and asks for the ruleset's generation, to tell a missing
// privilege and a kernel without nf_tables from everything later.
func Dial(table string) (*Conn, error) {
	c, err := Connect(table)
	if err != nil {
		return nil, err
	}
	if err := c.prepare(); err != nil {
		c.Netlink.Close()
		return nil, err
	}
	return c, nil
}

// Connect connects without any question, to read or to Watch.
func Connect(table string) (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: messageSize})
	if err != nil {
		return nil, fmt.Errorf("open a netfilter netlink socket: %w", err)
	}
	c := &Conn{Netlink: nl, table: table}
	err = c.control(func(fd int) error {
		c.NetNS, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if errors.Is(err, unix.ENOPROTOOPT) {
			return nil
		}
		return err
	})
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("ask for the netlink socket's network namespace: %w", err)
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.Netlink.Close() }

// prepare sizes the socket's buffers and asks for the ruleset's generation.
func (c *Conn) prepare() error {
	_ = c.Netlink.SetOption(netlink.ExtendedAcknowledge, true) // reasons in words, where the kernel has them
	if err := c.force(unix.SO_SNDBUFFORCE, bufferSize); err != nil {
		return err
	}
	if err := c.force(unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		return err
	}
	req, err := c.Netlink.Send(message(unix.NFT_MSG_GETGEN, 0, header(unix.NFPROTO_UNSPEC)))
	if err != nil {
		return fmt.Errorf("ask nf_tables for its generation: %w", err)
	}
	c.PortID = req.Header.PID
	switch _, err = c.receive(); {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("not allowed to use nftables: run as root or with CAP_NET_ADMIN: %w", err)
	case err != nil:
		return fmt.Errorf("this kernel has no nf_tables: load it with \"modprobe nf_tables\" or "+
			"use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET: %w", err)
	}
	return nil
}

// Generation is the number of the ruleset's last change by anybody. To ask for it
// costs next to nothing, and tells that the connection stands.
func (c *Conn) Generation() (uint32, error) {
	var generation uint32
	msgs, err := c.ask(message(unix.NFT_MSG_GETGEN, 0, header(unix.NFPROTO_UNSPEC)))
	if err != nil {
		return 0, err
	}
	return generation, each(msgs, func(ad *netlink.AttributeDecoder) {
		for ad.Next() {
			if ad.Type() == 1 { // NFTA_GEN_ID
				generation = ad.Uint32()
			}
		}
	})
}

// force sets a buffer's size beyond the system's limit, which CAP_NET_ADMIN may;
// in a user namespace, where that does not count, it stays with the limit.
func (c *Conn) force(option, size int) error {
	err := c.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size) })
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("set the netlink socket's buffer to %d bytes: %w", size, err)
	}
	return nil
}

// control does something with the socket itself.
func (c *Conn) control(do func(fd int) error) error {
	raw, err := c.Netlink.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = do(int(fd)) })
	return errors.Join(err, failed)
}

// brokenError is an error of the connection itself: what became of the request
// is open. All others are the kernel's refusals, after which nothing was done
// and the connection goes on.
type brokenError struct {
	doing string
	err   error
}

func (e *brokenError) Error() string { return e.doing + ": " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// Broken says that the connection broke in doing something.
func Broken(doing string, err error) error { return &brokenError{doing, err} }

// IsBroken says whether an error is of the connection itself.
func IsBroken(err error) bool {
	_, broken := errors.AsType[*brokenError](err)
	return broken
}

// Commit sends the transaction and waits for the kernel's word on it.
func (c *Conn) Commit(b *Batch) error {
	if len(b.msgs) == 0 {
		return nil
	}
	// Only the last message asks for an acknowledgement; refusals come unasked.
	b.msgs[len(b.msgs)-1].Header.Flags |= netlink.Acknowledge
	sent, err := c.Netlink.SendMessages(slices.Concat(
		[]netlink.Message{edge(unix.NFNL_MSG_BATCH_BEGIN)}, b.msgs,
		[]netlink.Message{edge(unix.NFNL_MSG_BATCH_END)}))
	if errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("change too much at once (%d messages): %w", len(b.msgs), err)
	}
	if err != nil {
		return &brokenError{"send a change to nf_tables", err}
	}
	first, last := sent[0].Header.Sequence, sent[len(sent)-2].Header.Sequence
	var refusal error
	for {
		replies, err := c.receive()
		op, ok := errors.AsType[*netlink.OpError](err)
		switch {
		case err == nil:
			if slices.ContainsFunc(replies, func(m netlink.Message) bool { return m.Header.Sequence == last }) {
				return refusal
			}
		case !ok || op.Sequence == 0:
			return &brokenError{"hear from nf_tables", err}
		case op.Sequence-first >= uint32(len(sent)):
			// A leftover of an earlier transaction.
		default:
			if refusal == nil {
				refusal = b.refusal(int(op.Sequence-first), op)
			}
			// What is said of the batch as a whole may be all that is said.
			if op.Sequence == first || op.Sequence == last {
				return refusal
			}
		}
	}
}

// receive returns the next answer, all parts of it when it is a list.
func (c *Conn) receive() (msgs []netlink.Message, err error) {
	err = c.hear(func(m netlink.Message) { msgs = append(msgs, m) })
	if err != nil {
		return nil, err
	}
	return msgs, nil
}

// hear calls each with the parts of the next answer as they come.
func (c *Conn) hear(each func(netlink.Message)) error {
	if err := c.Netlink.SetReadDeadline(time.Now().Add(replyTime)); err != nil {
		return err
	}
	for m, err := range c.Netlink.ReceiveIter() {
		c.Heard++
		if err == nil {
			err = c.Netlink.SetReadDeadline(time.Now().Add(replyTime))
		}
		if err != nil {
			return err
		}
		each(m)
	}
	return nil
}

// ErrInterrupted means that a list is not of one moment.
var ErrInterrupted = errors.New("the ruleset changes faster than it can be read")

// dump asks for a list, and asks again when the ruleset changed while it was
// read. With errInterrupted it returns the list as read last.
func (c *Conn) dump(typ int, query attrs) ([]netlink.Message, error) {
	const tries = 5
	for i := 1; ; i++ {
		msgs, err := c.dumpOnce(typ, query)
		if err != nil || !slices.ContainsFunc(msgs, isInterrupted) {
			return msgs, err
		}
		if i == tries {
			return msgs, ErrInterrupted
		}
	}
}

func isInterrupted(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }

func (c *Conn) dumpOnce(typ int, query attrs) (msgs []netlink.Message, err error) {
	err = c.stream(typ, query, func(m netlink.Message) { msgs = append(msgs, m) })
	return msgs, err
}

// stream asks for a list once, and calls each with its parts as they come.
func (c *Conn) stream(typ int, query attrs, each func(netlink.Message)) error {
	return c.askEach(message(typ, netlink.Dump, append(header(unix.NFPROTO_INET), query...)), each)
}

// message makes a request to nf_tables.
func message(typ int, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ),
			Flags: netlink.Request | flags,
		},
		Data: data,
	}
}

// ask sends one request and returns its answer.
func (c *Conn) ask(m netlink.Message) (msgs []netlink.Message, err error) {
	err = c.askEach(m, func(m netlink.Message) { msgs = append(msgs, m) })
	if err != nil {
		return nil, err
	}
	return msgs, nil
}

// askEach sends one request and calls each with the parts of its answer.
func (c *Conn) askEach(m netlink.Message, each func(netlink.Message)) error {
	req, err := c.Netlink.Send(m)
	if err != nil {
		return &brokenError{"ask the kernel", err}
	}
	for {
		heard, ours := 0, false
		err := c.hear(func(m netlink.Message) {
			heard++
			if m.Header.Sequence == req.Header.Sequence {
				ours = true
				each(m)
			}
		})
		op, refused := errors.AsType[*netlink.OpError](err)
		switch {
		case refused && op.Sequence == req.Header.Sequence:
			return op.Err
		case refused && op.Sequence != 0:
			continue // a leftover of an earlier transaction
		case err != nil:
			return &brokenError{"hear from the kernel", err}
		case ours || heard == 0:
			return nil
		}
	}
}

// edge makes the message that begins or ends a batch.
func edge(typ int) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
}

// header is struct nfgenmsg.
func header(family byte) attrs { return attrs{family, unix.NFNETLINK_V0, 0, 0} }
