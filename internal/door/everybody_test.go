package door

import (
	"testing"
	"time"
)

// everybody returns a scene in which a knock has just opened to everybody.
func everybody(t *testing.T) *scene {
	t.Helper()
	s := newScene(t, ssh)
	s.door.Knock(s.now, Knock{Source: Any, By: "touch"})
	s.door.Runs(s.now)
	s.state(Open)
	return s
}

// What an operator takes from everybody does not come back with the next look.
func TestRevokedFromEverybodyStaysRevoked(t *testing.T) {
	s := everybody(t)
	if _, had := s.door.Revoke(s.now, Any, "operator"); !had {
		t.Fatal("everybody had no grant")
	}
	s.at(time.Minute)
	s.want(s.door.Seen(s.now, Seen{Connections: 1}))
	if s.door.Deaf(Any) {
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
	if !s.door.Deaf(Any) {
		t.Error("everybody is in, and knocks are heard")
	}
	s.at(51 * time.Minute)
	s.want(s.door.Seen(s.now, Seen{Connections: 1}), "give any 1h0m0s", "keep any by presence")
}

// The grant that presence draws out is not cut short by an operator's new,
// shorter one.
func TestAnOperatorDoesNotShortenWhatPresenceDrewOut(t *testing.T) {
	s := everybody(t)
	for range 2 {
		effects, err := s.door.Open(s.now, Any, time.Minute, "operator")
		if err != nil {
			t.Fatal(err)
		}
		s.want(effects, "give any 1h0m0s", "keep any by operator", "record granted | any | operator | on an operator's word")
		s.at(time.Minute)
		s.door.Seen(s.now, Seen{Connections: 1})
	}
}

// A service that does not stop keeps no visitor out: neither who knocked while
// it was to stop, nor who knocks afterwards.
func TestAKnockWhileAServiceDoesNotStop(t *testing.T) {
	s := opened(t, ssh)
	s.door.Close(s.now, "operator")
	s.want(s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "right"}))
	s.want(s.door.Failed(s.now, "no D-Bus"), "record error | no D-Bus", "record dark | on an operator's word", "start")
	s.door.Runs(s.now)
	s.state(Open)
	if grants := s.door.View().Grants; len(grants) != 1 || grants[0].Source != other {
		t.Errorf("grants %v", grants)
	}
}

func TestAKnockAtADoorWhoseServiceDoesNotStop(t *testing.T) {
	s := opened(t, ssh)
	s.door.Close(s.now, "operator")
	s.door.Failed(s.now, "no D-Bus")
	s.want(s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "right"}),
		"record dark | on an operator's word", "start")
	s.state(Opening)
	s.door.Runs(s.now)
	s.state(Open)
	if grants := s.door.View().Grants; len(grants) != 1 || grants[0].Source != other {
		t.Errorf("grants %v", grants)
	}
}
