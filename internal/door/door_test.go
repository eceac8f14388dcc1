package door

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	start   = time.Date(2026, 11, 24, 7, 50, 0, 0, time.UTC)
	visitor = Source(netip.MustParseAddr("192.0.2.2"))
	other   = Source(netip.MustParseAddr("2001:db8::2"))
	ssh     = Rules{Name: "ssh", OpenFor: 30 * time.Second, Idle: time.Hour, ForAll: true, Service: true, Logins: true}
)

// tell returns effects in words, a line each, as the tests below expect them.
func tell(now time.Time, effects []Effect) string {
	var b strings.Builder
	for _, e := range effects {
		switch e := e.(type) {
		case Give:
			fmt.Fprintf(&b, "give %s %s\n", SourceString(e.Source), e.Until.Sub(now))
		case Revoke:
			fmt.Fprintf(&b, "revoke %s\n", SourceString(e.Source))
		case Pardon:
			fmt.Fprintf(&b, "pardon %s\n", SourceString(e.Source))
		case EndFlows:
			fmt.Fprintf(&b, "end flows of %s\n", SourceString(e.Source))
		case KeepClaim:
			fmt.Fprintf(&b, "keep %s by %s\n", SourceString(e.Source), e.By)
		case DropClaim:
			fmt.Fprintf(&b, "drop %s by %s\n", SourceString(e.Source), e.By)
		case Penalise:
			fmt.Fprintf(&b, "punish %s %s\n", SourceString(e.Source), e.For)
		case PenaltyEnded:
			fmt.Fprintf(&b, "over %s\n", SourceString(e.Source))
		case Record:
			line := []string{"record", e.Event}
			for _, word := range []string{e.Record.Source, e.By, e.Reason} {
				if word != "" {
					line = append(line, "| "+word)
				}
			}
			fmt.Fprintln(&b, strings.Join(line, " "))
		default:
			fmt.Fprintln(&b, strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", e), "door."))) // start, clear, pardonall
		}
	}
	return b.String()
}

// scene is a door and the present time, which at sets.
type scene struct {
	t    *testing.T
	door *Door
	now  time.Time
}

func newScene(t *testing.T, rules Rules) *scene {
	t.Helper()
	s := &scene{t: t, door: New(rules, Saved{}, start), now: start}
	if rules.Logins {
		s.want(s.door.Tick(s.now), "look")
		s.want(s.door.Seen(s.now, Seen{}), "")
	}
	return s
}

func (s *scene) at(after time.Duration) { s.now = start.Add(after) }

func (s *scene) want(got []Effect, lines ...string) {
	s.t.Helper()
	want := strings.Join(lines, "\n")
	if want != "" {
		want += "\n"
	}
	if d := cmp.Diff(want, tell(s.now, got)); d != "" {
		s.t.Errorf("after %s, effects (-want +got):\n%s", s.now.Sub(start), d)
	}
}

func (s *scene) state(want State) {
	s.t.Helper()
	if got := s.door.Saved().State; got != want {
		s.t.Errorf("after %s the door is %s, want %s", s.now.Sub(start), got, want)
	}
}

// opened returns a scene in which the visitor has just been let in.
func opened(t *testing.T, rules Rules) *scene {
	t.Helper()
	s := newScene(t, rules)
	s.want(s.door.Knock(s.now, Knock{Source: visitor, By: "touch", Reason: "touched 1"}), "start")
	s.state(Opening)
	s.want(s.door.Runs(s.now),
		"record opened | 192.0.2.2 | touch | touched 1",
		"give 192.0.2.2 30s",
		"keep 192.0.2.2 by touch",
		"record granted | 192.0.2.2 | touch | touched 1")
	s.state(Open)
	return s
}

func TestFromKnockToIdle(t *testing.T) {
	s := opened(t, ssh)
	s.at(30 * time.Second)
	s.want(s.door.Tick(s.now),
		"drop 192.0.2.2 by touch",
		"record expired | 192.0.2.2 | it expired",
		"look")
	// The login of 7:50 is a minute old; nobody has logged in since.
	s.want(s.door.Seen(s.now, Seen{Login: start.Add(10 * time.Second)}))
	s.at(time.Hour)
	s.want(s.door.Tick(s.now), "look")
	s.want(s.door.Seen(s.now, Seen{Login: start.Add(10 * time.Second)}))
	s.state(Open)
	s.at(time.Hour + 10*time.Second)
	if at, _ := s.door.Next(); at.After(s.now) {
		t.Errorf("the door wants to look at %s, when it is idle already", at)
	}
	s.want(s.door.Tick(s.now), "look")
	s.want(s.door.Seen(s.now, Seen{Login: start.Add(10 * time.Second)}), "clear", "end flows of any", "stop")
	s.state(Closing)
	s.want(s.door.Stopped(s.now, ""), "record dark | idle | nobody was in for 1h0m0s")
	s.state(Dark)
}

func TestConnectionsKeepADoorOpenUntilAnHourAfterTheirEnd(t *testing.T) {
	s := opened(t, ssh)
	s.at(50 * time.Minute)
	s.door.Tick(s.now)
	s.door.Seen(s.now, Seen{Connections: 1})
	s.at(50*time.Minute + 5*time.Second)
	s.want(s.door.Tick(s.now), "look")
	s.want(s.door.Seen(s.now, Seen{}))
	if got, want := s.door.View(s.now).DarkAt, s.now.Add(time.Hour); !got.Equal(want) {
		t.Errorf("dark at %s, want an hour after the first look that saw nobody, %s", got, want)
	}
}

func TestAKnockWhileItClosesOpensAgain(t *testing.T) {
	s := opened(t, ssh)
	s.want(s.door.Close(s.now, "operator"), "clear", "end flows of any", "stop")
	s.want(s.door.Knock(s.now, Knock{Source: other, By: "touch", Reason: "touched 2"}))
	s.want(s.door.Stopped(s.now, ""), "record dark | operator | by operator", "start")
	s.state(Opening)
	s.want(s.door.Runs(s.now),
		"record opened | 2001:db8::2 | touch | touched 2",
		"give 2001:db8::2 30s",
		"keep 2001:db8::2 by touch",
		"record granted | 2001:db8::2 | touch | touched 2")
}

func TestAServiceThatDoesNotStart(t *testing.T) {
	s := newScene(t, ssh)
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch"})
	s.want(s.door.Failed(s.now, "start ssh.service: exit status 255"),
		"record error | start ssh.service: exit status 255", "clear", "end flows of any", "stop")
	s.want(s.door.Stopped(s.now, ""), "record dark | the service did not start")
	s.state(Dark)
}

func TestAServiceThatDoesNotStopIsStoppedAgain(t *testing.T) {
	s := opened(t, ssh)
	s.door.Close(s.now, "operator")
	s.want(s.door.Failed(s.now, "no D-Bus"), "record error | no D-Bus")
	for _, wait := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		at, ok := s.door.Next()
		if want := s.now.Add(wait * time.Second); !ok || !at.Equal(want) {
			t.Fatalf("tries again at %s, want %s", at, want)
		}
		s.now = at
		s.want(s.door.Tick(s.now), "stop")
		s.want(s.door.Failed(s.now, "no D-Bus"), "record error | no D-Bus")
	}
	s.want(s.door.Stopped(s.now, ""), "record dark | operator | by operator")
	s.state(Dark)
}

