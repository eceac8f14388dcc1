package audit

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func refusal(source, reason string) Record {
	return Record{Time: noon, Door: "ssh", Event: EventRefused, Source: source, By: "touch", Reason: reason}
}

func TestWhatIsNoRefusalPasses(t *testing.T) {
	s := NewSums()
	for _, event := range []string{EventGranted, EventOpened, EventError, EventApplied, EventRevoked} {
		for range 100 {
			r := Record{Event: event, Source: "192.0.2.7"}
			if d := cmp.Diff([]Record{r}, s.Add(noon, r)); d != "" {
				t.Fatalf("a record of %q (-want +got):\n%s", event, d)
			}
		}
	}
	if got := s.All(noon); got != nil {
		t.Errorf("left over: %v, want nothing", got)
	}
}

// A flood from one prefix is recorded one by one at first, then once a minute; after a
// minute without refusals it is one by one again.
func TestAFloodIsSummedUp(t *testing.T) {
	s, now := NewSums(), noon
	for n := range 1000 {
		got := s.Add(now, refusal(fmt.Sprintf("2001:db8::%x", n%20), fmt.Sprint("port ", n)))
		if want := n < maxSingle; (len(got) == 1) != want {
			t.Fatalf("refusal %d: %v, want a record of its own: %v", n, got, want)
		}
	}
	next := noon.Add(time.Minute)
	if got := s.Due(next.Add(-time.Nanosecond)); got != nil {
		t.Errorf("a moment before: %v, want nothing", got)
	}
	want := []Record{{Time: next, Door: "ssh", Event: EventRefused, Source: "2001:db8::/48", By: "touch", Count: 990,
		Reason: "990 more in 1m0s from 20 addresses; the last, 2001:db8::13: port 999"}}
	if d := cmp.Diff(want, s.Due(next)); d != "" {
		t.Errorf("the sum (-want +got):\n%s", d)
	}
	if got := s.Add(next, refusal("2001:db8::1", "again")); got != nil {
		t.Errorf("the flood goes on: %v, want it in the next sum", got)
	}
	now = next.Add(time.Minute)
	if got := s.Due(now); len(got) != 1 || got[0].Count != 1 || !strings.Contains(got[0].Reason, "1 more in 1m0s from one address") {
		t.Errorf("the next sum: %v, want one of one", got)
	}
	now = now.Add(time.Minute)
	if got := s.Add(now, refusal("2001:db8::1", "quiet since")); len(got) != 1 || got[0].Count != 0 {
		t.Errorf("after a quiet minute: %v, want the refusal itself", got)
	}
}

// When the daemon ends, all sums that are left are recorded.
func TestAllIsTold(t *testing.T) {
	s := NewSums()
	for range 25 {
		s.Add(noon, refusal("192.0.2.7", "x"))
		s.Add(noon, refusal("198.51.100.7", "x"))
	}
	got := s.All(noon.Add(time.Second))
	if len(got) != 2 || got[0].Count != 15 || got[1].Count != 15 {
		t.Errorf("got %v, want two sums of 15", got)
	}
	if got := s.All(noon.Add(time.Second)); got != nil {
		t.Errorf("recorded twice: %v", got)
	}
}

// Whatever the sources, memory is bounded, and so are the records of a minute.
func TestManyPrefixes(t *testing.T) {
	s, told := NewSums(), uint64(0)
	records := 0
	for n := range 100_000 {
		a := netip.AddrFrom4([4]byte{198, 18 + byte(n>>16), byte(n >> 8), byte(n)})
		a = netip.AddrFrom4([4]byte{byte(n >> 9), byte(n >> 1), a.As4()[3], 1})
		for _, r := range s.Add(noon, refusal(a.String(), "x")) {
			told += r.Times()
			records++
		}
	}
	if most := maxPrefixes*maxSingle + maxPrefixes + 1; records > most || len(s.byPrefix) > maxPrefixes+1 {
		t.Errorf("%d records at once and %d prefixes in memory, want at most %d and %d", records, len(s.byPrefix), most, maxPrefixes+1)
	}
	for _, r := range s.All(noon.Add(time.Second)) {
		told += r.Times()
		if len(r.Reason) > 200 {
			t.Errorf("a reason of %d bytes: %q", len(r.Reason), r.Reason)
		}
	}
	if told != 100_000 {
		t.Errorf("%d refusals are recorded, want 100,000", told)
	}
	for _, of := range s.byPrefix {
		if len(of.addresses) > maxAddresses {
			t.Fatalf("%d addresses in memory, want at most %d", len(of.addresses), maxAddresses)
		}
	}
}

func TestPrefixOfSource(t *testing.T) {
	for source, want := range map[string]string{
		"192.0.2.7": "192.0.2.0/24", "2001:db8:1:2::7": "2001:db8:1::/48", "2001:db8:1:2::/64": "2001:db8:1::/48",
		"2001:db8::/32": "2001:db8::/32", "any": "any", "": "", "fe80::1%eth0": "fe80::/48",
	} {
		if got := prefixOfSource(source); got != want {
			t.Errorf("prefixOfSource(%q) = %q, want %q", source, got, want)
		}
	}
}

// Every refusal is recorded once, alone or in a sum, in whatever order things
// come; sums come when they are due; and what is in the lists is in the map.
func TestNoRefusalIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, now := NewSums(), noon
		added, told := map[string]uint64{}, map[string]uint64{}
		take := func(records []Record) {
			for _, r := range records {
				told[r.Door] += r.Times()
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"refusals": func(t *rapid.T) {
				door := rapid.SampledFrom([]string{"ssh", "db"}).Draw(t, "door")
				network := rapid.IntRange(0, 400).Draw(t, "network")
				for n := range rapid.IntRange(1, 30).Draw(t, "many") {
					r := refusal(fmt.Sprintf("2001:db8:%x::%x", network, n), "x")
					r.Door = door
					added[door]++
					take(s.Add(now, r))
				}
			},
			"many networks": func(t *rapid.T) {
				for n := range 300 {
					added["ssh"]++
					take(s.Add(now, refusal(fmt.Sprintf("2001:db8:%x::1", n), "x")))
				}
			},
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
				if rapid.Bool().Draw(t, "due") {
					take(s.Due(now))
					if e := s.loud.Front(); e != nil && over(e, now.Add(-sumInterval)) {
						t.Fatalf("a sum is due, and is not returned: %+v", e.Value)
					}
				}
			},
			"": func(t *rapid.T) {
				if n := s.quiet.Len() + s.loud.Len(); n != len(s.byPrefix) || n > maxPrefixes+2 {
					t.Fatalf("%d in the lists and %d in the map", n, len(s.byPrefix))
				}
			},
		})
		take(s.All(now))
		if d := cmp.Diff(added, told); d != "" {
			t.Fatalf("refusals recorded (-want +got):\n%s", d)
		}
	})
}
