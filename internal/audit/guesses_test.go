package audit

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func at(now time.Time, source string) Record {
	return Record{Time: now, Door: "ssh", Event: EventRefused, Source: source}
}

func TestGuessesOfAnHourAndADay(t *testing.T) {
	g := NewGuesses(noon)
	add := func(now time.Time, n int, source string) {
		for range n {
			g.Add(at(now, source))
		}
	}
	add(noon, 3, "203.0.113.7")
	add(noon.Add(time.Minute), 2, "203.0.113.200")
	add(noon.Add(2*time.Minute), 4, "2001:db8:1:2::1")
	add(noon.Add(3*time.Minute), 1, "any")
	add(noon.Add(4*time.Minute), 9, "2001:db8:1::/56") // the penalty of a network is not a knock
	add(noon.Add(4*time.Minute), 9, "nobody")
	g.Add(Record{Time: noon, Event: EventGranted, Source: "192.0.2.7"})
	top := []GuessedFrom{{"203.0.113.0/24", 5, 0}, {"2001:db8:1::/48", 4, 0}, {"any", 1, 0}}
	last := []GuessedFrom{{"192.0.2.0/24", 2, 0}}
	for _, tt := range []struct {
		name      string
		now       time.Time
		add       int
		hour, day Guessed
	}{
		{"at once", noon.Add(4 * time.Minute), 0, Guessed{noon, 10, top}, Guessed{noon, 10, top}},
		{"within the hour", noon.Add(64 * time.Minute), 0, Guessed{noon, 10, top}, Guessed{noon, 10, top}},
		{"after it", noon.Add(65 * time.Minute), 2, Guessed{noon.Add(5 * time.Minute), 2, last}, Guessed{noon, 12, append(top[:2:2], last[0], top[2])}},
		{"within the day", noon.Add(25*time.Hour - 1), 0, Guessed{noon.Add(24*time.Hour - 5*time.Minute), 0, []GuessedFrom{}},
			Guessed{noon, 12, append(top[:2:2], last[0], top[2])}},
		{"after it, but for what came later", noon.Add(25 * time.Hour), 0, Guessed{noon.Add(24 * time.Hour), 0, []GuessedFrom{}},
			Guessed{noon.Add(time.Hour), 2, last}},
		{"a year later", noon.Add(365 * 24 * time.Hour), 0, Guessed{noon.Add(365*24*time.Hour - time.Hour), 0, []GuessedFrom{}},
			Guessed{noon.Add(364 * 24 * time.Hour), 0, []GuessedFrom{}}},
	} {
		add(tt.now, tt.add, "192.0.2.9")
		if d := cmp.Diff(tt.hour, g.Hour(tt.now)); d != "" {
			t.Errorf("%s, the hour (-want +got):\n%s", tt.name, d)
		}
		if d := cmp.Diff(tt.day, g.Day(tt.now)); d != "" {
			t.Errorf("%s, the day (-want +got):\n%s", tt.name, d)
		}
	}
	// Nothing is lost when the clock goes back.
	add(noon, 2, "192.0.2.9")
	if got := g.Hour(noon); got.Refused != 4 || got.Since != noon {
		t.Errorf("after the clock went back: %v, want 4 since %v", got, noon)
	}
}

