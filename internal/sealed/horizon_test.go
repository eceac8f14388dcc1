package sealed

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/knock"
)

// lives is a gateway that lives, dies and lives again, on a disk that takes commits as the
// gateway's writer makes them: one after the other, each of what was gathered meanwhile.
type lives struct {
	*site
	files map[string]any // digests, by path
	base  []said         // a packet of each key's

	gathered, commit map[string][]byte // marks
	waits, later     []func(saved bool)
	under            bool // a commit is under way
	lost             bool // a mark was

	opened map[packet]int
	sent   []packet
	latest time.Time // that the clock showed at an upkeep
}

type packet struct {
	key     int
	counter uint64
}

// newLives has what is the same in all lives, and costs time.
func newLives(t *testing.T) lives {
	alice, bob := newKey("alice"), newKey("bob")
	l := lives{files: make(map[string]any)}
	lines := alice.line("") + "\n" + bob.line("")
	l.site = newSite(t, lines)
	for _, k := range []key{alice, bob} {
		of, _, ok := l.opens(visitor, l.one(k, "", l.now, visitor))
		if !ok {
			t.Fatal("a single packet was not opened")
		}
		l.base = append(l.base, *of.(*said))
	}
	text := map[string]string{identityFile: identityText(7), keysFile: lines}
	for _, f := range l.kept.Files() {
		what, err := Kind{}.Digest(f, []byte(text[f.Path]))
		l.must(err)
		l.files[f.Path] = what
	}
	return l
}

// anew is a gateway that never lived.
func (l lives) anew() *lives {
	l.site = &site{t: l.t, now: start, uses: rules(), common: map[string][]byte{}, ofDoors: map[string][]byte{}}
	l.opened, l.latest = make(map[packet]int), l.now
	l.begin()
	return &l
}

// begin is a start.
func (l *lives) begin() {
	l.boot()
	for path, what := range l.files {
		l.kept.Feed(l.now, path, what, nil)
	}
	l.gathered, l.commit, l.waits, l.later, l.under, l.lost = map[string][]byte{}, nil, nil, nil, false, false
}

// mark gathers marks for the next commit.
func (l *lives) mark(all []knock.Mark) {
	for _, m := range all {
		l.gathered[m.Key] = m.Value
	}
}

// hears has a packet come. If its mark may be lost, it is.
func (l *lives) hears(p packet, lost bool) {
	of := l.base[p.key]
	of.ring = l.kept.desk("web", l.uses[0].Rule.(Rule)).ring
	k, one := *of.knock, *of.knock.Single
	one.Counter = p.counter
	k.Single, of.knock = &one, &k
	for _, v := range l.recs["web"].Hear(knock.Heard{Source: visitor, Time: l.now, Said: &of, Path: path(visitor)}) {
		switch {
		case !v.Right:
		case v.First:
			l.mark(v.Marks)
			l.later = append(l.later, func(saved bool) {
				if saved {
					l.opened[p]++
				}
			})
		case lost:
			l.opened[p]++
			l.lost = true
		default:
			l.opened[p]++
			l.mark(v.Marks)
		}
	}
}

// send has a new packet come, of a visitor whose clock differs by so much.
func (l *lives) send(key int, by time.Duration, lost bool) {
	p := packet{key, uint64(l.now.Add(by).UnixMicro())}
	l.sent = append(l.sent, p)
	l.hears(p, lost)
}

// tell ends the waiting for some marks.
func tell(waits *[]func(saved bool), saved bool) {
	all := *waits
	*waits = nil
	for _, then := range all {
		then(saved)
	}
}

// written has the commit under way on the disk.
func (l *lives) written() {
	for key, value := range l.commit {
		l.save(knock.Mark{Key: key, Value: value, Common: true}, "")
	}
}

// The steps of what may happen in a life, besides packets and the time.
func (l *lives) upkeep() {
	if l.now.After(l.latest) {
		l.latest = l.now
	}
	if l.lost {
		return
	}
	if marks, done := l.kept.Ahead(l.now); len(marks) > 0 {
		l.mark(marks)
		l.later = append(l.later, done)
	}
}

func (l *lives) commitBegins() {
	if !l.under && len(l.gathered) > 0 {
		l.commit, l.gathered, l.under = l.gathered, map[string][]byte{}, true
		l.waits, l.later = l.later, nil
	}
}

