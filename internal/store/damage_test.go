package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/doorward/doorward/internal/audit"
)

// specimen is a state file and what is in it.
type specimen struct {
	file  []byte
	state State
	trail []audit.Record
}

func makeSpecimen(t testing.TB, commits int) specimen {
	t.Helper()
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{Records: 2 * commits})
	for n := range commits {
		c := nth(n)
		c.EndGrants = nil
		mustCommit(t, s, c)
	}
	sp := specimen{state: mustLoad(t, s), trail: mustRecords(t, s, "", "", 0, 10_000)}
	mustClose(t, s)
	var err error
	if sp.file, err = os.ReadFile(filepath.Join(dir, fileName)); err != nil {
		t.Fatal(err)
	}
	return sp
}

// open opens a damaged copy. Either all is there and it can be worked with, or
// it was set aside as it was, loudly, and an empty one begun.
func (sp specimen) open(t *testing.T, what string, file []byte) (aside bool) {
	t.Helper()
	dir, remove := quickDir(t)
	defer remove()
	b := &book{}
	path := filepath.Join(dir, fileName)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, AuditLimit{}, b.log())
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return false
	}
	defer s.Close()
	st, err := s.Load()
	trail, err2 := s.Records("", "", 0, 10_000)
	if err := errors.Join(err, err2); err != nil {
		t.Errorf("%s: %v", what, err)
		return false
	}
	if s.SetAside() == "" {
		if d := diff(sp.state, st) + diff(sp.trail, trail); d != "" {
			t.Errorf("%s: other data than was kept (-want +got):\n%s", what, d)
		}
	} else {
		kept, err := os.ReadFile(s.SetAside())
		if err != nil || !bytes.Equal(kept, file) {
			t.Errorf("%s: what was set aside is not the damaged file (%v)", what, err)
		}
		if d := diff(State{Rebooted: true}, st) + diff([]audit.Record(nil), trail); d != "" {
			t.Errorf("%s: the new file is not empty:\n%s", what, d)
		}
		if !strings.Contains(b.String(), "level=ERROR msg=\"the state file is damaged: it was set aside") {
			t.Errorf("%s: set aside without a word: %s", what, b)
		}
	}
	for n := range 3 {
		if _, err := s.Commit(nth(1000 + n)); err != nil {
			t.Errorf("%s: commit: %v", what, err)
		}
	}
	return s.SetAside() != ""
}

func TestDamagedPages(t *testing.T) {
	sp := makeSpecimen(t, 150)
	size := os.Getpagesize()
	pages := len(sp.file) / size
	var m meta
	var err error
	if m, err = readMetas(bytes.NewReader(sp.file)); err != nil {
		t.Fatal(err)
	}
	if sp.open(t, "undamaged", sp.file) {
		t.Fatal("a sound file was set aside")
	}
	random := rand.New(rand.NewPCG(1, 2))
	kinds := map[string]func(page []byte){
		"zeroed": func(p []byte) { clear(p) },
		"garbage": func(p []byte) {
			for i := range p {
				p[i] = byte(random.Uint32())
			}
		},
		"a bit":           func(p []byte) { p[random.IntN(len(p))] ^= 1 << random.IntN(8) },
		"a bit in front":  func(p []byte) { p[random.IntN(64)] ^= 1 << random.IntN(8) },
		"a bit behind":    func(p []byte) { p[len(p)-1-random.IntN(512)] ^= 1 << random.IntN(8) },
		"another's":       func(p []byte) { copy(p, sp.file[2*size+random.IntN(pages-2)*size:][:size]) },
		"half written":    func(p []byte) { clear(p[size/8:]) },
		"shifted":         func(p []byte) { copy(p, p[1:]) },
		"count lowered":   func(p []byte) { p[10]-- },
		"overflow raised": func(p []byte) { p[12]++ },
	}
	aside, step := 0, 1
	if testing.Short() {
		step = 4
	}
	for page := 0; page < int(m.high); page += step {
		for kind, damage := range kinds {
			file := slices.Clone(sp.file)
			damage(file[page*size:][:size])
			if sp.open(t, fmt.Sprintf("page %d %s", page, kind), file) {
				aside++
			}
		}
	}
	t.Logf("%d pages, %d kinds of damage: set aside %d times", m.high, len(kinds), aside)
	if aside < int(m.high)/step {
		t.Error("most of the damage was not noticed")
	}
}

func TestTruncated(t *testing.T) {
	sp := makeSpecimen(t, 20)
	m, err := readMetas(bytes.NewReader(sp.file))
	if err != nil {
		t.Fatal(err)
	}
	used := int(m.high * m.pageSize)
	for _, n := range []int{0, 1, 100, 4095, 4096, 5000, 8192, 3 * 4096, used / 2, used - 4096, used - 1} {
		if !sp.open(t, fmt.Sprintf("%d bytes", n), sp.file[:n]) {
			t.Errorf("%d of %d bytes were taken for the whole", n, used)
		}
	}
	if sp.open(t, "all that is used", sp.file[:used]) {
		t.Error("nothing but unused space was cut off, and the file was set aside")
	}
	sp.open(t, "garbage", []byte(strings.Repeat("not a database\n", 10_000)))
}