// Whatever comes from wherever: the totals are exact, no count is too low, none is
// higher than its Error allows, and no prefix is left out that has much more than those
// listed.
func TestGuessesAgainstExactCounts(t *testing.T) {
	type refused struct {
		time time.Time
		from string
	}
	rapid.Check(t, func(t *rapid.T) {
		before := NewGuesses(noon)
		g, now := before, noon
		// At some time other Guesses take over, as after a restart.
		restart := noon.Add(time.Duration(rapid.IntRange(0, 24*3600).Draw(t, "restart")) * time.Second)
		var all []refused
		for range rapid.IntRange(1, 300).Draw(t, "waves") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20*60).Draw(t, "seconds")) * time.Second)
			if g == before && !now.Before(restart) {
				g = NewGuesses(restart)
			}
			net := rapid.IntRange(0, 99).Draw(t, "network")
			source := fmt.Sprintf("198.18.%d.%d", net, rapid.IntRange(0, 255).Draw(t, "host"))
			prefix := fmt.Sprintf("198.18.%d.0/24", net)
			if rapid.Bool().Draw(t, "over IPv6") {
				source, prefix = fmt.Sprintf("2001:db8:%x:7::1", net+1), fmt.Sprintf("2001:db8:%x::/48", net+1)
			}
			for range rapid.IntRange(1, 9).Draw(t, "refused") {
				g.Add(at(now, source))
				all = append(all, refused{now, prefix})
			}
		}
		if g != before {
			g = g.After(before)
		}
		for name, got := range map[string]Guessed{"hour": g.Hour(now), "day": g.Day(now)} {
			span, slack := time.Hour, hourPart
			if name == "day" {
				span, slack = 24*time.Hour, dayPart
			}
			if ago := now.Sub(got.Since); ago > span+slack || ago < span && !got.Since.Equal(noon) {
				t.Fatalf("the %s begins %s ago", name, ago)
			}
			exact, total := map[string]uint64{}, uint64(0)
			for _, r := range all {
				if !r.time.Before(got.Since) {
					exact[r.from]++
					total++
				}
			}
			if got.Refused != total {
				t.Fatalf("the %s has %d, want %d", name, got.Refused, total)
			}
			told := map[string]bool{}
			for _, f := range got.Top {
				if n := exact[f.Prefix]; f.Refused < n || f.Refused-f.Error > n || told[f.Prefix] {
					t.Fatalf("the %s has %v, and %d came from there", name, f, n)
				}
				told[f.Prefix] = true
			}
			if len(got.Top) < min(topPrefixes, len(exact)) {
				t.Fatalf("the %s names %d prefixes of %d", name, len(got.Top), len(exact))
			}
			// A prefix that is not listed has no more than the last one listed and what the
			// parts may hide.
			for from, n := range exact {
				hidden := total/partPrefixes + 1
				if least := got.Top[len(got.Top)-1]; !told[from] && n > least.Refused+hidden {
					t.Fatalf("the %s leaves out %s with %d, and has %v", name, from, n, least)
				}
			}
		}
	})
}

