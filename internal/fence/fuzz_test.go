//go:build linux

package fence

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tape"
)

var sameTable = gocmp.AllowUnexported(Table{}, Set{}, SetDef{}, Element{}, Chain{}, Hook{}, Rule{})

// drawDoors makes doors that can be guarded.
func drawDoors(c *tape.Tape) []Door {
	var doors []Door
	for i, name := range []string{"ssh", "vpn", "9-x_"}[:1+c.Below(3)] {
		d := Door{Name: name, Reject: c.Bool(), SingleUse: c.Bool()}
		from := 20000 * i
		for range c.Below(4) {
			first := from + 1 + c.Below(3000)
			last := first + c.Below(2)*c.Below(2000)
			d.Ports = append(d.Ports, port.Range{Proto: tape.Of(c, []port.Proto{port.TCP, port.UDP}), First: uint16(first), Last: uint16(last)})
			from = last
		}
		if c.Byte() == 255 && i == 2 {
			d.Ports = append(d.Ports, port.Range{Proto: port.TCP, First: 65000, Last: 65535})
		}
		for range c.Below(4) {
			a := netip.AddrFrom4([4]byte{192, 0, c.Byte(), c.Byte()})
			if c.Bool() {
				a = netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: c.Byte()})
			}
			d.Always = append(d.Always, netip.PrefixFrom(a, c.Below(a.BitLen()+1)))
		}
		doors = append(doors, d)
	}
	return doors
}

func drawWidths(c *tape.Tape, doors []Door) map[width]bool {
	widths := map[width]bool{}
	for range c.Below(4) {
		f := tape.Of(c, families())
		widths[width{tape.Of(c, doors).Name, f.name, c.Below(f.bits + 1)}] = true
	}
	return widths
}

// spoil changes the answers: bytes of them, their lengths, whole ones.
func (r *replies) spoil(c *tape.Tape) {
	questions := []int{unix.NFT_MSG_GETTABLE, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETSET,
		unix.NFT_MSG_GETSETELEM, unix.NFT_MSG_GETOBJ}
	for c.More() {
		q := tape.Of(c, questions)
		how := c.Below(4)
		if len(r.kept[q]) == 0 || how == 3 {
			r.kept[q] = append(r.kept[q], netlink.Message{Data: c.Bytes(c.Below(256))})
			continue
		}
		m := &r.kept[q][c.Below(len(r.kept[q]))]
		m.Data = slices.Clone(m.Data)
		at := c.Below(len(m.Data) + 1)
		switch {
		case how == 0 && at < len(m.Data):
			m.Data[at] ^= c.Byte()
		case how == 1:
			m.Data = m.Data[:at]
		case how == 2:
			m.Data = slices.Insert(m.Data, at, c.Bytes(c.Below(16))...)
		}
	}
}

// FuzzTable holds that a table which was sent reads back as that table, and that
// of a table which was tampered with on the way a second reader makes the same,
// or refuses it as well: no answer is half believed.
func FuzzTable(f *testing.F) {
	seeds := [][2]string{
		{"", ""},
		{"\x02\x01\x00\x02\x00\x10\x00\x00\x01\x00\x07\x01\x05\x00\x01\x02\x01\x09\x09\x00\x18\x07\x01\x03\x40", ""},
		{"\x02\x00\x01\x03\x00\x10\x01\x00\x10\x00\x00\x00\x01\x00\x01\x01\x01\x00\xff\x03\x00\x00\x00\x08\x01", "\x00\x00\x00\x04\xff"},
		{"\x01\x01\x01", "\x03\x00\x00\x11\x01"},                                         // a set's flags
		{"\x01\x01\x01", "\x01\x01\x02\x15"},                                             // a chain, cut
		{"\x01\x01\x01", "\x02\x02\x01\x20\x04\x08\x00\x01\x00"},                         // more in a rule
		{"\x01\x01\x01", "\x04\x03\x10\x02\x00\x00\x00\xff\xff\x03\x00\x00\x00\x00\x00"}, // a length beyond its message
		{"\x01\x01\x01", "\x00\x00\x00\x17\x08"},                                         // another table
	}
	for _, s := range seeds {
		f.Add([]byte(s[0]), []byte(s[1]))
	}
	f.Fuzz(func(t *testing.T, wanted, tampered []byte) {
		c := tape.New(wanted)
		doors, err := checkDoors(drawDoors(c))
		if err != nil {
			t.Fatal(err)
		}
		want := layout(doors, drawWidths(c, doors), manner{tape.Of(c, []uint32{0, tableFlagOwner, tableFlagOwner | tableFlagPersist}), c.Bool()})
		b := &batch{table: tableName}
		planTable(b, want, nil, nil)
		r := &replies{kept: map[int][]netlink.Message{}}
		r.keep(b)

		got, err := r.dial().read()
		if err != nil {
			t.Fatalf("the table does not read back: %v", err)
		}
		if d := differences(want, got); d != nil {
			t.Fatalf("the table reads back otherwise: %q", d)
		}
		r.spoil(tape.New(tampered))
		got, err = r.dial().read()
		naive, sound := r.naive()
		if sound != (err == nil) {
			t.Fatalf("read: %v, but sound is %v", err, sound)
		}
		if err != nil || got == nil && naive == nil {
			return
		}
		if got == nil || naive == nil {
			t.Fatalf("read %v, the second reader %v", got, naive)
		}
		if d := gocmp.Diff(naive.inOneOrder(), got.inOneOrder(), sameTable); d != "" {
			t.Fatalf("two readers differ (-second +read):\n%s", d)
		}
		if d := differences(want, got); d == nil && !gocmp.Equal(want.plain(), got.plain(), sameTable) {
			t.Fatalf("no difference is seen between\n%+v\n%+v", want, got)
		}
	})
}

