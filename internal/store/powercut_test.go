package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/race"
)

// plug is a machine that can lose its power: it records what is done to files, and says
// what of that may be on the disk.
type plug struct {
	ops   []op1
	disk  map[string][]byte // as it was when the files were opened
	fail  func(name, what string) error
	marks []int // for each commit, how many ops there were when it was acknowledged
}

// op1 is a write, a truncation (data nil) or a sync of a file.
type op1 struct {
	name string
	sync bool
	at   int64
	data []byte
}

func (p *plug) wrap(name string, f file) file {
	size, _ := f.Size()
	text := make([]byte, size)
	_, _ = f.ReadAt(text, 0)
	p.disk[name] = text
	return plugged{f, name, p}
}

type plugged struct {
	file
	name string
	p    *plug
}

func (f plugged) do(what string, o op1) error {
	if f.p.fail != nil {
		if err := f.p.fail(f.name, what); err != nil {
			return err
		}
	}
	o.name = f.name
	f.p.ops = append(f.p.ops, o)
	return nil
}

func (f plugged) WriteAt(b []byte, at int64) (int, error) {
	if err := f.do("write", op1{at: at, data: bytes.Clone(b)}); err != nil {
		n, _ := f.file.WriteAt(b[:len(b)/2], at)
		return n, err
	}
	return f.file.WriteAt(b, at)
}

func (f plugged) Truncate(n int64) error {
	if err := f.do("truncate", op1{at: n}); err != nil {
		return err
	}
	return f.file.Truncate(n)
}

func (f plugged) Sync() error { return f.do("sync", op1{sync: true}) }

// pulled returns what is on the disk if the power fails after n ops: everything that was
// synced, and of the ops since then what keep says.
func (p *plug) pulled(n int, keep func(op1) (op1, bool)) map[string][]byte {
	disk := maps.Clone(p.disk)
	last := make(map[string]int)
	for i, o := range p.ops[:n] {
		if o.sync {
			last[o.name] = i
		}
	}
	for i, o := range p.ops[:n] {
		if i > last[o.name] {
			var kept bool
			if o, kept = keep(o); !kept {
				continue
			}
		}
		disk[o.name] = o.on(disk[o.name])
	}
	return disk
}

func (o op1) on(text []byte) []byte {
	switch {
	case o.sync:
		return text
	case o.data == nil:
		return append(slices.Clone(text[:min(o.at, int64(len(text)))]), make([]byte, max(0, o.at-int64(len(text))))...)
	}
	to := max(int64(len(text)), o.at+int64(len(o.data)))
	text = append(slices.Clone(text), make([]byte, to-int64(len(text)))...)
	copy(text[o.at:], o.data)
	return text
}