func TestAServiceThatDiesIsRepairedOnceInAWhile(t *testing.T) {
	s := opened(t, ssh)
	s.at(20 * time.Minute)
	s.want(s.door.Stopped(s.now, "signal 9"), "start",
		"record repaired | the service died (signal 9); restarting it")
	s.state(Opening)
	s.want(s.door.Runs(s.now))
	s.state(Open)
	if got, want := s.door.Saved().Opened, start; !got.Equal(want) {
		t.Errorf("opened at %s, want %s: a repair is not an opening", got, want)
	}
	s.at(20*time.Minute + 9*time.Second)
	s.want(s.door.Stopped(s.now, "signal 9"), "clear", "end flows of any", "stop",
		"record error | the service keeps dying: signal 9")
	s.state(Closing)
}

func TestAServiceBehindADarkDoorIsStopped(t *testing.T) {
	s := newScene(t, ssh)
	s.want(s.door.Stopped(s.now, ""))
	s.want(s.door.Runs(s.now), "stop",
		"record repaired | the service was running although the door is dark; "+
			`stopping it: "doorward open ssh --source any --for 1h" lets everybody in`)
	s.want(s.door.Stopped(s.now, ""))
	s.state(Dark)
	if s.door.Saved().Ran {
		t.Error("a service that did not run before the door is taken for one that did")
	}
}

