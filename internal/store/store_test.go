package store

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
)

func TestLeft(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name          string
		until         time.Time
		given         time.Duration
		penalty, want time.Duration // of the penalty, and of the grant
	}{
		{"stands", now.Add(time.Minute), 5 * time.Minute, time.Minute, time.Minute},
		{"over", now.Add(-time.Minute), 5 * time.Minute, 0, 0},
		{"ends now", now, 5 * time.Minute, 0, 0},
		{"clock stepped back a day", now.Add(24 * time.Hour), 5 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		{"clock began in 1970", now.AddDate(56, 0, 0), time.Second, time.Second, time.Second},
		{"duration not said", now.Add(time.Hour), 0, 0, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := (Penalty{Until: tt.until, For: tt.given}).Left(now); got != tt.penalty {
				t.Errorf("penalty: %v, want %v", got, tt.penalty)
			}
			if got := (Grant{Until: tt.until, For: tt.given}).Left(now); got != tt.want {
				t.Errorf("grant: %v, want %v", got, tt.want)
			}
		})
	}
}

// Everybody is written as no source at all, as ever.
func TestEverybodyIsSaid(t *testing.T) {
	key, err := penaltyKey(PenaltyKey{Door: "ssh", Source: door.Any})
	if got, err2 := parsePenaltyKey(key); err != nil || err2 != nil || string(key) != "ssh\x00" || got.Source != door.Any {
		t.Errorf("everybody's key is %q (%v), read as %v (%v)", key, err, got, err2)
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "state")
	s := mustOpen(t, dir, AuditLimit{})
	defer s.Close()
	for path, want := range map[string]os.FileMode{
		dir:                                 0o700 | os.ModeDir,
		filepath.Join(dir, "doorward.db"):   0o600,
		filepath.Join(dir, "doorward.lock"): 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
}

func TestBoot(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{})
	if st := mustLoad(t, s); st.BootID != "" || !st.Rebooted {
		t.Errorf("a new store: boot %q, rebooted %v; want none and true", st.BootID, st.Rebooted)
	}
	mustCommit(t, s, Change{EndDoors: []string{"none"}})
	mustClose(t, s)
	s = mustOpen(t, dir, AuditLimit{})
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	st := mustLoad(t, s)
	if want := strings.TrimSpace(string(id)); st.BootID != want || st.Rebooted {
		t.Errorf("after a restart: boot %q, rebooted %v; want %q and false", st.BootID, st.Rebooted, want)
	}
	s.boot = "another"
	if st := mustLoad(t, s); st.BootID != strings.TrimSpace(string(id)) || !st.Rebooted {
		t.Errorf("after a reboot: boot %q, rebooted %v; want the former and true", st.BootID, st.Rebooted)
	}
	mustCommit(t, s, Change{EndDoors: []string{"none"}})
	if st := mustLoad(t, s); st.BootID != "another" || st.Rebooted {
		t.Errorf("after a commit: boot %q, rebooted %v", st.BootID, st.Rebooted)
	}
	mustClose(t, s)
}

