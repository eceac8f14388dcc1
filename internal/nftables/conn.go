//go:build linux

// Package nftables speaks nf_tables' netlink protocol for one table of the family
// inet: it writes transactions (Batch), reads the table and its sets back (Conn.Read),
// and hears of changes by others (Conn.Watch). It decides nothing and knows of no
// doors; internal/fence says what the table should be.
//
// The messages are written byte by byte as the kernel shows them in its dumps
// (nf_tables_api.c and linux/netfilter/nf_tables.h), so that the table as it should be
// and the table as it is compare without interpretation. (The library google/nftables
// v0.3.0 sends no table flags and user data, and no list of elements longer than 64 KiB.)
package nftables

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
)

const (
	// maxElements is how many elements go into one message, whose list has a
	// 16-bit length. A port with the longest chain name takes elementSize.
	maxElements = 512
	elementSize = 96

	// bufferSize bounds one transaction, which must reach the kernel in one
	// piece; a million grants fit. It is a limit, not memory that is held.
	bufferSize = 128 << 20
)

// Conn is a netlink connection to nf_tables, which the caller must Close. Except for
// Close, it is not safe for concurrent use. The owner of an owned table is the
// connection, not the process: while it is open, no other socket can change the table.
//
// An error that Is nfnetlink.ErrBroken is about the connection itself, and it is not
// known what became of the request. All other errors are the kernel's refusals: nothing
// was done, and the connection can still be used.
type Conn struct {
	Netlink *nfnetlink.Conn // for other subsystems of netfilter, while no answer is awaited
	PortID  uint32          // of this end, by which the kernel names the origin of a change
	NetNS   uint64          // names the socket's network namespace; 0 before Linux 5.14

	table string
}

// Dial connects for changes to the table. It asks for the ruleset's generation, so that a missing
// privilege and a kernel without nf_tables are reported here, by errors of their own.
func Dial(table string) (*Conn, error) {
	c, err := Connect(table)
	if err != nil {
		return nil, err
	}
	if err := c.prepare(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Connect connects, without asking the kernel anything, for reading or for Watch.
func Connect(table string) (*Conn, error) {
	nl, err := nfnetlink.Dial()
	if err != nil {
		return nil, err
	}
	c := &Conn{Netlink: nl, table: table}
	if err := c.control(c.name); err != nil {
		c.Close()
		return nil, fmt.Errorf("ask for the netlink socket's port and network namespace: %w", err)
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.Netlink.Close() }

// name finds out what the kernel calls the socket and its network namespace.
func (c *Conn) name(fd int) error {
	self, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	if nl, ok := self.(*unix.SockaddrNetlink); ok {
		c.PortID = nl.Pid
	}
	c.NetNS, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return nil
	}
	return err
}

// prepare sizes the socket's buffers and asks for the ruleset's generation.
func (c *Conn) prepare() error {
	_ = c.Netlink.SetOption(netlink.ExtendedAcknowledge, true) // reasons in words, where the kernel has them
	if err := c.force(unix.SO_SNDBUFFORCE, bufferSize); err != nil {
		return err
	}
	if err := c.force(unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		return err
	}
	switch _, err := c.Generation(); {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("not allowed to use nftables: run as root or with CAP_NET_ADMIN: %w", err)
	case err != nil:
		return fmt.Errorf("this kernel has no nf_tables: load it with \"modprobe nf_tables\" or "+
			"use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET: %w", err)
	}
	return nil
}

// Generation returns the number of the ruleset's last change by anybody. Asking for it
// costs next to nothing, and shows that the connection works.
func (c *Conn) Generation() (generation uint32, err error) {
	read := nfnetlink.Fields{unix.NFTA_GEN_ID: nfnetlink.Number(&generation)}.Read
	err = c.Netlink.Ask(message(unix.NFT_MSG_GETGEN, 0, nfnetlink.Header(unix.NFPROTO_UNSPEC)), func(m netlink.Message) error {
		return nfnetlink.Attributes(m, read)
	})
	return generation, err
}

// force sets the size of a buffer beyond the system's limit, as CAP_NET_ADMIN allows.
// In a user namespace, where that capability does not count, the buffer stays as it is.
func (c *Conn) force(option, size int) error {
	err := c.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size) })
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("set the netlink socket's buffer to %d bytes: %w", size, err)
	}
	return nil
}

// control calls do with the socket's file descriptor.
func (c *Conn) control(do func(fd int) error) error {
	raw, err := c.Netlink.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = do(int(fd)) })
	return errors.Join(err, failed)
}

// Commit sends the transaction and waits for the kernel's answer. It returns the first
// refusal.
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
		return nfnetlink.Broken(err)
	}
	first, last := sent[0].Header.Sequence, sent[len(sent)-2].Header.Sequence
	var refusal error
	for {
		sequence, refused, err := c.Netlink.Hear(func(netlink.Message) {})
		switch i := sequence - first; {
		case err != nil:
			return err
		case refused == nil && sequence == last:
			return refusal
		case refused == nil || i >= uint32(len(sent)): // left over from a transaction before
			continue
		case refusal == nil:
			refusal = b.refusal(int(i), refused)
		}
		// A refusal of the batch as a whole may be the only answer.
		if sequence == first || sequence == last {
			return refusal
		}
	}
}

// ErrInterrupted means that a list is not of one moment.
var ErrInterrupted = errors.New("the ruleset changes faster than it can be read")

// dump asks for a list, up to five times if the ruleset changes while the list is
// read. With ErrInterrupted it returns the list as it was read last.
func (c *Conn) dump(what string, typ int, query attrs) (msgs []netlink.Message, err error) {
	const tries = 5
	for range tries {
		msgs = nil
		err := c.Netlink.Ask(listing(typ, query), func(m netlink.Message) error {
			msgs = append(msgs, m)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", what, err)
		}
		if !slices.ContainsFunc(msgs, isInterrupted) {
			return msgs, nil
		}
	}
	return msgs, ErrInterrupted
}

func isInterrupted(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }

// listing makes the request for a list.
func listing(typ int, query attrs) netlink.Message {
	return message(typ, netlink.Dump, append(nfnetlink.Header(unix.NFPROTO_INET), query...))
}

// message makes a request to nf_tables.
func message(typ int, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return nfnetlink.Message(unix.NFNL_SUBSYS_NFTABLES, typ, flags, data)
}

// edge makes the message that begins or ends a batch.
func edge(typ int) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
}
