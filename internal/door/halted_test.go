package door

import (
	"testing"
	"time"
)

const halted = "record repaired | the service was stopped by somebody else while the door is open; "

// A service that somebody restarts, or stops and starts, is no reason to shut the door.
// Whenever the door says that it is open the service runs, and the record says how to
// stop it for good.
func TestAServiceThatOthersStopIsStartedAgain(t *testing.T) {
	s := opened(t, ssh)
	s.at(5 * time.Second)
	s.want(s.door.Halted(s.now), "start",
		halted+`it is started again, and "doorward close ssh" stops it for good`)
	s.state(Opening)
	s.want(s.door.Runs(s.now))
	s.state(Open)
	if got := s.door.Saved().Opened; !got.Equal(start) {
		t.Errorf("opened at %s, want %s: a start after somebody's stop is not an opening", got, start)
	}

	// Somebody stops it again and again: the pauses grow, and the grant stays.
	for _, tt := range []struct{ stop, start time.Duration }{{7, 15}, {16, 35}, {36, 75}, {76, 135}, {136, 195}} {
		s.at(tt.stop * time.Second)
		s.door.Tick(s.now)
		wait := ((tt.start - tt.stop) * time.Second).String()
		s.want(s.door.Halted(s.now), halted+"it is started again in "+wait+
			`, or with the next right knock, and "doorward close ssh" stops it for good`)
		s.state(Opening)
		s.until(tt.start * time.Second)
		s.want(s.door.Runs(s.now))
		s.state(Open)
	}
	// After a while without that, the next pause is the first again.
	s.at(300 * time.Second)
	s.want(s.door.Halted(s.now), "start",
		halted+`it is started again, and "doorward close ssh" stops it for good`)
}

// until has the door do what is due until it asks for a start, which must be at the given
// time.
func (s *scene) until(after time.Duration) {
	s.t.Helper()
	for {
		at, ok := s.door.Next()
		if !ok || at.Sub(start) > after {
			s.t.Fatalf("nothing is started at %s; next is %s", after, at.Sub(start))
		}
		s.now = at
		effects := s.door.Tick(s.now)
		for _, e := range effects {
			switch e.(type) {
			case Look:
				s.door.Seen(s.now, Seen{Connections: 1})
			case Start:
				if at := s.now.Sub(start); at != after {
					s.t.Fatalf("it is started at %s, want %s", at, after)
				}
				return
			}
		}
	}
}

// A visitor does not wait until a pause is over: a right knock starts the service.
func TestAKnockEndsThePause(t *testing.T) {
	s := paused(t)
	s.want(s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "touched 2"}), "start")
	s.want(s.door.Runs(s.now),
		"give 2001:db8::2 30s",
		"keep 2001:db8::2 by touch",
		"record granted | 2001:db8::2 | touch | touched 2")
	s.state(Open)
	s.at(15 * time.Second)
	s.want(s.door.Tick(s.now), "look")
}

// paused returns a door whose service somebody has stopped for the second time, at
// 7 s: it is started again at 15 s.
func paused(t *testing.T) *scene {
	s := opened(t, ssh)
	s.at(5 * time.Second)
	s.door.Halted(s.now)
	s.door.Runs(s.now)
	s.at(7 * time.Second)
	s.door.Tick(s.now)
	s.door.Halted(s.now)
	s.state(Opening)
	return s
}

func TestAPauseEndsWithTheDoor(t *testing.T) {
	s := paused(t)
	s.want(s.door.Close(s.now, "operator"), "clear", "end flows of any", "stop")
	s.want(s.door.Stopped(s.now, ""), "record dark | operator | by operator")
	if at, ok := s.door.Next(); ok && at.Sub(start) < time.Minute {
		t.Errorf("a dark door has something to do at %s", at.Sub(start))
	}
}

