package gateway

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/presence"
)

func TestFromKnockToIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.running["ssh.service"] = true // as on any machine before doorward came
		r := run(t, m, configPath(t), sshDoor)
		r.wantState("dark")
		if m.running["ssh.service"] {
			t.Error("the door is dark, but its service runs")
		}
		r.touch(visitor, 59000, 59002)
		r.wantState("open")
		got := r.status()
		if !m.running["ssh.service"] || !got.Running || len(got.Grants) != 1 || got.Grants[0].Source != "192.0.2.2" {
			t.Errorf("after the knock: running %v, grants %v", m.running, got.Grants)
		}
		if want := time.Now().Add(30 * time.Second); !got.Grants[0].Expires.Equal(want) {
			t.Errorf("the grant ends %s, want %s", got.Grants[0].Expires, want)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		r.wantState("dark")
		if m.running["ssh.service"] || len(m.claims) != 0 {
			t.Errorf("after an hour with nobody in: running %v, claims %v", m.running, m.claims)
		}
		if got, want := m.events(), "started dark opened granted expired dark"; got != want {
			t.Errorf("audit trail %q, want %q", got, want)
		}
		if s, _ := r.Status(); s.Events["granted"] != 1 || s.Events["dark"] != 2 {
			t.Errorf("counted %v", s.Events)
		}
	})
}

// Status and metrics count sessions, also those of a dark door, and of one for which
// sessions are not presence.
func TestSessionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), strings.Replace(sshDoor, "logins =", "connections = false\nlogins =", 1))
		m.do(func() { m.sessions = []presence.Connection{sessionAt(40022), sessionAt(40023)} })
		check := func(state string) {
			t.Helper()
			if got := r.status(); got.State != state || got.Sessions != 2 {
				t.Errorf("the door is %s with %d sessions, want %s with 2", got.State, got.Sessions, state)
			}
			if got := r.ReadMetrics().Doors[0]; got.State != state || got.Sessions != 2 {
				t.Errorf("metrics: the door is %s with %d sessions, want %s with 2", got.State, got.Sessions, state)
			}
		}
		check("dark")
		r.touch(visitor, 59000, 59002)
		check("open")
	})
}

func TestAWrongKnockIsPenalisedOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59001)
		if got := r.status().Penalties; len(got) != 1 || got[0].Source != "192.0.2.2" {
			t.Fatalf("penalties %v", got)
		}
		r.touch(visitor, 59000, 59002)
		r.wantState("dark")
		r.stop()
		time.Sleep(4 * time.Minute)
		r = restart(t, m, path)
		r.touch(visitor, 59000, 59002)
		r.wantState("dark")
		time.Sleep(time.Minute)
		synctest.Wait()
		r.touch(visitor, 59000, 59002)
		r.wantState("open")
	})
}

func TestAPenaltyIsNoLongerForAClockThatStepsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59001)
		r.stop()
		for k, p := range m.banned {
			p.Until = p.Until.Add(24 * time.Hour) // as if the clock had been a day ahead
			m.banned[k] = p
		}
		r = restart(t, m, path)
		if got, limit := r.status().Penalties[0].Until, time.Now().Add(5*time.Minute); got.After(limit) {
			t.Errorf("the penalty stands until %s, want at most %s", got, limit)
		}
	})
}

func TestARestartKeepsAnOpenDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59000, 59002)
		r.stop()
		time.Sleep(10 * time.Second)
		// A grant that the crash left, and that is not on disk, stays too.
		stray := grantKey{"ssh", door.Source(netip.MustParseAddr("2001:db8::9"))}
		m.grants[stray] = time.Now().Add(5 * time.Second)
		starts := m.starts
		r = restart(t, m, path)
		r.wantState("open")
		got := r.status()
		if len(got.Grants) != 2 || time.Until(got.Grants[0].Expires) != 20*time.Second ||
			got.Grants[1].For[0] != "before the restart" {
			t.Errorf("grants after the restart: %v", got.Grants)
		}
		if m.starts != starts {
			t.Error("the restart started the service that ran")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		r.wantState("dark")
	})
}

// What a knock has earned lasts over a restart for as long as it was said to, also at a
// door that was opened by an earlier one: the door goes dark no sooner for the restart.
func TestARestartKnowsOfTheLatestKnock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, strings.Replace(sshDoor, "logins = \"journal\"", "logins = \"journal\"\nidle = \"1m\"", 1))
		r.touch(visitor, 59000, 59002)
		time.Sleep(50 * time.Second)
		r.touch(visitor, 59000, 59002)
		r.stop()
		r = restart(t, m, path)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		r.wantState("open")
		if got := r.status(); len(got.Grants) != 1 || time.Until(got.Grants[0].Expires) != 10*time.Second {
			t.Errorf("grants 20 s after the knock: %v, want one that lasts another 10 s", got.Grants)
		}
	})
}

