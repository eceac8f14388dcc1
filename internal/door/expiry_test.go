package door

import (
	"maps"
	"net/netip"
	"testing"
	"time"
)

// A grant lasts for as long as the longest of its claims.
func TestSourcesAndTheirEnds(t *testing.T) {
	s := opened(t, ssh)
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch"})
	if _, err := s.door.Open(s.now, visitor, time.Hour, "operator"); err != nil {
		t.Fatal(err)
	}
	want := map[netip.Prefix]time.Time{visitor: s.now.Add(time.Hour)}
	if got := maps.Collect(s.door.Sources()); !maps.EqualFunc(got, want, time.Time.Equal) {
		t.Errorf("sources with a grant are %v, want %v", got, want)
	}
	if got := s.door.GrantEnd(visitor); !got.Equal(want[visitor]) {
		t.Errorf("the grant ends at %s, want %s", got, want[visitor])
	}
	if got := s.door.GrantEnd(Any); !got.IsZero() {
		t.Errorf("everybody has no grant, and it ends at %s", got)
	}
}
