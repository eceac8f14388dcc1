package store

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzDecode: what decodes, encodes to what decodes to the same, under the
// same key.
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
			if r, err := decodeRecord(key, value); err != nil && !strings.HasPrefix(r.Reason, "this record cannot be read: ") {
				t.Errorf("%+v does not say that it cannot be read", r)
			}
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
}

// FuzzVerify: no file makes verify panic, and what it lets pass, bbolt reads.
func FuzzVerify(f *testing.F) {
	for _, commits := range []int{0, 3} {
		sp := makeSpecimen(f, commits)
		m, err := readMetas(bytes.NewReader(sp.file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sp.file[:m.high*m.pageSize])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) {
		if verify(bytes.NewReader(file), int64(len(file))) != nil {
			return
		}
		dir, remove := quickDir(t)
		defer remove()
		if err := os.WriteFile(filepath.Join(dir, fileName), file, 0o600); err != nil {
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
