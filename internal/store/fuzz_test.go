package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/audit"
)

// FuzzDecode checks that a value that can be decoded is encoded, under the same key, to
// a value that decodes to the same, and that there is one encoding only: encoding it
// again gives the same bytes. It also checks that a query finds a record by its text if
// and only if it finds it after decoding.
func FuzzDecode(f *testing.F) {
	c := nth(7)
	seed := func(kind byte) func(k, v []byte, err error) {
		return func(k, v []byte, err error) {
			if err != nil {
				f.Fatal(err)
			}
			f.Add(kind, k, v)
		}
	}
	seed(0)(encodeDoor(c.Doors[0]))
	seed(1)(encodePenalty(c.Penalties[0]))
	seed(2)(encodeGrant(c.Grants[0]))
	seed(3)(encodeMark(c.Marks[0]))
	seed(3)(encodeMark(Mark{Knock: "sealed", Key: "a", Value: []byte{1}}))
	v, err := encodeApplied(*c.Applied)
	seed(4)(nil, v, err)
	_, lines, _, err := numbered(c.Records, 6, audit.Ends{})
	seed(5)(nil, lines[0].text, err)
	f.Add(byte(2), []byte("ssh\x00::ffff:192.0.2.1/128\x00a\x00b"), []byte{2, 4, 6})
	f.Add(byte(1), []byte("ssh\x00\x00touch-2"), []byte(`{"until":"9999-12-31T23:59:59-23:00"}`))
	f.Fuzz(func(t *testing.T, kind byte, key, value []byte) {
		switch kind % 6 {
		case 0:
			again(t, key, value, decodeDoor, encodeDoor)
		case 1:
			again(t, key, value, decodePenalty, encodePenalty)
		case 2:
			again(t, key, value, decodeGrant, encodeGrant)
		case 3:
			again(t, key, value, decodeMark, encodeMark)
			again(t, key, value, decodeShared, encodeMark)
		case 4:
			again(t, nil, value,
				func(_, v []byte) (Applied, error) { return decodeApplied(v) },
				func(a Applied) (k, v []byte, err error) { v, err = encodeApplied(a); return nil, v, err })
		case 5:
			fuzzRecord(t, value)
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
		// A time can be in the year 9999 in its zone and in 10000 in UTC; and a log that
		// was tampered with can have keys that no commit makes.
		for _, why := range []string{"year outside of range", "is not empty", "allowed are"} {
			if strings.Contains(err.Error(), why) {
				return
			}
		}
		t.Fatalf("%+v does not encode: %v", first, err)
	}
	second, err := decode(k, v)
	if err != nil {
		t.Fatalf("%q: %v", v, err)
	}
	if d := diff(first, second); d != "" {
		t.Fatalf("%q decodes differently from %q:\n%s", v, value, d)
	}
	if k2, once, err := encode(second); err != nil || !bytes.Equal(once, v) || !bytes.Equal(k2, k) {
		t.Fatalf("%q is encoded again as %q, %v", v, once, err)
	}
}

// fuzzRecord does the same for a record; every line gives one.
func fuzzRecord(t *testing.T, text []byte) {
	r, err := decodeRecord(7, text)
	if err != nil && !strings.HasPrefix(r.Reason, "this record cannot be read: ") {
		t.Fatalf("%+v does not say that the record cannot be read", r)
	}
	_, lines, _, err := numbered([]audit.Record{r}, 6, audit.Ends{})
	if err != nil {
		if !strings.Contains(err.Error(), "year outside of range") {
			t.Fatalf("%+v does not encode: %v", r, err)
		}
		return
	}
	line := lines[0].text
	second, err := decodeRecord(7, line)
	if d := diff(r, second); err != nil || d != "" || lineID(line) != 7 || bytes.IndexByte(line, '\n') != len(line)-1 {
		t.Fatalf("%q decodes differently from %q: %v\n%s", line, text, err, d)
	}
	// It has the same hash after another round of JSON.
	again, err := json.Marshal(second)
	for _, text := range [][]byte{line, again} {
		var w audit.Verifier
		if w.Add(text); err != nil || !w.End(0).Sound {
			t.Fatalf("%q does not verify: %v, %v", text, w.End(0).Faults, err)
		}
	}
	// Store.Records, which first searches the text, misses nothing that was written.
	for _, q := range []Query{
		{Door: second.Door}, {Door: "ssh"}, {Source: prefix("192.0.2.0/24")}, {Source: prefix("2001:db8::1/128")}, {Source: anybody},
		{Events: []string{second.Event}}, {Events: []string{audit.EventRefused}}, {Since: second.Time}, {Until: second.Time},
	} {
		if q.selects(second) && !q.look()(line) {
			t.Fatalf("%q is not found by %+v", line, q)
		}
	}
}

// FuzzVerify checks that no file, of this form or the one before, causes a panic or an
// endless loop, and that a file that is not damaged can be read and written.
func FuzzVerify(f *testing.F) {
	sp := makeSpecimen(f, 3)
	f.Add(false, sp.file)
	f.Add(false, sp.file[:len(sp.file)-9])
	f.Add(true, unpacked(f, "bolt-unreadable.db")[:24576])
	f.Fuzz(func(t *testing.T, before bool, file []byte) {
		if before {
			_, _ = boltEntries(file)
			return
		}
		m := &memory{bytes.Clone(file)}
		l, err := openJournal(m)
		var d *damageError
		if err != nil && !errors.As(err, &d) {
			t.Fatalf("openJournal: %v, want a *damageError", err)
		}
		if l == nil {
			return
		}
		if err := l.append(appendEntry(nil, entry{class: classDoor, key: []byte("x")})); err != nil {
			t.Fatal(err)
		}
		end, entries := l.end, ""
		for _, m := range []*memory{m, {bytes.Clone(m.text)}} {
			if l, err = openJournal(m); err != nil || l.end != end || l.cut != 0 {
				t.Fatalf("after another write, the log is %+v, %v, want that it ends at %d", l, err, end)
			}
			var got []string
			if err := l.each(func(n int, e entry) error { got = append(got, fmt.Sprint(n, e)); return nil }); err != nil {
				t.Fatal(err)
			}
			if entries = cmp.Or(entries, fmt.Sprint(got)); entries != fmt.Sprint(got) {
				t.Fatalf("the file reads as %s and then as %s", entries, got)
			}
		}
	})
}
