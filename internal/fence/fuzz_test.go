//go:build linux

package fence

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tape"
)

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

// FuzzLayout checks that differences notices everything in which two tables differ.
func FuzzLayout(f *testing.F) {
	f.Add([]byte(""), []byte(""))
	f.Add([]byte("\x02\x01\x00\x02\x00\x10\x00\x00\x01\x00\x07\x01\x05\x00\x01\x02\x01\x09\x09\x00\x18\x07\x01\x03\x40"), []byte("\x01\x01\x01"))
	f.Fuzz(func(t *testing.T, one, other []byte) {
		draw := func(text []byte) *nft.Table {
			c := tape.New(text)
			doors, err := checkDoors(drawDoors(c))
			if err != nil {
				t.Fatal(err)
			}
			all := layout(doors, drawWidths(c, doors), manner{tape.Of(c, []uint32{0, nft.TableFlagOwner, nft.TableFlagOwner | nft.TableFlagPersist}), c.Bool()})
			if d := differences(all, whole(apart(all))); d != nil {
				t.Fatalf("the table put together from its parts differs: %q", d)
			}
			return all
		}
		a, b := draw(one), draw(other)
		if seen, alike := differences(a, b), gocmp.Equal(plain(a), plain(b), cmpopts.EquateEmpty()); (seen == nil) != alike {
			t.Fatalf("differences are %q, but the tables are equal: %v", seen, alike)
		}
	})
}

// plain returns the table without fields that are only for creating it, which are not
// compared.
func plain(t *nft.Table) *nft.Table {
	p := &nft.Table{Flags: t.Flags, Comment: t.Comment, Counters: t.Counters, Chains: slices.Clone(t.Chains)}
	for _, s := range t.Sets {
		s.Lengths, s.Size = nil, 0
		p.Sets = append(p.Sets, s)
	}
	slices.SortFunc(p.Sets, func(a, b nft.Set) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(p.Chains, func(a, b nft.Chain) int { return cmp.Compare(a.Name, b.Name) })
	return p
}

// FuzzTuple checks that the key of a set is read as the tuple that is written as that
// key, or not at all, and that a flow belongs to a source only if the visitor's address
// does.
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
			t.Fatalf("%v: the source is wrong", got)
		}
	})
}
