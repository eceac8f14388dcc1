//go:build linux

package ruleset

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
)

// truth says whether a statement is true.
type truth int

const (
	no truth = iota
	maybe
	yes
)

func (t truth) invert() truth { return yes - t }

// value is what is known of the bytes of a field. They lie between min and max, in the
// order of memcmp, by which nf_tables compares; their bits outside free are those of
// min; and they are not equal to not. The zero value has no bytes.
type value struct {
	min, max, free []byte
	not            []byte
	of             string // what the field is, for people
}

func exact(b []byte) value { return value{min: b, max: b, free: make([]byte, len(b))} }

// number returns the exact value of a number in host byte order, as meta and ct have it.
func number(n uint32) value { return exact(binary.NativeEndian.AppendUint32(nil, n)) }

// bits returns a value of which only the bits outside free are known.
func bits(known, free []byte) value {
	v := value{min: make([]byte, len(known)), max: make([]byte, len(known)), free: bytes.Clone(free)}
	for i := range known {
		v.min[i] = known[i] &^ free[i]
		v.max[i] = known[i] | free[i]
	}
	return v
}

func unknown(n int) value {
	return bits(make([]byte, n), bytes.Repeat([]byte{0xff}, n))
}

// between returns a value that may be anything from lo to hi.
func between(lo, hi []byte) value {
	v := value{min: lo, max: hi, free: make([]byte, len(lo))}
	for i := range lo {
		if d := lo[i] ^ hi[i]; d != 0 {
			for below := d; below != 0; below >>= 1 {
				d |= below
			}
			v.free[i] = d
			for j := i + 1; j < len(lo); j++ {
				v.free[j] = 0xff
			}
			break
		}
	}
	return v
}

// named returns the value with a name for people.
func (v value) named(of string) value {
	v.of = of
	return v
}

func (v value) exact() bool { return len(v.min) > 0 && bytes.Equal(v.min, v.max) }

// part returns n bytes of the value, from offset at.
func (v value) part(at, n int) value {
	if at+n > len(v.min) {
		return unknown(n).named(v.of)
	}
	if at == 0 && n == len(v.min) {
		return v
	}
	p := value{min: v.min[:n], max: v.max[:n], free: v.free[:n], of: v.of}
	if at > 0 {
		p = bits(v.min[at:at+n], v.free[at:at+n]).named(v.of)
	}
	return p
}

// masked returns (v & mask) ^ xor.
func (v value) masked(mask, xor []byte) value {
	if len(mask) != len(v.min) || len(xor) != len(v.min) {
		return unknown(len(v.min)).named(v.of)
	}
	known, free := make([]byte, len(mask)), make([]byte, len(mask))
	for i := range mask {
		known[i] = v.min[i]&mask[i] ^ xor[i]
		free[i] = v.free[i] & mask[i]
	}
	return bits(known, free).named(v.of)
}

// swapped returns the value with the bytes of each group of size reversed.
func (v value) swapped(size int) value {
	known, free := bytes.Clone(v.min), bytes.Clone(v.free)
	for _, all := range [][]byte{known, free} {
		for chunk := range slices.Chunk(all, size) {
			slices.Reverse(chunk)
		}
	}
	return bits(known, free).named(v.of)
}

// in reports whether the value lies between from and to, which have its length.
func (v value) in(from, to []byte) truth {
	switch {
	case len(from) != len(v.min) || len(to) != len(v.min):
		return maybe
	case bytes.Compare(to, v.min) < 0 || bytes.Compare(from, v.max) > 0:
		return no
	case bytes.Equal(from, to) && (bytes.Equal(from, v.not) || v.differs(from)):
		return no
	case bytes.Compare(from, v.min) <= 0 && bytes.Compare(v.max, to) <= 0:
		return yes
	}
	return maybe
}

// differs reports whether a known bit differs from that of b.
func (v value) differs(b []byte) bool {
	for i := range b {
		if (b[i]^v.min[i])&^v.free[i] != 0 {
			return true
		}
	}
	return false
}

