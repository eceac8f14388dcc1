package touch

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/knock"
)

var (
	start   = time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	visitor = netip.MustParseAddr("192.0.2.2")
	other   = netip.MustParseAddr("2001:db8::2")
	article = Rule{Listen: []uint16{59000, 59001, 59002}, Touch: []uint16{59000, 59002}, Within: time.Minute}
)

// step is one touch, or (port 0) a look, after some time from the start.
type step struct {
	after  time.Duration
	source netip.Addr
	port   uint16
}

func (s step) take(r *recogniser) []knock.Verdict {
	if s.port == 0 {
		return r.Look(start.Add(s.after))
	}
	return r.Hear(touch(s))
}

func touch(s step) knock.Heard {
	return knock.Heard{Source: s.source, Place: place(s.port),
		Time: start.Add(s.after), Proven: true}
}

func TestVerdicts(t *testing.T) {
	given := article
	given.Given = true
	judged := article
	judged.Judge = time.Minute
	everybody := judged
	everybody.Everybody = true
	right := func(after time.Duration, a netip.Addr, reason string) knock.Verdict {
		return knock.Verdict{Right: true, Proven: true, Source: a, Everybody: !a.IsValid(), Time: start.Add(after), Reason: reason}
	}
	wrong := func(after time.Duration, a netip.Addr, reason string) knock.Verdict {
		return knock.Verdict{Proven: true, Source: a, Everybody: !a.IsValid(), Time: start.Add(after), Reason: reason, Code: codeOf(reason)}
	}
	const s = time.Second
	for _, tt := range []struct {
		name  string
		rule  Rule
		steps []step
		want  []knock.Verdict
	}{
		{"right, any order", article,
			[]step{{0, visitor, 59002}, {s, visitor, 59000}},
			[]knock.Verdict{right(s, visitor, knocked)}},
		{"a repeat counts once", article,
			[]step{{0, visitor, 59000}, {s, visitor, 59000}, {2 * s, visitor, 59002}},
			[]knock.Verdict{right(2*s, visitor, knocked)}},
		{"a port to be left alone", article,
			[]step{{0, visitor, 59000}, {s, visitor, 59001}},
			[]knock.Verdict{wrong(s, visitor, "touched a port that must be left alone")}},
		{"an ascending scan is wrong at the second port", article,
			[]step{{0, visitor, 59000}, {1, visitor, 59001}, {2, visitor, 59002}, {61 * s, visitor, 0}},
			[]knock.Verdict{wrong(1, visitor, "touched a port that must be left alone"),
				wrong(61*s, visitor, "touched only 1 of 2 ports by the end of its 1m0s")}},
		{"the last moment counts", article,
			[]step{{0, visitor, 59000}, {60 * s, visitor, 59002}},
			[]knock.Verdict{right(60*s, visitor, knocked)}},
		{"a moment too late, nobody looked before", article,
			[]step{{0, visitor, 59000}, {60*s + 1, visitor, 59002}},
			[]knock.Verdict{wrong(60*s+1, visitor, "touched only 1 of 2 ports by the end of its 1m0s")}},
		{"unfinished", article,
			[]step{{0, visitor, 59000}, {60 * s, visitor, 0}, {61 * s, visitor, 0}},
			[]knock.Verdict{wrong(61*s, visitor, "touched only 1 of 2 ports by the end of its 1m0s")}},
		{"sources do not help each other", article,
			[]step{{0, visitor, 59000}, {s, other, 59002}, {2 * s, visitor, 59002}},
			[]knock.Verdict{right(2*s, visitor, knocked)}},
		{"sources do not spoil each other", article,
			[]step{{0, visitor, 59000}, {s, other, 59001}, {2 * s, visitor, 59002}},
			[]knock.Verdict{wrong(s, other, "touched a port that must be left alone"),
				right(2*s, visitor, knocked)}},
		{"given order", given,
			[]step{{0, visitor, 59000}, {s, visitor, 59002}},
			[]knock.Verdict{right(s, visitor, knocked)}},
		{"not the given order", given,
			[]step{{0, visitor, 59002}},
			[]knock.Verdict{wrong(0, visitor, "touched the ports in the wrong order")}},
		{"a port of nobody's", article,
			[]step{{0, visitor, 60000}, {61 * s, visitor, 0}}, nil},

		{"at the tick, as the article does", judged,
			[]step{{10 * s, visitor, 59000}, {20 * s, visitor, 59002}, {59 * s, visitor, 0}, {60 * s, visitor, 0}},
			[]knock.Verdict{right(60*s, visitor, knocked)}},
		{"a knock over the tick is wrong", judged,
			[]step{{59 * s, visitor, 59000}, {60 * s, visitor, 0}},
			[]knock.Verdict{wrong(60*s, visitor, "touched only 1 of 2 ports by the end of its 1m0s")}},
		{"complete, then spoiled before the tick", judged,
			[]step{{1 * s, visitor, 59000}, {2 * s, visitor, 59002}, {3 * s, visitor, 59001}, {60 * s, visitor, 0}},
			[]knock.Verdict{wrong(60*s, visitor, "touched a port that must be left alone")}},
		{"touches on the tick belong to the next", judged,
			[]step{{60 * s, visitor, 59000}, {119 * s, visitor, 59002}, {120 * s, visitor, 0}},
			[]knock.Verdict{right(120*s, visitor, knocked)}},
		{"everybody's touches add up", everybody,
			[]step{{1 * s, visitor, 59000}, {2 * s, other, 59002}, {60 * s, visitor, 0}},
			[]knock.Verdict{right(60*s, netip.Addr{}, knocked)}},
		{"everybody's touches spoil", everybody,
			[]step{{1 * s, visitor, 59000}, {2 * s, other, 59001}, {60 * s, visitor, 0}},
			[]knock.Verdict{wrong(60*s, netip.Addr{}, "touched a port that must be left alone")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecogniser(tt.rule, start)
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

func TestWithinHoldsAtTheTickToo(t *testing.T) {
	rule := article
	rule.Judge, rule.Within = time.Hour, time.Minute
	r := newRecogniser(rule, start)
	r.Hear(touch(step{time.Minute, visitor, 59000}))
	r.Hear(touch(step{3 * time.Minute, visitor, 59002}))
	got := r.Look(start.Add(time.Hour))
	want := "took 2m0s from the first touch to the last; allowed is 1m0s"
	if len(got) != 1 || got[0].Right || got[0].Reason != want {
		t.Errorf("got %v, want wrong: %s", got, want)
	}
}

func TestTouchedListenersAreKnownUntilTheVerdict(t *testing.T) {
	rule := article
	rule.Everybody = true
	r := newRecogniser(rule, start)
	r.Hear(touch(step{0, visitor, 59000}))
	if got := closed(r); !slices.Equal(got, []uint16{59000}) {
		t.Errorf("touched %v, want 59000", got)
	}
	r.Hear(touch(step{1, other, 59002}))
	if got := closed(r); got != nil {
		t.Errorf("after the verdict %v are still touched", got)
	}
}

// Rules and touches of a few sources, two of which are in one IPv6 /64, come to the
// verdicts of the naive recogniser, which keeps every touch.
func TestAgreesWithTheModel(t *testing.T) {
	sources := []netip.Addr{visitor, other, netip.MustParseAddr("2001:db8::3"), netip.MustParseAddr("198.51.100.7")}
	rapid.Check(t, func(t *rapid.T) {
		rule := Rule{Listen: []uint16{1, 2, 3, 4}, Within: 10 * time.Second, Given: rapid.Bool().Draw(t, "given")}
		rule.Touch = rapid.SampledFrom([][]uint16{{1}, {1, 3}, {3, 1}, {4, 2, 1}, {1, 2, 3, 4}}).Draw(t, "touch")
		r, n := newRecogniser(rule, start), &naive{rule: rule, armed: start}
		now := start
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 4).Draw(t, "wait")) * time.Second)
			at := knock.Heard{Source: rapid.SampledFrom(sources).Draw(t, "source"), Time: now, Proven: true,
				Place: place(rapid.SampledFrom(append(rule.Touch, 1, 2, 3, 4)).Draw(t, "port"))}
			want, got := n.touch(at), plain(r.Hear(at))
			if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
				t.Fatalf("verdicts after %v (-naive +got):\n%s", at, d)
			}
		}
	})
}

