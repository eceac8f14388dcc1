package sealed

import (
	"testing"
	"time"
	"unsafe"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// stepped is a time as time.Now returns it when the wall clock has been set, and the
// monotonic clock has gone on: there is no other way to make one.
func stepped(t *testing.T, now time.Time, by time.Duration) time.Time {
	t.Helper()
	const year1885 = -2682288000 // where the seconds of a time with a monotonic reading begin
	at, wall := now, now.Round(0).Add(by)
	(*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&at)).wall = 1<<63 | uint64(wall.Unix()-year1885)<<30 | uint64(wall.Nanosecond())
	if !at.Round(0).Equal(wall) || at.Sub(now) != 0 {
		t.Fatalf("set by %v, the wall clock is at %v, want %v; the monotonic clock went by %v", by, at.Round(0), wall, at.Sub(now))
	}
	return at
}

// However the gateway's clock is set, what was recorded opens nothing, from any address,
// before and after a restart, and handshakes go on: no clock counts for them.
func TestAClockThatIsSet(t *testing.T) {
	for _, by := range []time.Duration{-365 * 24 * time.Hour, -time.Hour, -61 * time.Second, -time.Second, time.Second, 61 * time.Second, time.Hour, 365 * 24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			alice := newKey("alice")
			s := newSiteAt(t, time.Now(), alice.line(""))
			replayed := func(when string, d []byte) {
				t.Helper()
				if said, _, ok := s.opens(visitor, d); ok {
					for _, v := range s.hear(visitor, said) {
						if v.Right {
							t.Errorf("%s, what was recorded came to %+v", when, v)
						}
					}
				}
				if _, answer, ok := s.opens(stranger, d); ok || answer != nil {
					t.Errorf("%s, what was recorded is heard from another address, or answered with %d bytes", when, len(answer))
				}
			}
			at := s.begin(visitor)
			request, single := s.request(at, web, alice.who()), s.one(alice, "", s.now, visitor)
			said, _, _ := s.opens(visitor, request)
			all := s.hear(visitor, said)
			if len(all) != 1 || !all[0].Right || s.once(visitor, single) != "right" {
				t.Fatalf("before, the request came to %+v, or the single packet to nothing", all)
			}
			s.answer(all[0], at, knock.Outcome{Open: true, Until: s.now.Add(time.Minute), Left: time.Minute})
			unused := s.begin(visitor)

			s.now = stepped(t, s.now.Add(time.Second), by)
			for when := range 2 {
				replayed([]string{"then", "and again"}[when], request)
				if got := s.once(visitor, single); got == "right" {
					t.Error("the single packet opens again")
				}
			}
			if all := heardFrom(s, visitor, s.request(unused, web, alice.who())); len(all) != 1 || !all[0].Right {
				t.Errorf("a handshake that was under way came to %+v, want a right knock", all)
			}
			if v := s.asks(web, alice.who()); !v.Right {
				t.Errorf("a new handshake: %+v", v)
			}
			late := s.request(s.begin(visitor), web, alice.who())
			s.now = s.now.Add(seal.HandshakeLife + 2*time.Second)
			if _, answer, ok := s.opens(visitor, late); ok || answer != nil {
				t.Error("a handshake is accepted after more than a minute")
			}
			replayed("a minute later", request)
			s.restart(map[string]string{identityFile: identityText(7), keysFile: alice.line("")})
			replayed("after a restart", request)
			if got := s.once(visitor, single); got == "right" {
				t.Error("after a restart the single packet opens again")
			}
		})
	}
}
