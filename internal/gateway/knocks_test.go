package gateway

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/store"
)

// Four connections of one program at once each have a knock of their own: all get in,
// and what is left over of their knocks costs nothing.
func TestKnocksInParallelOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59000, 59002, 59000, 59000, 59002, 59002, 59002)
		r.wantState("open")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := r.status().Penalties; len(got) != 0 {
			t.Errorf("penalties %v", got)
		}
	})
}

// Somebody who is in the middle of a knock when it is changed is not penalised: neither
// for the order nor for the time, nor is everybody. The next wrong knock counts.
func TestAKnockThatIsChangedMeanwhile(t *testing.T) {
	const given, everybody, within = "order = \"given\"\n", "scope = \"door\"\n", "within = \"10s\"\n"
	for _, tt := range []struct{ name, before, after string }{
		{"order", "", given},
		{"for everybody", "", everybody},
		{"for everybody no longer", everybody, ""},
		{"time", "", within},
		{"nothing of the rule", "", "penalty = \"6m\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, path := newMachine(), configPath(t)
				r := run(t, m, path, sshDoor+tt.before)
				r.touch(visitor, 59000)
				write(t, path, sshDoor+tt.after)
				r.order(control.ApplyRequest{Action: "apply"})
				r.touch(visitor, 59002)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if got := r.status().Penalties; len(got) != 0 {
					t.Fatalf("penalties %v", got)
				}
				if goesOn := tt.name == "nothing of the rule"; goesOn != (r.status().State == "open") {
					t.Fatalf("the door is %s", r.status().State)
				}
				r.touch(visitor, 59001)
				if got := r.status().Penalties; len(got) != 1 {
					t.Errorf("a wrong knock after the change costs %v", got)
				}
			})
		})
	}
}

// A wrong touch by a neighbour behind the visitor's address takes back only a grant that
// nobody has used yet.
func TestAWrongKnockTakesBackAnUnusedGrantOnly(t *testing.T) {
	for _, tt := range []struct {
		name    string
		used    time.Duration // after the grant was given; 0: not
		unknown error
		stands  bool
	}{
		{"nobody came", 0, nil, false},
		{"a connection used it", 2 * time.Second, nil, true},
		{"one used the grant before", -time.Hour, nil, false},
		{"the kernel does not say", 2 * time.Second, errors.New("netlink: no buffer space available"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				r := run(t, m, configPath(t), sshDoor)
				r.touch(visitor, 59000, 59002)
				m.do(func() {
					m.unknown = tt.unknown
					if tt.used != 0 {
						m.used[grantKey{"ssh", door.Source(visitor)}] = time.Now().Add(tt.used)
					}
				})
				time.Sleep(5 * time.Second)
				r.touch(visitor, 59001)
				got := r.status()
				if stands := len(got.Grants) == 1; stands != tt.stands || len(got.Penalties) != 1 {
					t.Errorf("grants %v, penalties %v; the grant is to stand: %v", got.Grants, got.Penalties, tt.stands)
				}
			})
		})
	}
}

// A touch that no visitor can have made opens nothing and penalises nobody, least of all
// everybody.
func TestTouchesOfNobody(t *testing.T) {
	for _, more := range []string{"", "scope = \"door\"\n"} {
		for _, a := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("224.0.0.1"),
			netip.MustParseAddr("ff02::1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1")} {
			t.Run(more+a.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMachine()
					r := run(t, m, configPath(t), sshDoor+more)
					r.touch(a, 59000, 59002, 59000, 59001)
					if got := r.status(); got.State != "dark" || len(got.Penalties)+len(m.grants) > 0 {
						t.Errorf("the door is %s, penalties %v, the kernel lets in %v", got.State, got.Penalties, m.grants)
					}
				})
			})
		}
	}
}

