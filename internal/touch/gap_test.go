package touch

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tape"
)

// A visitor who has touched one port of two before a gap, with 50 of 60 seconds left,
// has 50 seconds after it; the order and the ports are judged as ever.
func TestAGapTakesNoTimeFromAKnock(t *testing.T) {
	given := article
	given.Given = true
	judged := article
	judged.Judge = time.Minute
	const gapEnd = 10*time.Second + time.Hour
	after := func(d time.Duration, port uint16) step { return step{gapEnd + d, visitor, port} }
	for _, tt := range []struct {
		name  string
		rule  Rule
		steps []step
		want  []knock.Verdict
	}{
		{"finished at once", article, []step{after(0, 59002)},
			[]knock.Verdict{{Right: true, Proven: true, Source: visitor, Time: start.Add(gapEnd), Reason: knocked}}},
		{"finished at the last moment", article, []step{after(50*time.Second, 59002)},
			[]knock.Verdict{{Right: true, Proven: true, Source: visitor, Time: start.Add(gapEnd + 50*time.Second), Reason: knocked}}},
		{"a moment too late", article, []step{after(50*time.Second+1, 59002)},
			[]knock.Verdict{{Proven: true, Source: visitor, Time: start.Add(gapEnd + 50*time.Second + 1),
				Reason: "touched only 1 of 2 ports by the end of its 1m0s", Code: "unfinished"}}},
		{"not finished", article, []step{after(0, 0), after(50*time.Second, 0), after(51*time.Second, 0)},
			[]knock.Verdict{{Proven: true, Source: visitor, Time: start.Add(gapEnd + 51*time.Second),
				Reason: "touched only 1 of 2 ports by the end of its 1m0s", Code: "unfinished"}}},
		{"a port to be left alone", article, []step{after(0, 59001)},
			[]knock.Verdict{{Proven: true, Source: visitor, Time: start.Add(gapEnd), Reason: leftAlone, Code: "port"}}},
		{"in the given order", given, []step{after(0, 59002)},
			[]knock.Verdict{{Right: true, Proven: true, Source: visitor, Time: start.Add(gapEnd), Reason: knocked}}},
		{"judged at the look", judged, []step{after(49*time.Second, 59002), after(50*time.Second, 0)},
			[]knock.Verdict{{Right: true, Proven: true, Source: visitor, Time: start.Add(gapEnd + 50*time.Second), Reason: knocked}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecogniser(tt.rule, start)
			r.Hear(touch(step{0, visitor, 59000}))
			r.Gap(start.Add(10*time.Second), start.Add(gapEnd))
			var got []knock.Verdict
			for _, s := range tt.steps {
				got = append(got, s.take(r)...)
			}
			if d := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
				t.Errorf("verdicts (-want +got):\n%s", d)
			}
		})
	}
}

// Any touches, looks and gaps come to the same verdicts as without the gaps, by a clock
// that stood still in them. So nothing opens that would not have opened, and nobody
// gains a try.
func TestAGapIsAsIfTheClockHadStoodStill(t *testing.T) {
	sources := []netip.Addr{visitor, other, netip.MustParseAddr("2001:db8::3"), four(7)}
	rapid.Check(t, func(t *rapid.T) {
		rule := drawRule(tape.New(rapid.SliceOfN(rapid.Byte(), 40, 40).Draw(t, "rule")))
		gaps, still := newRecogniser(rule, start), newRecogniser(rule, start)
		now, stood := start, time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			before := now
			now = now.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "wait")) * time.Second)
			past, got, want := stood, []knock.Verdict(nil), []knock.Verdict(nil)
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0: // a gap, which may begin before the latest look
				if early := rapid.IntRange(0, 2).Draw(t, "early"); early > 0 {
					got, want = gaps.Look(now), still.Look(now.Add(-stood))
					before = now.Add(-time.Duration(early) * time.Second)
				} else {
					stood += now.Sub(before)
				}
				end := now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "gap")) * time.Second)
				stood += end.Sub(now)
				gaps.Gap(before, end)
				now = end
			case 1:
				got, want = gaps.Look(now), still.Look(now.Add(-stood))
			default:
				s := step{now.Sub(start), rapid.SampledFrom(sources).Draw(t, "source"), rapid.SampledFrom(rule.Listen).Draw(t, "port")}
				got = s.take(gaps)
				s.after -= stood
				want = s.take(still)
			}
			for i := range want {
				want[i].Time = want[i].Time.Add(past)
			}
			if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
				t.Fatalf("%+v, verdicts after gaps of %s (-stood still +gaps):\n%s", rule, stood, d)
			}
			due, waits := gaps.Next()
			wantDue, wantWaits := still.Next()
			if wantWaits {
				wantDue = wantDue.Add(stood)
			}
			if waits != wantWaits || !due.Equal(wantDue) || !slices.Equal(closed(gaps), closed(still)) {
				t.Fatalf("the next look is at %s, %v, with %v touched; want %s, %v, %v",
					due, waits, closed(gaps), wantDue, wantWaits, closed(still))
			}
		}
	})
}

// A touch that is dated within the gap, or before it but comes late, counts as made at
// the gap's end: no earlier than what was touched before.
func TestATouchOfTheGapCountsAtItsEnd(t *testing.T) {
	for _, late := range []time.Duration{0, time.Second, 10 * time.Second, 12 * time.Second} {
		r := newRecogniser(article, start)
		r.Hear(touch(step{2 * time.Second, visitor, 59000}))
		r.Gap(start.Add(10*time.Second), start.Add(time.Hour))
		r.Hear(touch(step{late, other, 59000}))
		r.Look(start.Add(time.Hour + 53*time.Second)) // the first one's time is up
		due, _ := r.Next()
		if want := start.Add(time.Hour + time.Minute + 1); !due.Equal(want) || r.sources.whole.n != 1 {
			t.Errorf("a touch of %s has time until %s, with %d sources under way; want one until %s", late, due, r.sources.whole.n, want)
		}
	}
}

// What a gap costs does not depend on who has something under way.
func TestAGapCostsTheSameHoweverManyKnock(t *testing.T) {
	for _, n := range []int{1, 1000, maxSources} {
		r := filled(six, n, four)
		before := r.sources.work
		r.Gap(start.Add(time.Second), start.Add(time.Hour))
		if vs := r.Look(start.Add(time.Hour)); len(vs) != 0 || r.sources.work != before {
			t.Errorf("%d sources: %d verdicts, %d steps; want none", n, len(vs), r.sources.work-before)
		}
	}
}

// A touch that the listener had in hand while the process did not run comes after a look
// at a later time. It is the beginning of a knock, not one that is too late.
func TestATouchInHandIsNotLate(t *testing.T) {
	r := newRecogniser(article, start)
	late := start.Add(time.Hour)
	if got := r.Look(late); got != nil {
		t.Errorf("nobody has touched anything: %v", got)
	}
	got := r.Hear(touch(step{0, visitor, 59000}))
	got = append(got, r.Look(late.Add(59*time.Second))...)
	got = append(got, r.Hear(touch(step{time.Hour + 59*time.Second, visitor, 59002}))...)
	if len(got) != 1 || !got[0].Right {
		t.Errorf("got %v, want one right knock", got)
	}
}
