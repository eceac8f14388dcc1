package door

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// party is whose claims end, of one.
func party(by string) Withdrawal { return Withdrawal{Party: by, Reason: "gone"} }

// endOf judges that the claims of one end.
func endOf(who string) Judge {
	return func(by string, _ netip.Prefix) Judgement { return Judgement{Ends: by == who} }
}

// knocks has somebody knock.
func (s *scene) knocks(source netip.Prefix, by string, length time.Duration) {
	s.t.Helper()
	s.door.Knock(s.now, Knock{Name: "sealed", Source: source, By: by, Reason: "right", For: length})
}

// Of a grant that several claim, only theirs ends; the grant ends with the last claim that
// lasts.
func TestWithdraw(t *testing.T) {
	s := opened(t, ssh)
	s.knocks(other, "sealed alice", time.Hour)
	s.knocks(other, "sealed bob", time.Minute)
	effects, ended, next := s.door.Withdraw(s.now, party("sealed alice"), 0)
	s.want(effects, "drop 2001:db8::2 by sealed alice", "give 2001:db8::2 1m0s", "record revoked | 2001:db8::2 | sealed alice | gone")
	if ended != 1 || next != 0 || s.door.Claims("sealed alice") != 0 || s.door.Claims("sealed bob") != 1 {
		t.Errorf("%d have ended, next %d; alice has %d and bob %d", ended, next, s.door.Claims("sealed alice"), s.door.Claims("sealed bob"))
	}
	effects, ended, _ = s.door.Withdraw(s.now, party("sealed alice"), 0)
	if len(effects) != 0 || ended != 0 {
		t.Errorf("the same again: %v, %d ended", effects, ended)
	}
	effects, _, _ = s.door.Withdraw(s.now, party("sealed bob"), 0)
	s.want(effects, "revoke 2001:db8::2", "drop 2001:db8::2 by sealed bob", "end flows of 2001:db8::2", "record revoked | 2001:db8::2 | sealed bob | gone")
}

// A grant that lasts as long without the claim that ends is not given again: the kernel may
// have ended it since, by a connection that has spent it, or while no daemon ran and the
// clock was set back.
func TestWithdrawGivesNothing(t *testing.T) {
	s := opened(t, ssh)
	s.knocks(other, "sealed alice", time.Minute)
	s.knocks(other, "sealed bob", time.Hour)
	effects, _, _ := s.door.Withdraw(s.now, party("sealed alice"), 0)
	s.want(effects, "drop 2001:db8::2 by sealed alice", "record revoked | 2001:db8::2 | sealed alice | gone")
}

// A neighbour's claim that is over keeps no grant.
func TestWithdrawWithAClaimThatIsOver(t *testing.T) {
	s := opened(t, ssh)
	s.knocks(other, "sealed alice", time.Hour)
	s.knocks(other, "sealed bob", time.Second)
	s.at(2 * time.Second)
	effects, ended, _ := s.door.Withdraw(s.now, party("sealed alice"), 0)
	s.want(effects, "revoke 2001:db8::2", "drop 2001:db8::2 by sealed alice", "drop 2001:db8::2 by sealed bob",
		"end flows of 2001:db8::2", "record revoked | 2001:db8::2 | sealed alice | gone")
	if ended != 1 {
		t.Errorf("%d claims have ended, want alice's", ended)
	}
}

// Whose claims are at one source alone has nothing elsewhere, which costs no walk through
// the grants of others; nor does a walk ask of others where they are.
func TestElsewhere(t *testing.T) {
	s := opened(t, ssh)
	a := netip.MustParseAddr("198.18.0.0")
	for range 1000 {
		a = a.Next()
		s.knocks(Source(a), "sealed bob", time.Hour)
	}
	if s.door.Elsewhere(visitor, "sealed alice") {
		t.Error("alice, who has nothing, has something elsewhere")
	}
	s.knocks(visitor, "sealed alice", time.Hour)
	s.door.Knock(s.now, Knock{Name: "sealed-2", Source: visitor, By: "sealed alice", Reason: "right"})
	if s.door.Elsewhere(visitor, "sealed alice") || !s.door.Elsewhere(other, "sealed alice") || !s.door.Elsewhere(visitor, "sealed bob") {
		t.Error("alice has a grant at one source, and bob has many at others: want that Elsewhere says so")
	}
	s.knocks(other, "sealed alice", time.Hour)
	if !s.door.Elsewhere(visitor, "sealed alice") || !s.door.Elsewhere(other, "sealed alice") {
		t.Error("alice has grants at two sources: want that each is elsewhere")
	}
	asked := 0
	w := party("sealed alice")
	w.At = func(source netip.Prefix) bool { asked++; return source == other }
	if _, ended, _ := s.door.Withdraw(s.now, w, 0); ended != 1 || asked != 2 {
		t.Errorf("%d claims ended, and where was asked of %d: want one of alice's two", ended, asked)
	}
	waits := newScene(t, ssh)
	waits.knocks(other, "sealed alice", 0)
	if !waits.door.Elsewhere(visitor, "sealed alice") {
		t.Error("alice waits for the service at another source: want that she has something elsewhere")
	}
}

