package gateway

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/knock"
)

// leaper is a gateway whose process can stop for a while: its clock leaps, and
// nothing has run meanwhile.
type leaper struct {
	*running
	leapt *atomic.Int64
}

func runLeaper(t *testing.T, text string) leaper {
	t.Helper()
	leapt := new(atomic.Int64)
	return leaper{runWith(t, newMachine(), configPath(t), text, func(w *World) {
		w.Now = func() time.Time { return time.Now().Add(time.Duration(leapt.Load())) }
	}), leapt}
}

func (l leaper) leap(d time.Duration) { l.leapt.Add(int64(d)) }

// touched returns a touch that the listener hears now.
func (l leaper) touched(a netip.Addr, p uint16) []knock.Heard {
	return []knock.Heard{touchOf(a, p, l.world.Now())}
}

func (l leaper) wantPenalties(n int) {
	l.t.Helper()
	if p := l.status().Penalties; len(p) != n {
		l.t.Errorf("penalties %v, want %d", p, n)
	}
}

func leaping(t *testing.T, text string, f func(leaper)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(runLeaper(t, text)) })
}

// A process that was stopped hears late. Somebody who was in the middle of a knock has the
// time that was left for it, and no more; a mistake still counts.
func TestAGapIsNotTheVisitorsFault(t *testing.T) {
	const gone = 10 * time.Minute
	tests := []struct {
		name      string
		text      string
		knock     func(leaper)
		state     string
		penalties int
	}{
		{"the last touch waited in the kernel", sshDoor, func(l leaper) {
			l.touch(visitor, 59000)
			l.leap(gone)
			l.touch(visitor, 59002)
		}, "open", 0},
		{"it comes when the time is nearly up", sshDoor, func(l leaper) {
			l.touch(visitor, 59000)
			time.Sleep(30 * time.Second)
			l.leap(gone)
			time.Sleep(29 * time.Second)
			l.touch(visitor, 59002)
		}, "open", 0},
		{"after two gaps", sshDoor, func(l leaper) {
			l.touch(visitor, 59000)
			l.leap(gone)
			time.Sleep(20 * time.Second)
			l.leap(gone)
			l.touch(visitor, 59002)
		}, "open", 0},
		{"the first touch waits for the gateway", sshDoor, func(l leaper) {
			done := l.hold()
			l.Hear(l.touched(visitor, 59000))
			l.leap(gone)
			time.Sleep(time.Second)
			l.Hear(l.touched(visitor, 59002))
			done()
		}, "open", 0},
		{"between the listener and the gateway", sshDoor, func(l leaper) {
			first := l.touched(visitor, 59000)
			l.leap(gone)
			l.Hear(first)
			synctest.Wait()
			l.touch(visitor, 59002)
		}, "open", 0},
		{"time is left", sshDoor, func(l leaper) {
			l.touch(visitor, 59000)
			time.Sleep(10 * time.Second)
			l.leap(gone)
			time.Sleep(49 * time.Second)
		}, "dark", 0},
		{"it is never finished", sshDoor, func(l leaper) {
			l.touch(visitor, 59000)
			time.Sleep(10 * time.Second)
			l.leap(gone)
			time.Sleep(51 * time.Second)
		}, "dark", 1},
		{"a port to be left alone", sshDoor, func(l leaper) {
			l.touch(visitor, 59000)
			l.leap(gone)
			l.touch(visitor, 59001)
		}, "dark", 1},
		{"another order", strings.Replace(sshDoor, "touch = [59000,", "order = \"given\"\ntouch = [59000, 59001,", 1), func(l leaper) {
			l.touch(visitor, 59000)
			l.leap(gone)
			l.touch(visitor, 59002)
		}, "dark", 1},
		{"the listener alone hears nothing", sshDoor, func(l leaper) {
			l.touch(visitor, 59000)
			l.m.do(func() { l.m.behind = true })
			time.Sleep(gone)
			l.m.do(func() { l.m.behind = false })
			l.touch(visitor, 59002)
		}, "open", 0},
		{"it is never finished, and the listener hears again", sshDoor, func(l leaper) {
			l.touch(visitor, 59000)
			l.m.do(func() { l.m.behind = true })
			time.Sleep(gone)
			l.wantPenalties(0)
			l.m.do(func() { l.m.behind = false })
			time.Sleep(61 * time.Second)
		}, "dark", 1},
		{"begun by a rule that was changed", sshDoor, func(l leaper) {
			l.touch(visitor, 59000)
			write(l.t, l.path, sshDoor+"within = \"10s\"\n")
			l.order(control.ApplyRequest{Action: "apply"})
			l.touch(visitor, 59002)
			l.leap(gone)
			time.Sleep(11 * time.Second)
		}, "dark", 0},
		{"everybody's, at the next look", everybodysDoor, func(l leaper) {
			time.Sleep(50 * time.Second)
			l.touch(visitor, 59000)
			l.leap(gone)
			l.touch(visitor, 59002)
			time.Sleep(11 * time.Second)
		}, "open", 0},
		{"everybody's, and never finished", everybodysDoor, func(l leaper) {
			time.Sleep(50 * time.Second)
			l.touch(visitor, 59000)
			l.leap(gone)
			time.Sleep(11 * time.Second)
		}, "dark", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			leaping(t, tt.text, func(l leaper) {
				tt.knock(l)
				synctest.Wait()
				l.wantState(tt.state)
				l.wantPenalties(tt.penalties)
			})
		})
	}
}

const everybodysDoor = sshDoor + "scope = \"door\"\njudge = \"every 1m\"\n"

// While a turn is slow the listener still hears, so that the times of touches are right.
func TestASlowTurnIsNoGap(t *testing.T) {
	leaping(t, sshDoor, func(l leaper) {
		l.touch(visitor, 59000)
		done := l.hold()
		time.Sleep(61 * time.Second)
		l.Hear(l.touched(visitor, 59002))
		done()
		l.wantState("dark")
		l.wantPenalties(1)
	})
}

// A gateway that nobody knocks at is not woken by its stall detector.
func TestStallDetectorRestsWhenNobodyKnocks(t *testing.T) {
	leaping(t, sshDoor, func(l leaper) {
		beats := func() bool {
			l.stalls.mu.Lock()
			defer l.stalls.mu.Unlock()
			return !l.stalls.last.IsZero()
		}
		want := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if beats() != want {
				t.Errorf("%s: it beats: %v, want %v", when, !want, want)
			}
		}
		want("at the start", false)
		l.touch(visitor, 59000)
		want("in the middle of a knock", true)
		time.Sleep(61 * time.Second)
		want("when that was wrong", false)
		l.touch(visitor, 59000)
		want("after a touch that is ignored", false)
		l.leap(time.Minute) // no knock is in progress
		time.Sleep(10 * time.Second)
		l.touch(netip.MustParseAddr("192.0.2.3"), 59000, 59002)
		time.Sleep(61 * time.Second)
		want("when a right one is over", false)
		l.wantState("open")
	})
}
