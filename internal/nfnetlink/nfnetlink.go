//go:build linux

// Package nfnetlink is what the subsystems of netfilter have in common on netlink
// (linux/netfilter/nfnetlink.h): how a request is sent and its answer distinguished from
// others, and how the attributes of a message are read. It contains nothing that is
// particular to one of the subsystems.
package nfnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrBroken means that the connection to the kernel broke, so that it is not known
// what became of the request. All other errors are the kernel's refusals, after
// which the connection can still be used, or say what in its answer cannot be read.
var ErrBroken = errors.New("the netlink connection broke")

// Broken returns err as the reason for ErrBroken.
func Broken(err error) error { return fmt.Errorf("%w: %w", ErrBroken, err) }

// replyTime is a safeguard: the kernel answers before the send returns, and makes
// each part of a list as it is read.
const replyTime = 10 * time.Second

// messageSize is enough for any answer: a part of a list, of which the kernel sends at
// most 32 KiB at a time, or an error with the whole message that it is about.
const messageSize = 128 << 10

// Conn is a connection to netfilter, which the caller must Close, though not often,
// since closing may hold up whoever changes nf_tables (nft_rcv_nl_event in the kernel's
// nf_tables_api.c). Except for Close, it is not safe for concurrent use.
type Conn struct {
	*netlink.Conn
	Heard int // messages from the kernel so far: what reading costs
}

// Dial makes a connection for the thread's network namespace.
func Dial() (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: messageSize})
	if err != nil {
		return nil, fmt.Errorf("open a netfilter netlink socket: %w", err)
	}
	return &Conn{Conn: nl}, nil
}

// Ask sends a request and calls each with the messages of its answer. It reads the
// answer to its end even after each has returned an error, so that nothing is left over
// for the next request, and then returns the first such error.
func (c *Conn) Ask(m netlink.Message, each func(netlink.Message) error) error {
	sent, err := c.Send(m)
	if err != nil {
		return Broken(err)
	}
	for {
		var unread error
		sequence, refused, err := c.Hear(func(m netlink.Message) {
			if m.Header.Sequence != sent.Header.Sequence {
				return
			}
			if err := each(m); unread == nil {
				unread = err
			}
		})
		switch {
		case err != nil:
			return err
		case sequence != 0 && sequence != sent.Header.Sequence: // left over from a request before
		case refused != nil:
			return refused.Err
		default:
			return unread
		}
	}
}

// Hear waits for the kernel's next answer and calls each with its messages as they
// arrive. It returns the sequence number of the request that was answered, or 0 if the
// answer is an empty list, and the refusal if it is one.
func (c *Conn) Hear(each func(netlink.Message)) (sequence uint32, refused *netlink.OpError, err error) {
	if err := c.patience(); err != nil {
		return 0, nil, err
	}
	for m, err := range c.ReceiveIter() {
		c.Heard++
		if op, ok := errors.AsType[*netlink.OpError](err); ok && op.Sequence != 0 {
			return op.Sequence, op, nil
		}
		if err != nil {
			return 0, nil, Broken(err)
		}
		if err := c.patience(); err != nil {
			return 0, nil, err
		}
		sequence = m.Header.Sequence
		each(m)
	}
	return sequence, nil, nil
}

// patience gives the kernel time for its next message.
func (c *Conn) patience() error {
	if err := c.SetReadDeadline(time.Now().Add(replyTime)); err != nil {
		return Broken(err)
	}
	return nil
}

// HeaderLen is the length of struct nfgenmsg.
const HeaderLen = 4

// Header returns the struct nfgenmsg with which the data of a message begins.
func Header(family byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

// Message makes a request to a subsystem. Its data must begin with a Header.
func Message(subsystem, typ int, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem<<8 | typ), Flags: netlink.Request | flags},
		Data:   data,
	}
}

// Attributes calls read with the attributes that follow a message's Header, whose
// numbers are in network byte order.
func Attributes(m netlink.Message, read func(*netlink.AttributeDecoder)) error {
	if len(m.Data) < HeaderLen {
		return fmt.Errorf("netfilter sent a message of %d bytes", len(m.Data))
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[HeaderLen:])
	if err != nil {
		return fmt.Errorf("decode netfilter's answer: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	read(ad)
	if err := ad.Err(); err != nil {
		return fmt.Errorf("decode netfilter's answer: %w", err)
	}
	return nil
}

// Fields maps the types of attributes to the functions that read them. Of several
// attributes of a type, the last one counts; other types are skipped.
type Fields map[uint16]func(*netlink.AttributeDecoder)

// Read reads all attributes of one level.
func (f Fields) Read(ad *netlink.AttributeDecoder) {
	for ad.Next() {
		if field := f[ad.Type()]; field != nil {
			field(ad)
		}
	}
}

// Nested reads the attributes inside the current one.
func (f Fields) Nested(ad *netlink.AttributeDecoder) {
	ad.Nested(func(inner *netlink.AttributeDecoder) error {
		f.Read(inner)
		return nil
	})
}

// Text returns a function that reads a string.
func Text(to *string) func(*netlink.AttributeDecoder) {
	return func(ad *netlink.AttributeDecoder) { *to = ad.String() }
}

// Number returns a function that reads a number of exactly the size of T.
func Number[T uint8 | uint16 | uint32 | uint64](to *T) func(*netlink.AttributeDecoder) {
	return func(ad *netlink.AttributeDecoder) {
		ad.Do(func(b []byte) error {
			if len(b) != binary.Size(*to) {
				return fmt.Errorf("a number of %d bytes, not %d", len(b), binary.Size(*to))
			}
			var n uint64
			for _, v := range b {
				n = n<<8 | uint64(v)
			}
			*to = T(n)
			return nil
		})
	}
}