func (l *lives) commitEnds() {
	if l.under {
		l.written()
		l.under = false
		tell(&l.waits, true)
	}
}

func (l *lives) commitFails() {
	if l.under {
		maps.Copy(l.commit, l.gathered)
		l.gathered, l.under = l.commit, false
		tell(&l.waits, false)
	}
}

func (l *lives) diskIsSlow() { tell(&l.waits, false); tell(&l.later, false) }

func (l *lives) crash(committed bool) {
	if l.under && committed {
		l.written()
	}
	l.begin()
}

func (l *lives) end() {
	if l.under {
		l.written()
	}
	if !l.lost {
		l.mark(l.kept.Leave())
	}
	l.commit = l.gathered
	l.written()
	l.begin()
}

// check says what must never be.
func (l *lives) check(fatalf func(string, ...any)) {
	for p, times := range l.opened {
		if times > 1 {
			fatalf("the packet with counter %s of key %d has opened %d times", time.UnixMicro(int64(p.counter)).UTC(), p.key, times)
		}
	}
	if floor := time.UnixMicro(int64(l.kept.ledger.horizon.floor)); floor.After(l.latest.Add(horizonAhead)) {
		fatalf("single packets are refused until %s, and the clock showed %s at most", floor.UTC(), l.latest.UTC())
	}
}

// A single packet opens once, whatever happens in between: crashes, in which the disk may
// or may not have the commit under way; clean ends; a disk that is slow or fails; marks
// that are lost; a clock that is set.
func TestNoSinglePacketOpensTwice(t *testing.T) {
	all := newLives(t)
	rapid.Check(t, func(t *rapid.T) {
		l := all.anew()
		between := func(least, most time.Duration) time.Duration {
			return time.Duration(rapid.Int64Range(int64(least), int64(most)).Draw(t, "time"))
		}
		steps := map[string]func(){
			"upkeep": l.upkeep, "a commit begins": l.commitBegins, "a commit ends": l.commitEnds, "a commit fails": l.commitFails,
			"the disk is slow": l.diskIsSlow, "a clean end": l.end,
			"a crash":          func() { l.crash(rapid.Bool().Draw(t, "the disk has the commit under way")) },
			"the clock is set": func() { l.now = l.now.Add(between(-2*time.Minute, 2*time.Minute)) },
			"time passes":      func() { l.now = l.now.Add(between(0, 20*time.Second)) },
			"a packet": func() {
				l.send(rapid.IntRange(0, 1).Draw(t, "key"), between(-40*time.Second, 2*time.Minute), rapid.IntRange(0, 30).Draw(t, "lost") == 0)
			},
		}
		names := slices.Sorted(maps.Keys(steps))
		for _, step := range rapid.SliceOfN(rapid.SampledFrom(names), 20, 100).Draw(t, "steps") {
			steps[step]()
			for _, p := range l.sent { // an eavesdropper sends all of them again
				l.hears(p, false)
			}
			l.check(t.Fatalf)
		}
	})
}

// These are the ways in which one could open twice that random steps rarely find.
func TestWhereASinglePacketCouldOpenTwice(t *testing.T) {
	all := newLives(t)
	moved := func(l *lives) { // a horizon is on the disk
		l.send(0, 0, false)
		l.upkeep()
		l.commitBegins()
		l.commitEnds()
	}
	crashed := func(l *lives) { // the disk lacks a counter that was used
		moved(l)
		l.send(0, 10*time.Second, false)
		l.crash(false)
	}
	for name, does := range map[string]func(l *lives){
		"the disk gets a lower horizon after the packet": func(l *lives) {
			moved(l)
			l.now = l.now.Add(-time.Minute)
			l.upkeep()
			l.commitBegins()
			l.send(0, 80*time.Second, false)
			l.commitEnds()
		},
		"a lower horizon is written behind a higher one": func(l *lives) {
			l.send(0, 0, false)
			l.upkeep()
			l.commitBegins()
			l.now = l.now.Add(-time.Minute)
			l.upkeep()
			l.commitEnds()
			l.commitBegins()
			l.send(0, 80*time.Second, false)
			l.commitEnds()
		},
		"a clean end after a crash": func(l *lives) {
			crashed(l)
			l.now = l.now.Add(20 * time.Second)
			l.upkeep()
			l.end()
		},
		"a clean end at which nothing was written ahead": func(l *lives) {
			crashed(l)
			l.end()
		},
		"a crash after a crash, with another clock": func(l *lives) {
			crashed(l)
			l.now = l.now.Add(-time.Minute)
			l.upkeep()
			l.commitBegins()
			l.commitEnds()
		},
		"the disk is slow": func(l *lives) {
			l.send(0, 0, false)
			l.upkeep()
			l.commitBegins()
			l.diskIsSlow()
			l.send(0, 10*time.Second, false)
		},
		"a mark is lost": func(l *lives) {
			moved(l)
			l.send(0, 10*time.Second, true)
			l.end()
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := all.anew()
			does(l)
			l.crash(false)
			for _, p := range l.sent {
				l.hears(p, false)
			}
			l.commitBegins()
			l.commitEnds()
			l.check(t.Errorf)
		})
	}
}

