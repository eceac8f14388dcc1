package touch

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tape"
)

// judgement is a verdict without its words.
type judgement struct {
	Source netip.Addr
	Right  bool
	At     time.Time
}

// naive is a recogniser that keeps every touch and looks through all of them
// whenever one comes or time passes. It has no bounds and is in no hurry.
type naive struct {
	rule    Rule
	armed   time.Time
	sources []*knocker // the one whose time is up first, first
}

// knocker is a source, with all its touches that count.
type knocker struct {
	who     netip.Addr
	touches []knock.Heard
	rights  int
	right   time.Time // the latest right knock, zero for none
	renewed time.Time // when it last had its time prolonged
}

func (n *naive) who(a netip.Addr) netip.Addr {
	switch {
	case n.rule.Everybody:
		return netip.Addr{}
	case a.Is4():
		return a
	}
	b := a.As16()
	clear(b[8:])
	return netip.AddrFrom16(b)
}

func (n *naive) of(who netip.Addr) *knocker {
	if i := slices.IndexFunc(n.sources, func(k *knocker) bool { return k.who == who }); i >= 0 {
		return n.sources[i]
	}
	return nil
}

func (n *naive) forget(k *knocker) {
	n.sources = slices.DeleteFunc(n.sources, func(o *knocker) bool { return o == k })
}

// renew lets a source's time begin now, so that it is the last whose time is up.
func (n *naive) renew(k *knocker, now time.Time) {
	n.forget(k)
	k.renewed = now
	n.sources = append(n.sources, k)
}

// distinct returns the ports in the order of their first touches, and when the last of
// these was.
func (k *knocker) distinct() (ports []uint16, last time.Time) {
	for _, t := range k.touches {
		if !slices.Contains(ports, t.Place.Port) {
			ports, last = append(ports, t.Place.Port), t.Time
		}
	}
	return ports, last
}

func (n *naive) judgement(k *knocker, right bool, now time.Time) judgement {
	last := k.touches[len(k.touches)-1].Source
	if n.rule.Everybody {
		last = netip.Addr{}
	}
	return judgement{last, right, now}
}

func (n *naive) together() bool { return n.rule.Everybody || n.rule.Judge > 0 }

// spoilt reports whether the ports can no longer become the knock.
func (n *naive) spoilt(ports []uint16) bool {
	for i, p := range ports {
		if n.rule.Given && (i >= len(n.rule.Touch) || n.rule.Touch[i] != p) || !slices.Contains(n.rule.Touch, p) {
			return true
		}
	}
	return false
}

// look judges the knocks whose time is up at now, and returns how many there were.
func (n *naive) look(now time.Time) (all []judgement, up int) {
	for _, k := range slices.Clone(n.sources) {
		begun := k.touches[0].Time
		over := now.Sub(k.renewed) > n.rule.Within
		if n.rule.Judge > 0 { // is there a look after the first touch, and not after now?
			over = now.Sub(n.armed)/n.rule.Judge > begun.Sub(n.armed)/n.rule.Judge
		}
		if !over {
			continue
		}
		up++
		n.forget(k)
		if n.together() {
			ports, last := k.distinct()
			right := !n.spoilt(ports) && len(ports) == len(n.rule.Touch) && last.Sub(begun) <= n.rule.Within
			all = append(all, n.judgement(k, right, now))
			continue
		}
		for _, t := range k.touches {
			if !n.rule.Given || t.Place.Port == n.rule.Touch[0] {
				begun = t.Time
			}
		}
		if k.right.IsZero() || begun.Sub(k.right) > n.rule.Within {
			all = append(all, n.judgement(k, false, now))
		}
	}
	return all, up
}

func (n *naive) touch(t knock.Heard) []judgement {
	if t.Place.Medium != knock.Connections || !slices.Contains(n.rule.Listen, t.Place.Port) {
		return nil
	}
	k := n.of(n.who(t.Source))
	all, _ := n.look(t.Time)
	if k != nil && n.of(k.who) == nil {
		if slices.ContainsFunc(all, func(j judgement) bool { return n.who(j.Source) == k.who || n.rule.Everybody }) {
			return all
		}
		k = nil
	}
	if k == nil {
		k = &knocker{who: n.who(t.Source)}
	}
	k.touches = append(k.touches, t)
	if n.together() {
		if len(k.touches) == 1 {
			n.renew(k, t.Time)
		}
		ports, _ := k.distinct()
		spoilt := n.spoilt(ports)
		if n.rule.Judge > 0 || !spoilt && len(ports) < len(n.rule.Touch) {
			return all
		}
		n.forget(k)
		return append(all, n.judgement(k, !spoilt, t.Time))
	}
	switch right, wrong := n.follow(k, t); {
	case wrong:
		n.forget(k)
		return append(all, n.judgement(k, false, t.Time))
	case right:
		k.rights, k.right = k.rights+1, t.Time
		n.renew(k, t.Time)
		return append(all, n.judgement(k, true, t.Time))
	}
	return all
}

