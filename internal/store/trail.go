package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/doorward/doorward/internal/audit"
)

// The audit trail is in two buckets, so that strangers, who can have as many
// refusals recorded as they like, push out nothing but refusals. auditBucket has
// what was decided: its keys are numbers of its own, without a gap from the
// ledger's First to its Last. refusalBucket has the refusals by their IDs. What
// is deleted is the front of one or the other, so nobody searches the trail.
//
// A version that knows auditBucket alone reads such a file, without the
// refusals, and may go on with it: refusals that it writes there are read, and
// pruned, as what was decided.

// trail is how far the audit trail has come. It is read when the file is opened
// and kept up to date by commits.
type trail struct {
	last     uint64 // highest ID given
	refusals uint64 // kept in refusalBucket
	bytes    int64  // of those
	work     int    // entries written and deleted by the latest commit; for tests
}

// isRefusal says whether strangers can have as many records of the kind as they
// like.
func isRefusal(r audit.Record) bool { return r.Event == audit.EventRefused }

// readTrail reads how far the trail has come, once for all. It goes through all
// of it: where a version before has written among what a later one wrote, the
// last record has not the highest ID.
func readTrail(tx *bolt.Tx) trail {
	var t trail
	for _, name := range [][]byte{auditBucket, refusalBucket} {
		b := tx.Bucket(name)
		if b == nil {
			continue
		}
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			t.last = max(t.last, idOf(name, k, v), keyNumber(k))
			if bytes.Equal(name, refusalBucket) {
				t.refusals++
				t.bytes += int64(len(v))
			}
		}
	}
	return t
}

// keyNumber is the number that recordKey made a key of, 0 if it did not.
func keyNumber(k []byte) uint64 {
	if len(k) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(k)
}

// idOf is a record's ID, which in auditBucket the record says itself, in front
// of all else. One that cannot be read has its key's number.
func idOf(bucket, k, v []byte) uint64 {
	if bytes.Equal(bucket, refusalBucket) {
		return keyNumber(k)
	}
	digits, ok := bytes.CutPrefix(v, []byte(`{"id":`))
	var id uint64
	for i := 0; ok && i < len(digits) && i < 19 && '0' <= digits[i] && digits[i] <= '9'; i++ {
		id = 10*id + uint64(digits[i]-'0')
	}
	if id == 0 {
		return keyNumber(k)
	}
	return id
}

// append adds the records to the audit trail and returns them as kept.
func (t *txn) append(records []audit.Record) (kept []audit.Record, refusals int, err error) {
	for _, r := range records {
		r = stamped(r)
		r.ID = t.trail.last + 1
		if err := t.appendOne(r); err != nil {
			return nil, 0, fmt.Errorf("record %+v: %w", r, err)
		}
		t.trail.last++
		if isRefusal(r) {
			refusals++
		}
		kept = append(kept, r)
	}
	return kept, refusals, nil
}

func (t *txn) appendOne(r audit.Record) error {
	v, err := encodeRecord(r)
	if err != nil {
		return err
	}
	name, number := auditBucket, t.l.Last+1
	if isRefusal(r) {
		name, number = refusalBucket, r.ID
	}
	// A file of a version before has no bucket for refusals.
	b, err := t.tx.CreateBucketIfNotExists(name)
	if err != nil {
		return err
	}
	b.FillPercent = 1 // keys only ever rise, so full pages are never split again
	if err := t.put(name, recordKey(number), v); err != nil {
		return err
	}
	if isRefusal(r) {
		t.trail.refusals++
		t.trail.bytes += int64(len(v))
		return nil
	}
	t.l.Last = number
	t.l.Bytes += int64(len(v))
	return nil
}

// prune deletes the oldest records that are beyond the limit, but not the added
// ones: refusals beyond half of it, and of all others what goes beyond the part
// that refusals do not take. Of either it deletes at most twice as many as were
// added, or 64: that keeps up with any rate, and after the limit was lowered no
// commit takes long.
func (t *txn) prune(limit AuditLimit, added, refusals int) error {
	half := AuditLimit{Records: limit.Records / 2, Bytes: limit.Bytes / 2}
	if err := t.pruneRefusals(half, refusals); err != nil {
		return err
	}
	rest := AuditLimit{
		Records: limit.Records - min(int(t.trail.refusals), half.Records),
		Bytes:   limit.Bytes - min(t.trail.bytes, half.Bytes),
	}
	return t.pruneDecided(rest, added-refusals)
}

