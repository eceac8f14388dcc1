package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/doorward/doorward/internal/audit"
)

// append adds the records to the audit trail and returns them as kept.
func (t *txn) append(records []audit.Record) ([]audit.Record, error) {
	// Keys only ever rise, so full pages are never split again.
	t.tx.Bucket(auditBucket).FillPercent = 1
	kept := make([]audit.Record, 0, len(records))
	for _, r := range records {
		r = stamped(r)
		r.ID = t.l.Last + 1
		v, err := encodeRecord(r)
		if err != nil {
			return nil, fmt.Errorf("record %+v: %w", r, err)
		}
		if err := t.put(auditBucket, recordKey(r.ID), v); err != nil {
			return nil, fmt.Errorf("record %+v: %w", r, err)
		}
		t.l.Last = r.ID
		t.l.Bytes += int64(len(v))
		kept = append(kept, r)
	}
	return kept, nil
}

// prune deletes the oldest records that are beyond the limit, but not the added
// ones. It deletes at most twice as many as were added, or 64: that keeps up
// with any rate, and after the limit was lowered no commit takes long.
func (t *txn) prune(limit AuditLimit, added int) error {
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
	end := recordKey(after)
	c := tx.Bucket(auditBucket).Cursor()
	for k, v := c.Last(); k != nil && bytes.Compare(k, end) > 0; k, v = c.Prev() {
		if !bytes.Contains(v, wantDoor) || !bytes.Contains(v, wantSource) {
			continue
		}
		r, err := decodeRecord(k, v)
		if err != nil {
			s.log.Error("a record of the audit trail cannot be read", "file", s.path, "id", r.ID, "err", err)
		} else if door != "" && r.Door != door || source != "" && r.Source != source {
			continue
		}
		if !f(r) {
			return nil
		}
	}
	return nil
}

// field is how encodeRecord writes a field of that value, nothing for "".
func field(name, value string) ([]byte, error) {
	if value == "" {
		return nil, nil
	}
	v, err := json.Marshal(value)
	return fmt.Appendf(nil, "%q:%s", name, v), err
}
