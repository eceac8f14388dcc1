//go:build linux

package conntrack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"

	"github.com/doorward/doorward/internal/tape"
)

// FuzzEntry checks that an entry is read as another encoder wrote it, in ctnetlink's
// form; that its name has the attributes that identify it; and that an entry that was
// cut or tampered with is read or refused, but never seems to be picked up or let in
// if it was not.
func FuzzEntry(f *testing.F) {
	f.Add([]byte("\x00\x11\xc0\x00\x02\x02\xc0\x00\x02\x01\x10\x00\x00\x35\x01\x02"), uint16(0), byte(0))
	f.Add([]byte("\x01\x06\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"), uint16(70), byte(0x80))
	f.Add(bytes.Repeat([]byte{0xff}, 90), uint16(20), byte(8))
	f.Add(bytes.Repeat([]byte{0x85}, 90), uint16(1000), byte(1))
	f.Fuzz(func(t *testing.T, text []byte, at uint16, spoil byte) {
		want, data := drawEntry(t, tape.New(text))
		d := newDecoder()
		got, err := d.decode(netlink.Message{Data: data})
		if err != nil {
			t.Fatalf("%+v: %v", want, err)
		}
		name := got.name
		got.name, want.name = nil, nil
		if got.Proto != want.Proto || got.Original != want.Original || got.Reply != want.Reply || got.Status != want.Status ||
			got.State != want.State || got.PickedUp != want.PickedUp || got.LetIn != want.LetIn {
			t.Fatalf("decoded %+v, want %+v", got, want)
		}
		named, err := d.decode(netlink.Message{Data: append(make([]byte, 4), name...)})
		if err != nil || named.Original != want.Original || !bytes.Equal(named.name, name) || !bytes.Contains(name, []byte("name")) {
			t.Fatalf("the name %x decodes as %+v, %v", name, named, err)
		}
		if int(at) < len(data) {
			data[at] ^= spoil
			d.decode(netlink.Message{Data: data})
			if e, err := d.decode(netlink.Message{Data: data[:at]}); err == nil && (e.LetIn && !want.LetIn || e.PickedUp && !want.PickedUp) {
				t.Fatalf("cut after %d bytes, the entry decodes as %+v", at, e)
			}
		}
	})
}

// drawEntry makes an entry and its message.
func drawEntry(t *testing.T, c *tape.Tape) (Entry, []byte) {
	size := tape.Of(c, []int{4, 16})
	e := Entry{Proto: c.Byte()}
	number := func() uint16 { return uint16(c.Byte())<<8 | uint16(c.Byte()) }
	end := func() netip.AddrPort {
		addr, _ := netip.AddrFromSlice(append(c.Bytes(size), make([]byte, size)...)[:size])
		return netip.AddrPortFrom(addr, number())
	}
	e.Original, e.Reply = Tuple{end(), end()}, Tuple{end(), end()}
	e.Status, e.State = uint32(number())<<16|uint32(number()), c.Byte()
	flags := [2]byte{c.Byte(), c.Byte()}
	labels := append(c.Bytes(c.Below(20)), make([]byte, 20)...)[:c.Below(20)]
	e.PickedUp = flags[0]&8 != 0 && flags[1]&8 != 0
	e.LetIn = len(labels) >= 16 && labels[15] >= 0x80

	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	for i, tuple := range []Tuple{e.Original, e.Reply} {
		ae.Nested(uint16(1+i), func(ae *netlink.AttributeEncoder) error {
			ae.Nested(1, func(ip *netlink.AttributeEncoder) error {
				base := uint16(size/16*2 + 1)
				ip.Bytes(base, tuple.From.Addr().AsSlice())
				ip.Bytes(base+1, tuple.To.Addr().AsSlice())
				return nil
			})
			ae.Nested(2, func(proto *netlink.AttributeEncoder) error {
				proto.Uint8(1, e.Proto)
				proto.Uint16(2, tuple.From.Port())
				proto.Uint16(3, tuple.To.Port())
				return nil
			})
			return nil
		})
	}
	ae.Uint32(3, e.Status)
	ae.Nested(4, func(info *netlink.AttributeEncoder) error {
		info.Nested(1, func(tcp *netlink.AttributeEncoder) error {
			tcp.Uint8(1, e.State)
			tcp.Bytes(4, []byte{flags[0], 0xff})
			tcp.Bytes(5, []byte{flags[1], 0xff})
			return nil
		})
		return nil
	})
	ae.Bytes(12, []byte("name"))
	if len(labels) > 0 {
		ae.Bytes(22, labels)
	}
	data, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return e, append([]byte{2, 0, 0, 0}, data...)
}