func TestFailsafe(t *testing.T) {
	const missing = "no log data: /var/log/secure: is empty"
	s := opened(t, ssh)
	s.want(s.door.Seen(s.now, Seen{NoData: missing}),
		"clear", "end flows of any", "stop", "record failsafe | presence | "+missing)
	s.state(Failsafe)
	s.want(s.door.Stopped(s.now, ""))
	s.want(s.door.Knock(s.now, Knock{Source: visitor, By: "touch"}),
		"record refused | 192.0.2.2 | touch | the door ignores knocks")
	if _, err := s.door.Open(s.now, visitor, time.Minute, "operator"); err == nil ||
		err.Error() != `door "ssh" is in failsafe: `+missing {
		t.Errorf("open in failsafe: %v", err)
	}
	s.at(10 * time.Second)
	s.want(s.door.Tick(s.now), "look")
	s.want(s.door.Seen(s.now, Seen{NoData: missing}))
	s.at(20 * time.Second)
	s.want(s.door.Tick(s.now), "look")
	s.want(s.door.Seen(s.now, Seen{}), "record armed | log data is back")
	s.state(Dark)
}

func TestAnOperatorArmsInSpiteOfMissingLogData(t *testing.T) {
	s := newScene(t, ssh)
	s.door.Seen(s.now, Seen{NoData: "no log data"})
	s.want(s.door.Arm(s.now, "operator alice"), "record armed | operator alice | by operator alice")
	s.state(Dark)
	s.want(s.door.Seen(s.now, Seen{NoData: "no log data"}))
	s.state(Dark)
	// Once there has been log data again, its loss counts again.
	s.want(s.door.Seen(s.now, Seen{}))
	s.door.Seen(s.now, Seen{NoData: "no log data"})
	s.state(Failsafe)
}

func TestBeforeTheFirstLookTheDoorIgnoresKnocks(t *testing.T) {
	d := New(ssh, Saved{}, start)
	if !d.Deaf("touch", visitor) {
		t.Error("a door that does not know yet whether there is log data does not ignore knocks")
	}
	d.Seen(start, Seen{})
	if d.Deaf("touch", visitor) {
		t.Error("after the first look it still ignores knocks")
	}
}

func TestAWrongKnockTakesBackWhatTheRightOneEarned(t *testing.T) {
	wrong := Wrong{Proven: true, Source: visitor, By: "touch", Reason: "touched another", Penalty: time.Minute}
	s := opened(t, ssh)
	s.want(s.door.Wrong(s.now, wrong),
		"punish 192.0.2.2 1m0s", "record refused | 192.0.2.2 | touch | touched another",
		"revoke 192.0.2.2", "drop 192.0.2.2 by touch", "end flows of 192.0.2.2",
		"record revoked | 192.0.2.2 | touch | a wrong knock came after the right one")
	s.state(Open)

	// What an operator gave stays.
	s = opened(t, ssh)
	if _, err := s.door.Open(s.now, visitor, 10*time.Second, "operator alice"); err != nil {
		t.Fatal(err)
	}
	s.want(s.door.Wrong(s.now, wrong),
		"punish 192.0.2.2 1m0s", "record refused | 192.0.2.2 | touch | touched another",
		"give 192.0.2.2 10s", "drop 192.0.2.2 by touch",
		"record granted | 192.0.2.2 | touch | a wrong knock came after the right one; grants by others remain")

	// While the service starts, the door was opening for nobody else.
	s = newScene(t, ssh)
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch"})
	s.want(s.door.Wrong(s.now, wrong),
		"punish 192.0.2.2 1m0s", "record refused | 192.0.2.2 | touch | touched another",
		"record revoked | 192.0.2.2 | touch | a wrong knock came after the right one", "clear", "end flows of any", "stop")
	s.state(Closing)
}

