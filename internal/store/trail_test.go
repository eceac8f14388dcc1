package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/race"
)

// refusals returns n refusals, each of another source.
func refusals(n, from int) Change {
	c := Change{Records: make([]audit.Record, n)}
	for i := range c.Records {
		c.Records[i] = audit.Record{Door: "ssh", Event: audit.EventRefused, By: "touch",
			Source: fmt.Sprintf("2001:db8::%x:%x", (from+i)>>16, (from+i)&0xffff), Reason: "port 59001 was to be left alone"}
	}
	return c
}

// However many refusals come, they push out only refusals.
func TestRefusalsPushOutNothingElse(t *testing.T) {
	race.Skip(t)
	dir, remove := quickDir(t)
	defer remove()
	s := mustOpen(t, dir, AuditLimit{})
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
	mustClose(t, s)
	s = mustOpen(t, dir, AuditLimit{})
	got := mustRecords(t, s, "", "", 0, 200_000)
	if refused := len(got) - len(before); refused > 50_000 || refused < 50_000*3/4 {
		t.Errorf("%d refusals are kept, want 37,500 to 50,000", refused)
	}
	if d := diff(before, got[:min(len(got), len(before))]); d != "" {
		t.Errorf("the records of decisions from before the flood (-want +got):\n%s", d)
	}
	if last := got[len(got)-1].ID; last != uint64(len(before)+112*wave) {
		t.Errorf("the last ID is %d, want %d", last, len(before)+112*wave)
	}
	// Very many decisions push out the oldest decisions, but no refusals.
	fill(t, s, 60_000, audit.EventGranted)
	now := mustRecords(t, s, "", "", 0, 200_000)
	refused := func(rs []audit.Record) (n int) {
		for _, r := range rs {
			if r.Class() == audit.Refused {
				n++
			}
		}
		return n
	}
	if a, b := refused(got), refused(now); a != b || now[0].Class() != audit.Refused || now[0].ID != got[len(before)].ID {
		t.Errorf("there were %d refusals and then %d: decisions have pushed out some", a, b)
	}
	if others := len(now) - refused(now); others > 62_500 || others < 37_500 {
		t.Errorf("%d others are kept, want all that refusals leave room for", others)
	}
	mustClose(t, s)
}

// Room that refusals do not use is there for all other records; and refusals that come
// later still get their half.
func TestOthersUseRoomThatRefusalsLeave(t *testing.T) {
	s := mustOpen(t, t.TempDir(), AuditLimit{Records: 800})
	count := func() (refused, others int) {
		for _, r := range mustRecords(t, s, "", "", 0, 2000) {
			if r.Class() == audit.Refused {
				refused++
			} else {
				others++
			}
		}
		return refused, others
	}
	mustCommit(t, s, refusals(10, 0))
	fill(t, s, 2000, audit.EventGranted)
	if refused, others := count(); refused != 10 || others > 700 || others <= 600 {
		t.Errorf("%d refusals and %d others are kept, want 10 and 601 to 700", refused, others)
	}
	mustCommit(t, s, refusals(2000, 10))
	if refused, others := count(); refused > 400 || refused <= 300 || others > 400 || others <= 300 {
		t.Errorf("%d refusals and %d others are kept, want 301 to 400 of either", refused, others)
	}
	mustClose(t, s)
}

// However often visitors knock, and strangers besides, what operators have ordered stays;
// and so do visits, whatever operators and strangers do. A restart changes nothing about
// that, and all that is left can be verified.
func TestVisitsPushOutNothingElse(t *testing.T) {
	race.Skip(t)
	dir, remove := quickDir(t)
	defer remove()
	limit := AuditLimit{Records: 800}
	s := mustOpen(t, dir, limit)
	visits := func(n int) {
		for range n / 50 {
			c := Change{Records: make([]audit.Record, 50)}
			for i := range c.Records {
				c.Records[i] = audit.Record{Door: "ssh", Event: audit.EventGranted, Source: "192.0.2.7", By: "sealed alice", Visit: true}
			}
			mustCommit(t, s, c)
		}
	}
	kept := func() (n [3]int) {
		for _, r := range mustRecords(t, s, "", "", 0, 2000) {
			n[r.Class()]++
		}
		return n
	}
	fill(t, s, 100, audit.EventApplied)
	visits(5000)
	if got := kept(); got[audit.Decided] != 100 || got[audit.Visits] <= 500 {
		t.Errorf("%d orders and %d visits are kept, want all 100, and what they leave room for", got[audit.Decided], got[audit.Visits])
	}
	mustClose(t, s)
	s = mustOpen(t, dir, limit)
	mustCommit(t, s, refusals(5000, 0))
	visits(5000)
	fill(t, s, 1000, audit.EventApplied)
	visits(5000)
	for range 2 {
		for class, least := range map[audit.Class]int{audit.Decided: 101, audit.Refused: 301, audit.Visits: 101} {
			if got := kept()[class]; got < least || got > least+99 {
				t.Errorf("%d records of class %d are kept, want %d to %d: its room", got, class, least, least+99)
			}
		}
		verify(t, s)
		mustClose(t, s)
		s = mustOpen(t, dir, limit)
	}
	mustClose(t, s)
}

