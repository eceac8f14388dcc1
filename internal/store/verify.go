package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
	"syscall"
)

// The layout of a bbolt file, version 2, in the byte order of the machine:
//
//	page      id u64, flags u16, count u16, overflow u32, then by flags:
//	branch    count × (pos u32, ksize u32, child u64), keys
//	leaf      count × (flags u32, pos u32, ksize u32, vsize u32), keys and values
//	freelist  count × id u64; count 0xffff: the first is the count
//	meta      magic u32, version u32, page size u32, flags u32, root u64,
//	          sequence u64, freelist u64, high water u64, txid u64, FNV-1a u64
//	bucket    (the value of a leaf element with flag 1) root u64, sequence u64;
//	          root 0: a leaf page follows in place
//
// pos counts from the element that it is in; a page goes on for overflow more
// pages. Pages 0 and 1 are the metas, written in turn.
const (
	pageHeader  = 16
	metaSize    = 64
	bucketSize  = 16
	elementSize = 16 // of branch and leaf alike

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	elementBucket = 1

	boltMagic   = 0xED0CDAED
	boltVersion = 2
)

var order = binary.NativeEndian

// damageError says what is wrong with a state file.
type damageError struct{ what string }

func (e *damageError) Error() string { return e.what }

func damaged(format string, args ...any) error {
	return &damageError{fmt.Sprintf(format, args...)}
}

// verifyFile reads the file through and returns a damageError unless it is a
// whole state file: each page is used for one thing or free, keys are in
// order, and the entries are those that the ledger accounts for.
func verifyFile(path string) error {
	// A pipe would be waited for: it is opened without (open(2), O_NONBLOCK).
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return damaged("it is not a regular file")
	}
	err = verify(f, info.Size())
	var d *damageError
	if err != nil && !errors.As(err, &d) {
		// What the disk cannot read is lost as well.
		return damaged("%v", err)
	}
	return err
}

func verify(r io.ReaderAt, size int64) error {
	m, err := readMetas(r)
	if err != nil {
		return err
	}
	if size/int64(m.pageSize) < int64(m.high) {
		return damaged("%d bytes long, but %d pages of %d bytes are in use", size, m.high, m.pageSize)
	}
	w := &walk{r: r, meta: m, seen: make([]bool, m.high)}
	w.seen[0], w.seen[1] = true, true
	if err := w.tree(nil, m.root, bounds{}); err != nil {
		return err
	}
	if err := w.freelist(); err != nil {
		return err
	}
	for id, seen := range w.seen {
		if !seen {
			return damaged("page %d is neither used nor free", id)
		}
	}
	return w.account()
}

type meta struct {
	pageSize                   uint64
	root, freelist, high, txid uint64
}

// readMetas returns the newer of the two metas. Both must be sound and one
// commit apart: with one of them lost nobody can tell whether it was the last
// commit's or the one's before. (A commit that is cut short does not do that: a
// meta lies within one sector.)
func readMetas(r io.ReaderAt) (meta, error) {
	first, err := readMeta(r, 0, 0)
	if err != nil {
		return meta{}, err
	}
	second, err := readMeta(r, 1, first.pageSize)
	if err != nil {
		return meta{}, err
	}
	newer, older := first, second
	if second.txid > first.txid {
		newer, older = second, first
	}
	if newer.txid != older.txid+1 || newer.pageSize != older.pageSize || first.txid%2 != 0 {
		return meta{}, damaged("the two meta pages are not of consecutive commits: %d and %d",
			older.txid, newer.txid)
	}
	return newer, nil
}

func readMeta(r io.ReaderAt, id, at uint64) (meta, error) {
	var b [pageHeader + metaSize]byte
	if _, err := r.ReadAt(b[:], int64(at)); err != nil {
		return meta{}, damaged("meta page at byte %d: %v", at, err)
	}
	v := b[pageHeader:]
	sum := fnv.New64a()
	sum.Write(v[:metaSize-8])
	m := meta{
		pageSize: uint64(order.Uint32(v[8:])),
		root:     order.Uint64(v[16:]),
		freelist: order.Uint64(v[32:]),
		high:     order.Uint64(v[40:]),
		txid:     order.Uint64(v[48:]),
	}
	switch {
	case order.Uint32(v) != boltMagic:
		return meta{}, damaged("meta page at byte %d: not a state file", at)
	case order.Uint32(v[4:]) != boltVersion:
		return meta{}, damaged("meta page at byte %d: version %d of the format, known is %d",
			at, order.Uint32(v[4:]), boltVersion)
	case order.Uint64(v[56:]) != sum.Sum64():
		return meta{}, damaged("meta page at byte %d: checksum does not match", at)
	case order.Uint64(b[:]) != id:
		return meta{}, damaged("meta page at byte %d says that it is page %d", at, order.Uint64(b[:]))
	case order.Uint16(b[8:])&flagMeta == 0,
		m.pageSize < 512, m.pageSize > 1<<16, m.pageSize&(m.pageSize-1) != 0,
		m.high < 4, m.high > 1<<40/m.pageSize:
		return meta{}, damaged("meta page at byte %d: values out of range", at)
	}
	return m, nil
}

