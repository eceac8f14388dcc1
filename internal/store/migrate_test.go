package store

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/race"
)

// unpacked returns a file of testdata. All of these were written by earlier versions.
func unpacked(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.Open("testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// all returns everything that is in bolt-all.db, and in a state file of today's form.
func all() (any, []audit.Record) {
	at := time.Date(2026, 11, 27, 1, 2, 3, 456789, time.UTC)
	until := at.Add(time.Minute)
	st := State{
		Doors: []Door{
			{Name: "db", State: "dark", Reason: "idle", Since: at},
			{Name: "ssh", State: "open", Reason: "right knock", Since: at, Opened: at, LastSeen: until, Armed: true, ForAll: true}},
		Penalties: []Penalty{
			{Door: "ssh", Source: anybody, Until: until, For: 5 * time.Minute, Times: 1, Reason: "touched a port that is to be left alone"},
			{Door: "ssh", Source: prefix("192.0.2.7/32"), Until: until, For: 20 * time.Minute, Times: 3, Reason: "wrong order"},
			{Door: "db", Source: prefix("2001:db8::/64"), Until: at, Times: 2, Reason: "over"}},
		Grants: slices.Values([]Grant{
			{Door: "ssh", Source: anybody, By: "presence", Until: until},
			{Door: "ssh", Source: prefix("192.0.2.9/32"), By: "touch", Until: until, For: time.Minute},
			{Door: "ssh", Source: prefix("2001:db8::9/128"), By: "operator alice (uid 1000)", Until: until, For: time.Hour}}),
		Applied: Applied{Confirmed: []byte("[gateway]\n"), Pending: []byte("[gateway]\n# new\n"), Deadline: until,
			For: time.Minute, By: "operator alice (uid 1000)", Rejected: []byte("# bad\n")},
	}
	return sorted(st), []audit.Record{
		{ID: 1, Time: at, Event: audit.EventStarted, Reason: "version 1 guards 2 doors"},
		{ID: 2, Time: at, Door: "ssh", Event: audit.EventGranted, Source: "192.0.2.9", By: "touch", Until: &until},
		{ID: 3, Time: at, Door: "ssh", Event: audit.EventRefused, Source: "192.0.2.7", By: "touch", Reason: "wrong order", Until: &until},
		{ID: 4, Time: at, Door: "ssh", Event: audit.EventRefused, Source: "192.0.2.0/24", By: "touch", Reason: "many", Count: 17},
		{ID: 5, Time: at, Door: "db", Event: audit.EventDark, By: "idle"},
	}
}

// A file of the previous form is converted once, with everything in it. After a crash at
// any point, the conversion begins again or is finished.
func TestTakenOver(t *testing.T) {
	text := unpacked(t, "bolt-all.db")
	state, records := all()
	other := makeSpecimen(t, 3)
	for what, prepare := range map[string]func(dir string){
		"first":                          func(string) {},
		"cut short while it was written": func(dir string) { put(t, dir, stateName(0)+".new", other.file[:100]) },
		"cut short in the trail":         func(dir string) { put(t, dir, trailName(0), other.files[trailName(0)][:900]) },
		"cut short before it was renamed": func(dir string) {
			mustClose(t, mustOpen(t, dir, AuditLimit{}))
			if err := os.Rename(filepath.Join(dir, boltName+migrated), filepath.Join(dir, boltName)); err != nil {
				t.Fatal(err)
			}
		},
		"the version before was used again": func(dir string) {
			put(t, dir, stateName(1), other.file)
			put(t, dir, trailName(2), other.files[trailName(0)])
		},
	} {
		dir, b := t.TempDir(), &book{}
		put(t, dir, boltName, text)
		prepare(dir)
		for n := range 2 {
			s, err := Open(dir, AuditLimit{}, b.log())
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			st := mustLoad(t, s)
			st.BootID = ""
			if d := diff(state, forget(st)) + diff(records, mustRecords(t, s, "", "", 0, 100)[:len(records)]); d != "" || s.SetAside() != "" {
				t.Errorf("%s: set aside %q, (-want +got):\n%s", what, s.SetAside(), d)
			}
			if r := mustCommit(t, s, Change{Records: make([]audit.Record, 1)}); r[0].ID != uint64(6+n) {
				t.Errorf("%s: the next record has ID %d, want %d", what, r[0].ID, 6+n)
			}
			if v := verify(t, s); v.Unchained != 5 || v.Decided.ID != uint64(6+n) || v.Refusals != nil {
				t.Errorf("%s: got %+v, want that the chain begins with the new records", what, v)
			}
			mustClose(t, s)
		}
		if kept, err := os.ReadFile(filepath.Join(dir, boltName+migrated)); err != nil || !bytes.Equal(kept, text) {
			t.Errorf("%s: the previous file is not kept as it was: %v", what, err)
		}
		if strings.Contains(b.String(), "level=ERROR") || !strings.Contains(b.String(), "was converted") {
			t.Errorf("%s: the log has\n%s", what, b)
		}
	}
}

// Going back to the previous version, and then to this one again, loses nothing: neither
// the state and trail of this form nor the file that was converted first.
func TestGoingBackAndOn(t *testing.T) {
	first, second := unpacked(t, "bolt-all.db"), unpacked(t, "bolt-mixed.db")
	dir := t.TempDir()
	put(t, dir, boltName, first)
	mustClose(t, mustOpen(t, dir, AuditLimit{}))
	kept := make(map[string]bool)
	for _, name := range []string{stateName(0), trailName(0), trailName(1)} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || len(text) == 0 {
			t.Fatalf("%s has %d bytes: %v", name, len(text), err)
		}
		kept[string(text)] = false
	}
	kept[string(first)], kept[string(second)] = false, false
	put(t, dir, boltName, second)
	mustClose(t, mustOpen(t, dir, AuditLimit{}))
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := kept[string(text)]; ok {
			kept[string(text)] = true
		}
	}
	for text, there := range kept {
		if !there {
			t.Errorf("a file of %d bytes that begins with %.40q is gone; there are %v", len(text), text, entries)
		}
	}
}

