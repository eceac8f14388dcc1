package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/race"
)

// mixed returns a change with records of both classes.
func mixed(n int) (c Change) {
	for i := range n {
		r := audit.Record{Door: "ssh", Event: audit.EventGranted, Source: "192.0.2.7", Reason: fmt.Sprint(i)}
		if i%3 > 0 {
			r.Event = audit.EventRefused
		}
		c.Records = append(c.Records, r)
	}
	return c
}

// faults returns what a verifier says about the trail.
func faults(t *testing.T, s *Store) string {
	t.Helper()
	p, err := s.Records(Query{Oldest: true, Limit: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	var w audit.Verifier
	for _, r := range p.Records {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		w.Add(text)
	}
	var said []string
	for _, f := range w.End(p.Last).Faults {
		said = append(said, f.Message)
	}
	return strings.Join(said, "; ")
}

// If somebody removes records from the trail's files, that is noticed, at once or with
// the next record; the end is checked when the store is opened.
func TestWhatIsTakenOutOfTheTrailShows(t *testing.T) {
	const end, last = "the end of the audit trail is missing: was it cut off?", "the last record of the audit trail is not the one that was written: was it changed?"
	cut := func(name int, from, to int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, trailName(name))
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.SplitAfter(string(text), "\n")
			put(t, dir, trailName(name), []byte(strings.Join(slices.Delete(lines, from, to), "")))
		}
	}
	for what, tt := range map[string]struct {
		do        func(t *testing.T, dir string)
		said, log string
	}{
		"nothing":              {func(*testing.T, string) {}, "", ""},
		"one of the middle":    {cut(0, 1, 2), "record 4 is missing: record 5 comes after it", ""},
		"refusals":             {cut(1, 1, 3), "record 3 is missing: record 4 comes after it; record 5 is missing: record 6 comes after it", ""},
		"the last":             {cut(0, 3, 4), "record 10 is missing: record 11 comes after it", end},
		"the last refusals":    {cut(1, 4, 6), "record 9 is missing: record 10 comes after it", end},
		"all refusals":         {cut(1, 0, 6), "record 9 is missing: record 11 comes after it", end},
		"half of the last":     {edit(0, `"reason":"9"`, "\n"), "record 10 has no hash, although those before it do: \"this record cannot be read: ", "after=7 until=10"},
		"the last was changed": {edit(0, `"reason":"9"`, `"reason":"7"`), "record 10 was changed: its hash is ", ""},
		"with its hash": {func(t *testing.T, dir string) {
			edit(0, `"reason":"9"`, `"reason":"7"`)(t, dir)
			rehash(t, dir, 3)
		}, "record 10 is not the one that record 11 follows: it was changed together with its hash", last},
	} {
		dir, b := t.TempDir(), &book{}
		s := mustOpen(t, dir, AuditLimit{})
		mustCommit(t, s, mixed(10))
		s.renew() // after which the log does not have the records any more
		mustClose(t, s)
		tt.do(t, dir)
		s, err := Open(dir, AuditLimit{}, b.log())
		if err != nil {
			t.Fatal(err)
		}
		mustCommit(t, s, Change{Records: make([]audit.Record, 1)})
		if got := faults(t, s); !strings.HasPrefix(got, tt.said) || (tt.said == "") != (got == "") {
			t.Errorf("%s: says %q, want %q", what, got, tt.said)
		}
		if got := b.String(); (tt.log == "") != !strings.Contains(got, "level=ERROR") || !strings.Contains(got, tt.log) {
			t.Errorf("%s: the log has %q, want %q", what, got, tt.log)
		}
		mustClose(t, s)
	}
}

func edit(name int, old, new string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		text, err := os.ReadFile(filepath.Join(dir, trailName(name)))
		if err != nil || !strings.Contains(string(text), old) {
			t.Fatalf("%s is not in %s (%v)", old, text, err)
		}
		put(t, dir, trailName(name), []byte(strings.Replace(string(text), old, new, 1)))
	}
}

