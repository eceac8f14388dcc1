package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"

	bolt "go.etcd.io/bbolt"
)

// The buckets and, in metaBucket, the keys. A later version that changes what
// a value means writes into buckets of another name.
var (
	doorBucket    = []byte("doors.v1")
	penaltyBucket = []byte("penalties.v1")
	grantBucket   = []byte("grants.v1")
	auditBucket   = []byte("audit.v1")
	refusalBucket = []byte("refusals.v1")
	metaBucket    = []byte("meta.v1")

	ledgerKey  = []byte("ledger")
	bootKey    = []byte("boot")
	appliedKey = []byte("applied")
)

// buckets are those that every state file has; refusalBucket comes with the
// first refusal.
func buckets() [][]byte {
	return [][]byte{doorBucket, penaltyBucket, grantBucket, auditBucket, metaBucket}
}

// ledger is the account of what the file holds. bbolt's pages carry no
// checksum, so that a damaged one may read as other data, or as less; the
// ledger is how that is noticed when the file is opened.
type ledger struct {
	// Sum is the sum, modulo 2^64, of the hashes of all entries but the ledger
	// itself. A sum can be kept up to date by each commit from the entries it
	// touches alone, and unlike exclusive or it notices an entry that is there
	// twice.
	Sum uint64 `json:"sum"`
	// Last is the highest key ever given to a record in auditBucket, First the
	// lowest that is still kept (Last+1 for none).
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Bytes int64  `json:"bytes"` // of the records kept
	Check uint64 `json:"check"` // hash of the fields above
}

// entryHash is FNV-1a of one entry, each part with its length before it. It
// guards against damage, not against somebody who may write the file.
func entryHash(bucket, key, value []byte) uint64 {
	h := fnv.New64a()
	var n [4]byte
	for _, part := range [][]byte{bucket, key, value} {
		binary.BigEndian.PutUint32(n[:], uint32(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	return h.Sum64()
}

func (l ledger) check() uint64 {
	var b []byte
	for _, v := range []uint64{l.Sum, l.First, l.Last, uint64(l.Bytes)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return entryHash(metaBucket, ledgerKey, b)
}

func (l ledger) encode() ([]byte, error) {
	l.Check = l.check()
	return json.Marshal(l)
}

func decodeLedger(value []byte) (ledger, error) {
	var l ledger
	if err := unmarshal(value, &l); err != nil {
		return ledger{}, err
	}
	if l.Check != l.check() {
		return ledger{}, fmt.Errorf("ledger %q does not match its own check", value)
	}
	return l, nil
}

// txn is a write transaction that keeps the ledger.
type txn struct {
	tx    *bolt.Tx
	l     ledger
	trail trail
}

func begin(tx *bolt.Tx, at trail) (*txn, error) {
	l, err := decodeLedger(tx.Bucket(metaBucket).Get(ledgerKey))
	at.work = 0
	return &txn{tx: tx, l: l, trail: at}, err
}

// finish writes the ledger; nothing may be changed after it.
func (t *txn) finish() error {
	v, err := t.l.encode()
	if err != nil {
		return err
	}
	return t.tx.Bucket(metaBucket).Put(ledgerKey, v)
}

func (t *txn) put(bucket, key, value []byte) error {
	t.trail.work++
	b := t.tx.Bucket(bucket)
	if old := b.Get(key); old != nil {
		t.l.Sum -= entryHash(bucket, key, old)
	}
	t.l.Sum += entryHash(bucket, key, value)
	return b.Put(key, value)
}

func (t *txn) del(bucket, key []byte) error {
	t.trail.work++
	b := t.tx.Bucket(bucket)
	old := b.Get(key)
	if old == nil {
		return nil
	}
	t.l.Sum -= entryHash(bucket, key, old)
	return b.Delete(key)
}