func TestAfterARebootAllIsDark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59000, 59002)
		r.stop()
		m.rebooted, m.table = true, false
		clear(m.grants)
		r = restart(t, m, path)
		r.wantState("dark")
		if m.running["ssh.service"] || len(m.claims) != 0 || !m.table {
			t.Errorf("running %v, claims %v, fence %v", m.running, m.claims, m.table)
		}
	})
}

func TestAForeignFlushIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		m.flush()
		synctest.Wait()
		if !m.table || len(m.grants) != 1 {
			t.Errorf("after a flush: fence %v, grants %v", m.table, m.grants)
		}
		s, _ := r.Status()
		if s.Fence.Repairs != 1 || !strings.Contains(m.events(), "repaired") {
			t.Errorf("repairs %d, audit trail %q", s.Fence.Repairs, m.events())
		}
	})
}

func TestAFlushedSingleUseGrantIsNotGivenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), strings.Replace(sshDoor, "ports", "single_use = true\nports", 1))
		r.touch(visitor, 59000, 59002)
		m.flush()
		synctest.Wait()
		if got := r.status().Grants; len(m.grants) != 0 || len(got) != 0 {
			t.Errorf("it is not known whether it was spent, but it is there: kernel %v, status %v", m.grants, got)
		}
	})
}

func TestASpentGrantIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), strings.Replace(sshDoor, "ports", "single_use = true\nports", 1))
		r.touch(visitor, 59000, 59002)
		m.do(func() { clear(m.grants) })
		time.Sleep(upkeepInterval)
		synctest.Wait()
		if got := r.status().Grants; len(got) != 0 {
			t.Errorf("grants %v, although the kernel has none", got)
		}
		last := m.trail[len(m.trail)-1]
		if last.Event != "revoked" || last.Reason != "it was spent by its first connection" {
			t.Errorf("last record %v", last)
		}
	})
}

func TestAFenceThatCannotBePutRightIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		m.do(func() { m.broken = errors.New("operation not permitted") })
		m.flush()
		synctest.Wait()
		s, _ := r.Status()
		if s.Fence.Up || !slices.Contains(s.Warnings, "the fence is down: operation not permitted") {
			t.Errorf("fence %v, warnings %q", s.Fence, s.Warnings)
		}
		m.do(func() { m.broken = nil })
		time.Sleep(fenceRetry)
		synctest.Wait()
		if s, _ := r.Status(); !s.Fence.Up || !m.table {
			t.Errorf("fence %v, table %v", s.Fence, m.table)
		}
	})
}

func TestAFullDiskOpensNoDoorAndShutsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		m.do(func() { m.full = errors.New("no space left on device") })
		r.touch(visitor, 59000, 59002)
		r.wantState("open")
		s, _ := r.Status()
		if !slices.Contains(s.Warnings, "nothing is saved: a restart would forget what happens now: no space left on device") {
			t.Errorf("warnings %q", s.Warnings)
		}
		m.do(func() { m.full = nil })
		time.Sleep(upkeepInterval)
		synctest.Wait()
		if m.disk["ssh"].State != "open" || !strings.Contains(m.events(), "granted") {
			t.Errorf("once there is room again: disk %v, audit trail %q", m.disk, m.events())
		}
	})
}

func TestAServiceThatDoesNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		m.do(func() { m.stubborn = errors.New("exit status 255") })
		r.touch(visitor, 59000, 59002)
		r.wantState("dark")
		if len(m.grants) != 0 {
			t.Errorf("grants %v at a door whose service does not run", m.grants)
		}
		if got, want := m.events(), "started error dark"; got != want {
			t.Errorf("audit trail %q, want %q", got, want)
		}
		if got, want := m.trail[1].Reason, "start ssh.service: exit status 255"; got != want {
			t.Errorf("reason %q, want %q", got, want)
		}
	})
}

func TestAServiceThatDiesIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		m.becomes("ssh.service", died9)
		synctest.Wait()
		r.wantState("open")
		if !m.running["ssh.service"] || m.starts != 2 {
			t.Errorf("running %v after %d starts", m.running, m.starts)
		}
	})
}

func TestFailsafeIsLoudAndEndsWithLogData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.seen.NoData = "no log data: the journal is empty"
		r := run(t, m, configPath(t), sshDoor)
		r.wantState("failsafe")
		if len(m.listening) != 0 {
			t.Errorf("in failsafe it listens on %v", m.listening)
		}
		if want := []uint16{59000, 59001, 59002}; !slices.Equal(m.held, want) {
			t.Errorf("in failsafe it holds %v, want %v: others could listen there", m.held, want)
		}
		s, _ := r.Status()
		if want := "door ssh is in failsafe and ignores knocks: no log data: the journal is empty"; !slices.Contains(s.Warnings, want) {
			t.Errorf("warnings %q, want %q", s.Warnings, want)
		}
		if got, want := r.order(control.OpenRequest{Door: "ssh", Source: "192.0.2.2"}),
			`error: door "ssh" is in failsafe: no log data: the journal is empty`; got != want {
			t.Errorf("open: %q, want %q", got, want)
		}
		m.do(func() { m.seen.NoData = "" })
		time.Sleep(time.Minute)
		synctest.Wait()
		r.wantState("dark")
		r.touch(visitor, 59000, 59002)
		r.wantState("open")
	})
}

