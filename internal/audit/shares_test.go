package audit

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var alice = Who{ID: "sealed SHA256:a", By: "sealed alice SHA256:a"}

func visited(event, source string) Record {
	return Record{Time: noon, Door: "ssh", Event: event, Source: source, By: alice.By, Reason: "a key", Visit: true}
}

// Whoever opens and closes in a loop has a hundred records, and then a sum of each kind
// every half hour, which names them and what they did last.
func TestALoopIsSummedUp(t *testing.T) {
	s := NewShares()
	for n := range 500 {
		for i, event := range []string{EventGranted, EventRevoked} {
			r := visited(event, fmt.Sprintf("192.0.2.%d", 1+n%3))
			if event == EventRevoked {
				r.By, r.Source = "kernel", "192.0.2.7"
			}
			got := s.Add(noon, alice, r)
			if want := 2*n+i < shareAtOnce; (len(got) == 1) != want {
				t.Fatalf("record %d: %v, want a record of its own: %v", 2*n+i, got, want)
			}
		}
	}
	next := noon.Add(shareInterval)
	if got := s.Due(next.Add(-time.Nanosecond)); got != nil {
		t.Errorf("a moment before: %v, want nothing", got)
	}
	want := []Record{
		{Time: next, Door: "ssh", Event: EventGranted, By: alice.By, Count: 450, Visit: true,
			Reason: "450 more in 30m0s from 3 addresses; the last: 192.0.2.2: a key"},
		{Time: next, Door: "ssh", Event: EventRevoked, Source: "192.0.2.7", By: alice.By, Count: 450, Visit: true,
			Reason: "450 more in 30m0s from one address; the last: a key"},
	}
	if d := cmp.Diff(want, s.Due(next)); d != "" {
		t.Errorf("the sums (-want +got):\n%s", d)
	}
}

// What is used up comes back, one record every three minutes; others, other doors and other
// classes have shares of their own, and with a new share everything begins anew.
func TestAShareComesBack(t *testing.T) {
	s := NewShares()
	alone := func(now time.Time, who Who, change func(r *Record)) bool {
		r := visited(EventGranted, "192.0.2.7")
		change(&r)
		for _, got := range s.Add(now, who, r) {
			if got.Count == 0 {
				return true
			}
		}
		return false
	}
	same := func(*Record) {}
	for n := range shareAtOnce + 50 {
		if got := alone(noon, alice, same); got != (n < shareAtOnce) {
			t.Fatalf("record %d has a record of its own: %v", n, got)
		}
	}
	for what, at := range map[string]func() bool{
		"bob":                     func() bool { return alone(noon, Who{ID: "sealed SHA256:b"}, same) },
		"another door":            func() bool { return alone(noon, alice, func(r *Record) { r.Door = "web" }) },
		"a login":                 func() bool { return alone(noon, alice, func(r *Record) { r.Event, r.Visit = EventLogin, false }) },
		"somebody without a name": func() bool { return alone(noon, Who{By: "touch"}, same) },
	} {
		if !at() {
			t.Errorf("%s has no share", what)
		}
	}
	now := noon.Add(2 * shareEvery)
	if a, b, c := alone(now, alice, same), alone(now, alice, same), alone(now, alice, same); !a || !b || c {
		t.Errorf("after six minutes: %v %v %v, want two records", a, b, c)
	}
	now = now.Add(shareAtOnce * shareEvery)
	if s.Due(now); len(s.all) > 0 || s.counts[true]+s.counts[false] != 0 {
		t.Errorf("%d shares of which nothing is used are remembered, %v", len(s.all), s.counts)
	}
}

// Whoever has used up their share for hours keeps no other from being forgotten, and then
// counted separately again.
func TestAShareOfWhichAllMayBeUsedIsForgotten(t *testing.T) {
	s := NewShares()
	bob := Who{ID: "sealed SHA256:b"}
	s.Add(noon, bob, visited(EventGranted, "192.0.2.8"))
	for range shareAtOnce {
		s.Add(noon, alice, visited(EventGranted, "192.0.2.7"))
	}
	s.Add(noon, bob, visited(EventRevoked, "192.0.2.8"))
	if s.Due(noon.Add(2*shareEvery - time.Nanosecond)); len(s.all) != 2 {
		t.Errorf("%d shares are remembered, want those of both", len(s.all))
	}
	if s.Due(noon.Add(2 * shareEvery)); len(s.all) != 1 || s.counts[true] != 1 {
		t.Errorf("%d shares are remembered, want the one that is used up", len(s.all))
	}
	if s.Due(noon.Add(shareAtOnce * shareEvery)); len(s.all) != 0 {
		t.Errorf("%d shares are remembered, want none", len(s.all))
	}
}