// forget removes from a state what belongs to this machine.
func forget(st State) any {
	st.BootID, st.Rebooted = "", false
	return sorted(st)
}

func put(t testing.TB, dir, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Databases with trees of several levels, files that two versions wrote in turn, and
// files with values that this version does not understand are converted.
func TestTakenOverAsTheyAre(t *testing.T) {
	for _, tt := range []struct {
		name                               string
		doors, grants, records, unreadable int
		last                               uint64
		log                                int
	}{
		{"bolt-large.db", 0, 3000, 3000, 0, 3000, 0},
		{"bolt-mixed.db", 0, 0, 52, 0, 51, 0},
		{"bolt-unreadable.db", 1, 0, 3, 1, 3, 4},
		{"before-growth.db", 1, 1, 1, 0, 1, 0},
	} {
		dir, b := t.TempDir(), &book{}
		put(t, dir, boltName, unpacked(t, tt.name))
		s, err := Open(dir, AuditLimit{}, b.log())
		if err != nil {
			t.Fatal(err)
		}
		st := mustLoad(t, s)
		got := mustRecords(t, s, "", "", 0, 10_000)
		unreadable := 0
		for i, r := range got {
			if i > 0 && r.ID < got[i-1].ID {
				t.Errorf("%s: ID %d comes before %d", tt.name, got[i-1].ID, r.ID)
			}
			if strings.HasPrefix(r.Reason, "this record cannot be read") {
				unreadable++
			}
		}
		grants := slices.Collect(st.Grants)
		if len(st.Doors) != tt.doors || len(grants) != tt.grants || len(got) != tt.records || unreadable != tt.unreadable ||
			got[len(got)-1].ID != tt.last {
			t.Errorf("%s: %d doors, %d grants, %d records, %d unreadable, the last %d; want %+v",
				tt.name, len(st.Doors), len(grants), len(got), unreadable, got[len(got)-1].ID, tt)
		}
		if n := strings.Count(b.String(), "is left behind"); n != tt.log || s.SetAside() != "" {
			t.Errorf("%s: %d values are left behind, want %d; set aside %q:\n%s", tt.name, n, tt.log, s.SetAside(), b)
		}
		mustClose(t, s)
	}
}

// A damaged file of the previous form either still has everything that it had, or is set
// aside. It never reads as anything else, and no damage keeps it from being checked to
// its end.
func TestDamagedBeforeItIsTakenOver(t *testing.T) {
	race.Skip(t)
	text := unpacked(t, "bolt-all.db")
	entries, err := boltEntries(text)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(entries)
	noticed := 0
	for at := 0; at < len(text); at += 13 {
		text[at] ^= 1 << (at % 8)
		got, err := boltEntries(text)
		var d *damageError
		if errors.As(err, &d) {
			noticed++
		} else if err != nil || fmt.Sprint(got) != want {
			t.Errorf("byte %d changed: %v, and it reads as something else", at, err)
		}
		text[at] ^= 1 << (at % 8)
	}
	for n := 0; n < len(text); n += 501 {
		if got, err := boltEntries(text[:n:n]); err == nil && fmt.Sprint(got) != want {
			t.Errorf("cut to %d bytes, it reads as something else", n)
		}
	}
	if noticed < 100 {
		t.Errorf("%d changes were noticed", noticed)
	}
	dir, b := t.TempDir(), &book{}
	put(t, dir, boltName, text[:5000])
	s, err := Open(dir, AuditLimit{}, b.log())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s.SetAside(), filepath.Join(dir, boltName)+asideInfix) || !strings.Contains(b.String(), "the state file is damaged") {
		t.Errorf("set aside as %q; the log has %s", s.SetAside(), b)
	}
	mustClose(t, s)
}

// A directory that the first version of today's form has left can be read for ever.
func TestTodaysForm(t *testing.T) {
	dir := t.TempDir()
	var files map[string][]byte
	if err := json.Unmarshal(unpacked(t, "form-1.json"), &files); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		put(t, dir, name, text)
	}
	b := &book{}
	s, err := Open(dir, AuditLimit{}, b.log())
	if err != nil {
		t.Fatal(err)
	}
	st := mustLoad(t, s)
	marks := []Mark{{Door: "ssh", Knock: "sealed", Key: "a", Value: []byte{0, 1}}}
	knocks := Penalty{Door: "ssh", Knock: "sealed-2", Source: prefix("192.0.2.8/32"), Times: 1, Reason: "of one knock"}
	if d := diff(marks, st.Marks); d != "" || !slices.Contains(st.Penalties, knocks) {
		t.Errorf("penalties are %+v, marks (-want +got):\n%s", st.Penalties, d)
	}
	st.Marks = nil
	st.Penalties = slices.DeleteFunc(st.Penalties, func(p Penalty) bool { return p == knocks })
	state, records := all()
	if d := diff(state, forget(st)) + diff(records, mustRecords(t, s, "", "", 0, 100)); d != "" || s.SetAside() != "" || b.String() != "" {
		t.Errorf("set aside %q, %s, (-want +got):\n%s", s.SetAside(), b, d)
	}
	mustClose(t, s)
}
