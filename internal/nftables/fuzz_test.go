//go:build linux

package nftables

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/doorward/doorward/internal/nfnetlink"
	"github.com/doorward/doorward/internal/tape"
)

var sameTable = gocmp.AllowUnexported(Table{}, Set{}, SetDef{}, Element{}, Chain{}, Hook{}, Rule{})

// testTable is the table's name in tests.
const testTable = "doorward"

// drawTable makes a table from the choices of c.
func drawTable(c *tape.Tape) *Table {
	t := &Table{Flags: tape.Of(c, []uint32{0, TableFlagOwner, TableFlagOwner | TableFlagPersist}), Comment: string(printable(c.Bytes(c.Below(30))))}
	for i := range c.Below(3) {
		t.Counters = append(t.Counters, name("counter", i))
	}
	for i := range c.Below(4) {
		s := Set{Name: name("set", i), Count: -1, Def: SetDef{Flags: uint32(c.Byte()), KeyType: uint32(c.Byte()), KeyLen: uint32(c.Byte()),
			DataType: uint32(c.Byte()), GCInterval: uint32(c.Byte()), Once: c.Bool()}}
		for range c.Below(4) {
			e, _ := drawElement(c)
			if e.Timed, e.Left = false, 0; s.Def.Flags&unix.NFT_SET_INTERVAL != 0 {
				s.Elems = append(s.Elems, e)
			}
		}
		SortElements(s.Elems)
		t.Sets = append(t.Sets, s)
	}
	for i := range c.Below(4) {
		n := Chain{Name: name("chain", i)}
		if c.Bool() {
			n.Base = Hook{Kind: "filter", Number: uint32(c.Byte()), Priority: int32(c.Byte()) - 128, Policy: uint32(c.Below(2))}
		}
		for j := range c.Below(4) {
			n.Rules = append(n.Rules, Rule{name("rule", j), string(Join([]Expr{Meta(uint32(c.Byte())), Cmp(unix.NFT_CMP_EQ, c.Bytes(4)...), Verdict(unix.NFT_GOTO, n.Name)}))})
		}
		t.Chains = append(t.Chains, n)
	}
	return t
}

func name(what string, i int) string { return what + string(rune('a'+i)) }

// makeAll adds to b the messages that make the table.
func makeAll(b *Batch, t *Table) {
	b.MakeTable(t.Flags, t.Comment)
	for _, n := range t.Counters {
		b.MakeCounter(n)
	}
	for _, s := range t.Sets {
		b.MakeSet(s)
		b.AddElements(s.Name, s.Elems)
	}
	for _, n := range t.Chains {
		b.MakeChain(n)
		for _, r := range n.Rules {
			b.AddRule(n.Name, r)
		}
	}
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

// FuzzTable checks that a table reads back as it was sent, and that a second reader
// reads the same from answers that were tampered with, or refuses them as well: no
// answer is half believed.
func FuzzTable(f *testing.F) {
	for _, s := range [][2]string{
		{"", ""},
		{"\x02\x01\x02\x01\x03\x04\x07\x04\x01\x02\x01\x02\x16\x00\x03ssh\x01\x02\x16\x00\x03ssh\x03\x01\x02\x80\x01\x02\x01\x01\x02\x03\x04", ""},
		{"\x02\x00\x02\x03\x04\x07\x04\x01\x02\x01\x02\x16\x00\x03ssh", "\x00\x00\x00\x04\xff"},
		{"\x01\x01\x01\x01\x01\x01\x01\x01", "\x03\x00\x00\x11\x01"},                 // a set's flags
		{"\x01\x01\x00\x01\x01\x01\x01\x01", "\x01\x01\x02\x15"},                     // a chain, cut
		{"\x01\x00\x00\x01\x01\x01\x01\x03", "\x02\x02\x01\x20\x04\x08\x00\x01\x00"}, // more in a rule
		{"\x01\x01\x01", "\x00\x00\x00\x17\x08"},                                     // another table
	} {
		f.Add([]byte(s[0]), []byte(s[1]))
	}
	f.Fuzz(func(t *testing.T, wanted, tampered []byte) {
		want := drawTable(tape.New(wanted))
		b := &Batch{table: testTable}
		makeAll(b, want)
		r := &replies{kept: map[int][]netlink.Message{}}
		r.keep(b)

		got, err := r.dial().Read()
		if err != nil {
			t.Fatalf("read the table back: %v", err)
		}
		if d := gocmp.Diff(want.inOneOrder(), got.inOneOrder(), sameTable, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("the table reads back differently (-want +got):\n%s", d)
		}
		r.spoil(tape.New(tampered))
		got, err = r.dial().Read()
		naive, sound := r.naive()
		if sound != (err == nil) {
			t.Fatalf("read: %v, but the second reader says sound = %v", err, sound)
		}
		if err != nil || got == nil && naive == nil {
			return
		}
		if got == nil || naive == nil {
			t.Fatalf("read %v, but the second reader %v", got, naive)
		}
		if d := gocmp.Diff(naive.inOneOrder(), got.inOneOrder(), sameTable); d != "" {
			t.Fatalf("two readers differ (-second +read):\n%s", d)
		}
	})
}

// FuzzElements checks that elements are read as another encoder wrote them, in the
// kernel's form, and that no grant is overlooked, however long it is.
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
		all.String(unix.NFTA_SET_ELEM_LIST_TABLE, testTable)
		all.String(unix.NFTA_SET_ELEM_LIST_SET, "s")
		all.Bytes(netlink.Nested|unix.NFTA_SET_ELEM_LIST_ELEMENTS, data)
		if data, err = all.Encode(); err != nil {
			t.Skip(err) // too long
		}
		r := &replies{kept: map[int][]netlink.Message{unix.NFT_MSG_GETSETELEM: {{Data: append(nfnetlink.Header(unix.NFPROTO_INET), data...)}}}}
		got, err := r.dial().ReadElements("s")
		if err != nil {
			t.Fatal(err)
		}
		if d := gocmp.Diff(want, got, sameTable); d != "" {
			t.Fatalf("elements (-want +got):\n%s", d)
		}
		for _, e := range got {
			if e.Timed && e.Left < 0 {
				t.Fatalf("%+v: negative time left", e)
			}
		}
	})
}