// Whoever has no name shares with all who come from their network.
func TestNetworksHaveShares(t *testing.T) {
	s, alone := NewShares(), 0
	for n := range 200 {
		alone += len(s.Add(noon, Who{By: "touch"}, visited(EventGranted, fmt.Sprintf("2001:db8::%x", n))))
	}
	got := s.All(noon.Add(time.Minute))
	want := []Record{{Time: noon.Add(time.Minute), Door: "ssh", Event: EventGranted, Source: "2001:db8::/48", By: "touch", Count: 100, Visit: true,
		Reason: "100 more in 1m0s from at least 32 addresses; the last: 2001:db8::c7: a key"}}
	if d := cmp.Diff(want, got); d != "" || alone != shareAtOnce {
		t.Errorf("%d were recorded alone, want 100; the sum (-want +got):\n%s", alone, d)
	}
}

// However many visitors there are, what is remembered is bounded; nobody without a name takes
// the room of those who have one.
func TestManyShares(t *testing.T) {
	s := NewShares()
	for n := range 2 * shareNetworks {
		s.Add(noon, Who{}, visited(EventGranted, netip.AddrFrom4([4]byte{198, 18 + byte(n>>8), byte(n), 1}).String()))
	}
	if len(s.all) != shareNetworks+1 {
		t.Errorf("%d shares, want %d and one of all others", len(s.all), shareNetworks)
	}
	if got := s.Add(noon, alice, visited(EventGranted, "192.0.2.7")); len(got) != 1 {
		t.Errorf("alice has no share: %v", got)
	}
	for n := range 2 * shareNames {
		s.Add(noon, Who{ID: fmt.Sprint(n)}, visited(EventGranted, "192.0.2.7"))
	}
	if most := shareNames + shareNetworks + 1; len(s.all) > most {
		t.Errorf("%d shares, want %d at most", len(s.all), most)
	}
	sums := s.All(noon.Add(time.Minute))
	if len(sums) != 1 || sums[0].By != "" || sums[0].Source != "" || sums[0].Count != 2*shareNetworks+2*shareNames+1-(shareNetworks+shareNames) {
		t.Errorf("the sum of all others: %+v", sums)
	}
}

// Whatever comes in whatever order, each event is recorded once, alone or in a sum, and
// nobody has more records than their share.
func TestSharesTellAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, now := NewShares(), noon
		given, told, records := map[string]uint64{}, map[string]uint64{}, map[string]int{}
		take := func(rs []Record) {
			for _, r := range rs {
				told[r.By+r.Event] += r.Times()
				records[r.By+r.Event]++
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"loop": func(t *rapid.T) {
				who := rapid.SampledFrom([]Who{alice, {ID: "b", By: "bob"}, {By: "touch"}}).Draw(t, "who")
				event := rapid.SampledFrom([]string{EventGranted, EventRevoked, EventExpired}).Draw(t, "event")
				for range rapid.IntRange(1, 150).Draw(t, "times") {
					r := visited(event, "192.0.2.7")
					r.By = who.By
					given[who.By+event]++
					take(s.Add(now, who, r))
				}
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 7200).Draw(t, "seconds")) * time.Second)
				take(s.Due(now))
			},
		})
		take(s.All(now))
		if d := cmp.Diff(given, told); d != "" {
			t.Fatalf("recorded (-want +got):\n%s", d)
		}
		for of, n := range records {
			if most := shareAtOnce + int(now.Sub(noon)/shareEvery) + int(now.Sub(noon)/shareInterval) + 2; n > most {
				t.Fatalf("%s has %d records in %v, want %d at most", of, n, now.Sub(noon), most)
			}
		}
	})
}
