package store

import (
	"bytes"
	"hash/maphash"
)

// index tells which entries of a log still stand: the last one that put a key, if
// nothing has ended or cleared it since. It has two hashes for a key instead of the
// key, which nobody can make collide, and holds about 40 MB for a million.
type index struct {
	seeds   [2]maphash.Seed
	kept    map[[2]uint64]int // the number of the entry that put it
	cleared map[string]int    // the number of the last entry that cleared it
}

func newIndex() *index {
	return &index{
		seeds:   [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		kept:    make(map[[2]uint64]int),
		cleared: make(map[string]int),
	}
}

func (x *index) hash(e entry) [2]uint64 {
	// The class is added, so that no two classes meet under the same key.
	return [2]uint64{maphash.Bytes(x.seeds[0], e.key) + uint64(e.class), maphash.Bytes(x.seeds[1], e.key)}
}

// add takes in entry number n. Records of the audit trail have no place here.
func (x *index) add(n int, e entry) {
	switch {
	case e.class == classRecord:
	case e.op == opPut:
		x.kept[x.hash(e)] = n
	case e.op == opEnd:
		delete(x.kept, x.hash(e))
	case e.op == opClear:
		x.cleared[clearKey(e.class, e.key)] = n
	}
}

// stands says whether entry number n is one that still stands.
func (x *index) stands(n int, e entry) bool {
	if e.op != opPut || e.class == classRecord {
		return false
	}
	for at := 0; len(x.cleared) > 0; at++ {
		i := bytes.IndexByte(e.key[at:], 0)
		if i < 0 {
			break
		}
		at += i
		if x.cleared[clearKey(e.class, e.key[:at+1])] > n {
			return false
		}
	}
	return x.kept[x.hash(e)] == n
}

func clearKey(c class, key []byte) string { return string(append([]byte{byte(c)}, key...)) }

// each calls f for all entries of a log, with their numbers, which begin with 1.
func (l *journal) each(f func(n int, e entry) error) error {
	n := 0
	return l.read(func(payload []byte) error {
		for len(payload) > 0 {
			e, rest, err := parseEntry(payload)
			if err != nil {
				return err
			}
			payload = rest
			n++
			if err := f(n, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// index returns the log's.
func (l *journal) index() (*index, error) {
	x := newIndex()
	return x, l.each(func(n int, e entry) error { x.add(n, e); return nil })
}