// The article's own numbers: everybody's touches, looked at every minute.
func TestLikeTheArticle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor+"judge = \"every 1m\"\nscope = \"door\"\n")
		r.touch(visitor, 59000)
		if want := []uint16{59001, 59002}; !slices.Equal(m.listening, want) {
			t.Errorf("after a touch it listens on %v, want %v", m.listening, want)
		}
		if want := []uint16{59000, 59001, 59002}; !slices.Equal(m.held, want) {
			t.Errorf("after a touch it holds %v, want %v: others could listen there", m.held, want)
		}
		time.Sleep(time.Second)
		r.touch(netip.MustParseAddr("2001:db8::7"), 59002)
		r.wantState("dark")
		time.Sleep(time.Minute)
		synctest.Wait()
		r.wantState("open")
		if got := r.status().Grants; len(got) != 1 || got[0].Source != "any" || len(m.grants) != 2 || len(m.listening) != 0 {
			t.Errorf("open to %v, kernel %v, listening on %v", got, m.grants, m.listening)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		r.wantState("dark")
		if len(m.listening) != 3 {
			t.Errorf("dark again, it listens on %v", m.listening)
		}
		r.touch(visitor, 59001)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(m.listening) != 0 || r.status().Penalties[0].Source != "any" {
			t.Errorf("after a wrong knock it listens on %v, penalties %v", m.listening, r.status().Penalties)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if len(m.listening) != 3 {
			t.Errorf("after the penalty it listens on %v", m.listening)
		}
	})
}

func TestAPortThatIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.taken = []uint16{59001}
		r := run(t, m, configPath(t), sshDoor)
		s, _ := r.Status()
		if want := "59001/tcp: address already in use"; !slices.Contains(s.Warnings, want) {
			t.Errorf("warnings %q, want %q", s.Warnings, want)
		}
		r.touch(visitor, 59000, 59002)
		r.wantState("open")
	})
}

const webDoor = `
[door.web]
ports = ["443/tcp"]
[[door.web.knock]]
kind = "touch"
listen = [60001, 60002, 60003]
touch = [60001, 60003]
`

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59000, 59002)
		apply := control.ApplyRequest{Action: "apply"}

		write(t, path, sshDoor+"colour = \"red\"\n")
		if got := r.order(apply); !strings.HasPrefix(got, "error: nothing was changed: "+path+":12: ") {
			t.Errorf("a mistake: %q", got)
		}
		write(t, path, "[gateway]\nstate = \"/srv/doorward\"\n"+sshDoor)
		if got, want := r.order(apply), "error: nothing was changed: the keys of [gateway] are read at the start only"; got != want {
			t.Errorf("another state directory: %q, want %q", got, want)
		}
		m.do(func() { m.taken = []uint16{60002} })
		write(t, path, sshDoor+webDoor)
		if got, want := r.order(apply), "error: nothing was changed: 60002/tcp: address already in use"; got != want {
			t.Errorf("a port that is taken: %q, want %q", got, want)
		}
		if len(m.doors) != 1 || len(r.status().Grants) != 1 {
			t.Fatalf("after bad configurations the fence has %v, the grants are %v", m.doors, r.status().Grants)
		}

		m.do(func() { m.taken = nil })
		if got, want := r.order(apply), path+" is in use: 2 doors"; got != want {
			t.Errorf("two doors: %q, want %q", got, want)
		}
		synctest.Wait() // until it listens
		if len(m.doors) != 2 || len(r.status().Grants) != 1 || len(m.listening) != 6 {
			t.Errorf("the fence has %v, the grants are %v, it listens on %v", m.doors, r.status().Grants, m.listening)
		}
		write(t, path, webDoor)
		if got, want := r.order(apply),
			path+" is in use: 1 door; door ssh is no longer guarded, its service ssh.service keeps running"; got != want {
			t.Errorf("one door less: %q, want %q", got, want)
		}
		synctest.Wait() // until it listens
		if _, ok := m.disk["ssh"]; ok || !m.running["ssh.service"] || len(m.grants) != 0 {
			t.Errorf("disk %v, running %v, grants %v", m.disk, m.running, m.grants)
		}
	})
}

