package door

import (
	"testing"
	"time"
)

// never is a door that does not go dark by itself.
var never = Rules{Name: "ssh", OpenFor: 30 * time.Second, Service: true, Logins: true}

func TestADoorThatNeverGoesDarkByItself(t *testing.T) {
	s := opened(t, never)
	if at := s.door.View(s.now).DarkAt; !at.IsZero() {
		t.Errorf("the door says that it goes dark at %s", at)
	}
	s.at(30 * 24 * time.Hour)
	s.want(s.door.Tick(s.now), "drop 192.0.2.2 by touch", "record expired | 192.0.2.2 | it expired", "look")
	s.want(s.door.Seen(s.now, Seen{}))
	s.state(Open)
	if at, ok := s.door.Next(); !ok || at.Sub(s.now) != maxLookInterval {
		t.Errorf("the next look is at %s, want one in %s: status tells who is in", at, maxLookInterval)
	}
	s.want(s.door.Close(s.now, "operator"), "clear", "end flows of any", "stop")
	s.want(s.door.Stopped(s.now, ""), "record dark | operator | by operator")
	s.state(Dark)
}

func TestFailsafeShutsADoorThatNeverGoesDarkByItself(t *testing.T) {
	s := opened(t, never)
	s.at(time.Minute)
	s.door.Tick(s.now)
	s.door.Seen(s.now, Seen{NoData: "no log data"})
	s.state(Failsafe)
}

// A door that is open to everybody until it goes dark, and is then configured never to
// go dark, is not open to everybody forever.
func TestNothingIsOpenToEverybodyForEver(t *testing.T) {
	s := everybody(t)
	s.door.Configure(never)
	s.at(time.Minute)
	s.want(s.door.Seen(s.now, Seen{Connections: 1}))
	s.at(time.Hour)
	s.want(s.door.Tick(s.now), "drop any by touch", "record expired | any | it expired", "look")
	s.state(Open)

	// Nor is one at which the knock waited for the service.
	s = newScene(t, ssh)
	s.want(s.door.Knock(s.now, Knock{Source: Any, By: "touch", Reason: "right"}), "start")
	s.door.Configure(never)
	s.want(s.door.Runs(s.now), "record opened | any | touch | right", "give any 30s", "keep any by touch",
		"record granted | any | touch | right")

	// Nor after a restart.
	s = everybody(t)
	if d := New(never, s.door.Saved(), s.now); d.Saved().ForAll {
		t.Error("after a restart the door is open to everybody until it goes dark, which it never does")
	}
}

// If it is configured to go dark again, idleness counts from when somebody was last seen.
func TestADoorThatIsToGoDarkByItselfFromNowOn(t *testing.T) {
	s := opened(t, never)
	s.at(30 * time.Minute)
	s.door.Tick(s.now)
	s.door.Seen(s.now, Seen{})
	s.door.Configure(ssh)
	if got, want := s.door.View(s.now).DarkAt, start.Add(time.Hour); !got.Equal(want) {
		t.Errorf("the door goes dark at %s, want %s", got, want)
	}
	s.at(time.Hour)
	s.door.Tick(s.now)
	s.want(s.door.Seen(s.now, Seen{}), "clear", "end flows of any", "stop")
}
