package touch

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/knock"
)

// six is a knock as init draws it.
var six = Rule{
	Listen: []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
	Touch:  []uint16{7, 2, 12, 5, 9, 4}, Given: true, Within: time.Minute,
}

// run touches ports a second apart, and returns the verdicts.
func run(r *recogniser, source netip.Addr, from time.Duration, ports ...uint16) (vs []knock.Verdict) {
	for i, p := range ports {
		vs = append(vs, r.Hear(touch(step{from + time.Duration(i)*time.Second, source, p}))...)
	}
	return vs
}

func rights(vs []knock.Verdict) (right, wrong int) {
	for _, v := range vs {
		if v.Right {
			right++
		} else {
			wrong++
		}
	}
	return right, wrong
}

// Several knocks of one source, such as a program with four connections or two people
// behind one address, are right however they interleave.
func TestKnocksOfOneSourceDoNotDisturbEachOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := six
		rule.Given = rapid.Bool().Draw(t, "given")
		rule.Touch = rule.Touch[:rapid.IntRange(1, 6).Draw(t, "touches")]
		r := newRecogniser(rule, start)
		knocks := rapid.IntRange(1, 20).Draw(t, "knocks")
		begun := make([]time.Duration, knocks)
		next := make([]int, knocks)
		var vs []knock.Verdict
		var now time.Duration
		for {
			var open []int // who has touches left
			for k := range next {
				if next[k] < len(rule.Touch) {
					open = append(open, k)
				}
			}
			if len(open) == 0 {
				break
			}
			k := rapid.SampledFrom(open).Draw(t, "whose")
			now += time.Duration(rapid.IntRange(0, 10).Draw(t, "pause")) * time.Second
			for o := range next { // nobody takes too long
				if next[o] > 0 && next[o] < len(rule.Touch) && now-begun[o] > rule.Within {
					k, now = o, begun[o]+rule.Within
				}
			}
			if next[k] == 0 {
				begun[k] = now
			}
			port := rule.Touch[next[k]]
			if !rule.Given { // everybody in an order of their own
				port = rule.Touch[(next[k]+k)%len(rule.Touch)]
			}
			next[k]++
			vs = append(vs, r.Hear(touch(step{now, visitor, port}))...)
		}
		vs = append(vs, r.Look(start.Add(now+time.Hour))...)
		if right, wrong := rights(vs); right == 0 || right > knocks || wrong > 0 {
			t.Fatalf("%d knocks came to %d right and %d wrong: %v", knocks, right, wrong, vs)
		}
	})
}

// The worst case: all in step.
func TestFourInStepAreRight(t *testing.T) {
	r := newRecogniser(six, start)
	var vs []knock.Verdict
	for i, p := range six.Touch {
		vs = append(vs, run(r, visitor, time.Duration(i)*time.Second, p, p, p, p)...)
	}
	if right, wrong := rights(append(vs, r.Look(start.Add(time.Hour))...)); right != 4 || wrong != 0 {
		t.Errorf("%d right and %d wrong, want each of the four to be right", right, wrong)
	}
}

func TestLeftoversOfAKnockBesideARightOneCostNothing(t *testing.T) {
	for _, given := range []bool{true, false} {
		rule := six
		rule.Given = given
		t.Run(fmt.Sprintf("given %v", given), func(t *testing.T) {
			r := newRecogniser(rule, start)
			if right, wrong := rights(run(r, visitor, 0, rule.Touch...)); right != 1 || wrong != 0 {
				t.Fatalf("%d right, %d wrong", right, wrong)
			}
			if vs := run(r, visitor, 10*time.Second, 4, 9, 12, 2); len(vs) != 0 {
				t.Errorf("touches out of order soon after a right knock came to %v", vs)
			}
			if vs := run(r, visitor, 20*time.Second, 7, 2); len(vs) != 0 {
				t.Errorf("a knock begun soon after a right one came to %v", vs)
			}
			if vs := r.Look(start.Add(time.Hour)); len(vs) != 0 {
				t.Errorf("left unfinished, it came to %v", vs)
			}
			// A port to be left alone is wrong at any time.
			run(r, visitor, 2*time.Hour, rule.Touch...)
			if vs := run(r, visitor, 2*time.Hour+10*time.Second, 1); len(vs) != 1 || vs[0].Right {
				t.Errorf("a port to be left alone came to %v soon after a right knock", vs)
			}
			if vs := run(r, visitor, 2*time.Hour+11*time.Second, 9, 12); given && len(vs) == 0 {
				t.Error("after a wrong touch the right knock before still excuses others")
			}
		})
	}
}

// A knock beside a right one may take longer than it may, as the right one nearly did.
func TestASlowKnockBesideARightOneCostsNothing(t *testing.T) {
	for _, given := range []bool{true, false} {
		rule := six
		rule.Given = given
		r := newRecogniser(rule, start)
		var vs []knock.Verdict
		for i, p := range rule.Touch {
			vs = append(vs, run(r, visitor, time.Duration(i)*10*time.Second, p)...)
		}
		if right, wrong := rights(vs); right != 1 || wrong != 0 {
			t.Fatalf("given %v: %d right, %d wrong", given, right, wrong)
		}
		if vs := append(run(r, visitor, 70*time.Second, rule.Touch[1]), r.Look(start.Add(time.Hour))...); len(vs) != 0 {
			t.Errorf("given %v: a touch of another knock begun with the right one came to %v", given, vs)
		}
	}
}