// The knock is a secret, and a verdict's reason goes into logs.
func TestVerdictsNameNoPort(t *testing.T) {
	given := article
	given.Given = true
	for _, rule := range []Rule{article, given} {
		for _, steps := range [][]step{
			{{0, visitor, 59000}, {1, visitor, 59002}},
			{{0, visitor, 59002}, {1, visitor, 59000}},
			{{0, visitor, 59000}, {1, visitor, 59001}},
			{{0, visitor, 59000}, {time.Hour, visitor, 0}},
		} {
			r := newRecogniser(rule, start)
			for _, s := range steps {
				for _, v := range s.take(r) {
					if strings.Contains(v.Reason, "59") {
						t.Errorf("%v: the reason %q gives the knock away", steps, v.Reason)
					}
				}
			}
		}
	}
}

func TestNobodyKnocksNobodyWakes(t *testing.T) {
	r := newRecogniser(article, start)
	if at, ok := r.Next(); ok {
		t.Errorf("a fresh recogniser asks for a look at %s", at)
	}
	r.Hear(touch(step{0, visitor, 59000}))
	at, ok := r.Next()
	if !ok || at.Before(start.Add(time.Minute)) {
		t.Fatalf("next look %s, %v; want after a minute", at, ok)
	}
	if got := r.Look(at); len(got) != 1 {
		t.Errorf("the look that was asked for came to %v, want one verdict", got)
	}
}

// closed returns the ports of Closed.
func closed(r *recogniser) (ports []uint16) {
	for _, p := range r.Closed() {
		ports = append(ports, p.Port)
	}
	return ports
}

// What is under way goes on under a rule that asks for the same, whose penalty counts
// from then on, and under no other.
func TestARuleIsFollowedThatAsksForTheSame(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Rule)
		want   bool
	}{
		{"the same", func(*Rule) {}, true},
		{"another penalty", func(r *Rule) { r.Penalty = time.Hour }, true},
		{"another listener", func(r *Rule) { r.Listen = append(r.Listen, 59003) }, false},
		{"other touches", func(r *Rule) { r.Touch = []uint16{59002, 59000} }, false},
		{"the given order", func(r *Rule) { r.Given = true }, false},
		{"less time", func(r *Rule) { r.Within = time.Second }, false},
		{"looks", func(r *Rule) { r.Judge = time.Minute }, false},
		{"everybody's", func(r *Rule) { r.Everybody = true }, false},
	} {
		old, rule := article, article
		old.Penalty = time.Minute
		rule.Penalty = time.Minute
		rule.Listen = slices.Clone(rule.Listen)
		tt.change(&rule)
		r := newRecogniser(old, start)
		r.Hear(touch(step{0, visitor, 59000}))
		if got := r.Follow(rule); got != tt.want {
			t.Errorf("%s: followed %v, want %v", tt.name, got, tt.want)
		}
		want := old.Penalty
		if tt.want {
			want = rule.Penalty
		}
		if got := r.Look(start.Add(time.Hour)); len(got) != 1 || got[0].Penalty != want {
			t.Errorf("%s: what was under way came to %+v, want a penalty of %s", tt.name, got, want)
		}
	}
}