// TestPowerCut cuts the power after each operation on a file. Everything that was
// acknowledged is there, a commit that was under way is there or not, as a whole, and the
// trail has what the state has.
func TestPowerCut(t *testing.T) {
	race.Skip(t)
	dir, remove := quickDir(t)
	defer remove()
	limit := AuditLimit{Records: 2 * segments}
	p := &plug{disk: make(map[string][]byte)}
	s, err := open(dir, limit, slog.New(slog.DiscardHandler), p.wrap)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	states := []any{sorted(mustLoad(t, s))}
	for n := range 14 {
		mustCommit(t, s, nth(n))
		p.marks = append(p.marks, len(p.ops))
		states = append(states, sorted(mustLoad(t, s)))
		if n%5 == 3 {
			s.renew()
		}
		if n == 6 {
			if err := s.trail.sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	variants := map[string]func(op1) (op1, bool){
		"none of it": func(o op1) (op1, bool) { return o, false },
		"all of it":  func(o op1) (op1, bool) { return o, true },
		"some of it": func(o op1) (op1, bool) { return o, random.IntN(2) == 0 },
		"zeros": func(o op1) (op1, bool) { // the length was written, but not the data
			if o.data != nil && o.at != 0 && o.at != ackedAt {
				o.data = make([]byte, len(o.data))
			}
			return o, true
		},
		"a part": func(o op1) (op1, bool) {
			if o.data != nil && o.at != 0 && o.at != ackedAt {
				o.data = o.data[:1+random.IntN(len(o.data))]
			}
			return o, true
		},
	}
	for n := range len(p.ops) + 1 {
		acknowledged := 0
		for _, m := range p.marks {
			if m <= n {
				acknowledged++
			}
		}
		for what, keep := range variants {
			at := fmt.Sprintf("after %d ops, %s", n, what)
			checkPulled(t, at, p.pulled(n, keep), limit, states[acknowledged:min(acknowledged+2, len(states))], acknowledged)
			if t.Failed() {
				t.FailNow()
			}
		}
	}
}

// checkPulled opens what is on the disk, which must be one of states, of which the first
// was acknowledged.
func checkPulled(t *testing.T, at string, disk map[string][]byte, limit AuditLimit, states []any, acknowledged int) {
	t.Helper()
	dir, remove := quickDir(t)
	defer remove()
	for name, text := range disk {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := &book{}
	s, err := Open(dir, limit, b.log())
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	defer s.Close()
	if s.SetAside() != "" {
		t.Fatalf("%s: set aside: %s", at, b)
	}
	got := sorted(mustLoad(t, s))
	which := slices.IndexFunc(states, func(st any) bool { return diff(st, got) == "" })
	if which < 0 {
		t.Fatalf("%s: the state is neither that of commit %d nor of the next one (-want +got):\n%s", at, acknowledged, diff(states[0], got))
	}
	// Each commit has 3 records. Those in the last segments are there, without a gap.
	want := uint64(3 * (acknowledged + which))
	records := mustRecords(t, s, "", "", 0, 1000)
	if want > 0 && (len(records) < int(min(want, uint64(limit.Records-limit.Records/segments-3))) || records[len(records)-1].ID != want) {
		t.Fatalf("%s: %d records, want the last with ID %d", at, len(records), want)
	}
	for i, r := range records {
		if r.ID != want-uint64(len(records)-1-i) || strings.HasPrefix(r.Reason, "this record") {
			t.Fatalf("%s: record %d of %d is %+v, want ID %d", at, i, len(records), r, want-uint64(len(records)-1-i))
		}
	}
	if r := mustCommit(t, s, nth(99)); r[0].ID != want+1 {
		t.Fatalf("%s: the next record has ID %d, want %d", at, r[0].ID, want+1)
	}
	verify(t, s)
}

// TestDiskErrors makes each write, truncation and sync of the state, and then of the
// trail, fail once. Nothing of a commit that failed is kept, and the next one is.
func TestDiskErrors(t *testing.T) {
	race.Skip(t)
	for _, of := range []string{"doorward.state", "doorward.audit"} {
		for k := range 40 {
			dir, remove := quickDir(t)
			defer remove()
			count, broken := 0, errors.New("input/output error")
			p := &plug{disk: make(map[string][]byte)}
			s, err := open(dir, AuditLimit{Records: segments}, slog.New(slog.DiscardHandler), p.wrap)
			if err != nil {
				t.Fatal(err)
			}
			p.fail = func(name, what string) error {
				if count++; strings.HasPrefix(name, of) && (count == k || count == k+1) {
					return broken
				}
				return nil
			}
			want, records := sorted(mustLoad(t, s)), uint64(0)
			for n := range 8 {
				r, err := s.Commit(nth(n))
				got := sorted(mustLoad(t, s))
				if err != nil {
					if !errors.Is(err, broken) || of == "doorward.audit" {
						t.Fatalf("%s %d: commit %d: %v", of, k, n, err)
					}
					if d := diff(want, got); d != "" {
						t.Fatalf("%s %d: commit %d failed, but has changed the state (-want +got):\n%s", of, k, n, d)
					}
				} else {
					records += uint64(len(r))
				}
				if want = got; n == 4 {
					s.renew()
				}
			}
			p.fail = nil
			mustCommit(t, s, Change{EndDoors: []string{"none"}})
			want = sorted(mustLoad(t, s))
			mustClose(t, s)
			s = mustOpen(t, dir, AuditLimit{Records: segments})
			if d := diff(want, sorted(mustLoad(t, s))); d != "" || s.SetAside() != "" {
				t.Fatalf("%s %d: set aside %q; after opening again (-want +got):\n%s", of, k, s.SetAside(), d)
			}
			if got := mustRecords(t, s, "", "", 0, 1); len(got) != 1 || got[0].ID != records {
				t.Fatalf("%s %d: the last record is %v, want ID %d", of, k, got, records)
			}
			verify(t, s)
			mustClose(t, s)
		}
	}
}

// While the trail cannot be written, the cost of a commit does not grow, and the log
// stays bounded. Afterwards, the trail has the missing records, except for those that
// were too many to keep.
func TestATrailThatTakesNothing(t *testing.T) {
	race.Skip(t)
	dir, remove := quickDir(t)
	defer remove()
	b, broken, read := &book{}, true, &counter{}
	p := &plug{disk: make(map[string][]byte), fail: func(name, _ string) error {
		if broken && strings.HasPrefix(name, "doorward.audit") {
			return errors.New("input/output error")
		}
		return nil
	}}
	limit := AuditLimit{Bytes: 8 << 20}
	s, err := open(dir, limit, b.log(), func(name string, f file) file { return counted{p.wrap(name, f), read} })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	change := Change{Doors: []Door{{Name: "ssh", State: "open"}}}
	for range 200 {
		change.Records = append(change.Records, audit.Record{Event: audit.EventGranted, Reason: strings.Repeat("long ", 100)})
	}
	last, most, longest := uint64(0), int64(0), int64(0)
	for range 150 {
		p.ops, read.bytes = nil, 0
		before := s.state.generation
		r := mustCommit(t, s, change)
		if last = r[len(r)-1].ID; s.state.generation == before {
			most = max(most, read.bytes)
		}
		longest = max(longest, s.state.end)
	}
	if most > 1<<20 {
		t.Errorf("a commit read %d bytes, want at most 1 MiB", most)
	}
	if bound := limit.Bytes + 2*renewAt; longest > bound || s.state.generation == 1 {
		t.Errorf("the log grew to %d bytes, generation %d; want at most %d, and that it was rewritten", longest, s.state.generation, bound)
	}
	if !strings.Contains(b.String(), "records of the audit trail are lost") {
		t.Errorf("the log does not say what is lost:\n%s", b)
	}
	broken = false
	first := mustCommit(t, s, Change{Records: make([]audit.Record, 1)})[0].ID
	got := mustRecords(t, s, "", "", 0, int(last))
	if n := len(got); n < 200 || got[n-1].ID != first || got[0].ID != first-uint64(n-1) || first != last+1 {
		t.Errorf("the trail has %d records, want those up to %d without a gap", n, first)
	}
	if st := mustLoad(t, s); len(st.Doors) != 1 {
		t.Errorf("the doors are %v, want one", st.Doors)
	}
}

// killed closes what the kernel closes when a daemon is killed.
func (s *Store) killed() {
	files := []file{s.files[0], s.files[1]}
	for _, seg := range s.trail.all {
		files = append(files, seg.f)
	}
	closeAll(files)
	s.lock.Close()
}

// A log that was being rewritten, but not finished, and that cannot be removed, never
// counts as the one in use, which is later.
func TestALogThatWasBegunInVain(t *testing.T) {
	dir, remove := quickDir(t)
	defer remove()
	broken, syncs := true, 0
	p := &plug{disk: make(map[string][]byte), fail: func(name, what string) error {
		if name == stateName(1) && what == "sync" {
			syncs++
		}
		if broken && name == stateName(1) && (what == "truncate" || syncs == 2) {
			return errors.New("input/output error")
		}
		return nil
	}}
	s, err := open(dir, AuditLimit{}, slog.New(slog.DiscardHandler), p.wrap)
	if err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, nth(0))
	s.renew()
	if syncs < 2 || s.at != 0 {
		t.Fatalf("after %d syncs, the state is in file %d: no rewrite was tried", syncs, s.at)
	}
	want := sorted(mustLoad(t, s))
	if _, err := s.Commit(nth(1)); err == nil {
		want = sorted(mustLoad(t, s))
	}
	s.killed()
	s = mustOpen(t, dir, AuditLimit{})
	if d := diff(want, sorted(mustLoad(t, s))); d != "" {
		t.Errorf("after a restart (-want +got):\n%s", d)
	}
	mustCommit(t, s, nth(1))
	mustClose(t, s)
}

// A record that could not be written to the trail is copied there after a restart, even if
// the trail has a later one of the other class.
func TestRecordsOfTheOtherClass(t *testing.T) {
	dir, remove := quickDir(t)
	defer remove()
	p := &plug{disk: make(map[string][]byte)}
	s, err := open(dir, AuditLimit{}, slog.New(slog.DiscardHandler), p.wrap)
	if err != nil {
		t.Fatal(err)
	}
	decided, refused := audit.Record{Event: audit.EventGranted, Reason: "decided"}, audit.Record{Event: audit.EventRefused, Reason: "refused"}
	mustCommit(t, s, Change{Records: []audit.Record{decided, refused}})
	p.fail = func(name, what string) error {
		if name == trailName(1) && what == "write" {
			return errors.New("input/output error")
		}
		return nil
	}
	mustCommit(t, s, Change{Records: []audit.Record{refused, decided}})
	mustClose(t, s)
	s = mustOpen(t, dir, AuditLimit{})
	var got []string
	for _, r := range mustRecords(t, s, "", "", 0, 10) {
		got = append(got, fmt.Sprint(r.ID, " ", r.Reason))
	}
	if d := diff([]string{"1 decided", "2 refused", "3 refused", "4 decided"}, got); d != "" {
		t.Errorf("the trail (-want +got):\n%s", d)
	}
	verify(t, s)
	mustClose(t, s)
}

// memory is a file in memory.
type memory struct{ text []byte }

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	n := copy(b, m.text[min(at, int64(len(m.text))):])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	m.text = op1{at: at, data: b}.on(m.text)
	return len(b), nil
}
func (m *memory) Truncate(n int64) error { m.text = op1{at: n}.on(m.text); return nil }
func (m *memory) Size() (int64, error)   { return int64(len(m.text)), nil }
func (m *memory) Sync() error            { return nil }
func (m *memory) Close() error           { return nil }
