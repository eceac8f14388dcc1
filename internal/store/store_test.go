package store

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

// Everybody is written as an empty source, as in all versions.
func TestEverybodyIsAnEmptySource(t *testing.T) {
	key, err := PenaltyKey{Door: "ssh", Source: door.Any}.encode()
	if _, got, _, _, err2 := parseKey(key); err != nil || err2 != nil || string(key) != "ssh\x00" || got != door.Any {
		t.Errorf("everybody's key is %q (%v), read as %v (%v)", key, err, got, err2)
	}
}

func TestDoors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if got, err := Doors(dir); got != nil || err != nil {
		t.Errorf("without a state: %v, %v, want none", got, err)
	}
	s := mustOpen(t, dir, AuditLimit{})
	want := []Door{{Name: "panel", State: "dark", Ran: true}, {Name: "ssh", State: "open"}}
	if _, err := s.Commit(Change{Doors: want}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := Doors(dir)
	slices.SortFunc(got, func(a, b Door) int { return strings.Compare(a.Name, b.Name) })
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("doors are %+v, %v, want %+v", got, err, want)
	}
	path := filepath.Join(dir, stateName(0))
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Doors(dir); got != nil || err == nil {
		t.Errorf("from a damaged state: %v, %v, want an error", got, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "nonsense" {
		t.Errorf("the damaged file has become %q, %v", text, err)
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "state")
	s := mustOpen(t, dir, AuditLimit{})
	defer s.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode() != 0o700|os.ModeDir {
		t.Errorf("%s: %v, %v", dir, info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3+segments {
		t.Errorf("%d files, %v; want %d", len(files), err, 3+segments)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
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
	before := sorted(mustLoad(t, s))
	for _, tt := range []struct {
		name, want string
		change     Change
	}{
		{"nameless door", `door: door "": a door's name is not empty`, Change{Doors: []Door{{}}}},
		{"NUL in a door", `a door's name is not empty and has no NUL`, Change{Grants: []Grant{{Door: "a\x00b"}}}},
		{"a grant of nobody", `allowed are a valid prefix`, Change{Grants: []Grant{{Door: "ssh", By: "touch"}}}},
		{"a penalty that ends of nobody", `allowed are a valid prefix`, Change{EndPenalties: []PenaltyKey{{Door: "ssh"}}}},
		{"a mark without a key", `a key of 0 bytes and a value of 1: allowed are 1 to 128, and at most 1024`,
			Change{Marks: []Mark{{"ssh", "touch", "", []byte("x")}}}},
		{"a mark with a long key", `a key of 129 bytes`, Change{Marks: []Mark{{"ssh", "touch", strings.Repeat("k", 129), nil}}}},
		{"a long mark", `a value of 1025`, Change{Marks: []Mark{{"ssh", "touch", "k", make([]byte, 1025)}}}},
		{"a mark of no knock", `a knock's name is not empty and has no NUL`, Change{Marks: []Mark{{"ssh", "", "k", nil}}}},
		{"NUL in a knock", `a knock's name is not empty and has no NUL`, Change{EndKnocks: []KnockKey{{"ssh", "a\x00"}}}},
		{"a door that ends has no name", `a door's name is not empty`, Change{EndDoors: []string{""}}},
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
			if d := diff(before, sorted(mustLoad(t, s))); d != "" {
				t.Errorf("a part of the change was kept (-want +got):\n%s", d)
			}
		})
	}
	if r := mustCommit(t, s, good); r[0].ID != 2 {
		t.Errorf("the next record has ID %d, want 2", r[0].ID)
	}
}

// TestUnreadable has sound values of a later version that this one does not understand.
// They are kept, even when the file is rewritten, and can be replaced.
func TestUnreadable(t *testing.T) {
	dir, b := t.TempDir(), &book{}
	s, err := Open(dir, AuditLimit{}, b.log())
	if err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, Change{Doors: []Door{{Name: "db"}, {Name: "ssh"}}, Records: make([]audit.Record, 3)})
	var later []byte
	for _, e := range []entry{
		{class: classDoor, key: []byte("db"), value: []byte(`{"state":7}`)},
		{class: classGrant, key: []byte("no source"), value: []byte{2, 2, 2}},
		{class: classPenalty, key: []byte("ssh\x00192.0.2.7/24x"), value: []byte(`{}`)},
		{class: classMark, key: []byte("ssh"), value: []byte("x")},
		{class: classMeta, key: []byte(appliedKey), value: []byte(`null`)},
		{class: 17, key: []byte("of a later version"), value: []byte("?")},
	} {
		later = appendEntry(later, e)
	}
	if err := s.state.append(later); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func(){func() {}, s.renew, func() {
		mustClose(t, s)
		s = mustOpen(t, dir, AuditLimit{})
	}} {
		step()
		st := mustLoad(t, s)
		if d := diff([]Door{{Name: "ssh"}}, st.Doors); d != "" || st.Unreadable != 5 || len(slices.Collect(st.Grants)) != 0 {
			t.Errorf("unreadable %d, want 5; doors (-want +got):\n%s", st.Unreadable, d)
		}
	}
	if n := strings.Count(b.String(), "a stored value cannot be read and is ignored"); n != 12 {
		t.Errorf("%d values are logged, want 12:\n%s", n, b)
	}
	mustCommit(t, s, Change{Doors: []Door{{Name: "db", State: "dark"}}})
	if st := mustLoad(t, s); st.Unreadable != 4 || len(st.Doors) != 2 {
		t.Errorf("unreadable %d and %d doors, want 4 and 2", st.Unreadable, len(st.Doors))
	}
	// After an entry that may end or clear anything, nothing is known of the state.
	if err := s.state.append([]byte{5<<5 | byte(classDoor), 1, 'x', 0}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	if s = mustOpen(t, dir, AuditLimit{}); s.SetAside() == "" {
		t.Error("a file with an entry of a later version that may end anything was read")
	}
	mustClose(t, s)
}

// Grants are read as they were when the state was loaded, even while commits go on, until
// the file is rewritten.
func TestGrantsAreReadFromTheFile(t *testing.T) {
	s := mustOpen(t, t.TempDir(), AuditLimit{})
	mustCommit(t, s, nth(1))
	mustCommit(t, s, nth(2))
	st := mustLoad(t, s)
	mustCommit(t, s, Change{ClearGrants: []string{"ssh"}})
	for range 2 {
		n := 0
		for range st.Grants {
			n++
		}
		if n != 2 {
			t.Errorf("%d grants, want the 2 of when it was loaded", n)
		}
	}
	for range st.Grants { // stop after one
		break
	}
	s.renew()
	defer func() {
		if recover() == nil {
			t.Error("grants were read from a file that was rewritten, want none")
		}
		mustClose(t, s)
	}()
	for range st.Grants {
	}
}

// The log is rewritten when it has grown, and then has only what is current.
func TestTheLogStaysSmall(t *testing.T) {
	dir, remove := quickDir(t)
	defer remove()
	s := mustOpen(t, dir, AuditLimit{})
	c := nth(1)
	c.Applied.Confirmed = make([]byte, 1<<16)
	begun := s.state.generation
	for range 200 {
		mustCommit(t, s, c)
		if most := int64(renewAt + 1<<18); s.state.end > most {
			t.Fatalf("the log has %d bytes, want at most %d", s.state.end, most)
		}
	}
	if s.state.generation == begun {
		t.Error("the log was never rewritten")
	}
	s.renew()
	if size, err := s.files[1-s.at].Size(); err != nil || size != 0 || s.state.end > 1<<18 {
		t.Errorf("the other file has %d bytes (%v), and this one %d", size, err, s.state.end)
	}
	mustClose(t, s)
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