// However long a line somebody adds to the trail's files, everything else can be read.
func TestALineThatNobodyTakes(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{})
	mustCommit(t, s, mixed(10))
	s.renew()
	mustClose(t, s)
	for _, long := range []string{strings.Repeat("x", 2<<20), strings.Repeat("<", 300_000)} {
		edit(0, `"reason":"3"`, `"reason":"`+long+`"`)(t, dir)
		s = mustOpen(t, dir, AuditLimit{})
		for _, q := range []Query{{}, {Oldest: true}} {
			p, err := s.Records(q)
			if err != nil || len(p.Records) != 10 {
				t.Fatalf("%+v: %d records, %v", q, len(p.Records), err)
			}
			text, err := json.Marshal(p.Records[3])
			if r := p.Records[3]; err != nil || len(text) > longestRecord || r.ID != 4 || !strings.HasPrefix(r.Reason, "this record cannot be read: it has ") {
				t.Errorf("%+v: record %d has %d bytes, %v: %.100s", q, r.ID, len(text), err, r.Reason)
			}
		}
		mustClose(t, s)
		edit(0, long, "3")(t, dir)
	}
}

// rehash gives a line of the first segment the right hash.
func rehash(t *testing.T, dir string, n int) {
	text, err := os.ReadFile(filepath.Join(dir, trailName(0)))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	var r audit.Record
	if err := json.Unmarshal([]byte(lines[n]), &r); err != nil {
		t.Fatal(err)
	}
	ends := audit.Ends{r.Prev.Link, {ID: r.Prev.Other}, {ID: *r.Prev.Third}}
	_, line, err := ends.Chain(r)
	if err != nil {
		t.Fatal(err)
	}
	lines[n] = string(line) + "\n"
	put(t, dir, trailName(0), []byte(strings.Join(lines, "")))
}

// If the state is lost, the trail has what is needed to continue the chain, and the
// other way round.
func TestTheChainOutlivesEither(t *testing.T) {
	for _, lost := range []string{"doorward.state.*", "doorward.audit.*"} {
		dir := t.TempDir()
		s := mustOpen(t, dir, AuditLimit{})
		mustCommit(t, s, mixed(10))
		s.renew()
		mustClose(t, s)
		files, err := filepath.Glob(filepath.Join(dir, lost))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		s = mustOpen(t, dir, AuditLimit{})
		if r := mustCommit(t, s, mixed(3)); r[0].ID != 11 || r[0].Prev.ID != 10 || r[0].Prev.Other != 9 || r[1].Prev.ID != 9 {
			t.Errorf("without %s: %+v follows %+v, want that it follows 10 and 9", lost, r[0], r[0].Prev)
		}
		verify(t, s)
		mustClose(t, s)
	}
}

