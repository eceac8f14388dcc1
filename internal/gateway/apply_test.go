package gateway

import (
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
)

// The loop does not wait for any step of apply. Meanwhile no other apply begins, and what
// was read is what comes into use.
func TestApplyInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r, disk := runSlowly(t, m, path, sshDoor)
		write(t, path, sshDoor+webDoor)
		goOn := disk.hang(t)
		replies := asking(1, func() string { return r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"}) })
		write(t, path, webDoor)
		for _, action := range []string{"apply", "keep", "undo"} {
			want := "error: another configuration is being applied, which takes a few seconds at most"
			if got := r.order(control.ApplyRequest{Action: action}); got != want {
				t.Errorf("%s meanwhile: %q, want %q", action, got, want)
			}
		}
		if got := r.status1(); len(got.Doors) != 1 || len(m.doors) != 1 {
			t.Errorf("before the promise is on disk %d doors are in use", len(got.Doors))
		}
		r.touch(visitor, 59000, 59002)
		if len(m.grants) != 1 {
			t.Error("a knock waits for the promise")
		}
		goOn()
		if got := replies()[0]; !strings.HasPrefix(got, path+" is in use: 2 doors, until ") || len(m.doors) != 2 ||
			string(m.applied.Pending) != sshDoor+webDoor {
			t.Errorf("apply: %q, guarded %v, on disk %q", got, m.doors, m.applied.Pending)
		}
		if got := r.order(control.ApplyRequest{Action: "keep"}); got != "the new configuration is kept" {
			t.Errorf("keep: %q", got)
		}
	})
}

// status1 returns the status as the loop knows it, without waiting for the disk.
func (r *running) status1() (s control.Status) {
	r.sync(func(now time.Time) { s = r.stateNow(now) })
	return s
}

// While the disk hangs nothing comes into use, and once it responds again it has what is
// in use. What waits to be confirmed is rolled back in time.
func TestApplyOnADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r, disk := runSlowly(t, m, path, sshDoor)
		write(t, path, sshDoor+webDoor)
		goOn := disk.hang(t)
		const late = "the latest changes have not been written to disk for 5s"
		if got, want := r.order(control.ApplyRequest{Action: "apply"}), "error: nothing was changed: "+late; got != want {
			t.Errorf("apply: %q, want %q", got, want)
		}
		goOn()
		if len(m.doors) != 1 || string(m.applied.Confirmed) != sshDoor {
			t.Errorf("guarded %v, on disk %q; want what was in use", m.doors, m.applied.Confirmed)
		}
		r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
		goOn = disk.hang(t)
		time.Sleep(time.Minute - time.Second)
		replies := asking(1, func() string { return r.order(control.ApplyRequest{Action: "keep"}) })
		time.Sleep(time.Second)
		synctest.Wait()
		if len(m.doors) != 1 {
			t.Errorf("the time to confirm is over, but guarded are %v", m.doors)
		}
		goOn()
		want := "error: the new configuration was rolled back before its confirmation was on disk"
		if got := replies()[0]; got != want {
			t.Errorf("keep: %q, want %q", got, want)
		}
		if s := r.status1(); s.Pending != nil || string(m.applied.Confirmed) != sshDoor || string(m.applied.Rejected) != sshDoor+webDoor {
			t.Errorf("pending %v, on disk %q and rejected %q", s.Pending, m.applied.Confirmed, m.applied.Rejected)
		}
	})
}

// If reading a configuration file takes too long, apply gives up, and what is read in the
// end changes nothing.
func TestAFileThatTakesLongToBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		var hung chan struct{}
		r := runWith(t, m, path, sshDoor, func(w *World) {
			w.Config = func(path string) (*config.Config, []byte, error) {
				if hung != nil {
					<-hung
				}
				return config.Load(path)
			}
		})
		write(t, path, sshDoor+webDoor)
		r.sync(func(time.Time) { hung = make(chan struct{}) })
		want := "error: nothing was changed: " + path + " has not been read for 5s"
		if got := r.order(control.ApplyRequest{Action: "apply"}); got != want {
			t.Errorf("apply: %q, want %q", got, want)
		}
		r.touch(visitor, 59000, 59002)
		close(hung)
		synctest.Wait()
		if len(m.grants) != 1 || len(m.doors) != 1 {
			t.Errorf("grants %v, guarded %v; want the visitor's, and one door", m.grants, m.doors)
		}
	})
}

// A configuration that is about to come into use when the daemon ends no longer does: the
// next daemon reads the file.
func TestTheEndOnTheWayIntoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r, disk := runSlowly(t, m, path, sshDoor)
		write(t, path, sshDoor+webDoor)
		disk.takesFor(2 * time.Second)
		replies := asking(1, func() string { return r.order(control.ApplyRequest{Action: "apply"}) })
		r.stop()
		if got := replies(); got[0] != "error: the daemon is shutting down" || len(m.doors) != 1 {
			t.Errorf("apply: %q, guarded %v; want what was guarded before", got, m.doors)
		}
		if restart(t, m, path); len(m.doors) != 2 {
			t.Errorf("after the restart guarded are %v, want two doors", m.doors)
		}
	})
}

// A change of doors that the fence carries out only in part is undone, and grants that
// were lost by it are given again, even if undoing it halts at first, too.
func TestApplyThatHaltsHalfWay(t *testing.T) {
	for _, times := range []int{1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			m, path := newMachine(), configPath(t)
			r := run(t, m, path, sshDoor)
			r.touch(visitor, 59000, 59002)
			before := maps.Clone(m.grants)
			write(t, path, webDoor)
			m.do(func() { m.halting = times })
			if got := r.order(control.ApplyRequest{Action: "apply"}); !strings.HasPrefix(got, "error: nothing was changed: raise the fence: ") {
				t.Errorf("apply: %q", got)
			}
			time.Sleep(2 * fenceRetry)
			synctest.Wait()
			if m.halfway || len(m.doors) != 1 || m.doors[0].Name != "ssh" {
				t.Errorf("after %d halts the fence guards %v, half-way %v; want ssh", times, m.doors, m.halfway)
			}
			if len(before) != 1 || !maps.Equal(m.grants, before) {
				t.Errorf("after %d halts the kernel lets %v in, want %v", times, m.grants, before)
			}
			r.wantState("open")
			r.touch(visitor6, 59000, 59002)
			if len(m.grants) != 2 {
				t.Errorf("after %d halts a right knock does not open", times)
			}
		})
	}
}