// What waits for the service ends as well, and a door that opens for nobody goes dark.
func TestWithdrawWhatWaits(t *testing.T) {
	s := newScene(t, ssh)
	s.knocks(visitor, "sealed alice", 0)
	s.knocks(other, "sealed bob", 0)
	effects, ended := s.door.WithdrawAt(s.now, other, party("sealed alice"))
	if len(effects)+ended != 0 {
		t.Errorf("elsewhere: %v", effects)
	}
	effects, _ = s.door.WithdrawAt(s.now, visitor, party("sealed alice"))
	s.want(effects, "record revoked | 192.0.2.2 | sealed alice | gone")
	s.state(Opening)
	effects, _, _ = s.door.Withdraw(s.now, Withdrawal{Judge: endOf("sealed bob"), Reason: "gone"}, 0)
	s.want(effects, "record revoked | 2001:db8::2 | sealed bob | gone", "clear", "end flows of any", "stop")
	s.state(Closing)
}

// Very many end in parts, each of which looks at so many places at most.
func TestWithdrawManyGrants(t *testing.T) {
	s := opened(t, ssh)
	const many = 3 * endedPerTick
	a := netip.MustParseAddr("198.18.0.0")
	for n := range 2 * many {
		a = a.Next()
		s.knocks(Source(a), []string{"sealed alice", "sealed bob"}[n%2], time.Hour)
	}
	all, parts := 0, 0
	for next, from := 1, 0; next != 0; from = next {
		var effects []Effect
		var ended int
		effects, ended, next = s.door.Withdraw(s.now, party("sealed alice"), from)
		if ended > endedPerTick || len(effects) > 4*endedPerTick {
			t.Fatalf("one part ends %d with %d effects, want %d at most", ended, len(effects), endedPerTick)
		}
		all, parts = all+ended, parts+1
	}
	if all != many || s.door.Claims("sealed alice") != 0 || s.door.Claims("sealed bob") != many {
		t.Errorf("%d have ended; alice has %d and bob %d", all, s.door.Claims("sealed alice"), s.door.Claims("sealed bob"))
	}
	if parts < 3 {
		t.Errorf("%d parts, want 3 at least", parts)
	}
	if _, _, next := s.door.Withdraw(s.now, party("sealed carol"), 0); next != 0 {
		t.Error("the grants are walked through for somebody who has none")
	}
}

// Claims that may not last as long as they were given for end earlier: in the kernel, after a
// restart, and while they wait; a grant that others have claimed lasts on for them. Where a
// grant may have been spent, one that would end earlier ends at once.
func TestWithdrawEarlier(t *testing.T) {
	for _, once := range []bool{false, true} {
		s, third := opened(t, ssh), Source(netip.MustParseAddr("192.0.2.3"))
		until := s.now.Add(10 * time.Minute)
		w := Withdrawal{Reason: "gone", Once: once, Judge: func(by string, source netip.Prefix) Judgement {
			if by != "sealed alice" {
				return Judgement{}
			}
			return Judgement{Until: until, Ends: source == other}
		}}
		s.knocks(third, "sealed alice", time.Hour)
		effects, ended, _ := s.door.Withdraw(s.now, w, 0)
		if once {
			s.want(effects, "revoke 192.0.2.3", "drop 192.0.2.3 by sealed alice", "end flows of 192.0.2.3", "record revoked | 192.0.2.3 | sealed alice | gone")
			continue
		}
		const earlier = "it ends earlier: who may knock until when has changed"
		s.want(effects, "keep 192.0.2.3 by sealed alice", "record granted | 192.0.2.3 | sealed alice | "+earlier, "give 192.0.2.3 10m0s")
		if again, _, _ := s.door.Withdraw(s.now, w, 0); ended != 0 || len(again) > 0 {
			t.Errorf("%d have ended, and the same again: %v, want nothing", ended, again)
		}
		s.knocks(third, "sealed bob", time.Hour)
		s.knocks(third, "sealed alice", time.Hour)
		effects, _, _ = s.door.Withdraw(s.now, w, 0)
		s.want(effects, "keep 192.0.2.3 by sealed alice", "record granted | 192.0.2.3 | sealed alice | "+earlier)
		s.knocks(other, "sealed alice", time.Hour)
		effects, ended, _ = s.door.Withdraw(s.now, w, 0)
		s.want(effects, "revoke 2001:db8::2", "drop 2001:db8::2 by sealed alice", "end flows of 2001:db8::2", "record revoked | 2001:db8::2 | sealed alice | gone")
		if ended != 1 {
			t.Errorf("%d have ended, want the one where alice may not come from", ended)
		}
	}
	s := newScene(t, ssh)
	s.knocks(visitor, "sealed alice", time.Hour)
	until := s.now.Add(time.Minute)
	s.door.Withdraw(s.now, Withdrawal{Judge: func(string, netip.Prefix) Judgement { return Judgement{Until: until} }}, 0)
	s.at(30 * time.Second)
	s.want(s.door.Runs(s.now), "record opened | 192.0.2.2 | sealed alice | right", "give 192.0.2.2 30s", "keep 192.0.2.2 by sealed alice",
		"record granted | 192.0.2.2 | sealed alice | right")
}

