package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// FuzzDecode: what decodes, encodes to what decodes to the same, under the same
// key, and that in one form: what is encoded again is the same byte by byte. A
// record that is found by its text is found when it is decoded, and the other
// way round.
func FuzzDecode(f *testing.F) {
	c := nth(7)
	seed := func(kind byte, k, v []byte, err error) {
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, k, v)
	}
	k, v, err := encodeDoor(c.Doors[0])
	seed(0, k, v, err)
	k, v, err = encodePenalty(c.Penalties[0])
	seed(1, k, v, err)
	k, v, err = encodeGrant(c.Grants[0])
	seed(2, k, v, err)
	v, err = encodeApplied(*c.Applied)
	seed(3, nil, v, err)
	v, err = encodeRecord(c.Records[0])
	seed(4, recordKey(7), v, err)
	v, err = ledger{Sum: 1, First: 2, Last: 3, Bytes: 4}.encode()
	seed(5, nil, v, err)
	f.Add(byte(2), []byte("ssh\x00::ffff:192.0.2.1/128\x00a\x00b"), []byte(`{"until":"9999-12-31T23:59:59-23:00"}`))
	f.Add(byte(1), []byte("ssh\x00"), []byte(` null `))
	f.Fuzz(func(t *testing.T, kind byte, key, value []byte) {
		switch kind % 6 {
		case 0:
			again(t, key, value, decodeDoor, encodeDoor)
		case 1:
			again(t, key, value, decodePenalty, encodePenalty)
		case 2:
			again(t, key, value, decodeGrant, encodeGrant)
		case 3:
			again(t, nil, value,
				func(_, v []byte) (Applied, error) { return decodeApplied(v) },
				func(a Applied) (k, v []byte, err error) { v, err = encodeApplied(a); return nil, v, err })
		case 4:
			fuzzRecord(t, key, value)
		case 5:
			again(t, nil, value,
				func(_, v []byte) (ledger, error) { return decodeLedger(v) },
				func(l ledger) (k, v []byte, err error) { v, err = l.encode(); return nil, v, err })
		}
	})
}

func again[T any](t *testing.T, key, value []byte,
	decode func(k, v []byte) (T, error), encode func(T) (k, v []byte, err error),
) {
	first, err := decode(key, value)
	if err != nil {
		return
	}
	k, v, err := encode(first)
	if err != nil {
		// A time can be in year 9999 of its zone and in 10000 of UTC.
		if strings.Contains(err.Error(), "year outside of range") {
			return
		}
		t.Fatalf("%+v does not encode: %v", first, err)
	}
	if !bytes.Equal(k, key) {
		t.Fatalf("key %q became %q", key, k)
	}
	second, err := decode(k, v)
	if err != nil {
		t.Fatalf("%q: %v", v, err)
	}
	if d := diff(first, second); d != "" {
		t.Fatalf("%q is not what %q is:\n%s", v, value, d)
	}
	if _, once, err := encode(second); err != nil || !bytes.Equal(once, v) {
		t.Fatalf("%q is then %q, %v", v, once, err)
	}
}

// fuzzRecord is again for a record, of which there always is one.
func fuzzRecord(t *testing.T, key, value []byte) {
	r, err := decodeRecord(key, value)
	if err != nil && !strings.HasPrefix(r.Reason, "this record cannot be read: ") {
		t.Fatalf("%+v does not say that it cannot be read", r)
	}
	if len(key) == 8 && r.ID != binary.BigEndian.Uint64(key) {
		t.Fatalf("key %x has ID %d", key, r.ID)
	}
	v, err := encodeRecord(r)
	if err != nil {
		if !strings.Contains(err.Error(), "year outside of range") {
			t.Fatalf("%+v does not encode: %v", r, err)
		}
		return
	}
	second, err := decodeRecord(recordKey(r.ID), v)
	if d := diff(r, second); err != nil || d != "" {
		t.Fatalf("%q is not what %q is: %v\n%s", v, value, err, d)
	}
	if once, err := encodeRecord(second); err != nil || !bytes.Equal(once, v) {
		t.Fatalf("%q is then %q, %v", v, once, err)
	}
	// The quick look of Store.Records misses nothing that was written.
	for name, text := range map[string]string{"door": second.Door, "source": second.Source} {
		part, err := field(name, text)
		if err != nil || !bytes.Contains(v, part) {
			t.Fatalf("%q is not found by its %s %q: %q, %v", v, name, text, part, err)
		}
	}
}

// FuzzVerify: no file makes verify panic, and what it lets pass, bbolt itself
// finds whole, has in it what verify counted, and can be worked with. resum
// makes the checksums of the metas right again, so that what is behind them is
// reached.
func FuzzVerify(f *testing.F) {
	for _, commits := range []int{0, 3} {
		sp := makeSpecimen(f, commits)
		m, err := readMetas(bytes.NewReader(sp.file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sp.file[:m.high*m.pageSize], false)
		f.Add(sp.file[:m.high*m.pageSize], true)
	}
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, file []byte, resum bool) {
		if resum {
			file = resummed(file)
		}
		if verify(bytes.NewReader(file), int64(len(file))) != nil {
			return
		}
		dir, remove := quickDir(t)
		defer remove()
		path := filepath.Join(dir, fileName)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := boltAgrees(path); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, AuditLimit{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Load(); err != nil || s.SetAside() != "" {
			t.Errorf("load: %v, aside %q", err, s.SetAside())
		}
		if _, err := s.Commit(Change{Doors: []Door{{Name: "ssh", Since: time.Now()}}}); err != nil {
			t.Error(err)
		}
	})
}

// resummed is the file with metas whose sums are right, where it says that they
// are.
func resummed(file []byte) []byte {
	file = bytes.Clone(file)
	for at := 0; at+pageHeader+metaSize <= len(file); {
		meta := file[at+pageHeader:][:metaSize]
		sum := fnv.New64a()
		sum.Write(meta[:metaSize-8])
		order.PutUint64(meta[metaSize-8:], sum.Sum64())
		size := int(order.Uint32(meta[8:]))
		if at > 0 || size < 512 || size > 1<<16 {
			return file
		}
		at = size
	}
	return file
}

// boltAgrees opens the file with bbolt alone: its own check finds nothing, and
// the entries that it reads are those of the ledger.
func boltAgrees(path string) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			return fmt.Errorf("bbolt's check: %w", err)
		}
		l, err := decodeLedger(tx.Bucket(metaBucket).Get(ledgerKey))
		if err != nil {
			return err
		}
		var sum uint64
		err = tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				if !bytes.Equal(name, metaBucket) || !bytes.Equal(k, ledgerKey) {
					sum += entryHash(name, k, v)
				}
				return nil
			})
		})
		if err == nil && sum != l.Sum {
			err = fmt.Errorf("bbolt reads entries of sum %#x, the ledger has %#x", sum, l.Sum)
		}
		return err
	})
}