// Nobody is penalised for a touch whose sender may be forged.
func TestTouchesThatProveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		wrong := knock.Heard{Source: visitor, Place: knock.Place{Medium: knock.Connections, Port: 59001}, Time: time.Now()}
		for _, proven := range []bool{false, true} {
			wrong.Proven = proven
			r.Hear([]knock.Heard{wrong})
			synctest.Wait()
			if got := r.status().Penalties; len(got) > 0 != proven {
				t.Errorf("proven %v: penalties %v", proven, got)
			}
		}
	})
}

// A penalty is remembered over a restart, until a week after its end, whatever the clock
// does.
func TestAPenaltyGrowsOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		other := netip.MustParseAddr("2001:db8::9")
		lasts := func(want time.Duration) {
			t.Helper()
			r.touch(other, 59001)
			got := r.status().Penalties
			if len(got) != 1 || got[0].Source != "2001:db8::/64" || !got[0].Until.Equal(time.Now().Add(want)) {
				t.Errorf("penalties %v, want one of 2001:db8::/64 for %s", got, want)
			}
		}
		lasts(5 * time.Minute)
		r.stop()
		time.Sleep(6 * time.Minute)
		r = restart(t, m, path)
		if got := r.status().Penalties; len(got) != 0 {
			t.Errorf("a penalty that is over is in force: %v", got)
		}
		lasts(10 * time.Minute)
		r.stop()
		time.Sleep(10*time.Minute + door.Remembered)
		r = restart(t, m, path)
		if len(m.banned) != 0 {
			t.Errorf("on disk are still %v", m.banned)
		}
		lasts(5 * time.Minute)
		r.stop()
	})
}

// A penalty that is over does not come into force again because the clock is set back,
// whether a daemon saw its end or not.
func TestAPenaltyThatIsOverStaysOverWhateverTheClockDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59001)
		time.Sleep(6 * time.Minute)
		r.stop()
		back := func() {
			for k, p := range m.banned {
				p.Until = p.Until.Add(24 * time.Hour) // as if now were a day earlier
				m.banned[k] = p
			}
		}
		back()
		r = restart(t, m, path)
		if got := r.status().Penalties; len(got) != 0 {
			t.Errorf("it stands again: %v", got)
		}
		r.touch(visitor, 59001) // ten minutes, since it is the second
		r.stop()
		time.Sleep(time.Hour)
		r = restart(t, m, path)
		r.stop()
		back()
		r = restart(t, m, path)
		if got := r.status().Penalties; len(got) != 0 {
			t.Errorf("it stands again: %v", got)
		}
		r.touch(visitor, 59001)
		if got := r.status().Penalties; len(got) != 1 || !got[0].Until.Equal(time.Now().Add(20*time.Minute)) {
			t.Errorf("penalties %v, want one for 20 minutes", got)
		}
	})
}

// A store of a version in which all penalties were equally long can be read: each counts
// as the first.
func TestAPenaltyOfAnEarlierVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.stop()
		key := store.PenaltyKey{Door: "ssh", Source: door.Source(netip.MustParseAddr("2001:db8::9"))}
		m.banned[key] = store.Penalty{Door: key.Door, Source: key.Source, Until: time.Now().Add(4 * time.Minute), For: 5 * time.Minute}
		r = restart(t, m, path)
		r.touch(key.Source.Addr(), 59000, 59002)
		r.wantState("dark")
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		r.touch(key.Source.Addr(), 59000, 59002)
		r.wantState("open")
	})
}

// A door that the configuration no longer has leaves no penalty behind, nor what
// is remembered of one.
func TestADoorThatLeavesIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59001)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if len(m.banned) != 1 || len(r.status().Penalties) != 0 {
			t.Fatalf("on disk %v, standing %v", m.banned, r.status().Penalties)
		}
		write(t, path, webDoor)
		r.order(control.ApplyRequest{Action: "apply"})
		if len(m.banned) != 0 {
			t.Errorf("the door is gone, but on disk are %v", m.banned)
		}
	})
}
