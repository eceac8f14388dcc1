package store

import (
	"bytes"
	"hash/maphash"
)

// index knows which entries of a log are current: the last one that put a key, if nothing
// has ended or cleared it since.
type index struct {
	standing []uint64       // a bit for the number of each entry
	cleared  map[string]int // the number of the last entry that cleared a key
}

// index reads the whole log. Meanwhile it holds two hashes for each key instead of the
// key, which nobody can make collide: about 40 MB for a million.
func (l *journal) index() (*index, error) {
	x := &index{cleared: make(map[string]int)}
	seeds := [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	kept := make(map[[2]uint64]int)
	err := l.each(func(n int, e entry) error {
		if n/64 >= len(x.standing) {
			x.standing = append(x.standing, 0)
		}
		// The class is added, so that no two classes meet under the same key.
		sum := [2]uint64{maphash.Bytes(seeds[0], e.key) + uint64(e.class), maphash.Bytes(seeds[1], e.key)}
		switch {
		case e.class == classRecord: // has no place here
		case e.op == opPut:
			kept[sum] = n
		case e.op == opEnd:
			delete(kept, sum)
		case e.op == opClear:
			x.cleared[clearKey(e.class, e.key)] = n
		}
		return nil
	})
	for _, n := range kept {
		x.standing[n/64] |= 1 << (n % 64)
	}
	return x, err
}

// stands says whether entry number n is current.
func (x *index) stands(n int, e entry) bool {
	if x.standing[n/64]&(1<<(n%64)) == 0 {
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
	return true
}

func clearKey(c class, key []byte) string { return string(append([]byte{byte(c)}, key...)) }

// each calls f for all entries of a log, with their numbers, which begin with 1.
func (l *journal) each(f func(n int, e entry) error) error { return l.eachFrom(headerSize, f) }

// eachFrom is each for entries from an offset on, at which a frame begins.
func (l *journal) eachFrom(from int64, f func(n int, e entry) error) error {
	n := 0
	return l.read(from, func(payload []byte) error {
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