// ahead has the disk have what it is to have, and returns how often that was written.
func (s *site) ahead() int {
	s.t.Helper()
	marks, done := s.kept.Ahead(s.now)
	if len(marks) == 0 {
		return 0
	}
	s.save(marks[0], "")
	done(true)
	return len(marks)
}

// Where single packets are used no disk stands between one and its door, for one commit in
// 20 s, and nothing is written where they are not. After a crash those are refused that
// may have been used, for half a minute at most; after a clean end none is.
func TestTheHorizon(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	files := map[string]string{identityFile: identityText(7), keysFile: alice.line("")}
	first := func() bool {
		s.t.Helper()
		s.now = s.now.Add(time.Millisecond)
		said, _, _ := s.opens(visitor, s.one(alice, "", s.now, visitor))
		all := s.hear(visitor, said)
		if len(all) != 1 || !all[0].Right {
			s.t.Fatalf("a single packet came to %+v", all)
		}
		return all[0].First
	}
	refused := func() string {
		s.now = s.now.Add(time.Millisecond)
		return s.once(visitor, s.one(alice, "", s.now, visitor))
	}
	if n := s.ahead(); n != 0 {
		t.Errorf("before anybody has knocked with a single packet, %d marks are written", n)
	}
	if !first() {
		t.Error("the first packet of all did not wait for its mark")
	}
	if n := s.ahead(); n != 1 {
		t.Errorf("after it, %d marks are written, want one", n)
	}
	written := 0
	for range 60 {
		if first() {
			t.Errorf("%s after the first packet, one waited for the disk", s.now.Sub(start))
		}
		s.now = s.now.Add(10 * time.Second) // an upkeep
		written += s.ahead()
	}
	if written != 30 {
		t.Errorf("in ten minutes the horizon was written %d times, want 30", written)
	}
	s.restart(files)
	if got := refused(); got != "restart" {
		t.Errorf("right after a crash a packet came to %q, want that it is refused for that", got)
	}
	crashed := s.now
	if s.now = s.now.Add(horizonAhead); !first() {
		t.Error("after a crash a packet did not wait for its mark")
	}
	s.ahead()
	for _, m := range s.kept.Leave() {
		s.save(m, "")
	}
	s.restart(files)
	if s.now = s.now.Add(-time.Second); s.now.Sub(crashed) < horizonAhead-time.Second {
		t.Fatal("the clock of the test")
	}
	s.now = s.now.Add(time.Second)
	if got := refused(); got != "right" {
		t.Errorf("right after a clean end a packet came to %q", got)
	}
	if s.ahead(); first() {
		t.Error("after a clean end, one waited for the disk")
	}
	// A clock that was far ahead does not have packets refused for so long after a crash.
	s.now = s.now.Add(time.Hour)
	first()
	s.ahead()
	s.now = s.now.Add(-time.Hour + 10*time.Second)
	s.ahead()
	s.restart(files)
	if until := time.UnixMicro(int64(s.kept.ledger.horizon.floor)); until.Sub(s.now) > horizonAhead {
		t.Errorf("the clock was set back by an hour before a crash, and packets are refused for %s", until.Sub(s.now))
	}
	// Nor is anything written where they are not accepted.
	r := s.uses[0].Rule.(Rule)
	r.OneWay = false
	s.use(knock.Use{Door: "web", Rule: r})
	if s.now = s.now.Add(time.Hour); s.ahead() != 0 {
		t.Error("a horizon is written where no door has one_way")
	}
}