// plain is the table without what is not compared: who owns it, and what is only
// there to create it.
func (t *Table) plain() *Table {
	p := &Table{flags: t.flags, comment: t.comment, counters: slices.Compact(slices.Clone(t.counters)), chains: slices.Clone(t.chains)}
	for _, s := range t.sets {
		s.lengths, s.size, s.udata, s.count = nil, 0, nil, 0
		p.sets = append(p.sets, s)
	}
	slices.SortFunc(p.sets, func(a, b Set) int { return cmp.Compare(a.name, b.name) })
	slices.SortFunc(p.chains, func(a, b Chain) int { return cmp.Compare(a.name, b.name) })
	return p.inOneOrder()
}

// FuzzElements holds that elements which another encoder wrote as the kernel
// does are read as they are, and that no grant is overlooked however long it is.
func FuzzElements(f *testing.F) {
	for _, s := range []string{
		"",
		"\x04\xc0\x00\x02\x07\x02\x00\x00\x00\x00\x00\x00\x75\x30", // 30 s for 192.0.2.7
		"\x02\x00\x16\x01\x03ssh\x02\x00\x17\x04",                  // a port, and an end
		"\x04\xc0\x00\x02\x07\x00\x04\xc0\x00\x02\x08\x02" + "\xff\xff\xff\xff\xff\xff\xff\xff",
		"\x04\xc0\x00\x02\x07\x02\x00\x00\x10\x00\x00\x00\x00\x00", // 557 years
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c := tape.New(text)
		var want []Element
		list := netlink.NewAttributeEncoder()
		list.ByteOrder = binary.BigEndian
		for c.More() && len(want) < 500 {
			e, encode := drawElement(c)
			want = append(want, e)
			list.Nested(unix.NFTA_LIST_ELEM, encode)
		}
		data, err := list.Encode()
		if err != nil {
			t.Fatal(err)
		}
		all := netlink.NewAttributeEncoder()
		all.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
		all.String(unix.NFTA_SET_ELEM_LIST_SET, "s")
		all.Bytes(netlink.Nested|unix.NFTA_SET_ELEM_LIST_ELEMENTS, data)
		if data, err = all.Encode(); err != nil {
			t.Skip(err) // too long
		}
		r := &replies{kept: map[int][]netlink.Message{unix.NFT_MSG_GETSETELEM: {{Data: append(header(unix.NFPROTO_INET), data...)}}}}
		got, err := r.dial().readElements("s")
		if err != nil {
			t.Fatal(err)
		}
		if d := gocmp.Diff(want, got, sameTable); d != "" {
			t.Fatalf("elements (-want +got):\n%s", d)
		}
		for _, e := range got {
			if e.timed && e.left < 0 {
				t.Fatalf("%+v: less than no time", e)
			}
		}
	})
}

// drawElement makes an element, and what writes it.
func drawElement(c *tape.Tape) (Element, func(*netlink.AttributeEncoder) error) {
	e := Element{key: string(c.Bytes(c.Below(20)))}
	flags := c.Byte()
	e.end, e.timed = flags&4 != 0, flags&2 != 0
	if flags&1 != 0 {
		e.chain = string(printable(c.Bytes(c.Below(12))))
	}
	var ms uint64
	if e.timed {
		for range 8 {
			ms = ms<<8 | uint64(c.Byte())
		}
		e.left = longest
		if ms < uint64(longest/time.Millisecond) {
			e.left = time.Duration(ms) * time.Millisecond
		}
	}
	return e, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(unix.NFTA_SET_ELEM_KEY, func(k *netlink.AttributeEncoder) error {
			k.Bytes(unix.NFTA_DATA_VALUE, []byte(e.key))
			return nil
		})
		if e.end {
			ae.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		if e.chain != "" {
			ae.Nested(unix.NFTA_SET_ELEM_DATA, func(d *netlink.AttributeEncoder) error {
				d.Nested(unix.NFTA_DATA_VERDICT, func(v *netlink.AttributeEncoder) error {
					v.Int32(unix.NFTA_VERDICT_CODE, unix.NFT_GOTO)
					v.String(unix.NFTA_VERDICT_CHAIN, e.chain)
					return nil
				})
				return nil
			})
		}
		if e.timed {
			ae.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, 1)
			ae.Uint64(unix.NFTA_SET_ELEM_EXPIRATION, ms)
		}
		return nil
	}
}

