package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/race"
)

// specimen is a state file and its contents.
type specimen struct {
	file  []byte
	state any
	trail []audit.Record
	files map[string][]byte // the trail
}

func makeSpecimen(t testing.TB, commits int) specimen {
	t.Helper()
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{})
	for n := range commits {
		mustCommit(t, s, nth(n))
	}
	sp := specimen{state: sorted(mustLoad(t, s)), trail: mustRecords(t, s, "", "", 0, 10_000), files: map[string][]byte{}}
	mustClose(t, s)
	for n := range segments {
		text, err := os.ReadFile(filepath.Join(dir, trailName(n)))
		if err != nil {
			t.Fatal(err)
		}
		sp.files[trailName(n)] = text
	}
	var err error
	if sp.file, err = os.ReadFile(filepath.Join(dir, stateName(0))); err != nil {
		t.Fatal(err)
	}
	return sp
}

// open opens a damaged copy. Either everything is there and the store works, or the file
// was set aside unchanged, which is logged, and an empty one begun. The trail is there in
// any case.
func (sp specimen) open(t *testing.T, what string, file []byte) (aside bool) {
	t.Helper()
	dir, remove := quickDir(t)
	defer remove()
	b := &book{}
	for name, text := range sp.files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, stateName(0)), file, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, AuditLimit{}, b.log())
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return false
	}
	defer s.Close()
	want := sp.state
	if s.SetAside() != "" {
		want = sorted(State{Rebooted: true, Grants: none})
		kept, err := os.ReadFile(s.SetAside())
		if err != nil || !bytes.Equal(kept, file) {
			t.Errorf("%s: the file that was set aside is not the damaged one (%v)", what, err)
		}
		if !strings.Contains(b.String(), "level=ERROR msg=\"the state file is damaged: it was set aside") {
			t.Errorf("%s: set aside, but that is not in the log: %s", what, b)
		}
	}
	if d := diff(want, sorted(mustLoad(t, s))) + diff(sp.trail, mustRecords(t, s, "", "", 0, 10_000)); d != "" {
		t.Errorf("%s: set aside %q, and other data than was kept (-want +got):\n%s", what, s.SetAside(), d)
	}
	for n := range 3 {
		if r := mustCommit(t, s, nth(1000+n)); r[0].ID != uint64(len(sp.trail)+3*n+1) {
			t.Errorf("%s: the next record has ID %d, want %d", what, r[0].ID, len(sp.trail)+3*n+1)
		}
	}
	return s.SetAside() != ""
}

func TestDamage(t *testing.T) {
	race.Skip(t)
	sp := makeSpecimen(t, 30)
	if sp.open(t, "undamaged", sp.file) {
		t.Fatal("a sound file was set aside")
	}
	random := rand.New(rand.NewPCG(1, 2))
	for what, damage := range map[string]func(p []byte){
		"zeroed": func(p []byte) { clear(p) },
		"garbage": func(p []byte) {
			for i := range p {
				p[i] = byte(random.Uint32())
			}
		},
		"another's": func(p []byte) { copy(p, sp.file[headerSize+random.IntN(1000):]) },
		"shifted":   func(p []byte) { copy(p, p[1:]) },
	} {
		for at := 0; at < len(sp.file); at += 512 {
			file := slices.Clone(sp.file)
			damage(file[at:min(len(file), at+512)])
			if !sp.open(t, fmt.Sprintf("sector at %d %s", at, what), file) {
				t.Errorf("sector at %d %s: not noticed", at, what)
			}
		}
	}
	sp.open(t, "garbage", []byte(strings.Repeat("not a state file\n", 1000)))
	sp.open(t, "of a later form", withForm(sp.file, form+1))
}

// withForm returns the file with the header of another version.
func withForm(file []byte, n uint32) []byte {
	file = slices.Clone(file)
	order.PutUint32(file[8:], n)
	order.PutUint32(file[36:], sumOf(file[:36]))
	return file
}

// No byte of a file that was closed can change or be cut off without being noticed,
// except those that say how much was acknowledged.
func TestEveryByteCounts(t *testing.T) {
	race.Skip(t)
	sp := makeSpecimen(t, 8)
	for at := range sp.file {
		file := slices.Clone(sp.file)
		file[at] ^= 1 << (at % 8)
		l, err := openJournal(&memory{file})
		var d *damageError
		if hint := ackedAt <= at && at < ackedAt+12; !hint && at < ackedAt+12 || at >= headerSize {
			if !errors.As(err, &d) {
				t.Errorf("byte %d changed: %v, want damage", at, err)
			}
		} else if err != nil || l.end != int64(len(file)) {
			t.Errorf("byte %d changed: %v, want that the file is read all the same", at, err)
		}
		if _, err := openJournal(&memory{sp.file[:at:at]}); at > 0 && !errors.As(err, &d) {
			t.Errorf("cut to %d bytes: %v, want damage", at, err)
		}
	}
}

