package gateway

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/store"
)

// At a start, fence and store are made to agree again after a crash between them or
// time without a daemon. Each case begins with a door that is open to the visitor for
// another 20 s.
func TestWhatACrashLeftIsMadeOneAgain(t *testing.T) {
	key := grantKey{"ssh", door.Source(visitor)}
	for _, tt := range []struct {
		name   string
		left   func(m *machine)
		state  string
		kernel time.Duration // 0: no grant
		told   []string      // on whose behalf
		events string        // since the start
	}{
		{"nothing odd", func(*machine) {}, "open", 20 * time.Second, []string{"touch"}, "started"},
		{"the fence knows of a door's opening, the store does not", func(m *machine) {
			d := m.disk["ssh"]
			d.State = "dark"
			m.disk["ssh"] = d
			clear(m.claims)
		}, "dark", 0, nil, "started repaired"},
		{"the service was about to be started again", func(m *machine) {
			d := m.disk["ssh"]
			d.State = "opening"
			m.disk["ssh"] = d
		}, "dark", 0, nil, "dark started repaired"},
		{"the fence knows of a second knock", func(m *machine) { m.grants[key] = time.Now().Add(30 * time.Second) },
			"open", 30 * time.Second, []string{"before the restart", "touch"}, "started granted"},
		{"the clock was set forward", func(m *machine) { m.claimsEarlier(15 * time.Second) },
			"open", 20 * time.Second, []string{"before the restart", "touch"}, "started granted"},
		{"the clock was set far forward", func(m *machine) { m.claimsEarlier(time.Hour) },
			"open", 20 * time.Second, []string{"before the restart"}, "started expired granted"},
		{"the kernel lost the grant", func(m *machine) { clear(m.grants) }, "open", 0, nil, "started revoked"},
		{"the machine was booted", func(m *machine) { clear(m.grants); m.rebooted = true }, "dark", 0, nil,
			"dark started dark"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, path := newMachine(), configPath(t)
				r := run(t, m, path, sshDoor)
				r.touch(visitor, 59000, 59002)
				time.Sleep(10 * time.Second)
				r.stop()
				m.trail = nil
				tt.left(m)
				r = restart(t, m, path)
				r.wantState(tt.state)
				if left := time.Until(m.grants[key]); max(0, left) != tt.kernel {
					t.Errorf("the kernel lets in for %v, want %v", left, tt.kernel)
				}
				var told []string
				for _, g := range r.status().Grants {
					told = append(told, g.For...)
					if left := time.Until(g.Expires); left != tt.kernel {
						t.Errorf("status says that the grant lasts %v, want %v", left, tt.kernel)
					}
				}
				if !slices.Equal(told, tt.told) || len(m.claims) != len(tt.told) {
					t.Errorf("granted to %q, on disk %v, want %q", told, m.claims, tt.told)
				}
				if got := m.events(); got != tt.events {
					t.Errorf("audit trail %q, want %q", got, tt.events)
				}
			})
		})
	}
}

// claimsEarlier makes the claims on disk end earlier.
func (m *machine) claimsEarlier(by time.Duration) {
	for k, c := range m.claims {
		c.Until = c.Until.Add(-by)
		m.claims[k] = c
	}
}

// The doors are guarded even if the disk is full when the machine boots.
func TestAFullDiskAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		m.full = errors.New("no space left on device")
		r := run(t, m, path, sshDoor)
		r.wantState("dark")
		if !m.table {
			t.Error("the doors are unguarded")
		}
		m.do(func() { m.full = nil })
		time.Sleep(upkeepInterval)
		synctest.Wait()
		if string(m.applied.Confirmed) != sshDoor {
			t.Errorf("once there is room the disk has the configuration %q", m.applied.Confirmed)
		}
	})
}

func TestARollbackThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, webDoor)
		r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
		m.do(func() { m.broken = errors.New("no buffer space available") })
		time.Sleep(time.Minute)
		synctest.Wait()
		if s, _ := r.Status(); s.Pending == nil || s.Doors[0].Name != "web" {
			t.Fatalf("with a kernel that refuses everything: pending %v, doors %v", s.Pending, s.Doors)
		}
		m.do(func() { m.broken = nil })
		time.Sleep(fenceRetry)
		synctest.Wait()
		if s, _ := r.Status(); s.Pending != nil || s.Doors[0].Name != "ssh" || m.doors[0].Name != "ssh" {
			t.Errorf("pending %v, doors %v, the kernel guards %v", s.Pending, s.Doors, m.doors)
		}
	})
}

// If the kernel refuses a change, no grant is taken away, nor is an older one taken for
// the new one.
func TestAGrantThatTheKernelWouldNotTake(t *testing.T) {
	key := grantKey{"ssh", door.Source(visitor)}
	for _, singleUse := range []string{"", "single_use = true\n"} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			r := run(t, m, configPath(t), strings.Replace(sshDoor, "ports", singleUse+"ports", 1))
			m.do(func() { m.refuses = 1 })
			r.touch(visitor, 59000, 59002)
			if left := time.Until(m.grants[key]); left != 30*time.Second {
				t.Errorf("%safter the first knock the kernel lets in for %v", singleUse, left)
			}
			time.Sleep(10 * time.Second)
			m.do(func() { m.refuses = 1 })
			r.touch(visitor, 59000, 59002)
			if left := time.Until(m.grants[key]); left != 30*time.Second {
				t.Errorf("%safter the second knock the kernel lets in for %v", singleUse, left)
			}
		})
	}
}

// When a door goes and comes back, nothing that it had comes back with it.
func TestADoorThatGoesTakesAllAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59000, 59002)
		r.touch(visitor6, 59001)
		write(t, path, webDoor)
		r.order(control.ApplyRequest{Action: "apply"})
		if len(m.claims)+len(m.banned) != 0 {
			t.Errorf("the door is gone, but on disk are %v and %v", m.claims, m.banned)
		}
		write(t, path, sshDoor)
		r.order(control.ApplyRequest{Action: "apply"})
		r.wantState("dark")
		if want := (store.Door{}); m.disk["ssh"].State != "dark" || m.disk["web"] != want {
			t.Errorf("on disk are %v", m.disk)
		}
		synctest.Wait()
		if got, want := m.events(), "started opened granted refused applied applied applied applied dark"; got != want {
			t.Errorf("audit trail %q, want %q", got, want)
		}
	})
}

// The answer to an order that the kernel does not accept yet says so.
func TestAnOrderThatTheKernelDoesNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		m.do(func() { m.broken = errors.New("operation not permitted") })
		want := "error: the kernel does not have it yet; trying again: operation not permitted"
		if got := r.order(control.CloseRequest{Door: "ssh"}); got != want {
			t.Errorf("close: %q, want %q", got, want)
		}
		m.do(func() { m.broken = nil })
		time.Sleep(fenceRetry)
		synctest.Wait()
		if len(m.grants) != 0 {
			t.Errorf("the kernel lets in %v", m.grants)
		}
	})
}