// word is the size of the smallest register; a value takes as many as it needs.
const word = 4

// registers are the registers of nf_tables' virtual machine, by the number of their
// first word. Those that are not in the map are not known.
type registers map[uint32]value

// index returns the number of a register's first word. NFT_REG_1 to NFT_REG_4 have 16
// bytes, those from NFT_REG32_00 on have 4; see nft_parse_register in the kernel's
// nf_tables_api.c.
func index(register uint32) uint32 {
	if register <= 4 {
		return register*4 - 4
	}
	return register - 8
}

func words(bytes int) uint32 { return uint32((bytes + word - 1) / word) }

func (r registers) store(register uint32, v value) {
	at := index(register)
	maps.DeleteFunc(r, func(from uint32, old value) bool {
		return from < at+words(len(v.min)) && at < from+words(len(old.min))
	})
	r[at] = v
}

func (r registers) load(register uint32, n int) value {
	if v, ok := r[index(register)]; ok && len(v.min) >= n {
		return v.part(0, n)
	}
	return unknown(n)
}

// key returns the values that make up a key of n bytes, each with its offset.
func (r registers) key(register uint32, n int) (all []keyPart) {
	for at := 0; at < n; {
		v, ok := r[index(register)+uint32(at/word)]
		if !ok {
			v = unknown(min(word, n-at))
		}
		size := min(len(v.min), n-at)
		all = append(all, keyPart{at, v.part(0, size)})
		at += int(words(size)) * word
	}
	return all
}

type keyPart struct {
	at int
	value
}

// compare returns the result of a comparison, as nft_cmp makes it.
func (v value) compare(op uint32, data []byte) truth {
	low, high := make([]byte, len(data)), bytes.Repeat([]byte{0xff}, len(data))
	switch op {
	case cmpEq:
		return v.in(data, data)
	case cmpNeq:
		return v.in(data, data).invert()
	case cmpLte:
		return v.in(low, data)
	case cmpGt:
		return v.in(low, data).invert()
	case cmpGte:
		return v.in(data, high)
	case cmpLt:
		return v.in(data, high).invert()
	}
	return maybe
}

// The operators of enum nft_cmp_ops in linux/netfilter/nf_tables.h.
const (
	cmpEq = iota
	cmpNeq
	cmpLt
	cmpLte
	cmpGt
	cmpGte
)

// spans returns the elements of a set with their first and last keys. In an interval
// set whose keys are not concatenated, an element begins an interval, which ends just
// before the next element.
func (s *Set) spans() []span {
	if s.spanned != nil {
		return s.spanned
	}
	all := make([]span, 0, len(s.Elements))
	ordered := slices.Clone(s.Elements)
	slices.SortStableFunc(ordered, func(a, b Element) int {
		return cmp.Or(bytes.Compare(a.Key, b.Key), cmp.Compare(rank(a), rank(b)))
	})
	for i, e := range ordered {
		switch {
		case e.CatchAll || e.End:
		case len(e.KeyEnd) > 0:
			all = append(all, span{e.Key, e.KeyEnd, e})
		case !s.Interval || s.Concat:
			all = append(all, span{e.Key, e.Key, e})
		default:
			to := bytes.Repeat([]byte{0xff}, len(e.Key))
			if i+1 < len(ordered) {
				to = before(ordered[i+1].Key)
			}
			all = append(all, span{e.Key, to, e})
		}
	}
	s.spanned = all
	return all
}

// rank sorts an element that ends an interval before one that begins the next at the
// same key.
func rank(e Element) int {
	if e.End {
		return 0
	}
	return 1
}

// before returns the number before b.
func before(b []byte) []byte {
	b = bytes.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return b
}

type span struct {
	from, to []byte
	Element
}

// holds reports whether a key is in the span.
func (s span) holds(key []keyPart) truth {
	all := yes
	for _, k := range key {
		end := k.at + len(k.min)
		if end > len(s.from) || end > len(s.to) {
			return maybe
		}
		all = min(all, k.in(s.from[k.at:end], s.to[k.at:end]))
	}
	return all
}
