package store

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Query selects records of the audit trail.
type Query struct {
	Door string // "" for all
	// Source selects what concerns an address or a prefix: records of sources that
	// contain it or that it contains, and of everybody. door.Any selects only those of
	// everybody. The zero Source selects all.
	Source netip.Prefix
	Since  time.Time // not before, zero for the beginning
	Until  time.Time // before, zero for the end
	Events []string  // only these, empty for all
	After  uint64    // only records with a higher ID
	Oldest bool      // the oldest Limit of these, not the newest
	Limit  int       // 100 if it is less than 1
}

// Page is what a Query selects.
type Page struct {
	Records []audit.Record // in the order of their IDs
	// Through: everything that the query selects up to this ID is there. It is at least
	// After.
	Through uint64
	Last    uint64 // the highest ID that a record has
	// Gone is, with Oldest, the ID up to which records after After are gone, because
	// newer ones have taken their place. 0: all are there, as far as is known.
	Gone uint64
}

// Limits of searches: how many bytes, as written, a page of the oldest records may have;
// and how many searches may be under way at a time.
const (
	pageBytes = 8 << 20
	searches  = 4
)

// Records returns what a query selects. A record that cannot be read is returned as one
// that says so, with an ID near its own. Records may be called at any time, and only
// other searches wait for it.
func (s *Store) Records(q Query) (Page, error) {
	s.reads <- struct{}{}
	defer func() { <-s.reads }()
	if q.Limit < 1 {
		q.Limit = 100
	}
	p, err := s.search(q)
	if err != nil {
		return Page{}, fmt.Errorf("read the audit trail in %q: %w", s.dir, err)
	}
	return p, nil
}

func (s *Store) search(q Query) (p Page, err error) {
	look := q.look()
	size := 0
	take := func(id uint64, text []byte) bool {
		if lineID(text) > 0 && !look(text) {
			return true
		}
		r, err := decodeRecord(id, text)
		if err != nil {
			s.log.Error("a record of the audit trail cannot be read", "dir", s.dir, "id", id, "err", err)
		}
		if !q.selects(r) {
			return true
		}
		p.Records = append(p.Records, r)
		if size += len(text); q.Oldest {
			// A page does not end with an ID that may not be the record's own: the next
			// page begins after it.
			return lineID(text) == 0 || len(p.Records) < q.Limit && size < pageBytes
		}
		return len(p.Records) < q.Limit
	}
	if q.Oldest {
		p.Through, p.Gone, err = s.trail.oldest(q, take)
	} else {
		p.Through, err = s.trail.newest(q.After, take)
		slices.Reverse(p.Records)
	}
	p.Last = s.trail.highest()
	return p, err
}

// wants says whether the query can select records of a class.
func (q Query) wants(class audit.Class) bool {
	return len(q.Events) == 0 || slices.ContainsFunc(q.Events, func(e string) bool { return (e == audit.EventRefused) == (class == audit.Refused) })
}

// longestRecord is how many bytes of JSON a record may have: its readers do not accept
// lines of a megabyte.
const longestRecord = 1<<20 - 1<<10

// decodeRecord always returns a record: one that cannot be read, or that no reader would
// accept, is replaced by one that says so, and the error says why.
func decodeRecord(id uint64, text []byte) (r audit.Record, err error) {
	if err = unmarshal(text, &r); err == nil {
		err = fits(r, len(text))
	}
	if err != nil {
		r = audit.Record{Event: audit.EventError, Reason: "this record cannot be read: " + err.Error()}
	}
	r.ID = id
	return stamped(r), err
}

// fits returns an error if a record that was read from so many bytes is too long. A byte
// can become six when it is written again.
func fits(r audit.Record, size int) error {
	if size < longestRecord/6 {
		return nil
	}
	text, err := json.Marshal(r)
	if err == nil && len(text) > longestRecord {
		err = fmt.Errorf("it has %d bytes, and allowed are %d", len(text), longestRecord)
	}
	return err
}

// highest is the highest ID that a record has.
func (t *trail) highest() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(t.given, t.whole)
}

