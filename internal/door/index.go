package door

import "hash/maphash"

// index finds grants by their sources. It holds only their numbers, in tables with open
// addressing and linear probing, so that one costs about six bytes, where a Go map with
// the sources would take fifty. There are many tables, so that none takes long to grow.
// The hash is seeded: whoever chooses addresses cannot choose where they fall.
type index struct {
	seed   maphash.Seed
	tables *[1 << tableBits]table // nil: the index is empty
	used   int
}

const tableBits = 6

// table is a part of an index.
type table struct {
	slots []int32 // numbers plus one, 0 for none; a power of two, at most three quarters in use
	used  int
}

// table returns where a source belongs.
func (x *index) table(p place) (t *table, hash uint64) {
	if x.tables == nil {
		x.tables = new([1 << tableBits]table)
	}
	hash = maphash.Comparable(x.seed, p)
	return &x.tables[hash>>(64-tableBits)], hash
}

// slot is where a hash belongs.
func (t *table) slot(hash uint64) int { return int(hash & uint64(len(t.slots)-1)) }

func (t *table) after(slot int) int { return t.slot(uint64(slot + 1)) }

// find returns the number of a source's grant, -1 for none.
func (x *index) find(p place, grants *slab[grant]) int32 {
	if x.used == 0 {
		return -1
	}
	t, hash := x.table(p)
	if t.used == 0 {
		return -1
	}
	for i := t.slot(hash); t.slots[i] > 0; i = t.after(i) {
		if n := t.slots[i] - 1; grants.at(n).source == p {
			return n
		}
	}
	return -1
}

// put adds a grant that is not there.
func (x *index) put(n int32, grants *slab[grant]) {
	t, hash := x.table(grants.at(n).source)
	if 4*(t.used+1) > 3*len(t.slots) {
		old := t.slots
		t.slots = make([]int32, max(4, 2*len(old)))
		for _, m := range old {
			if m > 0 {
				_, hash := x.table(grants.at(m - 1).source)
				t.slots[t.free(hash)] = m
			}
		}
	}
	t.slots[t.free(hash)] = n + 1
	t.used++
	x.used++
}

// free returns the unused slot for a hash.
func (t *table) free(hash uint64) int {
	i := t.slot(hash)
	for t.slots[i] > 0 {
		i = t.after(i)
	}
	return i
}

// drop removes a grant that is there. Later ones that would not be found beyond the gap
// move into it (Knuth, The Art of Computer Programming 6.4, algorithm R).
func (x *index) drop(n int32, grants *slab[grant]) {
	t, hash := x.table(grants.at(n).source)
	gap := t.slot(hash)
	for t.slots[gap] != n+1 {
		gap = t.after(gap)
	}
	for i := t.after(gap); t.slots[i] > 0; i = t.after(i) {
		_, hash := x.table(grants.at(t.slots[i] - 1).source)
		if away, mask := i-t.slot(hash), len(t.slots)-1; away&mask >= (i-gap)&mask {
			t.slots[gap], gap = t.slots[i], i
		}
	}
	t.slots[gap] = 0
	t.used--
	x.used--
}