// The trail is bounded in bytes as well, however large a commit is.
func TestPrune(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{Bytes: 80_000})
	c := Change{Records: make([]audit.Record, 1000)}
	for i := range c.Records {
		c.Records[i].Reason = strings.Repeat("x", 900)
	}
	mustCommit(t, s, c)
	got := mustRecords(t, s, "", "", 0, 1000)
	if len(got) > 80 || len(got) < 60 || got[len(got)-1].ID != 1000 {
		t.Errorf("%d records of about 1000 bytes are kept, want 60 to 80, with the last", len(got))
	}
	// A record that exceeds the limit by itself is kept while it is the newest.
	mustCommit(t, s, Change{Records: []audit.Record{{Reason: strings.Repeat("x", 200_000)}}})
	if got := mustRecords(t, s, "", "", 0, 1); len(got) != 1 || got[0].ID != 1001 || len(got[0].Reason) != 200_000 {
		t.Errorf("the newest is %d records, want the one with ID 1001", len(got))
	}
	mustClose(t, s)
	// A lower limit takes effect as the trail goes on.
	s = mustOpen(t, dir, AuditLimit{Records: 8})
	for range 40 {
		mustCommit(t, s, Change{Records: make([]audit.Record, 1)})
	}
	if got := mustRecords(t, s, "", "", 0, 1000); len(got) != 8 || got[7].ID != 1041 {
		t.Errorf("%d records are kept, want 8, the last with ID 1041", len(got))
	}
	mustClose(t, s)
}

// The work of a commit grows only with what it adds, not with the trail, nor with the
// records that it pushes out.
func TestACommitsWork(t *testing.T) {
	race.Skip(t)
	for _, n := range []int{100, 20_000} {
		dir, remove := quickDir(t)
		defer remove()
		s := mustOpen(t, dir, AuditLimit{Records: n})
		fill(t, s, n, audit.EventGranted)
		mustCommit(t, s, refusals(n, 0))
		for added := 1; added <= 64; added *= 4 {
			before := s.trail.work
			for range 200 {
				mustCommit(t, s, refusals(added, 0))
			}
			// A write for each commit, and two for each segment that is begun.
			if most := 200 + 2*(200*added/(n/segments)+1); s.trail.work-before > most {
				t.Errorf("a trail of %d: 200 commits of %d took %d steps, want at most %d", n, added, s.trail.work-before, most)
			}
		}
		mustClose(t, s)
	}
}

// Records reads while commits push out what it reads, and never returns a part of a
// record.
func TestRecordsWhileTheTrailGoesOn(t *testing.T) {
	dir, remove := quickDir(t)
	defer remove()
	s := mustOpen(t, dir, AuditLimit{Records: 4000})
	fill(t, s, 4000, audit.EventGranted)
	var group sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		group.Go(func() {
			for finished := false; !finished; {
				select {
				case <-done:
					finished = true
				default:
				}
				got, err := records(s, Query{Limit: 10_000})
				if err != nil || len(got) == 0 {
					t.Errorf("%d records, %v", len(got), err)
				}
				for i, r := range got {
					if r.ID != got[0].ID+uint64(i) || r.Event != audit.EventGranted {
						t.Errorf("record %d of %d is %+v, and the first has ID %d", i, len(got), r, got[0].ID)
						return
					}
				}
			}
		})
	}
	fill(t, s, 20_000, audit.EventGranted)
	close(done)
	group.Wait()
	mustClose(t, s)
}