func (t *txn) pruneRefusals(limit AuditLimit, added int) error {
	b := t.tx.Bucket(refusalBucket)
	for range max(2*added, 64) {
		over := t.trail.refusals > uint64(limit.Records) || t.trail.bytes > limit.Bytes
		if !over || t.trail.refusals <= uint64(max(added, 1)) {
			return nil
		}
		k, v := b.Cursor().First()
		size := int64(len(v))
		if err := t.del(refusalBucket, bytes.Clone(k)); err != nil {
			return err
		}
		t.trail.refusals--
		t.trail.bytes -= size
	}
	return nil
}

func (t *txn) pruneDecided(limit AuditLimit, added int) error {
	b := t.tx.Bucket(auditBucket)
	for range max(2*added, 64) {
		count := t.l.Last + 1 - t.l.First
		over := count > uint64(limit.Records) || t.l.Bytes > limit.Bytes
		if !over || count <= uint64(max(added, 1)) {
			return nil
		}
		key := recordKey(t.l.First)
		t.l.Bytes -= int64(len(b.Get(key)))
		if err := t.del(auditBucket, key); err != nil {
			return err
		}
		t.l.First++
	}
	return nil
}

// Records returns the newest records of the audit trail, oldest first: at most
// limit (100 if it is below 1), with an ID higher than after. With a door or a
// source only records of just that door or source are returned. A record that
// cannot be read is returned as one that says so.
func (s *Store) Records(door, source string, after uint64, limit int) ([]audit.Record, error) {
	if limit < 1 {
		limit = 100
	}
	var found []audit.Record
	err := s.guarded("read", func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			found = nil
			return s.newest(tx, door, source, after, func(r audit.Record) bool {
				found = append(found, r)
				return len(found) < limit
			})
		})
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(found)
	return found, nil
}

// newest calls f for the records that are asked for, newest first, until it
// returns false.
func (s *Store) newest(tx *bolt.Tx, door, source string, after uint64,
	f func(audit.Record) bool,
) error {
	// Most records of a long trail are of others; their text tells that a
	// hundred times quicker than decoding it does.
	wantDoor, err := field("door", door)
	if err != nil {
		return err
	}
	wantSource, err := field("source", source)
	if err != nil {
		return err
	}
	decided, refused := backwards(tx, auditBucket), backwards(tx, refusalBucket)
	for {
		c := decided
		if refused.id > decided.id {
			c = refused
		}
		if c.k == nil || c.id <= after {
			return nil
		}
		k, v, id := c.k, c.v, c.id
		c.step()
		if !bytes.Contains(v, wantDoor) || !bytes.Contains(v, wantSource) {
			continue
		}
		r, err := decodeRecord(k, v)
		r.ID = id
		if err != nil {
			s.log.Error("a record of the audit trail cannot be read", "file", s.path, "id", r.ID, "err", err)
		} else if door != "" && r.Door != door || source != "" && r.Source != source {
			continue
		}
		if !f(r) {
			return nil
		}
	}
}

// reader goes through a bucket's records from the newest to the oldest. Its k is
// nil, and its id 0, behind the last.
type reader struct {
	bucket []byte
	c      *bolt.Cursor
	k, v   []byte
	id     uint64
}

// backwards returns a reader that is at the newest record of a bucket, which
// need not be there.
func backwards(tx *bolt.Tx, bucket []byte) *reader {
	r := &reader{bucket: bucket}
	if b := tx.Bucket(bucket); b != nil {
		r.c = b.Cursor()
		r.at(r.c.Last())
	}
	return r
}

func (r *reader) step() { r.at(r.c.Prev()) }

func (r *reader) at(k, v []byte) {
	r.k, r.v, r.id = k, v, 0
	if k != nil {
		r.id = idOf(r.bucket, k, v)
	}
}

// field is how encodeRecord writes a field of that value, nothing for "".
func field(name, value string) ([]byte, error) {
	if value == "" {
		return nil, nil
	}
	v, err := json.Marshal(value)
	return fmt.Appendf(nil, "%q:%s", name, v), err
}
