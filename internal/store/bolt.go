package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// The previous format was a file of go.etcd.io/bbolt, version 2 of its layout, in the
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
// A ledger among the entries has the sum of the hashes of all others, so that what is
// read needs no further checks: it is correct, or the file is set aside.
const (
	boltName = "doorward.db"
	migrated = ".migrated"
)

var boltOrder = binary.NativeEndian

// takeOver converts a file of the previous format into the state and the trail, and then
// renames it, with .migrated after its name: the previous version of the program finds it
// if it gets its name back. As long as it has its name, it was used last, whatever else
// there is, and after a crash the conversion begins again.
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
		return setAside("the state", path, err, s.log)
	}
	if err != nil {
		return err
	}
	if err := s.replace(kept, trail, limit); err != nil {
		return err
	}
	to, err := moveAside(path, path+migrated)
	if err != nil {
		return err
	}
	s.log.Info("the state was converted to a new format; the old file is no longer needed", "file", to)
	return syncDir(s.dir)
}

// replace makes a state and a trail from what was read, in place of what there is.
func (s *Store) replace(kept []entry, lines []line, limit AuditLimit) error {
	if err := s.keepReplaced(); err != nil {
		return err
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

// keepReplaced renames a state and a trail of this format, which the previous version of
// the program did not continue. The state goes last: a trail without one is left from a
// conversion that was cut short.
func (s *Store) keepReplaced() error {
	states := []string{stateName(0), stateName(1)}
	if !slices.ContainsFunc(states, func(name string) bool { _, err := os.Lstat(filepath.Join(s.dir, name)); return err == nil }) {
		return nil
	}
	var names []string
	for n := range segments {
		names = append(names, trailName(n))
	}
	stamp := time.Now().UTC().Format(stampForm)
	for _, name := range append(names, states...) {
		path := filepath.Join(s.dir, name)
		_, err := moveAside(path, path+".replaced-"+stamp)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	s.log.Warn("a file of the previous format was used last: it replaces what is here, which is kept under other names",
		"file", filepath.Join(s.dir, boltName), "names", "*.replaced-"+stamp)
	return syncDir(s.dir)
}

// readBolt reads the contents of the file. What cannot be understood is reported, and
// stays there.
func (s *Store) readBolt(f osFile) (kept []entry, lines []line, err error) {
	path := f.Name()
	all, err := mapped(f, boltEntries)
	for _, e := range all {
		converted, l, err := e.convert()
		switch {
		case err != nil:
			s.log.Error("a stored value cannot be read and is left behind", "file", path+migrated,
				"bucket", e.bucket, "key", string(e.key), "err", err)
		case l.text != nil:
			lines = append(lines, l)
		default:
			kept = append(kept, converted)
		}
	}
	// If two versions have written in turn, IDs do not increase.
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.id, b.id) })
	return kept, lines, err
}

// mapped lets read look at a file in place, which may be larger than the machine's
// memory.
func mapped(f osFile, read func([]byte) ([]boltEntry, error)) ([]boltEntry, error) {
	size, err := f.Size()
	if err != nil {
		return nil, damaged("read it: %v", err)
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, damaged("map its %d bytes: %v", size, err)
	}
	all, err := read(data)
	return all, errors.Join(err, syscall.Munmap(data))
}

// boltEntry is one entry of the previous format.
type boltEntry struct {
	bucket     string
	key, value []byte
}

// convert turns it into an entry or a line of the trail. The keys stay the same, and so
// do all values except those of grants.
func (b boltEntry) convert() (e entry, l line, err error) {
	e = entry{key: b.key, value: b.value}
	switch b.bucket {
	case "doors.v1":
		e.class = classDoor
		_, err = decodeDoor(e.key, e.value)
	case "penalties.v1":
		e.class = classPenalty
		_, err = decodePenalty(e.key, e.value)
	case "grants.v1":
		var g Grant
		e.class = classGrant
		if err = unmarshal(b.value, &g); err == nil {
			g.Door, g.Source, g.By, _, err = parseKey(b.key)
		}
		if err == nil {
			e.key, e.value, err = encodeGrant(g)
		}
	case "meta.v1":
		e.class = classMeta
		if string(b.key) == appliedKey {
			_, err = decodeApplied(b.value)
		}
	case "audit.v1", "refusals.v1":
		var r audit.Record
		if id := lineID(b.value); id > 0 {
			r.ID = id
		} else if len(b.key) == 8 {
			r.ID = binary.BigEndian.Uint64(b.key)
		}
		_ = json.Unmarshal(b.value, &r) // one that cannot be read is kept as it is
		l = line{id: r.ID, class: r.Class(), text: append(bytes.Clone(b.value), '\n')}
	default:
		err = errors.New("nobody knows what is in this bucket")
	}
	return e, l, err
}