// Somebody else may start it before the door does.
func TestAPauseEndsWhenOthersStartTheService(t *testing.T) {
	s := paused(t)
	s.want(s.door.Halted(s.now)) // the door knows already
	s.want(s.door.Runs(s.now))
	s.state(Open)
	s.at(15 * time.Second)
	s.want(s.door.Tick(s.now), "look")
}

// A door whose service is down goes dark like any other when nobody has been in for an
// hour.
func TestAPauseIsIdle(t *testing.T) {
	rules := ssh
	rules.Idle = 12 * time.Second
	s := opened(t, rules)
	for _, stop := range []time.Duration{5, 6} {
		s.at(stop * time.Second)
		s.door.Halted(s.now)
		s.door.Runs(s.now)
		s.door.Halted(s.now)
	}
	s.state(Opening)
	s.at(12 * time.Second)
	s.door.Tick(s.now)
	s.want(s.door.Seen(s.now, Seen{}), "clear", "end flows of any", "stop")
	s.state(Closing)
}

// Orders of others can cancel the door's own start. That is no failure of the service,
// and whoever knocked waits for the next start.
func TestAStartThatOthersCancelIsMadeAgain(t *testing.T) {
	s := newScene(t, ssh)
	s.want(s.door.Knock(s.now, Knock{Source: visitor, By: "touch", Reason: "touched 1"}), "start")
	s.want(s.door.Halted(s.now), "start", "record repaired | the service was stopped by somebody else while the door is opening; "+
		`it is started again, and "doorward close ssh" stops it for good`)
	s.at(time.Second)
	s.want(s.door.Halted(s.now), "record repaired | the service was stopped by somebody else while the door is opening; "+
		`it is started again in 9s, or with the next right knock, and "doorward close ssh" stops it for good`)
	s.want(s.door.Halted(s.now))
	s.until(10 * time.Second)
	s.want(s.door.Runs(s.now),
		"record opened | 192.0.2.2 | touch | touched 1",
		"give 192.0.2.2 30s",
		"keep 192.0.2.2 by touch",
		"record granted | 192.0.2.2 | touch | touched 1")
}

// Others' orders and deaths of the service are counted separately.
func TestOrdersAndDeathsAreCountedApart(t *testing.T) {
	s := opened(t, ssh)
	s.at(5 * time.Second)
	s.want(s.door.Stopped(s.now, "signal 9"), "start", "record repaired | the service died (signal 9); restarting it")
	s.door.Runs(s.now)
	s.at(6 * time.Second)
	s.want(s.door.Halted(s.now), "start",
		halted+`it is started again, and "doorward close ssh" stops it for good`)
	s.door.Runs(s.now)
	s.at(8 * time.Second)
	s.want(s.door.Stopped(s.now, "signal 9"), "clear", "end flows of any", "stop",
		"record error | the service keeps dying: signal 9")
}

// On most machines the service runs before its door is guarded for the first time, and
// after each boot until somebody disables it: to stop it then is not a repair.
func TestWhatRanBeforeTheDoorIsStoppedWithoutAWarning(t *testing.T) {
	s := newScene(t, ssh)
	s.want(s.door.Runs(s.now), "stop", "record dark | the service was running when the door was first guarded; stopping it")
	if !s.door.Saved().Ran {
		t.Error("it is forgotten that the service ran before")
	}
	s.want(s.door.Stopped(s.now, ""))
	s.want(s.door.Runs(s.now), "stop", "record repaired | the service was running although the door is dark; "+
		`stopping it: "doorward open ssh --source any --for 1h" lets everybody in`)

	again := New(ssh, s.door.Saved(), s.now)
	s.want(again.Runs(s.now), "stop", "record repaired | the service was running although the door is dark; "+
		`stopping it: "doorward open ssh --source any --for 1h" lets everybody in`)
}