func TestApplyGoesBackUnlessItIsKept(t *testing.T) {
	apply := control.ApplyRequest{Action: "apply", Confirm: "1m"}
	for _, tt := range []struct {
		name string
		then func(t *testing.T, r *running) *running
		want []string // the doors that are guarded in the end
	}{
		{"nobody confirms", func(t *testing.T, r *running) *running {
			time.Sleep(time.Minute)
			return r
		}, []string{"ssh"}},
		{"kept", func(t *testing.T, r *running) *running {
			if got, want := r.order(control.ApplyRequest{Action: "keep"}), "the new configuration is kept"; got != want {
				t.Errorf("keep: %q", got)
			}
			time.Sleep(2 * time.Minute)
			return r
		}, []string{"ssh", "web"}},
		{"undone", func(t *testing.T, r *running) *running {
			want := "the previous configuration is in use again: undone by operator alice (uid 1000)"
			if got := r.order(control.ApplyRequest{Action: "undo"}); got != want {
				t.Errorf("undo: %q, want %q", got, want)
			}
			return r
		}, []string{"ssh"}},
		{"restart in the window, then nobody confirms", func(t *testing.T, r *running) *running {
			r.stop()
			time.Sleep(30 * time.Second)
			r = restart(t, r.m, r.path)
			if s, _ := r.Status(); len(s.Doors) != 2 || s.Pending == nil {
				t.Errorf("in the window %d doors, pending %v", len(s.Doors), s.Pending)
			}
			time.Sleep(30 * time.Second)
			return r
		}, []string{"ssh"}},
		{"restart after the window", func(t *testing.T, r *running) *running {
			r.stop()
			time.Sleep(2 * time.Minute)
			return restart(t, r.m, r.path)
		}, []string{"ssh"}},
		{"restart in the window with the clock set back", func(t *testing.T, r *running) *running {
			r.stop()
			r.m.applied.Deadline = r.m.applied.Deadline.Add(24 * time.Hour)
			r = restart(t, r.m, r.path)
			time.Sleep(time.Minute)
			return r
		}, []string{"ssh"}},
		{"restart after it went back", func(t *testing.T, r *running) *running {
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			r.stop()
			return restart(t, r.m, r.path)
		}, []string{"ssh"}},
		{"reboot in the window", func(t *testing.T, r *running) *running {
			r.stop()
			r.m.rebooted = true
			return restart(t, r.m, r.path)
		}, []string{"ssh"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, path := newMachine(), configPath(t)
				r := run(t, m, path, sshDoor)
				write(t, path, sshDoor+webDoor)
				if got := r.order(apply); !strings.HasPrefix(got, path+" is in use: 2 doors, until ") {
					t.Fatalf("apply: %q", got)
				}
				r = tt.then(t, r)
				synctest.Wait()
				s, _ := r.Status()
				var got []string
				for _, d := range s.Doors {
					got = append(got, d.Name)
				}
				if !slices.Equal(got, tt.want) || s.Pending != nil || len(m.doors) != len(tt.want) {
					t.Errorf("guarded in the end: %v (fence %v), want %v; pending %v", got, m.doors, tt.want, s.Pending)
				}
				if s.Settled != nil && s.Settled.Kept != (len(tt.want) == 2) {
					t.Errorf("settled %+v", s.Settled)
				}
				if rolledBack := len(tt.want) == 1; rolledBack != slices.ContainsFunc(s.Warnings, func(w string) bool {
					return strings.Contains(w, "was rolled back")
				}) {
					t.Errorf("warnings %q", s.Warnings)
				}
			})
		})
	}
}

func TestAFileThatCannotBeUsedAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		write(t, path, "rubbish")
		if r := restart(t, m, path); r != nil {
			t.Fatal("it started with an unusable file, and no configuration before it")
		}
		run(t, m, path, sshDoor).stop()
		write(t, path, "rubbish")
		r := restart(t, m, path)
		if r == nil {
			t.Fatal("the doors are unguarded, although there was a configuration before")
		}
		s, _ := r.Status()
		if len(s.Doors) != 1 || !strings.HasPrefix(s.Warnings[0], "the previous configuration is in use: "+path+" cannot be used: ") {
			t.Errorf("doors %v, warnings %q", s.Doors, s.Warnings)
		}
	})
}

// Late news of the service before is not taken for news of the new one.
func TestReloadWhileTheOldServiceStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		m.slow = make(chan struct{})
		r.touch(visitor, 59000, 59002)
		r.wantState("opening")
		write(t, path, strings.Replace(sshDoor, `"ssh.service"`, `"sshd.service"`, 1))
		r.order(control.ApplyRequest{Action: "apply"})
		close(m.slow)
		synctest.Wait()
		r.wantState("open")
		if !m.running["sshd.service"] || m.running["ssh.service"] {
			t.Errorf("running %v, want sshd.service alone", m.running)
		}
	})
}