func printable(b []byte) []byte {
	var word []byte
	for _, v := range b {
		word = append(word, 'a'+v%26)
	}
	return word
}

// FuzzEvent holds that an event about the table is one whoever reads it, and
// that one which cannot be read is taken for one: to look once more costs little.
func FuzzEvent(f *testing.F) {
	seed := func(b attrs) { f.Add([]byte(b), uint32(1)) }
	seed(inTable(tableName))
	seed(header(unix.NFPROTO_INET))
	seed(header(unix.NFPROTO_IPV4).with(1, tableName))
	seed(header(unix.NFPROTO_INET).with(1, "filter"))
	seed(header(unix.NFPROTO_INET).with(2, tableName))
	seed(inTable(tableName)[:10])
	f.Add([]byte(inTable(tableName)), uint32(7)) // its own
	f.Fuzz(func(t *testing.T, data []byte, from uint32) {
		fence := &Fence{}
		fence.origin.Store(7)
		got := fence.concerns(netlink.Message{Header: netlink.Header{PID: from}, Data: data})
		want := false
		if from != 7 && len(data) >= 4 && data[0] == unix.NFPROTO_INET {
			l, sound := attributes(data[4:])
			about := len(l) > 0 && l[0].typ == 1 && l[:1].str(1) == tableName
			// What stands behind a sound beginning need not be looked at.
			if want = about || !sound; want != got && len(l) > 0 {
				want = about
			}
		}
		if got != want {
			t.Fatalf("%x of %d: concerns %v, want %v", data, from, got, want)
		}
	})
}

// FuzzUserdata holds that a comment is read as it was written, and that two ways
// read anything alike.
func FuzzUserdata(f *testing.F) {
	f.Add([]byte(""), "")
	f.Add([]byte("\x01\x02ab\x00\x04abc\x00"), "opened before")
	f.Add([]byte("\x00\xffab"), "a\x00b")
	f.Add([]byte("\x00\x00\x00\x01\x00"), layoutVersion)
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		if got, want := comment(b), naiveComment(b); got != want {
			t.Errorf("comment(%x) = %q, the second reader has %q", b, got, want)
		}
		if got := comment(userdata(text)); len(text) < 255 && got != text {
			t.Errorf("%q reads back as %q", text, got)
		}
	})
}

// FuzzTuple holds that a key of a set is read as what writes it, or not at all, and
// that a flow is of a source only if its visitor's address is.
func FuzzTuple(f *testing.F) {
	f.Add([]byte("\xc0\x00\x02\x02\x9c\x40\x00\x00\xc0\x00\x02\x01\x00\x35\x00\x00"))
	f.Add([]byte("\xc0\x00\x02\x02\x9c\x40\x00\x01\xc0\x00\x02\x01\x00\x35\x00\x00"))
	f.Add(append(slices.Repeat([]byte("\x20\x01\x0d\xb8"), 4), slices.Repeat([]byte{0, 53, 0, 0, 7, 7}, 4)...))
	f.Fuzz(func(t *testing.T, key []byte) {
		got, ok := tupleOf(string(key))
		if !ok {
			return
		}
		size := len(key)/2 - 4
		from, _ := netip.AddrFromSlice(key[:size])
		if got.key() != string(key) || got.from.Addr() != from {
			t.Fatalf("%x reads as %v", key, got)
		}
		all := []port.Range{{Proto: port.UDP, First: 0, Last: 65535}}
		of := func(ports []port.Range) flowSources {
			s := flowSources{map[netip.Prefix][]port.Range{}, map[int]bool{}}
			s.add(netip.PrefixFrom(from, size*8), ports)
			return s
		}
		next := tuple{netip.AddrPortFrom(from.Next(), 1), got.to}
		if mapped := from.Is4In6(); of(all).have(got) == mapped || of(nil).have(got) || of(all).have(next) && !from.Next().Is4In6() {
			t.Fatalf("%v: whose it is is read wrong", got)
		}
	})
}