// drawElement makes an element, and the function that encodes it.
func drawElement(c *tape.Tape) (Element, func(*netlink.AttributeEncoder) error) {
	e := Element{Key: string(c.Bytes(c.Below(20)))}
	flags := c.Byte()
	e.End, e.Timed = flags&4 != 0, flags&2 != 0
	if flags&1 != 0 {
		e.Chain = string(printable(c.Bytes(c.Below(12))))
	}
	var ms uint64
	if e.Timed {
		for range 8 {
			ms = ms<<8 | uint64(c.Byte())
		}
		e.Left = longest
		if ms < uint64(longest/time.Millisecond) {
			e.Left = time.Duration(ms) * time.Millisecond
		}
	}
	return e, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(unix.NFTA_SET_ELEM_KEY, func(k *netlink.AttributeEncoder) error {
			k.Bytes(unix.NFTA_DATA_VALUE, []byte(e.Key))
			return nil
		})
		if e.End {
			ae.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		if e.Chain != "" {
			ae.Nested(unix.NFTA_SET_ELEM_DATA, func(d *netlink.AttributeEncoder) error {
				d.Nested(unix.NFTA_DATA_VERDICT, func(v *netlink.AttributeEncoder) error {
					v.Int32(unix.NFTA_VERDICT_CODE, unix.NFT_JUMP)
					v.String(unix.NFTA_VERDICT_CHAIN, e.Chain)
					return nil
				})
				return nil
			})
		}
		if e.Timed {
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

// FuzzEvent checks that two readers agree on which events are about the table, and
// that an event that cannot be read counts as one, since checking once more costs
// little.
func FuzzEvent(f *testing.F) {
	seed := func(b attrs) { f.Add([]byte(b)) }
	seed(inTable(testTable))
	seed(nfnetlink.Header(unix.NFPROTO_INET))
	seed(attrs(nfnetlink.Header(unix.NFPROTO_IPV4)).str(1, testTable))
	seed(attrs(nfnetlink.Header(unix.NFPROTO_INET)).str(1, "filter"))
	seed(attrs(nfnetlink.Header(unix.NFPROTO_INET)).str(2, testTable))
	seed(inTable(testTable)[:10])
	f.Fuzz(func(t *testing.T, data []byte) {
		got := (&Conn{table: testTable}).concerns(data)
		want := false
		if len(data) >= 4 && data[0] == unix.NFPROTO_INET {
			l, sound := attributes(data[4:])
			about := len(l) > 0 && l[0].typ == 1 && l[:1].str(1) == testTable
			// What follows a sound first attribute need not be read.
			if want = about || !sound; want != got && len(l) > 0 {
				want = about
			}
		}
		if got != want {
			t.Fatalf("%x: concerns %v, want %v", data, got, want)
		}
	})
}

// FuzzUserdata checks that a comment reads back as it was written, and that two
// readers read the same from any bytes.
func FuzzUserdata(f *testing.F) {
	f.Add([]byte(""), "")
	f.Add([]byte("\x01\x02ab\x00\x04abc\x00"), "opened before")
	f.Add([]byte("\x00\xffab"), "a\x00b")
	f.Add([]byte("\x00\x00\x00\x01\x00"), "doorward layout 2")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		if got, want := commentIn(b), naiveComment(b); got != want {
			t.Errorf("commentIn(%x) = %q, the second reader has %q", b, got, want)
		}
		if got := commentIn(userdata(text)); len(text) < 255 && got != text {
			t.Errorf("%q reads back as %q", text, got)
		}
	})
}