// A record of the audit trail that sums up refusals counts for all of them, be they from
// one network, or from several that are not known.
func TestGuessesOfSums(t *testing.T) {
	g := NewGuesses(noon)
	g.Add(at(noon, "203.0.113.9"))
	for _, sum := range []struct {
		source string
		n      uint64
	}{{"203.0.113.0/24", 990}, {"2001:db8::/48", 40}, {"", 7}, {"198.51.0.0/16", 1}} {
		r := at(noon, sum.source)
		r.Count = sum.n
		g.Add(r)
	}
	want := Guessed{noon, 1039, []GuessedFrom{{"203.0.113.0/24", 999, 8}, {"2001:db8::/48", 48, 8}}}
	if d := cmp.Diff(want, g.Hour(noon)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A snapshot does not change with the Guesses that it was taken of.
func TestASnapshotStaysAsItWas(t *testing.T) {
	g := NewGuesses(noon)
	add := func(now time.Time) {
		for n := range 40 {
			g.Add(at(now, fmt.Sprintf("198.18.%d.1", n)))
		}
	}
	var was []Guessed
	var snapshots []*Guesses
	for n := range 80 {
		now := noon.Add(time.Duration(n) * 3 * time.Minute)
		add(now)
		was, snapshots = append(was, g.Hour(now), g.Day(now)), append(snapshots, g.Snapshot())
		add(now)
	}
	for n, s := range snapshots {
		now := noon.Add(time.Duration(n) * 3 * time.Minute)
		if d := cmp.Diff(was[2*n:2*n+2], []Guessed{s.Hour(now), s.Day(now)}); d != "" {
			t.Fatalf("the snapshot of %s later (-was +is):\n%s", now.Sub(noon), d)
		}
	}
}

// Nothing is copied for a snapshot of what has not changed, and After does not change one.
func TestASnapshotOfTheSame(t *testing.T) {
	g := NewGuesses(noon)
	g.Add(at(noon, "198.18.0.1"))
	first := g.Snapshot()
	before := NewGuesses(noon.Add(-time.Hour))
	before.Add(at(noon.Add(-time.Minute), "198.18.0.2"))
	before.Add(at(noon.Add(-time.Minute), "198.18.0.2"))
	if got := first.After(before).Hour(noon).Refused; got != 3 {
		t.Errorf("with what was before, %d knocks were refused, want 3", got)
	}
	g.Add(Record{Time: noon, Event: EventGranted, Source: "198.18.0.1"})
	if g.Snapshot() != first {
		t.Error("a copy was made of what has not changed")
	}
	g.Add(at(noon, "198.18.0.3"))
	if now := g.Snapshot(); now == first || now.Hour(noon).Refused != 2 || first.Hour(noon).Refused != 1 {
		t.Errorf("%d and then %d knocks were refused, want 1 and then 2", first.Hour(noon).Refused, now.Hour(noon).Refused)
	}
}

// A prefix that guesses more than all others together is named first, however many the
// others are.
func TestTheLoudestIsNamed(t *testing.T) {
	g, net := NewGuesses(noon), 0
	for n := range 30_000 {
		now := noon.Add(time.Duration(n) * time.Second / 10)
		if n%3 > 0 {
			net++
			g.Add(at(now, netip.AddrFrom4([4]byte{198, 18 + byte(net>>8&1), byte(net), 1}).String()))
			continue
		}
		for range 3 {
			g.Add(at(now, "203.0.113.9"))
		}
	}
	for name, got := range map[string]Guessed{"hour": g.Hour(noon.Add(50 * time.Minute)), "day": g.Day(noon.Add(50 * time.Minute))} {
		if first := got.Top[0]; got.Refused != 50_000 || first.Prefix != "203.0.113.0/24" || first.Refused < 30_000 || first.Refused-first.Error > 30_000 {
			t.Errorf("the %s has %d refused and names %v first, want 50,000 and 30,000 of 203.0.113.0/24", name, got.Refused, first)
		}
	}
}

// A million prefixes cost no more than a few: no more memory, and no more looks at
// counters for each refusal.
func TestWhatAMillionPrefixesCost(t *testing.T) {
	g := NewGuesses(noon)
	r := at(noon, "2001:db8::1")
	a := netip.MustParseAddr(r.Source).As16()
	prefixes := 1_000_000
	if testing.Short() {
		prefixes = 100_000
	}
	for n := range prefixes {
		a[1], a[2], a[3] = byte(n>>16), byte(n>>8), byte(n)
		r.Time, r.Source = noon.Add(time.Duration(n)*86*time.Millisecond), netip.AddrFrom16(a).String()
		before := g.looks
		if g.Add(r); g.looks-before > 2*partPrefixes {
			t.Fatalf("refusal %d looked at %d counters, want %d at the most", n, g.looks-before, 2*partPrefixes)
		}
	}
	size := (hourParts + dayParts) * unsafe.Sizeof(part{})
	if len(g.hour.of) != hourParts || len(g.day.of) != dayParts || size > 30<<10 {
		t.Errorf("%d and %d parts of together %d bytes, want %d, %d and 30 KiB", len(g.hour.of), len(g.day.of), size, hourParts, dayParts)
	}
	if got := g.Day(r.Time); got.Refused != uint64(prefixes) || len(got.Top) != topPrefixes {
		t.Errorf("the day has %d refused and names %d prefixes, want %d and %d", got.Refused, len(got.Top), prefixes, topPrefixes)
	}
	if n := testing.AllocsPerRun(1000, func() { g.Add(r) }); n != 0 {
		t.Errorf("a refusal allocates %v times, want never", n)
	}
}
