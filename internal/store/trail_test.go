package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/doorward/doorward/internal/audit"
)

// refusals are n refusals, each of another source.
func refusals(n, from int) Change {
	c := Change{Records: make([]audit.Record, n)}
	for i := range c.Records {
		c.Records[i] = audit.Record{Door: "ssh", Event: audit.EventRefused, By: "touch",
			Source: fmt.Sprintf("2001:db8::%x:%x", (from+i)>>16, (from+i)&0xffff), Reason: "port 59001 was to be left alone"}
	}
	return c
}

// Refusals without end push out refusals, and nothing else.
func TestRefusalsPushOutNothingElse(t *testing.T) {
	dir, remove := quickDir(t)
	defer remove()
	s := mustOpen(t, dir, AuditLimit{})
	s.db.NoSync = true // the disk is not what is tried here
	var before []audit.Record
	for n := range 100 {
		before = append(before, mustCommit(t, s, Change{Records: []audit.Record{
			{Door: "ssh", Event: audit.EventGranted, Source: "192.0.2.7", By: "touch", Reason: fmt.Sprint(n)},
			{Door: "ssh", Event: audit.EventApplied, By: "operator alice (uid 1000)"},
			{Event: audit.EventError, Reason: "the fence was down"},
		}})...)
	}
	const wave = 1000
	for n := range 112 {
		mustCommit(t, s, refusals(wave, n*wave))
	}
	got := mustRecords(t, s, "", "", 0, 200_000)
	if len(got) != len(before)+50_000 {
		t.Errorf("%d records are kept, want %d and 50,000 refusals", len(got), len(before))
	}
	if d := diff(before, got[:min(len(got), len(before))]); d != "" {
		t.Errorf("what was decided before the flood (-want +got):\n%s", d)
	}
	if last := got[len(got)-1].ID; last != uint64(len(before)+112*wave) {
		t.Errorf("the last ID is %d, want %d", last, len(before)+112*wave)
	}
	mustClose(t, s)
	s = mustOpen(t, dir, AuditLimit{})
	if s.SetAside() != "" || s.trail.refusals != 50_000 {
		t.Errorf("opened again: set aside %q, %d refusals, want 50,000", s.SetAside(), s.trail.refusals)
	}
	mustClose(t, s)
}

// What refusals do not take is there for all others.
func TestOthersHaveWhatRefusalsLeave(t *testing.T) {
	s := mustOpen(t, t.TempDir(), AuditLimit{Records: 100})
	mustCommit(t, s, refusals(10, 0))
	fill(t, s, 1000, audit.EventGranted)
	mustCommit(t, s, Change{Records: []audit.Record{{Event: audit.EventStopped}}}) // prunes what is left over
	for range 20 {
		mustCommit(t, s, Change{Records: []audit.Record{{Event: audit.EventStarted}}})
	}
	if got := mustRecords(t, s, "", "", 0, 1000); len(got) != 100 || got[9].Event != audit.EventRefused || got[10].Event == audit.EventRefused {
		t.Errorf("%d records, want 10 refusals and 90 others", len(got))
	}
	mustClose(t, s)
}

// The entries that a commit touches grow with what it adds, and with nothing
// else: not with the trail, nor with what is in its way.
func TestACommitsWork(t *testing.T) {
	for _, n := range []int{100, 20_000} {
		dir, remove := quickDir(t)
		defer remove()
		s := mustOpen(t, dir, AuditLimit{Records: n})
		s.db.NoSync = true
		fill(t, s, n, audit.EventGranted)
		mustCommit(t, s, refusals(n, 0))
		for added := 1; added <= 64; added *= 4 {
			total := 0
			for range 200 {
				mustCommit(t, s, refusals(added, 0))
				total += s.trail.work
			}
			// Each refusal is written and pushes out one; what the trail is over
			// its limit before, goes at 64 a commit.
			if most := 200 * max(3*added, added+2*64); total > most {
				t.Errorf("a trail of %d: 200 commits of %d touched %d entries, want at most %d", n, added, total, most)
			}
		}
		for range n / 32 {
			mustCommit(t, s, refusals(1, 0))
		}
		mustCommit(t, s, refusals(1, 0))
		if s.trail.work != 2 {
			t.Errorf("a trail of %d: a refusal more touched %d entries, want 2: it comes, the oldest goes", n, s.trail.work)
		}
		mustClose(t, s)
	}
}