// The last frame of a file may have been written only in part, and the header that
// acknowledges it not at all. Its remains are cut off, which is logged, unless another
// frame follows.
func TestACommitThatWasCutShort(t *testing.T) {
	sp := makeSpecimen(t, 8)
	whole := &memory{slices.Clone(sp.file)}
	l, err := openJournal(whole)
	if err != nil {
		t.Fatal(err)
	}
	last := l.end // before the next two commits
	for _, n := range []int{1, 2} {
		b, err := encodeChange(&Change{Doors: nth(n).Doors})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.append(b); err != nil {
			t.Fatal(err)
		}
	}
	copy(whole.text[ackedAt:], ackedField(last)) // neither commit is acknowledged
	first := last + (l.end-last)/2               // both frames have the same length
	for n := last; n < l.end; n++ {
		file := slices.Clone(whole.text)
		file[n] ^= 4
		got, err := openJournal(&memory{file})
		if n < first && err == nil {
			t.Errorf("byte %d of %d changed, before a whole frame: it counts as a commit that was cut short, want damage", n, l.end)
		}
		if n >= first && (err != nil || got.end != first || got.cut != l.end-first) {
			t.Errorf("byte %d of %d changed, in the last frame: %v, want that it is cut off", n, l.end, err)
		}
		if got, err := openJournal(&memory{slices.Clone(whole.text[:n])}); err != nil || n < first && got.end != last || n >= first && got.end != first {
			t.Errorf("cut to %d bytes of %d: %v, want that all whole frames are there", n, l.end, err)
		}
		if got, err := openJournal(&memory{append(slices.Clone(whole.text[:n]), make([]byte, 5000)...)}); err != nil || got.end > n {
			t.Errorf("zeros from byte %d of %d on: %v, want that they are cut off", n, l.end, err)
		}
	}
	dir, b := t.TempDir(), &book{}
	if err := os.WriteFile(filepath.Join(dir, stateName(0)), whole.text[:l.end-1], 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, AuditLimit{}, b.log())
	if err != nil || s.SetAside() != "" || !strings.Contains(b.String(), "was only partly written, and is left out") {
		t.Errorf("opened with %v, set aside %q; the log has %s", err, s.SetAside(), b)
	}
	mustClose(t, s)
}