func TestCommitIsWhole(t *testing.T) {
	s := mustOpen(t, t.TempDir(), AuditLimit{})
	defer s.Close()
	good := Change{Doors: []Door{{Name: "ssh", State: "open"}}, Records: []audit.Record{{Door: "ssh"}}}
	mustCommit(t, s, good)
	before := mustLoad(t, s)
	for _, tt := range []struct {
		name, want string
		change     Change
	}{
		{"nameless door", `doors.v1: {Name: State:`, Change{Doors: []Door{{}}}},
		{"NUL in a door", `a door's name is not empty and has no NUL`, Change{Grants: []Grant{{Door: "a\x00b"}}}},
		{"a grant of nobody", `allowed are a valid prefix`, Change{Grants: []Grant{{Door: "ssh", By: "touch"}}}},
		{"a penalty that ends of nobody", `allowed are a valid prefix`, Change{EndPenalties: []PenaltyKey{{Door: "ssh"}}}},
		{"key too long", `key too large`, Change{Grants: []Grant{{Door: "ssh", Source: door.Any, By: strings.Repeat("x", 1<<15)}}}},
		{"a year that cannot be", `year outside of range`, Change{Penalties: []Penalty{{Door: "ssh", Source: door.Any, Until: time.Unix(1<<40, 0)}}}},
		{"a record's year", `year outside of range`, Change{Records: []audit.Record{{}, {Time: time.Unix(1<<40, 0)}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.change
			c.Doors = append([]Door{{Name: "ssh", State: "dark"}}, c.Doors...)
			c.Records = append([]audit.Record{{Door: "first"}}, c.Records...)
			_, err := s.Commit(c)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if d := diff(before, mustLoad(t, s)); d != "" {
				t.Errorf("half of the change was kept (-want +got):\n%s", d)
			}
		})
	}
	if r := mustCommit(t, s, good); r[0].ID != 2 {
		t.Errorf("the next record has ID %d, want 2", r[0].ID)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	const wide = 10_000
	s := mustOpen(t, dir, AuditLimit{Records: wide})
	fill(t, s, wide, audit.EventGranted)
	mustClose(t, s)

	// A lower limit is reached in steps, oldest first, while records are added.
	s = mustOpen(t, dir, AuditLimit{Records: 10})
	last := uint64(wide)
	for range wide / 32 {
		r := mustCommit(t, s, Change{Records: make([]audit.Record, 1)})
		if last++; r[0].ID != last {
			t.Fatalf("ID %d, want %d", r[0].ID, last)
		}
	}
	got := mustRecords(t, s, "", "", 0, wide)
	if len(got) != 10 || got[len(got)-1].ID != last {
		t.Errorf("%d records, the last %d; want 10, the last %d", len(got), got[len(got)-1].ID, last)
	}
	// A commit of more than the limit is kept whole.
	mustCommit(t, s, Change{Records: make([]audit.Record, 25)})
	if got := mustRecords(t, s, "", "", 0, wide); len(got) != 25 || got[0].ID != last+1 {
		t.Errorf("%d records from ID %d, want the 25 from %d", len(got), got[0].ID, last+1)
	}
	mustClose(t, s)

	// By bytes; one that alone is too much is kept, as the newest.
	s = mustOpen(t, dir, AuditLimit{Bytes: 1000})
	r := mustCommit(t, s, Change{Records: []audit.Record{{Reason: strings.Repeat("x", 2000)}}})
	if got := mustRecords(t, s, "", "", 0, wide); len(got) != 1 || got[0].ID != r[0].ID || r[0].ID != last+26 {
		t.Errorf("%d records, want the one with ID %d", len(got), last+26)
	}
	mustClose(t, s)
	mustClose(t, mustOpen(t, dir, AuditLimit{})) // the ledger still tells the truth
}

func fill(t testing.TB, s *Store, n int, event string) {
	t.Helper()
	at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	for done := 0; done < n; {
		c := Change{Records: make([]audit.Record, min(1000, n-done))}
		for i := range c.Records {
			c.Records[i] = audit.Record{
				Time: at.Add(time.Duration(done) * time.Second), Door: "ssh", Event: event,
				Source: netip.AddrFrom4([4]byte{192, 0, 2, byte(done % 250)}).String(), By: "touch",
				Reason: "port 59001 was to be left alone",
			}
			done++
		}
		mustCommit(t, s, c)
	}
}

// TestUnreadable has values of a later version: sound, and not understood.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{})
	mustCommit(t, s, Change{Doors: []Door{{Name: "db"}, {Name: "ssh"}}, Records: make([]audit.Record, 3)})
	err := s.db.Update(func(tx *bolt.Tx) error {
		w, err := begin(tx, trail{})
		if err != nil {
			return err
		}
		return errors.Join(
			w.put(doorBucket, []byte("db"), []byte(`{"state":7}`)),
			w.put(grantBucket, []byte("no source"), []byte(`{}`)),
			w.put(penaltyBucket, []byte("ssh\x00192.0.2.7/24x"), []byte(`{}`)),
			w.put(metaBucket, appliedKey, []byte(`null`)),
			w.put(auditBucket, recordKey(2), []byte(`[]`)),
			w.finish())
	})
	if err != nil {
		t.Fatal(err)
	}
	st := mustLoad(t, s)
	if d := diff([]Door{{Name: "ssh"}}, st.Doors); d != "" || st.Unreadable != 4 {
		t.Errorf("unreadable %d, want 4; doors (-want +got):\n%s", st.Unreadable, d)
	}
	got := mustRecords(t, s, "", "", 0, 10)
	if len(got) != 3 || got[1].ID != 2 || got[1].Event != audit.EventError ||
		!strings.HasPrefix(got[1].Reason, "this record cannot be read: json: cannot unmarshal array") {
		t.Errorf("records %+v: the second should say that it cannot be read", got)
	}
	// All of it is still there, and can be replaced.
	mustCommit(t, s, Change{Doors: []Door{{Name: "db", State: "dark"}}})
	if st := mustLoad(t, s); st.Unreadable != 3 || len(st.Doors) != 2 {
		t.Errorf("unreadable %d and %d doors, want 3 and 2", st.Unreadable, len(st.Doors))
	}
	mustClose(t, s)
}

// TestManyRecords is a trail of a million.
func TestManyRecords(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 200 MB")
	}
	const n = 1_000_000
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{Records: n, Bytes: 1 << 40})
	s.db.NoSync = true // the disk is not what is tried here
	began := time.Now()
	step := func(what string) {
		t.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
		began = time.Now()
	}
	fill(t, s, n, audit.EventGranted)
	step("written")
	mustClose(t, s)
	s = mustOpen(t, dir, AuditLimit{Records: n, Bytes: 1 << 40})
	step("opened")
	if got := mustRecords(t, s, "", "", n-5, 100); len(got) != 5 || got[4].ID != n {
		t.Errorf("got %d of the last 5", len(got))
	}
	step("the last 5")
	if got := mustRecords(t, s, "", "192.0.2.9", 0, 100); len(got) != 100 {
		t.Errorf("got %d of one source, want 100", len(got))
	}
	step("100 of one source")
	if got := mustRecords(t, s, "another", "", 0, 100); len(got) != 0 {
		t.Errorf("got %d of a door that has none", len(got))
	}
	step("none of one door")
	mustCommit(t, s, Change{Records: make([]audit.Record, 1)})
	step("one more")
	if err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(auditBucket)
		first, _ := b.Cursor().First()
		last, _ := b.Cursor().Last()
		if want := [2]string{string(recordKey(2)), string(recordKey(n + 1))}; [2]string{string(first), string(last)} != want {
			t.Errorf("records %x to %x are kept, want %x", first, last, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	info, err := os.Stat(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes a record", info.Size()/n)
}