// A door does not go dark while somebody who knocked in the pause waits, however long
// nobody has been in.
func TestAPauseIsNotIdleForWhoWaits(t *testing.T) {
	rules := ssh
	rules.Idle = 12 * time.Second
	s := opened(t, rules)
	s.at(5 * time.Second)
	s.door.Halted(s.now)
	s.door.Runs(s.now)
	s.at(6 * time.Second)
	s.door.Halted(s.now)
	s.want(s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "touched 2"}), "start")
	s.door.Halted(s.now) // others cancel that start
	s.at(12 * time.Second)
	s.want(s.door.Tick(s.now))
	s.door.Seen(s.now, Seen{})
	s.state(Opening)
	s.until(26 * time.Second)
}

// Somebody who knocked while others kept the service down is not let in long afterwards.
func TestNobodyIsWaitedForForLong(t *testing.T) {
	s := newScene(t, ssh)
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch", Reason: "touched 1"})
	s.door.Halted(s.now)
	s.door.Halted(s.now)
	for _, start := range []time.Duration{10, 30, 70} {
		s.until(start * time.Second)
		s.want(s.door.Halted(s.now), "record repaired | the service was stopped by somebody else while the door is opening; "+
			`it is started again in `+map[time.Duration]string{10: "20s", 30: "40s", 70: "1m0s"}[start]+
			`, or with the next right knock, and "doorward close ssh" stops it for good`)
	}
	s.want(s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "touched 2"}), "start")
	s.at(121 * time.Second)
	s.want(s.door.Halted(s.now), "record expired | 192.0.2.2 | touch | it waited for the service for 2m0s",
		"record repaired | the service was stopped by somebody else while the door is opening; "+
			`it is started again in 9s, or with the next right knock, and "doorward close ssh" stops it for good`)
	s.until(130 * time.Second)
	s.at(190 * time.Second)
	s.want(s.door.Halted(s.now), "record expired | 2001:db8::2 | touch | it waited for the service for 2m0s", "clear", "end flows of any", "stop")
	s.want(s.door.Stopped(s.now, ""), "record dark | others kept the service from running")
}

// The same goes for a door that was open: it stays open without them.
func TestADoorThatWasOpenStaysForNobody(t *testing.T) {
	s := paused(t)
	s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "touched 2"})
	s.at(7*time.Second + maxWait)
	s.want(s.door.Halted(s.now), "record expired | 2001:db8::2 | touch | it waited for the service for 2m0s", "start",
		"record repaired | the service was stopped by somebody else while the door is opening; "+
			`it is started again, and "doorward close ssh" stops it for good`)
	s.want(s.door.Runs(s.now))
	s.state(Open)
}

// Everybody's right knock ends the pause, as a visitor's own does.
func TestEverybodysKnockEndsThePause(t *testing.T) {
	s := paused(t)
	if s.door.Deaf("touch", Any) {
		t.Fatal("everybody's knock is not heard")
	}
	s.want(s.door.Knock(s.now, Knock{Source: Any, By: "touch", Reason: "right"}), "start")
	if !s.door.Deaf("touch", Any) {
		t.Error("it is heard again while it is waited for")
	}
	s.want(s.door.Runs(s.now), "give any 1h0m0s", "keep any by touch", "record granted | any | touch | right")
	s.at(time.Minute)
	s.want(s.door.Seen(s.now, Seen{Connections: 1}), "give any 1h0m0s", "keep any by presence")
}

// A door keeps the time of its opening even if all grants have ended by the time its
// service is started again for another visitor.
func TestAKnockAtAnOpenDoorWhoseServiceDiedIsNoOpening(t *testing.T) {
	s := opened(t, ssh)
	s.at(40 * time.Second)
	s.door.Tick(s.now)
	s.door.Stopped(s.now, "signal 9")
	s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "touched 2"})
	s.want(s.door.Runs(s.now), "give 2001:db8::2 30s", "keep 2001:db8::2 by touch",
		"record granted | 2001:db8::2 | touch | touched 2")
	if got := s.door.Saved().Opened; !got.Equal(start) {
		t.Errorf("opened at %s, want %s", got, start)
	}
}
