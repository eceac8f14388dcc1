package door

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Everybody has to be named: no address becomes it, nor any prefix that is parsed, made
// or masked.
func TestEverybodyHasToBeSaid(t *testing.T) {
	if Any == (netip.Prefix{}) || Any.IsValid() || !Somebody(Any) {
		t.Errorf("everybody is %#v", Any)
	}
	if got := Source(netip.Addr{}); Somebody(got) || SourceString(got) != "nobody" {
		t.Errorf("an invalid address is the source %s", SourceString(got))
	}
	rapid.Check(t, func(t *rapid.T) {
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), 0, 16).Draw(t, "address"))
		if rapid.Bool().Draw(t, "edge") {
			a = rapid.SampledFrom([]netip.Addr{netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255")}).Draw(t, "address")
		}
		if Source(a) == Any {
			t.Fatalf("the source of %s is everybody", a)
		}
		if p, err := a.Prefix(rapid.IntRange(-1, 129).Draw(t, "bits")); p == Any || p.Masked() == Any {
			t.Fatalf("%v of %s is everybody (%v)", p, a, err)
		}
	})
}

// A source that nobody can come from is never let in or penalised, and named in no effect
// but the one that takes from the kernel what it should not have.
func TestNobodyHasNothing(t *testing.T) {
	for _, who := range nobodies {
		t.Run(who.String(), func(t *testing.T) {
			s, name := newScene(t, ssh), SourceString(who)
			if !s.door.Deaf("touch", who) {
				t.Error("it is heard")
			}
			refused := "record refused | " + name + " | touch | "
			s.want(s.door.Knock(s.now, Knock{Source: who, By: "touch", Reason: "right"}), refused+"the door ignores knocks")
			s.want(s.door.Wrong(s.now, Wrong{Proven: true, Source: who, By: "touch", Reason: "touched another", Penalty: time.Minute}),
				refused+"touched another")
			effects, err := s.door.Open(s.now, who, time.Minute, "operator")
			if s.want(effects); err == nil {
				t.Error("an operator can open to it")
			}
			effects, had := s.door.Revoke(s.now, who, "operator")
			if s.want(effects); had {
				t.Error("it had a grant")
			}
			s.state(Dark)
			s.door.Restore(Claim{Source: who, By: "touch", Until: s.now.Add(time.Minute), For: time.Minute})
			s.door.RestorePenalty(s.now, Penalty{Source: who, Until: s.now.Add(time.Minute), For: time.Minute})
			s.want(s.door.Adopt(s.now, Claim{Source: who, By: "before", Until: s.now.Add(time.Minute)}),
				"revoke "+name, "record revoked | "+name+" | before | nobody can come from there")
			if v := s.door.View(s.now); len(v.Grants)+len(v.Penalties) > 0 {
				t.Errorf("it has grants %v, penalties %v", v.Grants, v.Penalties)
			}
		})
	}
}

// everybody returns a scene in which a knock has just opened to everybody.
func everybody(t *testing.T) *scene {
	t.Helper()
	s := newScene(t, ssh)
	s.door.Knock(s.now, Knock{Source: Any, By: "touch"})
	s.door.Runs(s.now)
	s.state(Open)
	return s
}

// A grant that an operator revokes from everybody does not come back with the next look.
func TestRevokedFromEverybodyStaysRevoked(t *testing.T) {
	s := everybody(t)
	if _, had := s.door.Revoke(s.now, Any, "operator"); !had {
		t.Fatal("everybody had no grant")
	}
	s.at(time.Minute)
	s.want(s.door.Seen(s.now, Seen{Connections: 1}))
	if s.door.Deaf("touch", Any) {
		t.Error("nobody can knock any more")
	}
}

// A door that an operator opened for one source hears everybody's knock.
func TestEverybodyKnocksAtADoorThatIsOpenForOne(t *testing.T) {
	s := newScene(t, ssh)
	if _, err := s.door.Open(s.now, visitor, 10*time.Second, "operator"); err != nil {
		t.Fatal(err)
	}
	s.door.Runs(s.now)
	s.at(50 * time.Minute)
	s.want(s.door.Knock(s.now, Knock{Source: Any, By: "touch", Reason: "right"}),
		"give any 1h0m0s", "keep any by touch", "record granted | any | touch | right")
	if !s.door.Deaf("touch", Any) {
		t.Error("everybody is in, and knocks are heard")
	}
	s.at(51 * time.Minute)
	s.want(s.door.Seen(s.now, Seen{Connections: 1}), "give any 1h0m0s", "keep any by presence")
}

// The grant that presence prolongs is not cut short by an operator's new, shorter one.
func TestAnOperatorDoesNotShortenWhatPresenceDrewOut(t *testing.T) {
	s := everybody(t)
	for range 2 {
		effects, err := s.door.Open(s.now, Any, time.Minute, "operator")
		if err != nil {
			t.Fatal(err)
		}
		s.want(effects, "give any 1h0m0s", "keep any by operator", "record granted | any | operator | by operator")
		s.at(time.Minute)
		s.door.Seen(s.now, Seen{Connections: 1})
	}
}

// A service that does not stop keeps no visitor out: neither those who knocked while it
// was to stop, nor those who knock afterwards.
func TestAKnockWhileAServiceDoesNotStop(t *testing.T) {
	s := opened(t, ssh)
	s.door.Close(s.now, "operator")
	s.want(s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "right"}))
	s.want(s.door.Failed(s.now, "no D-Bus"), "record error | no D-Bus", "record dark | operator | by operator", "start")
	s.door.Runs(s.now)
	s.state(Open)
	if grants := s.door.View(s.now).Grants; len(grants) != 1 || grants[0].Source != other {
		t.Errorf("grants %v", grants)
	}
}

func TestAKnockAtADoorWhoseServiceDoesNotStop(t *testing.T) {
	s := opened(t, ssh)
	s.door.Close(s.now, "operator")
	s.door.Failed(s.now, "no D-Bus")
	s.want(s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "right"}),
		"record dark | operator | by operator", "start")
	s.state(Opening)
	s.door.Runs(s.now)
	s.state(Open)
	if grants := s.door.View(s.now).Grants; len(grants) != 1 || grants[0].Source != other {
		t.Errorf("grants %v", grants)
	}
}