// A text in a commit does not count as a frame, even if it has all parts of one.
func TestAFrameInAFrame(t *testing.T) {
	l, err := beginJournal(&memory{}, 1, func(func(entry) error) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	other, err := beginJournal(&memory{}, 1, func(func(entry) error) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	forged, err := other.frame([]byte{1, 0, 0}, l.end+frameSize+3)
	if err != nil {
		t.Fatal(err)
	}
	end := l.end
	if err := l.append(appendEntry(nil, entry{class: classMeta, value: forged})); err != nil {
		t.Fatal(err)
	}
	file := l.f.(*memory).text
	copy(file[ackedAt:], ackedField(end))
	file[end+5] ^= 1
	if got, err := openJournal(&memory{file}); err != nil || got.end != end {
		t.Errorf("a commit with a stranger's frame in it, cut short: %v, want that it is cut off", err)
	}
}

// A state file that must exist and does not is lost; an empty file is not a new one.
func TestStatesThatAreLost(t *testing.T) {
	sp := makeSpecimen(t, 5)
	unfinished := slices.Clone(sp.file)
	clear(unfinished[:headerSize])
	later := slices.Clone(sp.file)
	order.PutUint64(later[12:], 9)
	order.PutUint32(later[36:], sumOf(later[:36]))
	spoilt := slices.Clone(later)
	spoilt[100] ^= 1
	empty := []byte{}
	for _, tt := range []struct {
		what      string
		one, two  []byte
		lost, new bool
	}{
		{"both are missing", nil, nil, false, true},
		{"both are empty", empty, empty, true, false},
		{"one is empty", empty, nil, true, false},
		{"the other is empty", nil, empty, true, false},
		{"as it should be", sp.file, empty, false, false},
		{"the second is not there yet", sp.file, nil, false, false},
		{"the first is not there any more", nil, sp.file, false, false},
		{"the second was being written", sp.file, unfinished, false, false},
		{"the first was being written", unfinished, sp.file, false, false},
		{"the first was not emptied yet", sp.file, later, false, false},
		{"none has a header", unfinished, empty, true, false},
		{"the later one is damaged", sp.file, spoilt, true, false},
	} {
		dir, b := t.TempDir(), &book{}
		put(t, dir, trailName(0), sp.files[trailName(0)])
		for i, text := range [][]byte{tt.one, tt.two} {
			if text != nil {
				if err := os.WriteFile(filepath.Join(dir, stateName(i)), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 2 { // the second time, to see that what was made of it is sound
			s, err := Open(dir, AuditLimit{}, b.log())
			if err != nil {
				t.Errorf("%s: %v", tt.what, err)
				break
			}
			want := sp.state
			if tt.lost || tt.new {
				want = sorted(State{Rebooted: true, Grants: none})
			}
			if d := diff(want, sorted(mustLoad(t, s))); d != "" || tt.lost != (s.SetAside() != "") {
				t.Errorf("%s: set aside %q, (-want +got):\n%s%s", tt.what, s.SetAside(), d, b)
			}
			mustClose(t, s)
		}
		if n := strings.Count(b.String(), "level=ERROR"); tt.lost != (n > 0) {
			t.Errorf("%s: %d errors in the log:\n%s", tt.what, n, b)
		}
	}
}

func sumOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func TestSetAsideAgain(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for range 3 {
		if err := os.WriteFile(filepath.Join(dir, stateName(0)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, dir, AuditLimit{})
		names = append(names, s.SetAside())
		mustClose(t, s)
	}
	s := mustOpen(t, dir, AuditLimit{})
	if s.SetAside() != names[2] {
		t.Errorf("set aside %q, want the latest of %q", s.SetAside(), names)
	}
	mustClose(t, s)
	slices.Sort(names)
	if len(slices.Compact(names)) != 3 {
		t.Errorf("one set-aside file has replaced another: %q", names)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"+asideInfix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range left {
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

// Whatever is not a regular file is set aside as well. Opening a pipe would block.
func TestWhatIsNoFileIsSetAside(t *testing.T) {
	for what, put := range map[string]func(path string) error{
		"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a link":      func(path string) error { return os.Symlink("/dev/null", path) },
	} {
		for _, name := range []string{stateName(0), stateName(1), trailName(3), boltName} {
			dir, b := t.TempDir(), &book{}
			if err := put(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			s, err := Open(dir, AuditLimit{}, b.log())
			if err != nil {
				t.Errorf("%s as %s: %v", what, name, err)
				continue
			}
			if !strings.HasPrefix(s.SetAside(), filepath.Join(dir, name)+asideInfix) || !strings.Contains(b.String(), "it is not a regular file") {
				t.Errorf("%s as %s: set aside as %q; the log has %s", what, name, s.SetAside(), b)
			}
			mustCommit(t, s, nth(1))
			mustClose(t, s)
		}
	}
}

// The error of a second daemon names the first, even if the lock is not a regular file.
func TestALockThatIsAPipe(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "doorward.lock"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, dir, AuditLimit{})
	defer mustClose(t, s)
	_, err := Open(dir, AuditLimit{}, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "in use by another doorwardd: stop") {
		t.Errorf("a second daemon: %v, want that the state is in use", err)
	}
}

// A file that has a terabyte, according to a damaged file system, is set aside, or
// emptied if nothing in it counts, without being read first.
func TestFilesThatAreTooLong(t *testing.T) {
	sp := makeSpecimen(t, 3)
	garbage := []byte{1, 2, 3, 4, 0xff, 0xff, 0xff, 0x7f, 9, 9, 9, 9, 9}
	for name, text := range map[string][]byte{
		stateName(0): sp.file, stateName(0) + " ": slices.Concat(sp.file, garbage), stateName(1): nil,
		trailName(0): sp.files[trailName(0)], trailName(segments - 1): nil, boltName: nil,
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, strings.TrimSpace(name))
		put(t, dir, stateName(0), sp.file)
		put(t, dir, filepath.Base(path), text)
		if err := os.Truncate(path, 1<<40); err != nil {
			t.Fatal(err)
		}
		b, read := &book{}, &counter{}
		s, err := open(dir, AuditLimit{}, b.log(), func(_ string, f file) file { return counted{f, read} })
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		mustCommit(t, s, nth(1))
		mustClose(t, s)
		if aside := s.SetAside() != ""; aside != (name != stateName(1)) || read.bytes > 1<<20 {
			t.Errorf("%q: %d bytes were read, set aside %q; the log has\n%s", name, read.bytes, s.SetAside(), b)
		}
	}
}

// A whole frame is found after one that is not, wherever the boundaries lie of the pieces
// in which the file is searched.
func TestFramesFarBehind(t *testing.T) {
	const piece = 1 << 18
	for _, away := range []int{1, frameSize - 1, piece - frameSize - 1, piece - frameSize, piece - frameSize + 1, piece - 1, piece, 3*piece + 5} {
		m := &memory{}
		l, err := beginJournal(m, 1, func(func(entry) error) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		e := appendEntry(nil, entry{class: classDoor, key: []byte("ssh"), value: []byte("{}")})
		frame, err := l.frame(e, l.end+int64(away))
		if err != nil {
			t.Fatal(err)
		}
		for _, whole := range []bool{true, false} {
			if !whole {
				frame[len(frame)-1]++
			}
			if _, err := m.WriteAt(frame, l.end+int64(away)); err != nil {
				t.Fatal(err)
			}
			if got := l.frameBehind(int64(len(m.text))); got != whole {
				t.Errorf("a frame (whole: %v) %d bytes after the end is found: %v", whole, away, got)
			}
		}
	}
}