// A file of the version before has its refusals among all others, and no bucket
// for them. It is read, written and pruned on, and its IDs go on rising.
func TestAFileWithoutARefusalBucket(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{})
	err := s.db.Update(func(tx *bolt.Tx) error {
		w, err := begin(tx, trail{})
		for id := uint64(1); id <= 40 && err == nil; id++ {
			r := audit.Record{ID: id, Door: "ssh", Event: audit.EventRefused, Time: time.Unix(int64(id), 0)}
			var v []byte
			if v, err = encodeRecord(r); err == nil {
				err = w.put(auditBucket, recordKey(id), v)
				w.l.Last, w.l.Bytes = id, w.l.Bytes+int64(len(v))
			}
		}
		return errors.Join(err, w.finish())
	})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, dir, AuditLimit{Records: 20})
	if r := mustCommit(t, s, refusals(2, 0)); r[0].ID != 41 || r[1].ID != 42 {
		t.Errorf("the next IDs are %d and %d, want 41 and 42", r[0].ID, r[1].ID)
	}
	if r := mustCommit(t, s, Change{Records: []audit.Record{{Event: audit.EventGranted}}}); r[0].ID != 43 {
		t.Errorf("the next ID is %d, want 43", r[0].ID)
	}
	got := mustRecords(t, s, "", "", 0, 100)
	if len(got) != 20 || got[0].ID != 24 || got[19].ID != 43 {
		t.Errorf("%d records from %d, want 20 from 24 to 43", len(got), got[0].ID)
	}
	mustClose(t, s)
	s = mustOpen(t, dir, AuditLimit{Records: 20})
	if s.SetAside() != "" || s.trail.last != 43 {
		t.Errorf("opened again: set aside %q, last ID %d, want 43", s.SetAside(), s.trail.last)
	}
	mustClose(t, s)
	if _, err := os.Stat(filepath.Join(dir, fileName)); err != nil {
		t.Error(err)
	}
}

// A version before that went on with the file has given IDs that are taken. No
// more are taken twice.
func TestAFileThatAVersionBeforeWentOnWith(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{})
	mustCommit(t, s, refusals(50, 0))
	mustCommit(t, s, Change{Records: []audit.Record{{Event: audit.EventGranted}}}) // ID 51, key 1
	err := s.db.Update(func(tx *bolt.Tx) error {
		w, err := begin(tx, trail{})
		if err != nil {
			return err
		}
		v, err := encodeRecord(audit.Record{ID: 2, Event: audit.EventRefused})
		if err != nil {
			return err
		}
		w.l.Last, w.l.Bytes = 2, w.l.Bytes+int64(len(v))
		return errors.Join(w.put(auditBucket, recordKey(2), v), w.finish())
	})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, dir, AuditLimit{})
	if r := mustCommit(t, s, refusals(1, 0)); s.SetAside() != "" || r[0].ID != 52 {
		t.Errorf("set aside %q, the next ID is %d, want 52", s.SetAside(), r[0].ID)
	}
	mustClose(t, s)
}

// A Memory keeps the two classes apart as a Store does, and gives IDs.
func TestMemory(t *testing.T) {
	m := InMemory()
	first, err := m.Commit(Change{Records: []audit.Record{{Door: "ssh", Event: audit.EventGranted, Source: "192.0.2.7"}}})
	if err != nil || first[0].ID != 1 {
		t.Fatalf("got %v, %v, want a record with ID 1", first, err)
	}
	for n := range 100 {
		if _, err := m.Commit(refusals(1000, n*1000)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := m.Records("ssh", "", 0, 1)
	if err != nil || len(got) != 1 || got[0].ID != 100_001 {
		t.Errorf("the newest is %v, %v, want ID 100001", got, err)
	}
	got, err = m.Records("", "192.0.2.7", 0, 100)
	if d := diff(first, got); err != nil || d != "" {
		t.Errorf("%v: the grant of before (-want +got):\n%s", err, d)
	}
	if got, _ := m.Records("", "", 0, 1_000_000); len(got) > 2*inMemory {
		t.Errorf("%d records are kept, want at most %d", len(got), 2*inMemory)
	}
	if st, err := m.Load(); err != nil || diff(State{}, st) != "" || m.SetAside() != "" {
		t.Errorf("it says that something was kept: %+v, %v", st, err)
	}
}