// walk reads the pages of one file. It trusts no number of a page before it
// compared it.
type walk struct {
	r    io.ReaderAt
	meta meta
	seen []bool // pages used or free, by id

	sum        uint64 // as in ledger, over all that was found
	trailFirst []byte // first and last key, number and bytes of audit records
	trailLast  []byte
	trailCount uint64
	trailBytes int64
	ledger     []byte // value of the ledger, nil if not found
	buckets    []string
}

// claim notes that count pages from id are used, and by nothing else.
func (w *walk) claim(id, count uint64) error {
	if id < 2 || id >= w.meta.high || count > w.meta.high-id {
		return damaged("page %d and %d after it: only pages 2 to %d are there", id, count-1, w.meta.high-1)
	}
	for i := id; i < id+count; i++ {
		if w.seen[i] {
			return damaged("page %d is used twice", i)
		}
		w.seen[i] = true
	}
	return nil
}

// page reads and claims a page with all its overflow.
func (w *walk) page(id uint64) ([]byte, error) {
	if err := w.claim(id, 1); err != nil {
		return nil, err
	}
	b := make([]byte, w.meta.pageSize)
	if _, err := w.r.ReadAt(b, int64(id*w.meta.pageSize)); err != nil {
		return nil, damaged("page %d: %v", id, err)
	}
	if got := order.Uint64(b); got != id {
		return nil, damaged("page %d says that it is page %d", id, got)
	}
	overflow := uint64(order.Uint32(b[12:]))
	if overflow == 0 {
		return b, nil
	}
	if err := w.claim(id+1, overflow); err != nil {
		return nil, err
	}
	b = make([]byte, (1+overflow)*w.meta.pageSize)
	if _, err := w.r.ReadAt(b, int64(id*w.meta.pageSize)); err != nil {
		return nil, damaged("page %d: %v", id, err)
	}
	return b, nil
}

// bounds are the keys that a page may have: from low on, below high; nil is no
// bound.
type bounds struct{ low, high []byte }