// However many visitors have grants, a part judges so many at most, and all parts together
// each once.
func TestWithdrawJudgesInParts(t *testing.T) {
	s := opened(t, ssh)
	const many = 3*judgedPerCall + 7
	a := netip.MustParseAddr("198.18.0.0")
	for range many {
		a = a.Next()
		s.knocks(Source(a), "sealed "+a.String(), time.Hour)
	}
	judged := 0
	w := Withdrawal{Judge: func(string, netip.Prefix) Judgement { judged++; return Judgement{} }}
	for next, from, before := 1, 0, 0; next != 0; from = next {
		_, _, next = s.door.Withdraw(s.now, w, from)
		if judged-before > judgedPerCall {
			t.Fatalf("a part judges %d claims, want %d at most", judged-before, judgedPerCall)
		}
		before = judged
	}
	if judged != many+1 { // and that of opened
		t.Errorf("%d claims were judged, want each of %d once", judged, many)
	}
}

// lastWord is who somebody is whose names end with it.
func lastWord(by string) string { return by[strings.LastIndexByte(by, ' ')+1:] }

// One visitor under several names, as with a certificate that was renewed, has one claim,
// the latest; whatever is asked or taken in one of the names counts for all.
func TestOneVisitorUnderTwoNames(t *testing.T) {
	named := ssh
	named.Who = lastWord
	s := opened(t, named)
	const before, after, bob = "sealed alice serial-7 A", "sealed alice serial-8 A", "sealed alice serial-7 B"
	s.knocks(other, before, time.Hour)
	s.knocks(other, bob, time.Minute)
	effects := s.door.Knock(s.now, Knock{Name: "sealed", Source: other, By: after, Reason: "right", For: 2 * time.Minute})
	s.want(effects, "drop 2001:db8::2 by "+before, "give 2001:db8::2 2m0s", "keep 2001:db8::2 by "+after,
		"record granted | 2001:db8::2 | "+after+" | right")
	for _, by := range []string{before, after} {
		if _, granted := s.door.GrantedSince(other, by); !granted || s.door.Claims(by) != 1 {
			t.Errorf("%s: granted %t, %d claims, want the one that is the visitor's", by, granted, s.door.Claims(by))
		}
	}
	effects, ended := s.door.WithdrawAt(s.now, other, party(before))
	s.want(effects, "drop 2001:db8::2 by "+after, "give 2001:db8::2 1m0s", "record revoked | 2001:db8::2 | "+after+" | gone")
	if ended != 1 || s.door.Claims(bob) != 1 {
		t.Errorf("%d ended, and the neighbour has %d claims, want 1 each", ended, s.door.Claims(bob))
	}
	effects, _, _ = s.door.Withdraw(s.now, Withdrawal{Judge: endOf(bob), Reason: "gone"}, 0)
	s.want(effects, "revoke 2001:db8::2", "drop 2001:db8::2 by "+bob, "end flows of 2001:db8::2", "record revoked | 2001:db8::2 | "+bob+" | gone")
}

// The same holds for what waits for the service, and for what a wrong knock takes back.
func TestOneVisitorWaitsUnderTwoNames(t *testing.T) {
	named := ssh
	named.Who = lastWord
	s := newScene(t, named)
	const before, after = "sealed alice serial-7 A", "sealed alice serial-8 A"
	s.knocks(visitor, before, 0)
	s.knocks(visitor, after, 0)
	if !s.door.Waits(visitor, before) {
		t.Error("the visitor does not wait under the earlier name")
	}
	s.door.Runs(s.now)
	effects := s.door.Wrong(s.now, Wrong{Name: "sealed", Source: visitor, By: before, Reason: "wrong", Penalty: time.Minute, Proven: true})
	if _, granted := s.door.GrantedSince(visitor, after); granted {
		t.Errorf("a wrong knock in one name leaves what a right one in the other has earned: %v", effects)
	}
}

// A grant that is not to last beyond a moment does not, however late the service runs, and
// is not given after it.
func TestAGrantThatIsGivenLate(t *testing.T) {
	s := newScene(t, ssh)
	for source, latest := range map[netip.Prefix]time.Duration{visitor: 90 * time.Second, other: 30 * time.Second} {
		s.door.Knock(s.now, Knock{Name: "sealed", Source: source, By: "sealed alice", Reason: "right", For: time.Minute, Latest: s.now.Add(latest)})
	}
	s.at(time.Minute)
	effects := s.door.Runs(s.now)
	if got := s.door.GrantEnd(s.now, visitor).Sub(s.now); got != 30*time.Second {
		t.Errorf("a grant that ends in 30 s at the latest lasts %v: %v", got, effects)
	}
	if n := s.door.Granted(); n != 1 {
		t.Errorf("%d grants were given, want 1: the time of the other was up", n)
	}
}
