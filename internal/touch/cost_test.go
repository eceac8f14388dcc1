package touch

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/knock"
)

// network returns the first address of the n-th /64 of 2001:db8:site::/48.
func network(site, n int) netip.Addr {
	b := netip.MustParseAddr("2001:db8::1").As16()
	binary.BigEndian.PutUint16(b[4:], uint16(site))
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	return netip.AddrFrom16(b)
}

func four(n int) netip.Addr {
	b := netip.MustParseAddr("198.18.0.0").As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	return netip.AddrFrom4(b)
}

// filled returns a recogniser with n sources under way, of the addresses that of returns.
func filled(rule Rule, n int, of func(int) netip.Addr) *recogniser {
	r := newRecogniser(rule, start)
	for i := range n {
		r.Hear(touch(step{0, of(i), rule.Touch[0]}))
	}
	return r
}

// What a touch costs depends neither on how many sources there are, nor on whether
// there is room for another, nor on whose it is. The steps are counted.
func TestATouchCostsTheSameHoweverManyKnock(t *testing.T) {
	const most = 16 // lists left, joined and asked for room; marks of a rule of six
	fills := []struct {
		name string
		of   func(int) netip.Addr
	}{
		{"IPv4", four},
		{"a /56", func(i int) netip.Addr { return network(0, i%256) }},
		{"a /48", func(i int) netip.Addr { return network(0, i%65536) }},
		{"many /48", func(i int) netip.Addr { return network(i/256, i%256*256) }},
	}
	anyOrder := six
	anyOrder.Given = false
	for _, rule := range []Rule{six, anyOrder} {
		for _, fill := range fills {
			for _, n := range []int{1, 1000, maxSources + 1000} {
				r := filled(rule, n, fill.of)
				steps := 0
				count := func(source netip.Addr, port uint16) {
					before := r.sources.work
					r.Hear(touch(step{time.Second, source, port}))
					steps = max(steps, r.sources.work-before)
				}
				count(visitor, rule.Touch[0])
				count(visitor, rule.Touch[1])
				count(visitor, 1)                    // wrong
				count(fill.of(1<<17), rule.Touch[0]) // one more of them
				count(fill.of(n-1), rule.Touch[1])
				count(fill.of(n-1), 1)
				if steps > most {
					t.Errorf("given %v: with %d sources of %s a touch takes %d steps, want at most %d",
						rule.Given, n, fill.name, steps, most)
				}
			}
		}
	}
}

// A look costs what it finds: each source is looked at once, and was paid for
// with a touch.
func TestALookCostsWhatIsDue(t *testing.T) {
	for _, n := range []int{1, 1000, maxSources} {
		r := filled(six, n, four)
		before := r.sources.work
		if vs := r.Look(start.Add(30 * time.Second)); len(vs) != 0 || r.sources.work != before {
			t.Errorf("%d sources, none of them due: %d verdicts, %d steps", n, len(vs), r.sources.work-before)
		}
		vs := r.Look(start.Add(time.Hour))
		if steps := r.sources.work - before; len(vs) != n || steps > int(levels)*n {
			t.Errorf("%d sources that are due: %d verdicts, %d steps", n, len(vs), steps)
		}
	}
}

