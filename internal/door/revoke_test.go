package door

import (
	"net/netip"
	"testing"
	"time"
)

// A source that is revoked while the service still starts does not get in once it runs;
// a door that nobody else waits for goes dark.
func TestRevokingAKnockThatWaits(t *testing.T) {
	s := newScene(t, ssh)
	s.want(s.door.Knock(s.now, Knock{Source: visitor, By: "touch", Reason: "right"}), "start")
	s.want(s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "right"}))
	effects, had := s.door.Revoke(s.now, visitor, "operator bob")
	if !had {
		t.Error("a knock that waits is not revoked")
	}
	s.want(effects, "record revoked | 192.0.2.2 | operator bob | by operator bob")
	s.state(Opening)
	effects, _ = s.door.Revoke(s.now, other, "operator bob")
	s.want(effects, "record revoked | 2001:db8::2 | operator bob | by operator bob", "clear", "end flows of any", "stop")
	s.state(Closing)
}

// The kernel may have a grant that the door does not know of, given just before a crash:
// it is revoked like any other.
func TestRevokingWhatIsNotKnown(t *testing.T) {
	s := opened(t, ssh)
	lan := netip.MustParsePrefix("198.51.100.0/24")
	effects, had := s.door.Revoke(s.now, Source(lan.Addr()), "operator bob")
	s.want(effects, "revoke 198.51.100.0", "end flows of 198.51.100.0")
	within, ended, _ := s.door.RevokeWithin(s.now, lan, "operator bob", 0)
	s.want(within, "revoke 198.51.100.0/24", "end flows of 198.51.100.0/24")
	if had || ended != 0 {
		t.Errorf("%v, %d grants: want that none was known", had, ended)
	}
}

// A service that is started again is also started for whoever is in.
func TestRevokingWhileTheServiceIsRepaired(t *testing.T) {
	s := newScene(t, ssh)
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch", Reason: "right"})
	s.door.Runs(s.now)
	s.at(time.Minute)
	s.door.Tick(s.now)
	s.door.Stopped(s.now, "signal 9")
	s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "right"})
	effects, _ := s.door.Revoke(s.now, other, "operator bob")
	s.want(effects, "record revoked | 2001:db8::2 | operator bob | by operator bob")
	s.state(Opening)
}

// A wrong knock takes back one that waits; what an operator gave the same source stays,
// and the trail says so.
func TestAWrongKnockWhileTheServiceIsRepaired(t *testing.T) {
	s := opened(t, ssh)
	if _, err := s.door.Open(s.now, other, time.Minute, "operator bob"); err != nil {
		t.Fatal(err)
	}
	s.door.Stopped(s.now, "signal 9")
	s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "right"})
	s.want(s.door.Wrong(s.now, Wrong{Proven: true, Source: other, By: "touch", Reason: "touched another", Penalty: time.Minute}),
		"punish 2001:db8::/64 1m0s", "record refused | 2001:db8::2 | touch | touched another; its /64 is penalised",
		"record granted | 2001:db8::2 | touch | a wrong knock came after the right one; grants by others remain")
}

// Visitors who knocked while the service was stopping wait until it runs again. If the
// door is closed again they are not let in, and the trail has a record of each.
func TestClosingADoorThatIsClosing(t *testing.T) {
	s := opened(t, ssh)
	s.door.Close(s.now, "operator bob")
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch", Reason: "right"})
	s.state(Closing)
	s.want(s.door.Close(s.now, "operator bob"), "record revoked | 192.0.2.2 | operator bob | by operator bob")
	s.want(s.door.Close(s.now, "operator bob"))
	s.want(s.door.Stopped(s.now, ""), "record dark | operator bob | by operator bob")
	s.state(Dark)
}