// newest calls f for the records with an ID higher than after, newest first, until it
// returns false. It returns the ID of the last record.
func (t *trail) newest(after uint64, f func(id uint64, text []byte) bool) (through uint64, err error) {
	t.mu.Lock()
	var all []*backwards
	for _, class := range readClasses() {
		all = append(all, t.backwards(class))
	}
	through = max(after, t.whole)
	t.mu.Unlock()
	for {
		var next *backwards
		for _, r := range all {
			if err := r.fill(); err != nil {
				return 0, err
			}
			if r.text != nil && (next == nil || r.id > next.id) {
				next = r
			}
		}
		if next == nil || next.id <= after || next.id <= through && !f(next.id, next.text) {
			return through, nil
		}
		next.text = nil
	}
}

// oldest calls f for the records with an ID higher than the query's After, oldest first,
// until it returns false. It returns the ID that it has reached, and the ID up to which
// records were gone when it began. If more go before it has read them, it ends.
func (t *trail) oldest(q Query, f func(id uint64, text []byte) bool) (through, gone uint64, err error) {
	t.mu.Lock()
	whole := t.whole
	var all []*forwards
	for _, class := range readClasses() {
		if q.wants(class) {
			r := &forwards{t: t, class: class, after: q.After, whole: whole}
			r.open()
			all = append(all, r)
		}
	}
	t.mu.Unlock()
	through, gone = max(q.After, whole), goneOf(all)
	for done := q.After; ; {
		var next *forwards
		for _, r := range all {
			if err := r.fill(); err != nil {
				return 0, 0, err
			}
			// Of two with the same ID, the one that may not be its own comes first: no
			// page ends with it.
			if r.text != nil && (next == nil || r.id < next.id || r.id == next.id && r.bad) {
				next = r
			}
		}
		switch now := goneOf(all); {
		case now > gone && done > q.After:
			return done, gone, nil
		case now > gone: // nothing has been read yet, so these are after After
			gone = now
		}
		if next == nil {
			return through, gone, nil
		}
		if !f(next.id, next.text) {
			return next.id, gone, nil
		}
		if next.done(); !next.bad {
			done = next.id
		}
	}
}

// goneOf returns the ID up to which records are gone from what is being read.
func goneOf(all []*forwards) (gone uint64) {
	for _, r := range all {
		gone = max(gone, r.gone)
	}
	return gone
}

// look returns a quick check of the text of a record: most records of a long trail are
// not selected, and this finds out ten times faster than decoding. It may accept a record
// that is not selected.
func (q Query) look() func(text []byte) bool {
	type check struct {
		name string
		ask  func(string) bool
	}
	var all []check
	if q.Door != "" {
		all = append(all, check{`"door":"`, func(s string) bool { return s == q.Door }})
	}
	if len(q.Events) > 0 {
		all = append(all, check{`"event":"`, func(s string) bool { return slices.Contains(q.Events, s) }})
	}
	if q.Source.Addr().IsValid() {
		all = append(all, check{`"source":"`, func(s string) bool { return s == "" || q.concerns(s) }})
	}
	if !q.Since.IsZero() || !q.Until.IsZero() {
		all = append(all, check{`"time":"`, func(s string) bool {
			at, err := time.Parse(time.RFC3339Nano, s)
			return err != nil || q.within(at)
		}})
	}
	return func(text []byte) bool {
		return !slices.ContainsFunc(all, func(c check) bool { return !field(text, c.name, c.ask) })
	}
}

// selects says whether the query selects a record, apart from its ID.
func (q Query) selects(r audit.Record) bool {
	switch {
	case q.Door != "" && r.Door != q.Door, len(q.Events) > 0 && !slices.Contains(q.Events, r.Event), !q.within(r.Time):
		return false
	case !q.Source.Addr().IsValid() || q.concerns(r.Source):
		return true
	}
	// A sum of networks that are too many to tell apart may concern any.
	return r.Source == "" && r.Count > 0 && q.Source.IsValid()
}

func (q Query) within(at time.Time) bool {
	return !at.Before(q.Since) && (q.Until.IsZero() || at.Before(q.Until))
}

// concerns says whether a record about a source is selected.
func (q Query) concerns(source string) bool {
	if source == "any" {
		return true
	}
	p, err := netip.ParsePrefix(source)
	if err != nil {
		a, err := netip.ParseAddr(source)
		if err != nil {
			return false
		}
		a = a.Unmap().WithZone("")
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return q.Source.Overlaps(p) // everybody, which is not a valid prefix, overlaps with none
}