// Pages of the oldest records, of any length, have all records, each once and in order,
// whatever there is between the records.
func TestPages(t *testing.T) {
	race.Skip(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, remove := quickDir(t)
		defer remove()
		s, err := Open(dir, AuditLimit{Records: 400}, (&book{}).log())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { s.Close() }()
		for range rapid.IntRange(1, 12).Draw(t, "commits") {
			c := mixed(rapid.IntRange(1, 60).Draw(t, "records"))
			for i := 3; i < len(c.Records); i += 6 {
				c.Records[i].Visit = true
			}
			if rapid.IntRange(0, 3).Draw(t, "long") == 0 {
				c.Records[0].Reason = strings.Repeat("x", rapid.IntRange(4000, 200_000).Draw(t, "length"))
			}
			if _, err := s.Commit(c); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(0, 2).Draw(t, "damages") {
			seg := rapid.SampledFrom(s.trail.all).Draw(t, "segment")
			if seg.size > 100 {
				garbage := make([]byte, rapid.IntRange(1, 100).Draw(t, "bytes"))
				if _, err := seg.f.WriteAt(garbage, rapid.Int64Range(0, seg.size-100).Draw(t, "at")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(dir, AuditLimit{Records: 400}, (&book{}).log()); err != nil {
			t.Fatal(err)
		}
		read := func(q Query) Page {
			p, err := s.Records(q)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		all := read(Query{Oldest: true, Limit: 10_000})
		var paged []audit.Record
		q := Query{Oldest: true}
		for q.After < all.Through {
			q.Limit = rapid.IntRange(1, 200).Draw(t, "limit")
			p := read(q)
			if p.Through <= q.After || len(p.Records) > q.Limit+4 {
				t.Fatalf("a page after %d ends with %d", q.After, p.Through)
			}
			paged, q.After = append(paged, p.Records...), p.Through
		}
		if d := diff(all.Records, paged); d != "" {
			t.Fatalf("in pages (-want +got):\n%s", d)
		}
		sound := func(r audit.Record) bool { return strings.HasPrefix(r.Reason, "this record cannot be read") }
		newest := slices.DeleteFunc(read(Query{Limit: 10_000}).Records, sound)
		if d := diff(newest, slices.DeleteFunc(all.Records, sound)); d != "" {
			t.Fatalf("reading from the oldest and from the newest record differ (-want +got):\n%s", d)
		}
	})
}

// Whichever lines of the trail are damaged, also the only one of a segment or its first,
// the others are read, in order, whole and in pages.
func TestDamagedLines(t *testing.T) {
	race.Skip(t)
	type place struct {
		file string
		at   int64
	}
	write := func(t *testing.T, damaged ...place) *Store {
		dir, remove := quickDir(t)
		t.Cleanup(remove)
		s := mustOpen(t, dir, AuditLimit{})
		first := mixed(4)
		first.Records[3].Visit = true
		mustCommit(t, s, first)
		mustCommit(t, s, mixed(4))
		mustClose(t, s)
		for _, p := range damaged {
			f, err := os.OpenFile(filepath.Join(dir, p.file), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{0}, p.at); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		s = mustOpen(t, dir, AuditLimit{})
		t.Cleanup(func() { s.Close() })
		return s
	}
	var places []place
	for _, seg := range write(t).trail.all {
		b := make([]byte, seg.size)
		if _, err := seg.f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		at := 0
		for line := range bytes.Lines(b) {
			for _, in := range []int{0, len(`{"id":`), len(`{"id":1,"`)} {
				places = append(places, place{filepath.Base(seg.f.(osFile).Name()), int64(at + in)})
			}
			at += len(line)
		}
	}
	readable := func(s *Store, q Query) (ids []uint64, through uint64) {
		p, err := s.Records(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Records {
			if !strings.HasPrefix(r.Reason, "this record cannot be read") {
				ids = append(ids, r.ID)
			}
		}
		return ids, p.Through
	}
	for i, a := range places {
		for _, b := range places[i:] {
			s := write(t, a, b)
			newest, _ := readable(s, Query{Limit: 100})
			if len(newest) < 6 || !slices.IsSorted(newest) {
				t.Errorf("%v and %v damaged: of 8 records are read, from the newest on, %d", a, b, newest)
			}
			oldest, end := readable(s, Query{Oldest: true, Limit: 100})
			if !slices.Equal(oldest, newest) {
				t.Errorf("%v and %v damaged: from the newest on are read %d, from the oldest on %d", a, b, newest, oldest)
			}
			var paged []uint64
			for q := (Query{Oldest: true, Limit: 1}); q.After < end; {
				page, through := readable(s, q)
				paged, q.After = append(paged, page...), through
			}
			if !slices.Equal(paged, newest) {
				t.Errorf("%v and %v damaged: read are %d, in pages %d", a, b, newest, paged)
			}
		}
	}
}

// The space of a segment of which nothing can be read is used before records are lost.
func TestAnUnreadableSegmentGoesFirst(t *testing.T) {
	const each = 2
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{Records: each * segments})
	orders := func(n int) {
		for i := range n {
			mustCommit(t, s, Change{Records: []audit.Record{{Door: "ssh", Event: audit.EventGranted, Reason: fmt.Sprint(i)}}})
		}
	}
	orders(each * segments)
	third := s.trail.of(audit.Decided)[2]
	size, name := third.size, filepath.Base(third.f.(osFile).Name())
	mustClose(t, s)
	put(t, dir, name, make([]byte, size))
	s = mustOpen(t, dir, AuditLimit{Records: each * segments})
	defer s.Close()
	for _, want := range []uint64{1, 1 + each} { // the oldest that is left
		orders(each)
		p, err := s.Records(Query{Oldest: true, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Records[0].ID; got != want {
			t.Errorf("the oldest record is %d, want %d", got, want)
		}
	}
}

// A record that follows what a crash has left of a line is read, whole and in pages.
func TestAfterAnUnfinishedLine(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{})
	mustCommit(t, s, mixed(1))
	mustClose(t, s)
	f, err := os.OpenFile(filepath.Join(dir, trailName(0)), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"id"`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, dir, AuditLimit{})
	defer s.Close()
	mustCommit(t, s, mixed(1))
	for _, limit := range []int{1, 100} {
		var got []uint64
		for q := (Query{Oldest: true, Limit: limit}); q.After < 2; {
			p, err := s.Records(q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range p.Records {
				if r.Event != audit.EventError {
					got = append(got, r.ID)
				}
			}
			q.After = p.Through
		}
		if want := []uint64{1, 2}; !slices.Equal(got, want) {
			t.Errorf("in pages of %d are read %d, want %d", limit, got, want)
		}
	}
}

// The cost of following the trail, for each record, does not grow with the trail, and
// paging through all of it reads everything at most twice.
func TestWhatReadersCost(t *testing.T) {
	race.Skip(t)
	dir, remove := quickDir(t)
	defer remove()
	read := &counter{}
	s, err := open(dir, AuditLimit{}, (&book{}).log(), func(name string, f file) file { return counted{f, read} })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 30 {
		mustCommit(t, s, mixed(1000))
	}
	size := int64(0)
	for _, seg := range s.trail.all {
		size += seg.size
	}
	for n := range 10 {
		read.bytes = 0
		r := mustCommit(t, s, mixed(1+n))
		p, err := s.Records(Query{After: r[0].ID - 1, Oldest: true, Limit: 1000})
		if err != nil || len(p.Records) != 1+n || read.bytes > 64<<10 {
			t.Errorf("%d of %d records, %v, took %d bytes of %d, want at most 64 KiB", len(p.Records), 1+n, err, read.bytes, size)
		}
	}
	read.bytes = 0
	q, pages := Query{Oldest: true, Limit: 1000}, 0
	for q.After < s.last {
		p, err := s.Records(q)
		if err != nil {
			t.Fatal(err)
		}
		q.After, pages = p.Through, pages+1
	}
	if most := 2*size + int64(pages)<<18; read.bytes > most {
		t.Errorf("%d pages of %d bytes took %d, want at most %d", pages, size, read.bytes, most)
	}
	read.bytes = 0
	if p, err := s.Records(Query{Source: prefix("203.0.113.9/32"), Oldest: true}); err != nil || len(p.Records) > 0 || p.Through != s.last || read.bytes > size+1<<20 {
		t.Errorf("a search that finds %d, %v, through %d, took %d bytes of %d", len(p.Records), err, p.Through, read.bytes, size)
	}
}

// However many clients ask, only a few searches are under way at a time.
func TestSearchesInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		let, inside := make(chan struct{}), &counter{}
		hold := false
		s, err := open(t.TempDir(), AuditLimit{}, (&book{}).log(), func(name string, f file) file {
			return held{f, func() {
				if hold {
					inside.mu.Lock()
					inside.bytes++
					inside.mu.Unlock()
					<-let
				}
			}}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		mustCommit(t, s, mixed(10))
		hold = true
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if p, err := s.Records(Query{}); err != nil || len(p.Records) != 10 {
					t.Errorf("%d records, %v", len(p.Records), err)
				}
			})
		}
		synctest.Wait()
		if inside.bytes != searches {
			t.Errorf("%d searches are under way, want %d", inside.bytes, searches)
		}
		close(let)
		group.Wait()
	})
}

// held calls a function before each read.
type held struct {
	file
	before func()
}

func (f held) ReadAt(b []byte, at int64) (int, error) {
	f.before()
	return f.file.ReadAt(b, at)
}

// A reader that continues after a record sees nothing of a commit of which the trail has
// only a part: it would never return for the rest.
func TestReadersSeeWholeCommits(t *testing.T) {
	broken := false
	p := &plug{disk: make(map[string][]byte), fail: func(name, what string) error {
		if broken && name == trailName(1) && what == "write" {
			return errors.New("input/output error")
		}
		return nil
	}}
	dir, remove := quickDir(t)
	defer remove()
	s, err := open(dir, AuditLimit{}, (&book{}).log(), p.wrap)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mustCommit(t, s, mixed(3))
	broken = true
	mustCommit(t, s, mixed(3)) // the grant is in the trail, the refusals are not
	got, err := s.Records(Query{After: 3, Oldest: true})
	if err != nil || len(got.Records) != 0 || got.Through != 3 || got.Last != 6 {
		t.Errorf("%d records through %d, %v, the last %d; want none, through 3, the last 6", len(got.Records), got.Through, err, got.Last)
	}
	broken = false
	mustCommit(t, s, mixed(1))
	if got, err = s.Records(Query{After: 3, Oldest: true}); err != nil || len(got.Records) != 4 || got.Through != 7 {
		t.Errorf("afterwards: %d records through %d, %v; want 4, through 7", len(got.Records), got.Through, err)
	}
	verify(t, s)
}

// A page says which of the records after a given one are gone, in the classes that are
// asked for, even if they go while it is read.
func TestWhatIsGoneIsTold(t *testing.T) {
	dir, remove := quickDir(t)
	defer remove()
	s := mustOpen(t, dir, AuditLimit{Records: 80})
	gone := func(q Query) uint64 {
		t.Helper()
		q.Oldest, q.Limit = true, 1000
		p, err := s.Records(q)
		if err != nil {
			t.Fatal(err)
		}
		return p.Gone
	}
	mustCommit(t, s, Change{Records: []audit.Record{{Event: audit.EventStarted}}})
	mustCommit(t, s, refusals(30, 0))
	if n := gone(Query{}); n != 0 {
		t.Errorf("up to %d are gone, want none", n)
	}
	for n := range 30 {
		mustCommit(t, s, refusals(10, n*10))
	}
	first := uint64(0)
	for _, r := range mustRecords(t, s, "", "", 0, 1000) {
		if r.Class() == audit.Refused {
			first = r.ID
			break
		}
	}
	for _, again := range []bool{false, true} {
		for _, tt := range []struct {
			q    Query
			want uint64
		}{
			{Query{}, first - 1}, {Query{After: 5}, first - 1}, {Query{After: first - 2}, first - 1}, {Query{After: first - 1}, 0}, {Query{After: 1000}, 0},
			{Query{Events: []string{audit.EventStarted}}, 0}, {Query{Events: []string{audit.EventStarted, audit.EventRefused}}, first - 1},
		} {
			if got := gone(tt.q); got != tt.want {
				t.Errorf("%+v: up to %d are gone, want %d (opened again: %v)", tt.q, got, tt.want, again)
			}
		}
		mustClose(t, s)
		s = mustOpen(t, dir, AuditLimit{Records: 80})
	}
	// A reader that has been overtaken continues after the records that are gone.
	s.trail.mu.Lock()
	r := &forwards{t: s.trail, class: audit.Refused, whole: s.trail.whole + 1000, after: first}
	r.open()
	s.trail.mu.Unlock()
	mustCommit(t, s, refusals(100, 0))
	if err := r.fill(); err != nil || r.gone < first || r.id != r.gone+1 {
		t.Errorf("the reader continues with %d, %v, and says that up to %d are gone; want the next", r.id, err, r.gone)
	}
	mustClose(t, s)
}

// A page ends where its reader is overtaken, so that the next one says what is gone. A
// client that reads from the beginning could not know of those records otherwise.
func TestAPageEndsBeforeWhatIsGone(t *testing.T) {
	dir, remove := quickDir(t)
	defer remove()
	s := mustOpen(t, dir, AuditLimit{Records: 80})
	mustCommit(t, s, Change{Records: []audit.Record{{Event: audit.EventStarted}}})
	for n := range 20 {
		mustCommit(t, s, refusals(10, n*10))
	}
	page := func(after uint64, f func(n int)) (ids []uint64, through, gone uint64) {
		t.Helper()
		through, gone, err := s.trail.oldest(Query{After: after}, func(id uint64, _ []byte) bool {
			ids = append(ids, id)
			f(len(ids))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return ids, through, gone
	}
	_, last, before := page(0, func(int) {})
	ids, through, gone := page(0, func(n int) {
		if n == 5 {
			mustCommit(t, s, refusals(100, 0))
		}
	})
	if through != ids[len(ids)-1] || through >= last || gone != before || uint64(len(ids)-1) != through-before {
		t.Errorf("the first page has %v, through %d, and says that up to %d are gone, which was up to %d before", ids, through, gone, before)
	}
	more, end, gone := page(through, func(int) {})
	if gone <= through || more[0] != gone+1 || end != last+100 || uint64(len(more)) != end-gone {
		t.Errorf("the next page has %v, through %d, and says that up to %d are gone; want all after that", more, end, gone)
	}
	mustClose(t, s)
}