// follow judges the latest touch, and takes it out again if it is nothing.
func (n *naive) follow(k *knocker, t knock.Heard) (right, wrong bool) {
	i := slices.Index(n.rule.Touch, t.Place.Port)
	if i < 0 {
		return false, true
	}
	if !n.rule.Given {
		n.renew(k, t.Time)
		for _, p := range n.rule.Touch {
			of := slices.DeleteFunc(slices.Clone(k.touches), func(o knock.Heard) bool { return o.Place.Port != p })
			if len(of) <= k.rights || t.Time.Sub(of[len(of)-1].Time) > n.rule.Within {
				return false, false
			}
		}
		return true, false
	}
	// The ports up to this one, in their order, among what is young enough?
	next := 0
	for _, o := range k.touches {
		if t.Time.Sub(o.Time) <= n.rule.Within && next <= i && o.Place.Port == n.rule.Touch[next] {
			next++
		}
	}
	if next <= i {
		k.touches = k.touches[:len(k.touches)-1]
		leftover := !k.right.IsZero() && t.Time.Sub(k.right) <= n.rule.Within
		if !leftover {
			k.touches = append(k.touches, t)
		}
		return false, !leftover
	}
	if i == 0 {
		n.renew(k, t.Time)
	}
	return i == len(n.rule.Touch)-1 && n.copies(k) > k.rights, false
}

// copies returns how often the knock can be cut out of the touches.
func (n *naive) copies(k *knocker) (found int) {
	left := slices.Clone(k.touches)
	for {
		next := 0
		left = slices.DeleteFunc(left, func(t knock.Heard) bool {
			if next < len(n.rule.Touch) && t.Place.Port == n.rule.Touch[next] {
				next++
				return true
			}
			return false
		})
		if next < len(n.rule.Touch) {
			return found
		}
		found++
	}
}

// plain returns verdicts without their words.
func plain(vs []knock.Verdict) []judgement {
	var all []judgement
	for _, v := range vs {
		all = append(all, judgement{v.Source, v.Right, v.Time})
	}
	return all
}

// drawRule makes a rule as the configuration allows it.
func drawRule(c *tape.Tape) Rule {
	r := Rule{Given: c.Bool(), Everybody: c.Bool(), Within: time.Duration(1+c.Below(20)) * time.Second}
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

// FuzzRecogniser checks that a rule and touches made from bytes come to the same
// verdicts as with the naive recogniser, that Next returns the first moment at which a
// source's time is up, and that nothing is left behind.
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
	sources := []netip.Addr{visitor, other, netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::3"),
		netip.MustParseAddr("2001:db8:0:1::3")}
	f.Fuzz(func(t *testing.T, choices []byte) {
		c := tape.New(choices)
		rule := drawRule(c)
		r, n := newRecogniser(rule, start), &naive{rule: rule, armed: start}
		now := start
		for c.More() {
			// A nanosecond either side of a whole second, where it matters.
			now = now.Add(max(0, time.Duration(c.Below(8))*time.Second+time.Duration(c.Below(3)-1)))
			due, waits := r.Next()
			var got []knock.Verdict
			var want []judgement
			switch what := c.Below(8); {
			case what == 0:
				var up int
				got = r.Look(now)
				want, up = n.look(now)
				if early := !waits || now.Before(due); early != (up == 0) {
					t.Fatalf("Next says %s, and at %s the time of %d sources is up", due, now, up)
				}
			case what == 1 && c.Below(16) == 0:
				r.Rearm(now)
				*n = naive{rule: rule, armed: now}
			default:
				at := knock.Heard{Source: tape.Of(c, sources), Time: now, Proven: true,
					Place: place(uint16(c.Below(len(rule.Listen) + 2)))}
				if what == 7 {
					at.Place.Medium = knock.Datagrams
				}
				got, want = r.Hear(at), n.touch(at)
			}
			if d := cmp.Diff(want, plain(got), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
				t.Fatalf("%+v: verdicts at %s (-naive +got):\n%s", rule, now.Sub(start), d)
			}
			if _, waits := r.Next(); waits != (len(n.sources) > 0) {
				t.Fatalf("waits %v with %d sources under way", waits, len(n.sources))
			}
			if k := n.of(netip.Addr{}); rule.Everybody && k != nil {
				if ports, _ := k.distinct(); !slices.Equal(closed(r), ports) {
					t.Fatalf("touched are %v, want %v", closed(r), ports)
				}
			}
		}
		r.Look(now.Add(2 * time.Hour))
		if len(r.sources.of) != 0 || r.sources.whole.n != 0 || len(r.sources.near) != 0 {
			t.Fatalf("left behind: %v, %v", r.sources.of, r.sources.near)
		}
	})
}