func TestADoorThatLooksElsewhereLooksAtOnceAndStillHears(t *testing.T) {
	s := newScene(t, ssh)
	s.at(10 * time.Second)
	s.want(s.door.LookElsewhere(s.now))
	if s.door.Deaf("touch", visitor) {
		t.Error("with a new place for logins the door ignores knocks until it has looked there")
	}
	s.want(s.door.Tick(s.now), "look")
}

// A door that no longer reads logins does not wait for log data, neither after the
// change nor after a restart.
func TestFailsafeEndsWhenLoginsAreNoLongerRead(t *testing.T) {
	blind := ssh
	blind.Logins = false
	s := opened(t, ssh)
	s.door.Seen(s.now, Seen{NoData: "no log data"})
	s.door.Stopped(s.now, "")
	s.state(Failsafe)
	saved := s.door.Saved()
	s.door.Configure(blind)
	s.want(s.door.LookElsewhere(s.now), "record armed | logins are no longer read")
	s.state(Dark)
	if s.door.Mute("touch") {
		t.Error("the door ignores knocks")
	}
	if d := New(blind, saved, s.now); d.Saved().State != Dark || d.Mute("touch") {
		t.Errorf("after a restart the door is %s, deaf: %v; want dark, and hearing knocks", d.Saved().State, d.Mute("touch"))
	}
}

func TestPenalties(t *testing.T) {
	s := newScene(t, ssh)
	s.want(s.door.Wrong(s.now, Wrong{Proven: true, Source: visitor, By: "touch", Reason: "touched 59001", Penalty: 5 * time.Minute}),
		"punish 192.0.2.2 5m0s", "record refused | 192.0.2.2 | touch | touched 59001")
	if !s.door.Deaf("touch", visitor) || s.door.Deaf("touch", other) {
		t.Error("somebody other than the visitor is penalised, or the visitor is not")
	}
	s.at(5*time.Minute - 1)
	s.want(s.door.Tick(s.now), "look")
	if !s.door.Deaf("touch", visitor) {
		t.Error("the penalty ended early")
	}
	s.at(5 * time.Minute)
	s.want(s.door.Tick(s.now), "over 192.0.2.2")
	if s.door.Deaf("touch", visitor) {
		t.Error("the penalty lasts longer than was said")
	}
}

func TestAPenaltyForEverybody(t *testing.T) {
	s := newScene(t, ssh)
	s.door.Wrong(s.now, Wrong{Proven: true, Source: Any, By: "touch", Reason: "touched 59001", Penalty: time.Minute})
	if !s.door.Mute("touch") || !s.door.Deaf("touch", visitor) {
		t.Error("everybody is penalised, and yet the door hears a knock")
	}
	s.at(time.Minute)
	s.want(s.door.Tick(s.now), "pardon any", "record armed | the penalty has ended", "look")
}

// With scope = "door", as in the article, the door is open to everybody until it goes
// dark: presence prolongs the kernel's grant.
func TestOpenToEverybodyUntilItIsDark(t *testing.T) {
	s := newScene(t, ssh)
	s.door.Knock(s.now, Knock{Source: Any, By: "touch", Reason: "touched 1"})
	s.want(s.door.Runs(s.now),
		"record opened | any | touch | touched 1",
		"give any 1h0m0s",
		"keep any by touch",
		"record granted | any | touch | touched 1")
	if !s.door.Deaf("touch", Any) || s.door.Deaf("touch", visitor) {
		t.Error("while the door is open, everybody's knock is to be ignored, and a visitor's own heard")
	}
	s.at(10 * time.Minute)
	s.want(s.door.Tick(s.now), "look")
	s.want(s.door.Seen(s.now, Seen{Connections: 2}), "give any 1h0m0s", "keep any by presence")
	s.at(10*time.Minute + 5*time.Second)
	s.want(s.door.Seen(s.now, Seen{}), "give any 1h0m0s")
	s.at(70*time.Minute + 5*time.Second)
	s.want(s.door.Tick(s.now), "drop any by presence", "drop any by touch", "record expired | any | it expired", "look")
	s.want(s.door.Seen(s.now, Seen{}), "clear", "end flows of any", "stop")
}

