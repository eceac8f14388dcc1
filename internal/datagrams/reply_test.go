//go:build linux

package datagrams

import (
	"net/netip"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/knock"
)

// A prefix gets so many answers a second and no more, whoever asks for it, and others
// get theirs.
func TestAnswersToAPrefix(t *testing.T) {
	var r replies
	now := time.Now()
	asks := netip.MustParseAddr(visitor4)
	for i := range 3 * repliesEach {
		from := asks
		if i%2 == 1 {
			from = netip.MustParseAddr(gateway4) // of the same prefix
		}
		if got := r.may(from, now.Add(time.Duration(i)*time.Microsecond)); got != (i < repliesEach) {
			t.Fatalf("answer %d of a second: %v", i, got)
		}
	}
	for _, from := range prefixes(100) {
		if r.spread.of(from, replyLanes) != r.spread.of(asks, replyLanes) && !r.may(from, now) {
			t.Errorf("no answer to %v, which is of another prefix", from)
		}
	}
	if !r.may(asks, now.Add(time.Second)) {
		t.Error("no answer in the next second")
	}
}

// Whoever forges a prefix uses up the answers to sources that may be forged. A visitor of
// that prefix who has shown that they receive is answered all the same, as often.
func TestAnswersToWhoeverHasShownTheirSource(t *testing.T) {
	var s socket
	now, asks := time.Now(), netip.MustParseAddr(visitor4)
	for _, rank := range []knock.Rank{knock.Claimed, knock.Shown} {
		for i := range 3 * repliesEach {
			if got := s.mayAnswer(asks, rank, now); got != (i < repliesEach) {
				t.Fatalf("answer %d of a second to datagrams of rank %d: %v", i, rank, got)
			}
		}
	}
}

// What a glance answers is not opened, is not longer than what came, and is withheld
// where it would be or there are too many.
func TestGlancesAnswer(t *testing.T) {
	s := newScene(t)
	by, longer := &words{}, &words{more: len("ask:who")}
	s.mustSet(map[uint16]knock.Opener{59000: by, 59001: longer})
	c := s.caller(visitor4 + ":0")
	for range 3 * repliesEach {
		send(t, c, gateway4+":59000", "ask:who")
	}
	send(t, c, gateway4+":59001", "ask:who")
	eventually(t, "all are read", func() bool { return by.glances.Load() == 3*repliesEach && longer.glances.Load() == 1 })
	eventually(t, "all are counted", func() bool {
		got := s.listener.Counts() // the seconds may have been two
		return got.Replied+got.Withheld == 3*repliesEach+1 && got.Replied >= repliesEach && got.Replied <= 2*repliesEach
	})
	for range s.listener.Counts().Replied {
		if text, _ := answered(t, c); text != "who" {
			t.Errorf("answer %q, want %q", text, "who")
		}
	}
	silent(t, c)
	if got := by.opens.Load() + longer.opens.Load(); got != 0 {
		t.Errorf("%d were opened, want none", got)
	}
}