// A damaged trail is read where that is possible, has records that say what cannot be
// read, and can be continued. The state is not affected.
func TestADamagedTrail(t *testing.T) {
	sp := makeSpecimen(t, 30)
	random := rand.New(rand.NewPCG(1, 2))
	clean := sp.files[trailName(0)]
	for what, damage := range map[string]func(text []byte) []byte{
		"missing":        func([]byte) []byte { return nil },
		"empty":          func([]byte) []byte { return []byte{} },
		"all zeros":      func(b []byte) []byte { return make([]byte, len(b)) },
		"zeros in front": func(b []byte) []byte { clear(b[:1000]); return b },
		"zeros behind":   func(b []byte) []byte { clear(b[len(b)-1000:]); return b },
		"cut short":      func(b []byte) []byte { return b[:len(b)-50] },
		"garbage": func(b []byte) []byte {
			for i := range b[2000:3000] {
				b[2000+i] = byte(random.Uint32())
			}
			return b
		},
		"no object": func(b []byte) []byte { return append(b, "[]\n"...) },
	} {
		dir, b := t.TempDir(), &book{}
		if text := damage(slices.Clone(clean)); text != nil {
			if err := os.WriteFile(filepath.Join(dir, trailName(0)), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, stateName(0)), sp.file, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, AuditLimit{}, b.log())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if d := diff(sp.state, sorted(mustLoad(t, s))); d != "" || s.SetAside() != "" {
			t.Errorf("%s: set aside %q, the state (-want +got):\n%s", what, s.SetAside(), d)
		}
		mustCommit(t, s, nth(77))
		got := mustRecords(t, s, "", "", 0, 1000)
		unreadable := 0
		for i, r := range got {
			if i > 0 && r.ID < got[i-1].ID {
				t.Errorf("%s: IDs %d and then %d", what, got[i-1].ID, r.ID)
			}
			switch {
			case strings.HasPrefix(r.Reason, "this record cannot be read: ") && r.Event == audit.EventError:
				unreadable++
			case r.ID <= uint64(len(sp.trail)) && diff(sp.trail[r.ID-1], r) != "":
				t.Errorf("%s: record %d is %+v", what, r.ID, r)
			}
		}
		if gone := what == "missing" || what == "empty"; !gone && (unreadable == 0 || !strings.Contains(b.String(), "cannot be read")) {
			t.Errorf("%s: no record says that it cannot be read: %s", what, b)
		}
		if last := got[len(got)-1]; last.By != "77" || last.ID <= uint64(len(sp.trail)) {
			t.Errorf("%s: the last record is %+v", what, last)
		}
		mustClose(t, s)
	}
}

// A Memory keeps the two classes apart as a Store does, and gives IDs.
func TestMemory(t *testing.T) {
	race.Skip(t)
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
	got, err := m.Records(Query{Door: "ssh", Limit: 1})
	if err != nil || len(got.Records) != 1 || got.Records[0].ID != 100_001 {
		t.Errorf("the newest is %v, %v, want ID 100001", got, err)
	}
	got, err = m.Records(Query{Source: prefix("192.0.2.7/32"), Limit: 100})
	if d := diff(first, got.Records); err != nil || d != "" {
		t.Errorf("%v: the grant of before (-want +got):\n%s", err, d)
	}
	if got, _ := m.Records(Query{Limit: 1_000_000}); len(got.Records) > 2*inMemory {
		t.Errorf("%d records are kept, want at most %d", len(got.Records), 2*inMemory)
	}
	if st, err := m.Load(); err != nil || diff(sorted(State{Grants: none}), sorted(st)) != "" || m.SetAside() != "" {
		t.Errorf("Load says that something was kept: %+v, %v", st, err)
	}
}

// TestManyRecords has a trail of a million records, of which a start reads only the ends.
func TestManyRecords(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 200 MB")
	}
	const n = 1_000_000
	dir, remove := quickDir(t)
	defer remove()
	limit := AuditLimit{Records: 2 * n, Bytes: 1 << 30}
	s := mustOpen(t, dir, limit)
	began := time.Now()
	step := func(what string) {
		t.Logf("%s: %v", what, time.Since(began).Round(time.Microsecond))
		began = time.Now()
	}
	fill(t, s, n, audit.EventGranted)
	step("written")
	mustClose(t, s)
	step("closed")
	read := &counter{}
	s, err := open(dir, limit, (&book{}).log(), func(name string, f file) file { return counted{f, read} })
	if err != nil {
		t.Fatal(err)
	}
	step("opened")
	if most := limit.Bytes/segments + 10<<20; read.bytes > most {
		t.Errorf("%d bytes were read to open it, want at most one segment and the state, %d", read.bytes, most)
	}
	if got := mustRecords(t, s, "", "", n-5, 100); len(got) != 5 || got[4].ID != n {
		t.Errorf("got %d records, want the last 5", len(got))
	}
	step("the last 5")
	if got := mustRecords(t, s, "", "192.0.2.9", 0, 100); len(got) != 100 {
		t.Errorf("got %d records of one source, want 100", len(got))
	}
	step("100 of one source")
	if got := mustRecords(t, s, "another", "", 0, 100); len(got) != 0 {
		t.Errorf("got %d records of a door that has none", len(got))
	}
	step("none of one door")
	mustCommit(t, s, Change{Records: make([]audit.Record, 1)})
	step("one more")
	mustClose(t, s)
}

type counter struct {
	mu    sync.Mutex
	bytes int64
}

// counted counts the bytes that are read.
type counted struct {
	file
	c *counter
}

func (f counted) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.file.ReadAt(b, at)
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.c.bytes += int64(n)
	return n, err
}
