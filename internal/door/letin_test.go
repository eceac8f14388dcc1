package door

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// letIn returns what let the visitor in who came some time ago.
func (s *scene) letIn(ago time.Duration, who string) string {
	l, ok := s.door.LetIn(s.now, s.now.Add(-ago), netip.MustParseAddr(who))
	if !ok {
		return "nothing"
	}
	return fmt.Sprintf("%s by %s since %s", SourceString(l.Source), strings.Join(l.Whose, " and "), l.Since.Sub(start))
}

// What let somebody in is the narrowest grant, even if it has ended since, but not if it
// had ended before.
func TestWhatLetSomebodyIn(t *testing.T) {
	rules := ssh
	rules.Service = false
	s := newScene(t, rules)
	s.at(time.Second)
	want := func(ago time.Duration, who, want string) {
		t.Helper()
		if got := s.letIn(ago, who); got != want {
			t.Errorf("after %s, %s was let in by %s, want %s", s.now.Sub(start), who, got, want)
		}
	}
	want(time.Hour, "192.0.2.2", "nothing")
	s.door.Knock(s.now, Knock{Name: "word-2", Source: visitor, By: "word alice", For: time.Minute})
	s.door.Open(s.now, netip.MustParsePrefix("192.0.2.0/24"), time.Hour, "operator bob (uid 1001)")
	want(0, "192.0.2.2", "192.0.2.2 by word-2 alice since 1s")
	want(0, "::ffff:192.0.2.2", "192.0.2.2 by word-2 alice since 1s")
	want(0, "192.0.2.3", "192.0.2.0/24 by operator bob (uid 1001) since 1s")
	want(0, "198.51.100.1", "nothing")
	s.at(2 * time.Second)
	s.door.Knock(s.now, Knock{Name: "word-2", Source: visitor, By: "word alice", For: time.Minute})
	s.door.Open(s.now, visitor, 2*time.Minute, "operator bob (uid 1001)")
	want(0, "192.0.2.2", "192.0.2.2 by operator bob (uid 1001) and word-2 alice since 1s")
	if v := s.door.View(s.now); v.Grants[2].Whose != "word-2 alice" || v.Grants[2].By != "word alice" || !v.Grants[2].Since.Equal(start.Add(time.Second)) {
		t.Errorf("status has the grants %+v", v.Grants)
	}

	// A grant that has ended let in those who came before its end.
	s.door.Revoke(s.now, visitor, "operator")
	s.door.Revoke(s.now, netip.MustParsePrefix("192.0.2.0/24"), "operator")
	s.at(5 * time.Second)
	want(3*time.Second, "192.0.2.2", "192.0.2.2 by operator bob (uid 1001) and word-2 alice since 1s")
	want(2*time.Second, "192.0.2.2", "nothing")
	want(3*time.Second, "192.0.2.3", "192.0.2.0/24 by operator bob (uid 1001) since 1s")

	// Everybody's grant, which presence has prolonged, ends with the door.
	s.door.Knock(s.now, Knock{Name: "touch", Source: Any, By: "touch"})
	s.at(10 * time.Second)
	s.door.Seen(s.now, Seen{Connections: 1})
	want(0, "2001:db8::9", "any by touch since 5s")
	s.door.Close(s.now, "operator")
	want(0, "2001:db8::9", "any by touch since 5s")
	s.at(11 * time.Second)
	want(0, "2001:db8::9", "nothing")
}

// Grants that have ended are remembered for some time, and only so many of them.
func TestEndedGrantsAreForgotten(t *testing.T) {
	rules := ssh
	rules.Service = false
	s := newScene(t, rules)
	nth := func(n int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), 32)
	}
	give := func(n int) {
		if _, err := s.door.Open(s.now, nth(n), time.Hour, "operator"); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 2 * maxEnded {
		give(n)
		s.door.Revoke(s.now, nth(n), "operator")
	}
	if got := len(s.door.endedGrants); got != maxEnded {
		t.Errorf("%d grants are remembered, want %d", got, maxEnded)
	}
	if got := s.letIn(0, nth(2*maxEnded-1).Addr().String()); !strings.HasPrefix(got, "198.18.") {
		t.Errorf("the latest was let in by %s", got)
	}
	s.at(endedFor + time.Second)
	give(0)
	s.door.Revoke(s.now, nth(0), "operator")
	if got := len(s.door.endedGrants); got != 1 {
		t.Errorf("after %s, %d grants are remembered, want the one of now", endedFor, got)
	}
	for n := range 2 * maxEndedAtDark {
		give(n)
	}
	s.door.Close(s.now, "operator")
	if got := len(s.door.endedGrants); got != 1+maxEndedAtDark {
		t.Errorf("%d grants of a door that goes dark are remembered, want %d", got, 1+maxEndedAtDark)
	}
}