// boltEntries returns all entries but the ledger, if they are as they were written.
// Nothing in data is trusted: an access outside it panics, as does one that the disk
// cannot read (mmap(2), SIGBUS), which counts as damage, and no page is read twice.
func boltEntries(data []byte) (all []boltEntry, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			all, err = nil, damaged("%v", p)
		}
	}()
	first := boltMeta(data, 0)
	second := boltMeta(data, first.page)
	if first.txid > second.txid {
		first, second = second, first
	}
	// If one of them is lost, nobody knows whether it was the last commit's.
	if second.txid != first.txid+1 {
		return nil, damaged("its two meta pages are not of consecutive commits: %d and %d", first.txid, second.txid)
	}
	w := boltWalk{boltPage: second, data: data, seen: make(map[uint64]bool)}
	w.tree("", w.root)
	var l struct {
		Sum uint64 `json:"sum"`
	}
	if err := unmarshal(w.ledger, &l); err != nil || l.Sum != w.sum {
		return nil, damaged("entries differ from what was written: their sum is %#x, the ledger is %q", w.sum, w.ledger)
	}
	return w.all, nil
}

type boltPage struct{ page, root, txid uint64 }

func boltMeta(data []byte, at uint64) boltPage {
	m := data[at+16:][:64]
	sum := fnv.New64a()
	sum.Write(m[:56])
	if boltOrder.Uint32(m) != 0xED0CDAED || boltOrder.Uint32(m[4:]) != 2 || boltOrder.Uint64(m[56:]) != sum.Sum64() {
		panic(fmt.Sprintf("the meta page at byte %d is not one, or its sum does not match", at))
	}
	return boltPage{uint64(boltOrder.Uint32(m[8:])), boltOrder.Uint64(m[16:]), boltOrder.Uint64(m[48:])}
}

type boltWalk struct {
	boltPage
	data   []byte
	seen   map[uint64]bool
	all    []boltEntry
	ledger []byte
	sum    uint64 // of the hashes of all
}

// tree walks the pages below one of a bucket, "" for the root.
func (w *boltWalk) tree(bucket string, id uint64) {
	if w.seen[id] || id >= uint64(len(w.data))/w.page {
		panic(fmt.Sprintf("page %d of %d is used twice, or is none", id, uint64(len(w.data))/w.page))
	}
	w.seen[id] = true
	w.node(bucket, w.data[id*w.page:])
}

// node walks one page, or one inside a bucket's value.
func (w *boltWalk) node(bucket string, p []byte) {
	for i := range int(boltOrder.Uint16(p[10:])) {
		e := p[16+16*i:]
		if boltOrder.Uint16(p[8:]) == 1 {
			w.tree(bucket, boltOrder.Uint64(e[8:]))
			continue
		}
		from := uint64(boltOrder.Uint32(e[4:]))
		mid := from + uint64(boltOrder.Uint32(e[8:]))
		key, value := e[from:mid], e[mid:mid+uint64(boltOrder.Uint32(e[12:]))]
		switch isBucket := boltOrder.Uint32(e) == 1; {
		case isBucket != (bucket == ""):
			panic(fmt.Sprintf("key %q: a bucket in a bucket, or an entry outside of one", key))
		case !isBucket:
			w.entry(boltEntry{bucket, key, value})
		case boltOrder.Uint64(value) == 0:
			w.node(string(key), value[16:])
		default:
			w.tree(string(key), boltOrder.Uint64(value))
		}
	}
}

func (w *boltWalk) entry(e boltEntry) {
	if e.bucket == "meta.v1" && string(e.key) == "ledger" {
		w.ledger = e.value
		return
	}
	h := fnv.New64a()
	for _, part := range [][]byte{[]byte(e.bucket), e.key, e.value} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	w.sum += h.Sum64()
	w.all = append(w.all, boltEntry{e.bucket, bytes.Clone(e.key), bytes.Clone(e.value)}) // data goes
}
