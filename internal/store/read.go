package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/doorward/doorward/internal/audit"
)

// Records returns the newest records of the audit trail, oldest first: at most
// limit (100 if it is below 1), with an ID higher than after. With a door or a
// source only records of just that door or source are returned. A record that
// cannot be read is returned as one that says so, with an ID near its own.
func (s *Store) Records(door, source string, after uint64, limit int) ([]audit.Record, error) {
	if limit < 1 {
		limit = 100
	}
	// Most records of a long trail are of others; their text tells that a
	// hundred times quicker than decoding it does.
	wantDoor, err := field("door", door)
	if err != nil {
		return nil, err
	}
	wantSource, err := field("source", source)
	if err != nil {
		return nil, err
	}
	var found []audit.Record
	err = s.trail.newest(after, func(id uint64, text []byte) bool {
		if lineID(text) > 0 && !(bytes.Contains(text, wantDoor) && bytes.Contains(text, wantSource)) {
			return true
		}
		r, err := decodeRecord(id, text)
		if err != nil {
			s.log.Error("a record of the audit trail cannot be read", "dir", s.dir, "id", id, "err", err)
		}
		if door != "" && r.Door != door || source != "" && r.Source != source {
			return true
		}
		found = append(found, r)
		return len(found) < limit
	})
	if err != nil {
		return nil, fmt.Errorf("read the audit trail in %q: %w", s.dir, err)
	}
	slices.Reverse(found)
	return found, nil
}

// decodeRecord always returns a record: one that cannot be read is replaced by
// one that says so in its place, and the error says why.
func decodeRecord(id uint64, text []byte) (r audit.Record, err error) {
	if err = unmarshal(text, &r); err != nil {
		r = audit.Record{Event: audit.EventError, Reason: "this record cannot be read: " + err.Error()}
	}
	r.ID = id
	return stamped(r), err
}

// field is how a record has a field of that value, nothing for "".
func field(name, value string) ([]byte, error) {
	if value == "" {
		return nil, nil
	}
	v, err := json.Marshal(value)
	return fmt.Appendf(nil, "%q:%s", name, v), err
}

// newest calls f for the records with an ID higher than after, newest first, until
// it returns false.
func (t *trail) newest(after uint64, f func(id uint64, text []byte) bool) error {
	decided, refused := t.backwards(false), t.backwards(true)
	for {
		for _, r := range []*reader{decided, refused} {
			if err := r.fill(); err != nil {
				return err
			}
		}
		r := decided
		if decided.text == nil || refused.text != nil && refused.id > decided.id {
			r = refused
		}
		if r.text == nil || r.id <= after || !f(r.id, r.text) {
			return nil
		}
		r.text = nil
	}
}

// view is a segment as it was when a reader began.
type view struct {
	*segment
	size  int64
	begun int
}

// reader goes through the records of a class from the newest to the oldest. It holds
// up nobody: what it has not read yet when its segment is begun anew is gone.
type reader struct {
	t    *trail
	of   []view
	at   int64  // where what is in b begins in the last of them
	b    []byte // of which all lines behind are done
	id   uint64 // of text
	text []byte // the line that is next; nil: none yet, or none any more
}

func (t *trail) backwards(refusal bool) *reader {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &reader{t: t, id: t.last + 1}
	for _, s := range t.of(refusal) {
		r.of = append(r.of, view{s, s.size, s.begun})
	}
	if n := len(r.of); n > 0 {
		r.at = r.of[n-1].size
	}
	return r
}

// fill has the next line in text, if there is one.
func (r *reader) fill() error {
	for r.text == nil && len(r.of) > 0 {
		if len(r.b) > 0 {
			from := bytes.LastIndexByte(r.b[:len(r.b)-1], '\n') + 1
			if from > 0 || r.at == 0 {
				r.text, r.b = r.b[from:], r.b[:from]
				break
			}
		}
		if r.at > 0 {
			if err := r.more(); err != nil {
				return err
			}
			continue
		}
		r.of, r.b = r.of[:len(r.of)-1], nil
		if n := len(r.of); n > 0 {
			r.at = r.of[n-1].size
		}
	}
	if r.text == nil {
		return nil
	}
	if id := lineID(r.text); id > 0 {
		r.id = id
	} else {
		r.id-- // it lies somewhere between its neighbours
	}
	return nil
}

// more reads what lies in front of b. It doubles what it has, so that a long line
// costs its length.
func (r *reader) more() error {
	seg := r.of[len(r.of)-1]
	n := min(r.at, max(1<<16, int64(len(r.b))))
	b := make([]byte, n, int(n)+len(r.b))
	_, err := seg.f.ReadAt(b, r.at-n)
	r.t.mu.Lock()
	gone := seg.segment.begun != seg.begun
	r.t.mu.Unlock()
	switch {
	case gone:
		r.of, r.at, r.b = nil, 0, nil
		return nil
	case err != nil && err != io.EOF:
		return err
	}
	r.at -= n
	r.b = append(b, r.b...)
	return nil
}
