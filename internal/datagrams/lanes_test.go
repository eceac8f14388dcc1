//go:build linux

package datagrams

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/knock"
)

// prefixes are sources of n different prefixes, none of which is the visitor's.
func prefixes(n int) (all []netip.Addr) {
	for i := range n {
		if i%2 == 0 {
			all = append(all, netip.AddrFrom4([4]byte{198, 18, byte(i), byte(i)}))
			continue
		}
		a := netip.MustParseAddr("2001:db8::").As16()
		a[4], a[5], a[15] = byte(i>>8), byte(i), byte(i)
		all = append(all, netip.AddrFrom16(a))
	}
	return all
}

// apart says whether no two sources share a lane of a class.
func (c *class) apart(all []netip.Addr) bool {
	seen := make(map[int]bool)
	for _, a := range all {
		seen[c.spread.of(a, lanes)] = true
	}
	return len(seen) == len(all)
}

// However many datagrams come from some prefixes, before and after a visitor's, whose
// prefix is another one: that waits and is opened in its turn, when each of the others
// had one. With a rank that others do not have it does not even wait for those.
func TestAFloodLeavesRoomForOtherPrefixes(t *testing.T) {
	visitor := netip.MustParseAddr(visitor4)
	for _, tt := range []struct {
		what             string
		from             int
		flood, knock     knock.Rank
		before, after, n int // n: the most that are opened before the visitor's
	}{
		{"one prefix", 1, knock.Claimed, knock.Claimed, 300, 300, 1},
		{"ten prefixes", 10, knock.Claimed, knock.Claimed, 300, 300, 10},
		{"ten that are shown", 10, knock.Shown, knock.Shown, 300, 300, 10},
		{"shown among claimed", 10, knock.Claimed, knock.Shown, 300, 300, 0},
		{"shown among claimed of all prefixes", 500, knock.Claimed, knock.Shown, 5, 5, 0},
		{"claimed among shown", 10, knock.Shown, knock.Claimed, 300, 300, shownInARow},
	} {
		t.Run(tt.what, func(t *testing.T) {
			tries := 0
			for times := 0; times < 5 && !t.Failed(); tries++ {
				if tries == 100 {
					t.Fatal("the visitor shares a lane with the flood, whatever the seed")
				}
				synctest.Test(t, func(t *testing.T) { // so that no seed is drawn within
					var p pool
					p.init(nil)
					s := listenedTo()
					all := prefixes(tt.from)
					flood := func(n int) {
						for range n {
							for _, from := range all {
								p.comeFrom(s, from, tt.flood, "flood")
							}
						}
					}
					flood(tt.before)
					p.comeFrom(s, visitor, tt.knock, "knock")
					if tt.from < lanes/10 && !s.queue.class(tt.knock).apart(append(all, visitor)) {
						return // a matter of chance, which the next seed changes
					}
					times++
					flood(tt.after)
					for n := range tt.n + 1 {
						if string(p.next().datagram.Payload) == "knock" {
							return
						}
						if n == tt.n {
							t.Errorf("%d are opened before the visitor's, want %d at most", n+1, tt.n)
						}
					}
				})
			}
		})
	}
}

// Of a source everything stays in its order when the seed is another one, and nothing
// is lost.
func TestANewSeedKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pool
		p.init(nil)
		s := listenedTo()
		all := prefixes(30)
		for i := range 4 {
			for _, from := range all {
				p.comeFrom(s, from, knock.Claimed, fmt.Sprint(i))
			}
			time.Sleep(time.Second)
		}
		next := make(map[netip.Addr]int)
		for p.turns.Len() > 0 {
			w := p.next()
			from := w.datagram.Path.From.Addr()
			if string(w.datagram.Payload) != fmt.Sprint(next[from]) {
				t.Fatalf("%q of %v is opened, want %d", w.datagram.Payload, from, next[from])
			}
			next[from]++
		}
		for _, from := range all {
			if next[from] != 4 {
				t.Errorf("%d of %v were opened, want 4", next[from], from)
			}
		}
	})
}

// What a prefix is, is what one subscriber can have; that of one family is not the same
// as that of another.
func TestPrefixes(t *testing.T) {
	var s spread
	s.fresh(time.Now())
	const many = 1 << 40
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.255", true},
		{"192.0.2.1", "192.0.3.1", false},
		{"2001:db8:1::1", "2001:db8:1:ffff::2", true},
		{"2001:db8:1::1", "2001:db8:2::1", false},
		{"fe80::1%1", "fe80::2%2", true},
		{"192.0.2.1", "4c0:2::", false},
	} {
		if got := s.of(netip.MustParseAddr(tt.a), many) == s.of(netip.MustParseAddr(tt.b), many); got != tt.same {
			t.Errorf("%s and %s are of one prefix: %v, want %v", tt.a, tt.b, got, tt.same)
		}
	}
	a, now := netip.MustParseAddr(visitor4), s.from
	before := s.of(a, many)
	if s.fresh(now.Add(time.Second-1)) || s.of(a, many) != before {
		t.Error("the seed is another one within a second")
	}
	if !s.fresh(now.Add(time.Second)) || s.of(a, many) == before {
		t.Error("the seed is the same in the next second")
	}
}