func TestAKnockBegunAfterItsLeaveToBeUnfinishedIsWrong(t *testing.T) {
	r := newRecogniser(six, start)
	run(r, visitor, 0, six.Touch...) // right after 5 s, so fresh for 65 s
	run(r, visitor, 30*time.Second, 7)
	run(r, visitor, 66*time.Second, 7)
	if vs := r.Look(start.Add(time.Hour)); len(vs) != 1 || vs[0].Right {
		t.Errorf("it came to %v, want wrong", vs)
	}
}

// One attempt tries one order: a list of touches that contains every order of
// the ports opens only if it begins like the right one, and so does the last
// port of a knock given again.
func TestOneAttemptTriesOneOrder(t *testing.T) {
	rule := Rule{Listen: []uint16{1, 2, 3, 4}, Touch: []uint16{3, 1, 2}, Given: true, Within: time.Minute}
	r := newRecogniser(rule, start)
	// A superpermutation of three: it contains 3 1 2, and begins otherwise.
	vs := run(r, visitor, 0, 1, 2, 3, 1, 2, 1, 3, 2, 1)
	if len(vs) == 0 || vs[0].Right || !vs[0].Time.Equal(start) {
		t.Errorf("touches that contain every order came to %v, want wrong at once", vs)
	}
	for n := range 6 { // each order alone
		order := slices.Clone([][]uint16{{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}}[n])
		vs := run(newRecogniser(rule, start), visitor, 0, append(order, order...)...)
		if len(vs) == 0 || vs[0].Right != slices.Equal(order, rule.Touch) {
			t.Errorf("%v twice came to %v", order, vs) // what comes after a wrong touch is not heard
		}
	}
	r = newRecogniser(rule, start)
	run(r, visitor, 0, 3, 1, 2)
	if vs := run(r, visitor, 10*time.Second, 2, 2, 1, 2); len(vs) != 0 {
		t.Errorf("the end of a knock given again came to %v: it is no knock", vs)
	}
}

func TestAPortToBeLeftAloneSpoilsWhatItFollows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := six
		rule.Given = rapid.Bool().Draw(t, "given")
		n := rapid.IntRange(0, 5).Draw(t, "touches before")
		r := newRecogniser(rule, start)
		vs := run(r, visitor, 0, append(slices.Clone(rule.Touch[:n]), 1)...)
		if right, wrong := rights(vs); right != 0 || wrong != 1 {
			t.Fatalf("%d touches and a port to be left alone came to %v", n, vs)
		}
		if vs := run(r, visitor, 10*time.Second, rule.Touch[n:]...); n > 0 && slices.ContainsFunc(vs, func(v knock.Verdict) bool { return v.Right }) {
			t.Fatalf("the rest of the knock after a wrong touch came to %v", vs)
		}
	})
}

// Addresses of one IPv6 /64 are one source; the verdict is about the address
// that completed the knock.
func TestAnIPv6NetworkIsOneSource(t *testing.T) {
	r := newRecogniser(six, start)
	a := netip.MustParseAddr("2001:db8:0:7::")
	var vs []knock.Verdict
	for i, p := range six.Touch {
		a = a.Next()
		vs = append(vs, run(r, a, time.Duration(i)*time.Second, p)...)
	}
	if len(vs) != 1 || !vs[0].Right || vs[0].Source != a {
		t.Errorf("touches of one /64 came to %v, want right for %s", vs, a)
	}
	if vs := run(r, a.Next(), 10*time.Second, 1); len(vs) != 1 || vs[0].Right || vs[0].Source != a.Next() {
		t.Errorf("a wrong touch came to %v, want wrong for %s", vs, a.Next())
	}
	// Its neighbour is another.
	run(r, a, 2*time.Minute, six.Touch[:5]...)
	b := netip.MustParseAddr("2001:db8:0:8::1")
	if vs := run(r, b, 2*time.Minute+5*time.Second, six.Touch[5]); len(vs) != 1 || vs[0].Right {
		t.Errorf("the last touch by another /64 came to %v, want wrong", vs)
	}
}

func TestTouchesOfAddressesThatMayBeForgedAreUnproven(t *testing.T) {
	r := newRecogniser(six, start)
	forged := touch(step{0, visitor, 7})
	forged.Proven = false
	r.Hear(forged)
	if vs := run(r, visitor, time.Second, 1); len(vs) != 1 || vs[0].Proven {
		t.Errorf("a knock with a touch that proves nothing came to %v, want it unproven", vs)
	}
	if vs := run(r, visitor, time.Second, 1); len(vs) != 1 || !vs[0].Proven {
		t.Errorf("a proven wrong touch came to %v", vs)
	}
}
