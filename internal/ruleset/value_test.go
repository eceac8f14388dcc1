//go:build linux

package ruleset

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawValue makes a value, and bytes that are possible for it.
func drawValue(t *rapid.T, n int) (value, []byte) {
	some := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 0x7f, 0x80, 0xfe, 0xff}), n, n)
	b := some.Draw(t, "is")
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return exact(b), b
	case 1:
		return bits(b, some.Draw(t, "free")), b
	case 2:
		ends := [][]byte{b, some.Draw(t, "end"), some.Draw(t, "other end")}
		slices.SortFunc(ends, bytes.Compare)
		return between(ends[0], ends[2]), b
	}
	v := unknown(n)
	if not := some.Draw(t, "not"); !bytes.Equal(not, b) {
		v.not = not
	}
	return v, b
}

// TestValuesAreSound checks that a statement about a value is true of all bytes
// that are possible for it, and that the results of operations on the bytes are possible
// for the results of the same operations on the value.
func TestValuesAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "bytes")
		some := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 0x7f, 0x80, 0xfe, 0xff}), n, n)
		v, b := drawValue(t, n)
		for range rapid.IntRange(0, 3).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				mask, xor := some.Draw(t, "mask"), some.Draw(t, "xor")
				v = v.masked(mask, xor)
				b = bytes.Clone(b)
				for i := range b {
					b[i] = b[i]&mask[i] ^ xor[i]
				}
			case 1:
				v = v.swapped(n)
				b = bytes.Clone(b)
				slices.Reverse(b)
			case 2:
				at := rapid.IntRange(0, n-1).Draw(t, "at")
				size := rapid.IntRange(1, n-at).Draw(t, "size")
				if p := v.part(at, size); p.in(b[at:at+size], b[at:at+size]) == no {
					t.Fatalf("bytes %d to %d of %+v exclude %x", at, at+size, v, b[at:at+size])
				}
			}
		}
		if v.in(b, b) == no {
			t.Fatalf("%+v excludes %x", v, b)
		}
		if v.exact() && !bytes.Equal(v.min, b) {
			t.Fatalf("%+v claims to be exact, but may be %x", v, b)
		}
		data := some.Draw(t, "data")
		for op, is := range map[uint32]bool{
			cmpEq: bytes.Equal(b, data), cmpNeq: !bytes.Equal(b, data), cmpLt: bytes.Compare(b, data) < 0,
			cmpLte: bytes.Compare(b, data) <= 0, cmpGt: bytes.Compare(b, data) > 0, cmpGte: bytes.Compare(b, data) >= 0,
		} {
			if got := v.compare(op, data); got == yes && !is || got == no && is {
				t.Fatalf("operator %d on %+v and %x gives %d, but on %x and the same %v", op, v, data, got, b, is)
			}
		}
	})
}

// TestValuesArePrecise checks that what is known about a value is used.
func TestValuesArePrecise(t *testing.T) {
	ports := between([]byte{0, 22}, []byte{0, 30})
	lo := unknown(4)
	lo.not = []byte("lo\x00\x00")
	for _, tt := range []struct {
		what string
		got  truth
		want truth
	}{
		{"22-30 in 20-40", ports.in([]byte{0, 20}, []byte{0, 40}), yes},
		{"22-30 in 25-40", ports.in([]byte{0, 25}, []byte{0, 40}), maybe},
		{"22-30 in 31-40", ports.in([]byte{0, 31}, []byte{0, 40}), no},
		{"22-30 below 22", ports.compare(cmpLt, []byte{0, 22}), no},
		{"22-30 above 21", ports.compare(cmpGt, []byte{0, 21}), yes},
		{"any but lo is lo", lo.compare(cmpEq, []byte("lo\x00\x00")), no},
		{"any but lo is not lo", lo.compare(cmpNeq, []byte("lo\x00\x00")), yes},
		{"any but lo is eth", lo.compare(cmpEq, []byte("eth\x00")), maybe},
		{"a bit that is known", bits([]byte{2}, []byte{0xc0}).masked([]byte{0x17}, []byte{0}).compare(cmpEq, []byte{2}), yes},
		{"a comparison of other bytes", ports.in([]byte{22}, []byte{22}), maybe},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", tt.what, tt.got, tt.want)
		}
	}
}

// TestSpans checks how interval sets are read in the forms that the kernel reports.
func TestSpans(t *testing.T) {
	element := func(n byte, end bool) Element { return Element{Key: []byte{0, n}, End: end} }
	for _, tt := range []struct {
		name string
		set  Set
		want string
	}{
		{"single", Set{Elements: []Element{element(9, false), element(3, false)}}, "3-3 9-9 "},
		{"intervals, as the kernel lists them, from the end", Set{Interval: true, Elements: []Element{element(41, true), element(40, false),
			element(31, true), element(20, false), element(0, true)}}, "20-30 40-40 "},
		{"adjacent intervals", Set{Interval: true, Elements: []Element{element(20, false), element(30, true), element(30, false), element(35, true)}}, "20-29 30-34 "},
		{"to the end", Set{Interval: true, Elements: []Element{element(20, false)}}, "20-65535 "},
		{"with last keys", Set{Interval: true, Concat: true, Elements: []Element{{Key: []byte{0, 5}, KeyEnd: []byte{0, 9}}}}, "5-9 "},
		{"all others", Set{Elements: []Element{{CatchAll: true}}}, ""},
	} {
		got := ""
		for _, s := range tt.set.spans() {
			got += fmt.Sprintf("%d-%d ", int(s.from[0])<<8+int(s.from[1]), int(s.to[0])<<8+int(s.to[1]))
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestNear checks that in a set with as many elements as possible, at most one span is
// looked at for a key that is known.
func TestNear(t *testing.T) {
	set := &Set{Interval: true, KeyLen: 2}
	for i := range 0x4000 {
		at := func(n int, end bool) Element { return Element{Key: []byte{byte(n >> 8), byte(n)}, End: end} }
		set.Elements = append(set.Elements, at(4*i+1, false), at(4*i+3, true)) // 1-2, 5-6, ...
	}
	for n := range 0x10000 {
		key := []keyPart{{0, exact([]byte{byte(n >> 8), byte(n)})}}
		want := no
		if n%4 == 1 || n%4 == 2 {
			want = yes
		}
		near := set.near(key)
		if _, got := set.find(key); got != want || len(near) > 1 {
			t.Fatalf("find(%d) = %d among %d spans, want %d among one at most", n, got, len(near), want)
		}
	}
}