// TestOlderMeta: the last commit's meta page is lost, so that the file reads as
// the commit before left it. That is not all that was acknowledged.
func TestOlderMeta(t *testing.T) {
	sp := makeSpecimen(t, 20)
	newest := 0
	first, err := readMeta(bytes.NewReader(sp.file), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := readMetas(bytes.NewReader(sp.file)); err != nil || m.txid != first.txid {
		newest = int(first.pageSize)
	}
	file := slices.Clone(sp.file)
	clear(file[newest : newest+100])
	if !sp.open(t, "newest meta lost", file) {
		t.Error("the last commit was lost without a word")
	}
}

func TestDamagedInUse(t *testing.T) {
	dir, b := t.TempDir(), &book{}
	s, err := Open(dir, AuditLimit{}, b.log())
	if err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		mustCommit(t, s, nth(n))
	}
	if err := os.Truncate(filepath.Join(dir, fileName), 0); err != nil {
		t.Fatal(err)
	}
	_, err = s.Load()
	if want := "the file was damaged while in use"; err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("load: %v, want %q", err, want)
	}
	_, err = s.Commit(nth(1))
	if want := fmt.Sprintf("write %q: the file was damaged while in use: restart the daemon, which sets the file aside",
		filepath.Join(dir, fileName)); err == nil || err.Error() != want {
		t.Errorf("commit: %v\nwant  %s", err, want)
	}
	if n := strings.Count(b.String(), "level=ERROR"); n != 1 {
		t.Errorf("logged %d errors, want one:\n%s", n, b)
	}
	mustClose(t, s)
	s = mustOpen(t, dir, AuditLimit{})
	if s.SetAside() == "" {
		t.Error("the truncated file was not set aside")
	}
	mustClose(t, s)
}

func TestSetAsideAgain(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for range 3 {
		if err := os.WriteFile(filepath.Join(dir, fileName), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, dir, AuditLimit{})
		names = append(names, s.SetAside())
		mustClose(t, s)
	}
	s := mustOpen(t, dir, AuditLimit{})
	if s.SetAside() != names[2] {
		t.Errorf("set aside %q, want the latest of %q, until it is moved", s.SetAside(), names)
	}
	mustClose(t, s)
	slices.Sort(names)
	if len(slices.Compact(names)) != 3 {
		t.Errorf("set aside onto each other: %q", names)
	}
	for _, n := range names {
		if err := os.Remove(n); err != nil {
			t.Fatal(err)
		}
	}
	s = mustOpen(t, dir, AuditLimit{})
	if s.SetAside() != "" {
		t.Errorf("set aside %q, want none", s.SetAside())
	}
	mustClose(t, s)
}

// What is no file is set aside as well. A pipe would be waited for.
func TestWhatIsNoFileIsSetAside(t *testing.T) {
	for what, put := range map[string]func(path string) error{
		"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		dir, b := t.TempDir(), &book{}
		if err := put(filepath.Join(dir, fileName)); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, AuditLimit{}, b.log())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if s.SetAside() == "" || !strings.Contains(b.String(), "it is not a regular file") {
			t.Errorf("%s: set aside as %q, with the words %s", what, s.SetAside(), b)
		}
		mustClose(t, s)
	}
}

// A second daemon is told of the first, whatever the lock is.
func TestALockThatIsAPipe(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "doorward.lock"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, dir, AuditLimit{})
	defer mustClose(t, s)
	_, err := Open(dir, AuditLimit{}, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "in use by another doorwardd: stop") {
		t.Errorf("a second one: %v, want that it is in use", err)
	}
}

// An empty bucket adds nothing to the ledger's sum, and is missed all the same:
// else the daemon would end at its first look, at every start.
func TestEmptyBucketsAreMissed(t *testing.T) {
	file := makeSpecimen(t, 0).file
	for _, name := range buckets() {
		spoilt := bytes.ReplaceAll(file, name, append(name[:len(name)-1:len(name)-1], '2'))
		if bytes.Equal(spoilt, file) {
			t.Fatalf("no bucket %q", name)
		}
		err := verify(bytes.NewReader(spoilt), int64(len(spoilt)))
		if err == nil || !strings.Contains(err.Error(), "it has no ") {
			t.Errorf("without bucket %q: %v, want that it is missed", name, err)
		}
		if aside := (specimen{}).open(t, "no "+string(name), spoilt); !aside {
			t.Errorf("the file without bucket %q is not set aside", name)
		}
	}
}

// What a meta page says of its place is not in its checksum, and bbolt panics at
// another place than its own only much later.
func TestMetasKnowTheirPlace(t *testing.T) {
	file := makeSpecimen(t, 3).file
	for _, at := range []int{0, os.Getpagesize()} {
		spoilt := slices.Clone(file)
		spoilt[at+6] ^= 1
		err := verify(bytes.NewReader(spoilt), int64(len(spoilt)))
		if err == nil || !strings.Contains(err.Error(), "says that it is page ") {
			t.Errorf("meta page at %d: %v, want that it is at another place", at, err)
		}
	}
}