func TestOpenToEverybodyAgainWhenTheLastLookFindsSomebody(t *testing.T) {
	s := newScene(t, ssh)
	s.door.Knock(s.now, Knock{Source: Any, By: "touch"})
	s.door.Runs(s.now)
	s.at(time.Hour)
	s.door.Tick(s.now)
	s.want(s.door.Seen(s.now, Seen{Login: s.now.Add(-time.Second)}),
		"give any 59m59s", "keep any by presence", "record granted | any | presence | somebody is in")
	s.state(Open)
}

func TestLastOneOut(t *testing.T) {
	s := opened(t, ssh)
	effects, err := s.door.Open(s.now, visitor, 10*time.Minute, "operator alice")
	if err != nil {
		t.Fatal(err)
	}
	s.want(effects, "give 192.0.2.2 10m0s", "keep 192.0.2.2 by operator alice",
		"record granted | 192.0.2.2 | operator alice | by operator alice")
	// Another knock renews its own claim; the kernel's grant lasts as long as the longest.
	s.at(10 * time.Second)
	s.want(s.door.Knock(s.now, Knock{Source: visitor, By: "touch", Reason: "touched 1"}),
		"give 192.0.2.2 9m50s", "keep 192.0.2.2 by touch", "record granted | 192.0.2.2 | touch | touched 1")
	effects, had := s.door.Revoke(s.now, visitor, "operator bob")
	if !had || !strings.HasPrefix(tell(s.now, effects), "revoke 192.0.2.2\n") || len(s.door.View(s.now).Grants) != 0 {
		t.Errorf("revoke: %v\n%s", had, tell(s.now, effects))
	}
	if _, had := s.door.Revoke(s.now, visitor, "operator bob"); had {
		t.Error("a grant that was revoked can be revoked again")
	}
}

func TestWithoutAServiceOpeningAndClosingTakeNoTime(t *testing.T) {
	s := newScene(t, Rules{Name: "web", OpenFor: time.Second, Idle: time.Minute})
	s.want(s.door.Knock(s.now, Knock{Source: visitor, By: "touch", Reason: "touched 1"}),
		"record opened | 192.0.2.2 | touch | touched 1",
		"give 192.0.2.2 1s",
		"keep 192.0.2.2 by touch",
		"record granted | 192.0.2.2 | touch | touched 1")
	s.want(s.door.Close(s.now, "operator"), "clear", "end flows of any",
		"record dark | operator | by operator")
	s.state(Dark)
}

func TestRestore(t *testing.T) {
	opened := start.Add(-50 * time.Minute)
	d := New(ssh, Saved{State: Open, Since: opened, Opened: opened, LastSeen: opened}, start)
	if got, want := d.View(start).DarkAt, start.Add(10*time.Minute); !got.Equal(want) {
		t.Errorf("dark at %s, want %s", got, want)
	}
	for _, s := range []State{Opening, Closing} {
		if got := New(ssh, Saved{State: s, Since: opened}, start).Saved().State; got != Dark {
			t.Errorf("saved in the middle of %s the door is %s, want dark", s, got)
		}
	}
	// The clock was set back by a day: what was saved is in the future.
	future := start.Add(24 * time.Hour)
	d = New(ssh, Saved{State: Open, Since: future, Opened: future, LastSeen: future}, start)
	if got, want := d.View(start).DarkAt, start.Add(time.Hour); !got.Equal(want) {
		t.Errorf("after the clock stepped back, dark at %s, want %s", got, want)
	}
}

func TestALoginCountsOnceWhateverTheClockDoesLater(t *testing.T) {
	s := opened(t, ssh)
	login := start.Add(24 * time.Hour) // the clock was a day ahead when it was written
	s.door.Seen(s.now, Seen{Login: login})
	s.at(59 * time.Minute)
	s.door.Seen(s.now, Seen{Login: login})
	if got, want := s.door.View(s.now).DarkAt, start.Add(time.Hour); !got.Equal(want) {
		t.Errorf("dark at %s, want %s: one login was counted twice", got, want)
	}
}