// tree walks the pages of a bucket (nil: of the root, which has buckets only)
// below page id.
func (w *walk) tree(bucket []byte, id uint64, in bounds) error {
	b, err := w.page(id)
	if err != nil {
		return err
	}
	if err := w.node(bucket, b, in); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// node walks one branch or leaf page, the in-place ones of small buckets too.
func (w *walk) node(bucket, b []byte, in bounds) error {
	if len(b) < pageHeader {
		return damaged("cut short")
	}
	flags, count := order.Uint16(b[8:]), int(order.Uint16(b[10:]))
	switch flags {
	case flagLeaf:
		return w.leaf(bucket, b, count, in)
	case flagBranch:
		return w.branch(bucket, b, count, in)
	}
	return damaged("flags %#x where a branch or a leaf should be", flags)
}

func (w *walk) branch(bucket, b []byte, count int, in bounds) error {
	keys := make([][]byte, count+1)
	children := make([]uint64, count)
	for i := range count {
		e, err := element(b, i)
		if err != nil {
			return err
		}
		if keys[i], err = part(b, i, order.Uint32(e), 0, order.Uint32(e[4:])); err != nil {
			return err
		}
		children[i] = order.Uint64(e[8:])
	}
	if count == 0 {
		return damaged("a branch without children")
	}
	keys[count] = in.high
	for i, child := range children {
		if err := ordered(keys[i], in, i == 0); err != nil {
			return err
		}
		in.low = keys[i]
		if err := w.tree(bucket, child, bounds{keys[i], keys[i+1]}); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) leaf(bucket, b []byte, count int, in bounds) error {
	for i := range count {
		e, err := element(b, i)
		if err != nil {
			return err
		}
		flags, pos, ksize, vsize := order.Uint32(e), order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		key, err := part(b, i, pos, 0, ksize)
		if err != nil {
			return err
		}
		value, err := part(b, i, pos, ksize, vsize)
		if err != nil {
			return err
		}
		if err := ordered(key, in, i == 0); err != nil {
			return err
		}
		in.low = key
		if err := w.entry(bucket, flags, key, value); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(bucket []byte, flags uint32, key, value []byte) error {
	if (bucket == nil) != (flags == elementBucket) || flags > elementBucket {
		return damaged("key %q: a bucket in a bucket, or an entry outside of one", key)
	}
	if bucket != nil {
		w.count(bucket, key, value)
		return nil
	}
	if len(value) < bucketSize {
		return damaged("bucket %q: cut short", key)
	}
	w.buckets = append(w.buckets, string(key))
	var err error
	if root := order.Uint64(value); root == 0 {
		err = w.node(key, value[bucketSize:], bounds{})
	} else {
		err = w.tree(key, root, bounds{})
	}
	if err != nil {
		return fmt.Errorf("bucket %q: %w", key, err)
	}
	return nil
}

// count adds an entry to what was found.
func (w *walk) count(bucket, key, value []byte) {
	if bytes.Equal(bucket, metaBucket) && bytes.Equal(key, ledgerKey) {
		w.ledger = value
		return
	}
	w.sum += entryHash(bucket, key, value)
	if !bytes.Equal(bucket, auditBucket) {
		return
	}
	if w.trailCount == 0 {
		w.trailFirst = key
	}
	w.trailLast = key
	w.trailCount++
	w.trailBytes += int64(len(value))
}

// account compares what was found with the ledger.
func (w *walk) account() error {
	if w.ledger == nil {
		return damaged("it has no ledger: it is another program's or another version's")
	}
	// An empty bucket adds nothing to the sum.
	for _, name := range buckets() {
		if !slices.Contains(w.buckets, string(name)) {
			return damaged("it has no bucket %q, only %q", name, w.buckets)
		}
	}
	l, err := decodeLedger(w.ledger)
	if err != nil {
		return damaged("%v", err)
	}
	if l.Sum != w.sum {
		return damaged("entries differ from what was written: their sum is %#x, it should be %#x", w.sum, l.Sum)
	}
	count := l.Last + 1 - l.First
	if w.trailCount != count || w.trailBytes != l.Bytes || count > 0 &&
		(!bytes.Equal(w.trailFirst, recordKey(l.First)) || !bytes.Equal(w.trailLast, recordKey(l.Last))) {
		return damaged("the audit trail has %d records of %d bytes, it should have %d of %d, IDs %d to %d",
			w.trailCount, w.trailBytes, count, l.Bytes, l.First, l.Last)
	}
	return nil
}

// freelist claims the pages that are free.
func (w *walk) freelist() error {
	b, err := w.page(w.meta.freelist)
	if err != nil {
		return fmt.Errorf("free list: %w", err)
	}
	if flags := order.Uint16(b[8:]); flags != flagFreelist {
		return damaged("free list: flags %#x", flags)
	}
	count, ids := uint64(order.Uint16(b[10:])), b[pageHeader:]
	if count == 0xffff {
		count, ids = order.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return damaged("free list: %d pages do not fit into %d bytes", count, len(ids))
	}
	for i := range count {
		if err := w.claim(order.Uint64(ids[8*i:]), 1); err != nil {
			return fmt.Errorf("free list: %w", err)
		}
	}
	return nil
}

// element returns the i-th element of a branch or leaf page.
func element(b []byte, i int) ([]byte, error) {
	at := pageHeader + i*elementSize
	if at+elementSize > len(b) {
		return nil, damaged("element %d is outside of the page", i)
	}
	return b[at : at+elementSize], nil
}

// part returns size bytes, skip after pos, as the i-th element of the page
// counts it.
func part(b []byte, i int, pos, skip, size uint32) ([]byte, error) {
	from := uint64(pageHeader+i*elementSize) + uint64(pos) + uint64(skip)
	to := from + uint64(size)
	if to > uint64(len(b)) {
		return nil, damaged("element %d runs out of the page", i)
	}
	return b[from:to], nil
}

// ordered says whether the key is in the bounds; the first of a page may be the
// lower bound itself.
func ordered(key []byte, in bounds, first bool) error {
	c := bytes.Compare(key, in.low)
	if in.low != nil && (c < 0 || c == 0 && !first) || in.high != nil && bytes.Compare(key, in.high) >= 0 {
		return damaged("key %q is out of order", key)
	}
	return nil
}
