package sequence

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tape"
)

// judgement is a verdict without its words.
type judgement struct {
	Source netip.Addr
	Right  bool
	At     time.Time
}

// naive is a recogniser that keeps every touch and looks through all of them
// whenever time passes. It knows judge and scope too, which model does not.
type naive struct {
	rule    Rule
	armed   time.Time
	touches []port.Touch // of knocks under way, in their order
}

func (n *naive) source(t port.Touch) netip.Addr {
	if n.rule.ForAll {
		return netip.Addr{}
	}
	return t.Source
}

// of returns a source's first touch of each port, in order.
func (n *naive) of(source netip.Addr) (ports []uint16, first, last time.Time) {
	for _, t := range n.touches {
		if n.source(t) != source || slices.Contains(ports, t.Port.Number) {
			continue
		}
		if ports == nil {
			first = t.Time
		}
		ports, last = append(ports, t.Port.Number), t.Time
	}
	return ports, first, last
}

func (n *naive) forget(source netip.Addr) {
	n.touches = slices.DeleteFunc(n.touches, func(t port.Touch) bool { return n.source(t) == source })
}

// spoilt says whether the ports can never become the knock any more.
func (n *naive) spoilt(ports []uint16) bool {
	for i, p := range ports {
		if n.rule.Given && (i >= len(n.rule.Touch) || n.rule.Touch[i] != p) || !slices.Contains(n.rule.Touch, p) {
			return true
		}
	}
	return false
}

// look judges the knocks whose time is up at now, in the order of their first
// touches.
func (n *naive) look(now time.Time) []judgement {
	var all []judgement
	for i := 0; i < len(n.touches); {
		source := n.source(n.touches[i])
		ports, first, last := n.of(source)
		up := now.Sub(first) > n.rule.Within
		if n.rule.Judge > 0 { // is there a look after first, and not after now?
			up = now.Sub(n.armed)/n.rule.Judge > first.Sub(n.armed)/n.rule.Judge
		}
		if !up {
			i++
			continue
		}
		right := !n.spoilt(ports) && len(ports) == len(n.rule.Touch) && last.Sub(first) <= n.rule.Within
		all = append(all, judgement{source, right, now})
		n.forget(source)
	}
	return all
}

func (n *naive) touch(t port.Touch) []judgement {
	if t.Port.Proto != port.TCP || !slices.Contains(n.rule.Listen, t.Port.Number) {
		return nil
	}
	all := n.look(t.Time)
	source := n.source(t)
	if slices.ContainsFunc(all, func(j judgement) bool { return j.Source == source }) {
		return all
	}
	n.touches = append(n.touches, t)
	ports, _, _ := n.of(source)
	switch {
	case n.rule.Judge > 0:
	case n.spoilt(ports):
		all = append(all, judgement{source, false, t.Time})
		n.forget(source)
	case len(ports) == len(n.rule.Touch):
		all = append(all, judgement{source, true, t.Time})
		n.forget(source)
	}
	return all
}

// drawRule makes a rule as the configuration allows it.
func drawRule(c *tape.Tape) Rule {
	r := Rule{Given: c.Bool(), ForAll: c.Bool(), Within: time.Duration(1+c.Below(20)) * time.Second}
	for i := range 1 + c.Below(5) {
		r.Listen = append(r.Listen, uint16(i+1))
	}
	for range 1 + c.Below(len(r.Listen)) {
		if p := uint16(1 + c.Below(len(r.Listen))); !slices.Contains(r.Touch, p) {
			r.Touch = append(r.Touch, p)
		}
	}
	if c.Bool() {
		r.Judge = r.Within + time.Duration(c.Below(20))*time.Second
	}
	return r
}

// FuzzRecogniser holds that a rule and touches made from bytes come to the same
// verdicts as with the naive recogniser, that Next tells the first moment at
// which there is one, and that nothing is left behind.
func FuzzRecogniser(f *testing.F) {
	for _, s := range []string{
		"", "\x00\x00\x09\x02\x01\x00\x02\x00" + "\x00\x00\x00\x01\x00\x01\x00\x01\x00\x02", // the article
		"\x01\x00\x09\x02\x01\x00\x02\x00" + "\x00\x00\x02\x00\x01\x00\x00\x00",
		"\x00\x01\x04\x02\x01\x00\x02\x01\x05" + "\x00\x01\x00\x05\x02\x01\x03\x01\x01\x02\x00\x09\x00\x02",
		"\x01\x01\x09\x04\x04\x04\x03\x02\x01\x00\x01\x00" + "\x04\x00\x05\x00\x06\x00\x07\x00\x08\x01\x09\x02\x0a",
		"\x00\x00\x01\x01\x00\x00\x00" + "\x03\x00\x00\x02\x01\x00\x03\x02\x00\x01\x00\x00",
	} {
		f.Add([]byte(s))
	}
	sources := []netip.Addr{visitor, other, netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::3")}
	f.Fuzz(func(t *testing.T, choices []byte) {
		c := tape.New(choices)
		rule := drawRule(c)
		r, n := New(rule, start), &naive{rule: rule, armed: start}
		now := start
		for c.More() {
			// A nanosecond either side of a whole second, where it matters.
			now = now.Add(max(0, time.Duration(c.Below(8))*time.Second+time.Duration(c.Below(3)-1)))
			due, waits := r.Next()
			var got []Verdict
			var want []judgement
			switch what := c.Below(8); {
			case what == 0:
				got, want = r.Look(now), n.look(now)
				if early := !waits || now.Before(due); early != (len(want) == 0) {
					t.Fatalf("Next says %s, and at %s there are %d verdicts", due, now, len(want))
				}
			case what == 1 && c.Below(16) == 0:
				r.Rearm(now)
				*n = naive{rule: rule, armed: now}
			default:
				at := port.Touch{Source: tape.Of(c, sources), Time: now, Proven: true,
					Port: port.Port{Proto: port.TCP, Number: uint16(c.Below(len(rule.Listen) + 2))}}
				if what == 7 {
					at.Port.Proto = port.UDP
				}
				got, want = r.Touch(at), n.touch(at)
			}
			var plain []judgement
			for _, v := range got {
				plain = append(plain, judgement{v.Source, v.Right, v.Time})
			}
			if d := cmp.Diff(want, plain, cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Fatalf("%+v: verdicts at %s (-naive +got):\n%s", rule, now, d)
			}
			if _, waits := r.Next(); waits != (len(n.touches) > 0) {
				t.Fatalf("waits %v with %d touches under way", waits, len(n.touches))
			}
			if ports, _, _ := n.of(netip.Addr{}); rule.ForAll && !slices.Equal(r.Touched(), ports) {
				t.Fatalf("touched are %v, want %v", r.Touched(), ports)
			}
		}
		r.Look(now.Add(time.Hour))
		if len(r.of) != 0 || r.underway.Len() != 0 || len(r.neighbours) != 0 {
			t.Fatalf("left behind: %v, %v", r.of, r.neighbours)
		}
	})
}
