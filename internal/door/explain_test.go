package door

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// told returns what Explain says of a source: its covers and penalties, a line each.
func (s *scene) told(source netip.Prefix) []string {
	var all []string
	of := s.door.Explain(s.now, source)
	for _, c := range of.Covers {
		all = append(all, "in by "+SourceString(c.Source)+" "+c.By+" "+c.Until.Sub(s.now).String())
	}
	for _, p := range of.Penalties {
		all = append(all, "ignored by "+p.Name+" as "+SourceString(p.Source)+" "+p.Until.Sub(s.now).String())
	}
	if of.Waits {
		all = append(all, "waits")
	}
	return all
}

func (s *scene) wantTold(source netip.Prefix, want ...string) {
	s.t.Helper()
	if d := cmp.Diff(want, s.told(source), cmpopts.EquateEmpty()); d != "" {
		s.t.Errorf("after %s, of %s Explain says (-want +got):\n%s", s.now.Sub(start), SourceString(source), d)
	}
}

// Explain names whatever lets an address in, and nothing else: its own grant, those of
// prefixes of any length, and everybody's, each with all who gave it.
func TestExplainNamesEveryGrantThatCovers(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", OpenFor: time.Minute, Idle: time.Hour, ForAll: true})
	s.wantTold(visitor)
	for _, g := range []struct{ source, by string }{
		{"192.0.2.2/32", "operator"}, {"192.0.2.0/24", "operator"}, {"192.0.0.0/8", "other"}, {"192.0.2.2/31", ""},
		{"192.0.2.3/32", "operator"}, {"198.51.100.0/24", "operator"}, {"2001:db8::/33", "operator"}, {"2001:db8:8000::/33", "operator"},
	} {
		s.door.Open(s.now, netip.MustParsePrefix(g.source).Masked(), 10*time.Minute, g.by)
	}
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch"})
	s.wantTold(visitor, "in by 192.0.0.0/8 other 10m0s", "in by 192.0.2.0/24 operator 10m0s", "in by 192.0.2.2/31  10m0s",
		"in by 192.0.2.2 operator 10m0s", "in by 192.0.2.2 touch 1m0s")
	s.wantTold(other, "in by 2001:db8::/33 operator 10m0s")
	s.wantTold(netip.MustParsePrefix("192.0.2.0/25"), "in by 192.0.0.0/8 other 10m0s", "in by 192.0.2.0/24 operator 10m0s")
	s.wantTold(Any)
	s.at(time.Minute) // no Tick has ended it yet
	s.wantTold(Source(netip.MustParseAddr("192.0.2.9")), "in by 192.0.0.0/8 other 9m0s", "in by 192.0.2.0/24 operator 9m0s")
	s.door.Knock(s.now, Knock{Source: Any, By: "touch"})
	s.wantTold(Any, "in by any touch 1h0m0s")
	s.wantTold(Source(netip.MustParseAddr("203.0.113.7")), "in by any touch 1h0m0s")
	s.at(10 * time.Minute)
	s.wantTold(visitor, "in by any touch 51m0s")
}

// Explain names all penalties because of which a source is ignored: its own, those of its
// networks, everybody's.
func TestExplainNamesEveryPenaltyThatCounts(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", OpenFor: time.Minute, Idle: time.Hour})
	s.wrong(visitor)
	s.door.Wrong(s.now, Wrong{Name: "word", Proven: true, Source: visitor, By: "word", Penalty: time.Hour})
	s.wantTold(visitor, "ignored by touch as 192.0.2.2 5m0s", "ignored by word as 192.0.2.2 1h0m0s")
	s.wantTold(Source(netip.MustParseAddr("192.0.2.3")))
	for n := range wrong56 {
		s.wrong(lan(1, n))
	}
	s.wantTold(lan(1, 0), "ignored by touch as 2001:db8:1::/56 5m0s", "ignored by touch as 2001:db8:1::/64 5m0s")
	s.wantTold(lan(1, wrong56), "ignored by touch as 2001:db8:1::/56 5m0s")
	s.wantTold(lan(1, 1<<8))
	s.at(5 * time.Minute) // no Tick has ended it yet
	s.wantTold(lan(1, 0))
	s.door.Wrong(s.now, Wrong{Name: "touch", Proven: true, Source: Any, By: "touch", Penalty: time.Minute})
	s.wantTold(visitor, "ignored by touch as any 1m0s", "ignored by word as 192.0.2.2 55m0s")
}

// Explain says that a source waits for the service; if everybody waits, each source does.
func TestExplainSaysWhoWaits(t *testing.T) {
	s := newScene(t, ssh)
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch"})
	s.wantTold(visitor, "waits")
	s.wantTold(other)
	s.door.Open(s.now, netip.MustParsePrefix("2001:db8::/32"), time.Minute, "operator")
	s.wantTold(other, "waits")
	s.wantTold(netip.MustParsePrefix("2001:db8::/48"), "waits")
	s.wantTold(netip.MustParsePrefix("2001:d00::/24"))
	s.door.Revoke(s.now, netip.MustParsePrefix("2001:db8::/32"), "operator")
	s.wantTold(other)
	s.door.Open(s.now, Any, time.Minute, "operator")
	s.wantTold(other, "waits")
	s.door.Runs(s.now)
	s.wantTold(other, "in by any operator 1m0s")
}
