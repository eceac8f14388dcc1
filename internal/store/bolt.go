package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
)

// The form before was a file of go.etcd.io/bbolt, version 2 of its layout, in the
// byte order of the machine. It is read once, and never written:
//
//	page      id u64, flags u16, count u16, overflow u32, then by flags:
//	branch    count × (pos u32, ksize u32, child u64), keys
//	leaf      count × (flags u32, pos u32, ksize u32, vsize u32), keys and values
//	meta      magic u32, version u32, page size u32, flags u32, root u64,
//	          sequence u64, freelist u64, high water u64, txid u64, FNV-1a u64
//	bucket    (the value of a leaf element with flag 1) root u64, sequence u64;
//	          root 0: a leaf page follows in place
//
// A ledger among the entries has the sum of the hashes of all others, so that what
// is read need not be looked at for what it could be instead: it is right, or the
// file is set aside.
const (
	boltName   = "doorward.db"
	boltBranch = 0x01
	boltLeaf   = 0x02
)

var boltOrder = binary.NativeEndian

// takeOver makes the state and the trail of a file of the form before, and then
// renames that, to its name with .migrated behind it: a program of the version
// before finds it if it gets its name back. As long as it has its name, it was used
// last, whatever else there is, and a crash on the way begins again.
func (s *Store) takeOver(limit AuditLimit) error {
	path := filepath.Join(s.dir, boltName)
	f, err := openFile(path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var kept []entry
	var trail []line
	if err == nil {
		defer f.Close()
		kept, trail, err = s.readBolt(f)
	}
	if d := (*damageError)(nil); errors.As(err, &d) {
		return setAside(path, err, s.log)
	}
	if err != nil {
		return err
	}
	if err := s.replace(kept, trail, limit); err != nil {
		return err
	}
	if err := os.Rename(path, path+".migrated"); err != nil {
		return err
	}
	s.log.Info("the state was taken over into a new form; the file of before is not needed any more",
		"file", path+".migrated")
	return syncDir(s.dir)
}

// replace makes a state and a trail of what was read, instead of what there is.
func (s *Store) replace(kept []entry, lines []line, limit AuditLimit) error {
	for i := range s.files {
		err := os.Remove(filepath.Join(s.dir, stateName(i)))
		if err == nil {
			s.log.Warn("a file of the form before was used last: it replaces what is here", "file", stateName(i))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	files, err := openSegments(s.dir, s.log, func(_ string, f file) file { return f })
	if err != nil {
		return err
	}
	defer closeAll(files)
	t, err := openTrail(files, limit, 1)
	if err != nil {
		return err
	}
	if err := errors.Join(t.append(lines), t.sync()); err != nil {
		return err
	}
	f, _, err := create(filepath.Join(s.dir, stateName(0)), 1, func(add func(entry) error) error {
		for _, e := range append(kept, trailNote(t.synced)) {
			if err := add(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return f.Close()
}

// readBolt reads all entries of the file. What cannot be understood is said, and
// stays there.
func (s *Store) readBolt(f file) (kept []entry, lines []line, err error) {
	b, err := openBolt(f)
	if err != nil {
		return nil, nil, err
	}
	err = b.entries(func(bucket string, key, value []byte) error {
		e, l, err := fromBolt(bucket, key, value)
		switch {
		case err != nil:
			s.log.Error("a kept value cannot be read and is left behind", "file", filepath.Join(s.dir, boltName+".migrated"),
				"bucket", bucket, "key", string(key), "err", err)
		case e.class == classRecord:
			lines = append(lines, l)
		case e.class != 0:
			kept = append(kept, e)
		}
		return nil
	})
	// Where two versions have written in turn, IDs do not rise.
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.id, b.id) })
	return kept, lines, err
}

// fromBolt makes a new entry of an old one, of class 0 where there is none.
func fromBolt(bucket string, key, value []byte) (e entry, l line, err error) {
	parts := strings.SplitN(string(key), "\x00", 3)
	parts = append(parts, "", "")
	switch bucket + "/" + string(key) {
	case "meta.v1/boot":
		return entry{class: classMeta, key: []byte(bootKey), value: value}, l, nil
	case "meta.v1/applied":
		_, err = decodeApplied(value)
		return entry{class: classMeta, key: []byte(appliedKey), value: value}, l, err
	}
	switch bucket {
	case "doors.v1":
		var d Door
		err = unmarshal(value, &d)
		d.Name = parts[0]
		e.class = classDoor
		return encoded(e, err, d, encodeDoor)
	case "penalties.v1":
		var v struct {
			Until  time.Time     `json:"until"`
			For    time.Duration `json:"for"`
			Times  int           `json:"times"`
			Reason string        `json:"reason"`
		}
		source, bad := boltSource(parts[1])
		err = errors.Join(unmarshal(value, &v), bad)
		e.class = classPenalty
		return encoded(e, err, Penalty{parts[0], "", source, v.Until, v.For, v.Times, v.Reason}, encodePenalty)
	case "grants.v1":
		var v struct {
			Until time.Time     `json:"until"`
			For   time.Duration `json:"for"`
		}
		source, bad := boltSource(parts[1])
		err = errors.Join(unmarshal(value, &v), bad)
		e.class = classGrant
		return encoded(e, err, Grant{parts[0], source, parts[2], v.Until, v.For}, encodeGrant)
	case "audit.v1", "refusals.v1":
		e.class = classRecord
		l = line{id: lineID(value), refusal: bucket == "refusals.v1", text: append(bytes.Clone(value), '\n')}
		var r audit.Record
		if err := unmarshal(value, &r); err == nil {
			l.refusal = isRefusal(r)
		}
		if l.id == 0 && len(key) == 8 {
			l.id = binary.BigEndian.Uint64(key)
		}
		return e, l, nil
	}
	return entry{}, l, nil
}

func encoded[T any](e entry, err error, v T, encode func(T) (key, value []byte, err error)) (entry, line, error) {
	if err == nil {
		e.key, e.value, err = encode(v)
	}
	return e, line{}, err
}

func boltSource(s string) (netip.Prefix, error) {
	if s == "" {
		return door.Any, nil
	}
	return netip.ParsePrefix(s)
}

// bolt is a file of that form, which is not trusted: all places are compared before
// they are used, and no page is read twice.
type bolt struct {
	r    io.ReaderAt
	page int64 // bytes
	root uint64
	txid uint64
	seen map[uint64]bool
	sum  uint64 // of the hashes of all entries but the ledger
}

func openBolt(r io.ReaderAt) (*bolt, error) {
	first, err := boltMeta(r, 0)
	if err != nil {
		return nil, err
	}
	second, err := boltMeta(r, first.page)
	if err != nil {
		return nil, err
	}
	if first.txid > second.txid {
		first, second = second, first
	}
	// With one of them lost, nobody could tell whether it was the last commit's.
	if second.txid != first.txid+1 {
		return nil, damaged("its two meta pages are not of consecutive commits: %d and %d", first.txid, second.txid)
	}
	return second, nil
}

func boltMeta(r io.ReaderAt, at int64) (*bolt, error) {
	var p [16 + 64]byte
	if _, err := r.ReadAt(p[:], at); err != nil {
		return nil, damaged("meta page at byte %d: %v", at, err)
	}
	m := p[16:]
	sum := fnv.New64a()
	sum.Write(m[:56])
	size := int64(boltOrder.Uint32(m[8:]))
	switch {
	case boltOrder.Uint32(m) != 0xED0CDAED || boltOrder.Uint32(m[4:]) != 2:
		return nil, damaged("meta page at byte %d: it is no state file", at)
	case boltOrder.Uint64(m[56:]) != sum.Sum64() || size < 512 || size > 1<<16:
		return nil, damaged("meta page at byte %d: its sum does not match", at)
	}
	return &bolt{r: r, page: size, root: boltOrder.Uint64(m[16:]), txid: boltOrder.Uint64(m[48:]),
		seen: make(map[uint64]bool)}, nil
}

// entries calls f for all entries, once they are known to be those that were written.
func (b *bolt) entries(f func(bucket string, key, value []byte) error) error {
	var ledger []byte
	err := b.tree("", b.root, func(bucket string, key, value []byte) error {
		if bucket == "meta.v1" && string(key) == "ledger" {
			ledger = bytes.Clone(value)
			return nil
		}
		h := fnv.New64a()
		for _, part := range [][]byte{[]byte(bucket), key, value} {
			h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
			h.Write(part)
		}
		b.sum += h.Sum64()
		return nil
	})
	if err != nil {
		return err
	}
	var l struct {
		Sum uint64 `json:"sum"`
	}
	if err := unmarshal(ledger, &l); err != nil || l.Sum != b.sum {
		return damaged("entries differ from what was written: their sum is %#x, the ledger is %q", b.sum, ledger)
	}
	clear(b.seen)
	return b.tree("", b.root, f)
}

// tree goes through the pages below page id, of the bucket, "" for the root.
func (b *bolt) tree(bucket string, id uint64, f func(bucket string, key, value []byte) error) error {
	if b.seen[id] || id >= 1<<40 {
		return damaged("page %d is used twice, or is none", id)
	}
	b.seen[id] = true
	var head [16]byte
	if _, err := b.r.ReadAt(head[:], int64(id)*b.page); err != nil {
		return damaged("page %d: %v", id, err)
	}
	overflow := int64(boltOrder.Uint32(head[12:]))
	if boltOrder.Uint64(head[:]) != id || overflow > 1<<16 {
		return damaged("page %d says that it is page %d, and %d more", id, boltOrder.Uint64(head[:]), overflow)
	}
	p := make([]byte, (1+overflow)*b.page)
	if _, err := b.r.ReadAt(p, int64(id)*b.page); err != nil {
		return damaged("page %d: %v", id, err)
	}
	return b.node(bucket, p, f)
}

// node goes through one page, or one that stands in a bucket's value.
func (b *bolt) node(bucket string, p []byte, f func(bucket string, key, value []byte) error) error {
	if len(p) < 16 {
		return damaged("a page is cut short")
	}
	flags, count := boltOrder.Uint16(p[8:]), int(boltOrder.Uint16(p[10:]))
	if flags != boltBranch && flags != boltLeaf || 16+16*count > len(p) {
		return damaged("a page of %d elements, with flags %#x", count, flags)
	}
	for i := range count {
		at := 16 + 16*i
		e := p[at:]
		if flags == boltBranch {
			if err := b.tree(bucket, boltOrder.Uint64(e[8:]), f); err != nil {
				return err
			}
			continue
		}
		from := uint64(at) + uint64(boltOrder.Uint32(e[4:]))
		mid := from + uint64(boltOrder.Uint32(e[8:]))
		end := mid + uint64(boltOrder.Uint32(e[12:]))
		if end > uint64(len(p)) {
			return damaged("an element runs out of its page")
		}
		if err := b.element(bucket, boltOrder.Uint32(e), p[from:mid], p[mid:end], f); err != nil {
			return err
		}
	}
	return nil
}

func (b *bolt) element(bucket string, flags uint32, key, value []byte, f func(bucket string, key, value []byte) error) error {
	switch {
	case bucket != "" && flags == 0:
		return f(bucket, key, value)
	case bucket != "" || flags != 1 || len(value) < 16 || len(key) == 0:
		return damaged("key %q: a bucket in a bucket, or an entry outside of one", key)
	}
	if root := boltOrder.Uint64(value); root != 0 {
		return b.tree(string(key), root, f)
	}
	return b.node(string(key), value[16:], f)
}