// A prefix that is full pushes out its own, and a wrong touch nobody.
func TestAFullPrefixPushesOutItsOwn(t *testing.T) {
	tests := []struct {
		name string
		most int
		of   func(int) netip.Addr
	}{
		{"a /56", max56, func(i int) netip.Addr { return network(1, i%256) }},
		{"a /48", max48, func(i int) netip.Addr { return network(1, i*257%65536) }},
		{"all", maxSources, four},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecogniser(six, start)
			run(r, other, 0, six.Touch[:5]...)
			for i := range tt.most {
				r.Hear(touch(step{5 * time.Second, tt.of(i), 7}))
				if want := min(i+2, maxSources); r.sources.whole.n != want {
					t.Fatalf("%d sources under way after %d, want %d", r.sources.whole.n, i+1, want)
				}
			}
			for i := range 100 {
				r.Hear(touch(step{6 * time.Second, tt.of(tt.most + i), 1})) // to be left alone
			}
			if r.sources.of[r.who(tt.of(tt.most-1))] == nil || r.sources.whole.n != min(tt.most+1, maxSources) {
				t.Error("wrong touches pushed somebody out")
			}
			for i := range min(tt.most, 100) {
				r.Hear(touch(step{7 * time.Second, tt.of(tt.most + i), 7}))
				if r.sources.whole.n != min(tt.most+1, maxSources) {
					t.Fatalf("%d sources under way, want %d", r.sources.whole.n, tt.most+1)
				}
				if r.sources.of[r.who(tt.of(tt.most+i))] == nil || tt.most < maxSources && r.sources.of[r.who(tt.of(i))] != nil {
					t.Fatalf("the %d-th that came later did not push out the %[1]d-th that came first", i)
				}
			}
			vs := run(r, other, 10*time.Second, six.Touch[5])
			if tt.most < maxSources && (len(vs) != 1 || !vs[0].Right) {
				t.Errorf("the visitor's knock came to %v, want right", vs)
			}
		})
	}
}

// Until there is no room at all, what one prefix does changes no verdict of another.
func TestOthersDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := six
		rule.Given = rapid.Bool().Draw(t, "given")
		alone, among := newRecogniser(rule, start), newRecogniser(rule, start)
		var wasAlone, wasAmong []judgement
		note := func(all *[]judgement, vs []knock.Verdict) {
			for _, v := range vs {
				if v.Source == other {
					*all = append(*all, judgement{v.Source, v.Right, v.Time})
				}
			}
		}
		now := time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 10).Draw(t, "wait")) * time.Second
			note(&wasAlone, alone.Look(start.Add(now)))
			note(&wasAmong, among.Look(start.Add(now)))
			for range rapid.IntRange(0, 20).Draw(t, "strangers") {
				source := network(rapid.IntRange(1, 3).Draw(t, "site"), rapid.IntRange(0, 400).Draw(t, "network"))
				among.Hear(touch(step{now, source, rapid.SampledFrom(rule.Listen).Draw(t, "port")}))
			}
			mine := touch(step{now, other, rapid.SampledFrom(append(rule.Touch, 1)).Draw(t, "mine")})
			note(&wasAlone, alone.Hear(mine))
			note(&wasAmong, among.Hear(mine))
			if !slices.Equal(wasAlone, wasAmong) {
				t.Fatalf("alone it came to %v, among others to %v", wasAlone, wasAmong)
			}
		}
	})
}

func TestStrangersTakeBoundedMemoryAndPushNobodyOut(t *testing.T) {
	r := newRecogniser(six, start)
	run(r, other, 0, six.Touch[:5]...)
	for i := range 1 << 16 {
		r.Hear(touch(step{5 * time.Second, network(1, i), 7}))
	}
	if got := r.sources.whole.n; got != max48+1 {
		t.Errorf("%d sources are under way, want %d of the stranger's /48 and the visitor", got, max48)
	}
	if got := run(r, other, 6*time.Second, six.Touch[5]); len(got) != 1 || !got[0].Right {
		t.Errorf("the visitor's knock came to %v, want right", got)
	}
	for i := range maxSources + 100 {
		r.Hear(touch(step{7 * time.Second, four(i), 7}))
	}
	if r.sources.whole.n != maxSources || len(r.sources.of) != maxSources {
		t.Errorf("%d sources under way, %d known, want at most %d", r.sources.whole.n, len(r.sources.of), maxSources)
	}
	r.Look(start.Add(time.Hour))
	if len(r.sources.of) != 0 || len(r.sources.near) != 0 {
		t.Errorf("after all are judged %d sources and %d prefixes are left", len(r.sources.of), len(r.sources.near))
	}
}
