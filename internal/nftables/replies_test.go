//go:build linux

package nftables

import (
	"encoding/binary"
	"iter"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
)

// replies is a fake kernel that answers requests for lists with the messages that it
// holds, right or wrong. It is a netlink.Socket, so that all code of Conn that reads
// runs over it.
type replies struct {
	kept  map[int][]netlink.Message // by the type of the request
	asked netlink.Message
}

// dial connects to it.
func (r *replies) dial() *Conn {
	return &Conn{Netlink: &nfnetlink.Conn{Conn: netlink.NewConn(r, 7)}, table: testTable}
}

// keep stores the messages of a transaction that creates things. The kernel lists
// such things as they were sent, and the type of the request for each list is one more
// than the type of the message that creates.
func (r *replies) keep(b *Batch) {
	for _, m := range b.msgs {
		question := int(m.Header.Type)&0xff + 1
		r.kept[question] = append(r.kept[question], netlink.Message{Data: m.Data})
	}
}

func (r *replies) Send(m netlink.Message) error { r.asked = m; return nil }

func (r *replies) ReceiveIter() iter.Seq2[netlink.Message, error] {
	question := int(r.asked.Header.Type) & 0xff
	of := func(b []byte) string { // the set that a question or an answer is about
		set, _ := attributes(b)
		return set.str(unix.NFTA_SET_ELEM_LIST_SET)
	}
	header := netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES << 8, Flags: netlink.Multi, Sequence: r.asked.Header.Sequence}
	return func(yield func(netlink.Message, error) bool) {
		for _, m := range r.kept[question] {
			m.Header = header
			about := question != unix.NFT_MSG_GETSETELEM || len(m.Data) < 4 || of(m.Data[4:]) == of(r.asked.Data[4:])
			if about && !yield(m, nil) {
				return
			}
		}
		header.Type = netlink.Done
		yield(netlink.Message{Header: header, Data: make([]byte, 4)}, nil)
	}
}

// The other methods of netlink.Socket.

func (r *replies) Close() error                           { return nil }
func (r *replies) SendMessages(m []netlink.Message) error { return nil }
func (r *replies) Receive() ([]netlink.Message, error)    { return nil, unix.EOPNOTSUPP }
func (r *replies) SetDeadline(time.Time) error            { return nil }
func (r *replies) SetReadDeadline(time.Time) error        { return nil }
func (r *replies) SetWriteDeadline(time.Time) error       { return nil }

// The second reader. It is written from linux/netlink.h alone, and reads a message
// into a list before it looks at any attribute.

type attribute struct {
	typ  int
	data []byte
}

type attributeList []attribute

// attributes splits a message, and reports whether it consists of whole attributes
// that begin at multiples of four bytes. An attribute of length 0 is taken as empty,
// as the library does; the kernel makes none.
func attributes(b []byte) (attributeList, bool) {
	var all attributeList
	for at := 0; at < len(b); {
		if len(b)-at < 4 {
			return all, false
		}
		size, typ := int(binary.NativeEndian.Uint16(b[at:])), int(binary.NativeEndian.Uint16(b[at+2:]))&0x3fff
		if size == 0 {
			size = 4
		}
		if size < 4 || at+size > len(b) {
			return all, false
		}
		all = append(all, attribute{typ, b[at+4 : at+size]})
		at += (size + 3) / 4 * 4
	}
	return all, true
}

func (l attributeList) last(typ int) ([]byte, bool) {
	for i := len(l) - 1; i >= 0; i-- {
		if l[i].typ == typ {
			return l[i].data, true
		}
	}
	return nil, false
}

func (l attributeList) str(typ int) string {
	b, _ := l.last(typ)
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return string(b)
}

func (l attributeList) number(typ int) uint64 {
	var n uint64
	b, _ := l.last(typ)
	for _, v := range b {
		n = n<<8 | uint64(v)
	}
	return n
}

// sound reports whether all attributes of the types are numbers of size bytes.
func (l attributeList) sound(size int, types ...int) bool {
	for _, a := range l {
		for _, typ := range types {
			if a.typ == typ && len(a.data) != size {
				return false
			}
		}
	}
	return true
}

// nested splits all attributes of a type, or of any type if typ < 0.
func (l attributeList) nested(typ int) ([]attributeList, bool) {
	var all []attributeList
	for _, a := range l {
		if typ >= 0 && a.typ != typ {
			continue
		}
		in, ok := attributes(a.data)
		if !ok {
			return nil, false
		}
		all = append(all, in)
	}
	return all, true
}
