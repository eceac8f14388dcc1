package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/listen"
)

// gate makes calls wait while it is shut.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // nil: open
	came int
}

func (w *gate) pass() {
	w.mu.Lock()
	shut := w.shut
	w.came++
	w.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

// passed returns how many calls have come so far.
func (w *gate) passed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.came
}

// close shuts the gate until open is called.
func (w *gate) close() (open func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	shut := make(chan struct{})
	w.shut = shut
	return func() {
		w.mu.Lock()
		w.shut = nil
		w.mu.Unlock()
		close(shut)
		synctest.Wait()
	}
}

// slowFence is a fence whose calls wait at gates.
type slowFence struct {
	Fence
	guard, check, flows gate
	early               bool // Guard does its work before it waits
}

func (f *slowFence) Guard(doors []fence.Door) error {
	if f.early {
		err := f.Fence.Guard(doors)
		f.guard.pass()
		return err
	}
	f.guard.pass()
	return f.Fence.Guard(doors)
}

func (f *slowFence) Check() error {
	f.check.pass()
	return f.Fence.Check()
}

func (f *slowFence) EndFlows(ends []fence.Grant) error {
	f.flows.pass()
	return f.Fence.EndFlows(ends)
}

// slowListener is a listener whose calls wait at gates.
type slowListener struct {
	Listener
	set   gate
	check gate // the first Check finds that a port has died
}

func (e *slowListener) Check() []uint16 {
	if e.check.pass(); e.check.passed() > 1 {
		return nil
	}
	return []uint16{59001}
}

func (e *slowListener) Set(p listen.Ports) error {
	e.set.pass()
	return e.Listener.Set(p)
}

// besides runs a gateway on a machine with a slowFence and a slowListener.
func besides(t *testing.T, m *machine, path, text string) (*running, *slowFence, *slowListener) {
	var f *slowFence
	var e *slowListener
	write(t, path, text)
	r := restartWith(t, m, path, func(w *World) {
		f, e = &slowFence{Fence: w.Fence}, &slowListener{Listener: w.Touches}
		w.Fence, w.Touches = f, e
	})
	return r, f, e
}

// A configuration comes into use when the fence guards its doors. Until then knocks
// open only doors that remain, whatever the kernel has done already.
func TestKnocksWhileTheFenceIsRaised(t *testing.T) {
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprintf("the kernel has it already: %v", early), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, path := newMachine(), configPath(t)
				r, f, _ := besides(t, m, path, sshDoor+webDoor)
				f.early = early
				write(t, path, sshDoor)
				open := f.guard.close()
				reply := asking(1, func() string { return r.order(control.ApplyRequest{Action: "apply"}) })
				if got, want := r.order(control.ApplyRequest{Action: "apply"}), "error: another configuration is being applied, which takes a few seconds at most"; got != want {
					t.Errorf("apply meanwhile: %q, want %q", got, want)
				}
				if got := r.order(control.OpenRequest{Door: "ssh", Source: "198.51.100.7", For: "60s"}); strings.HasPrefix(got, "error") {
					t.Errorf("open meanwhile: %q", got)
				}
				synctest.Wait()
				r.wantGrants("198.51.100.7")
				r.touch(visitor, 60001, 60003) // door web is about to go
				r.touch(visitor, 59000, 59002) // door ssh remains
				r.wantGrants("192.0.2.2", "198.51.100.7")
				_, in := m.grants[grantKey{"web", door.Source(visitor)}]
				if in == early {
					t.Errorf("the kernel guards door web: %v, and lets in who knocked at it: %v", !early, in)
				}
				if n := len(r.status1().Doors); n != 2 {
					t.Errorf("meanwhile %d doors are in use, want 2", n)
				}
				open()
				if got := reply()[0]; !strings.HasPrefix(got, path+" is in use: 1 door") {
					t.Errorf("apply: %q", got)
				}
				r.wantGrants("192.0.2.2", "198.51.100.7")
				if len(m.grants) != 2 {
					t.Errorf("the kernel has grants %v, want none of a door that is gone", m.grants)
				}
			})
		})
	}
}

// If a fence could not be raised, the doors in use are guarded again, and the grants that
// they lost meanwhile are given again.
func TestAFenceThatIsRaisedByHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		half := &halfFence{}
		write(t, path, sshDoor)
		r := restartWith(t, m, path, func(w *World) { half.Fence = w.Fence; w.Fence = half })
		r.touch(visitor, 59000, 59002)
		write(t, path, webDoor)
		for _, fails := range []int{1, 2} {
			half.fails(fails)
			got := r.order(control.ApplyRequest{Action: "apply"})
			if !strings.HasPrefix(got, "error: nothing was changed: raise the fence: no buffer space available") {
				t.Errorf("apply: %q", got)
			}
			time.Sleep(2 * fenceRetry)
			synctest.Wait()
			if len(m.doors) != 1 || m.doors[0].Name != "ssh" {
				t.Errorf("after %d refusals guarded are %v, want door ssh", fails, m.doors)
			}
			if s := r.status1(); !s.Fence.Up {
				t.Errorf("after %d refusals the fence is down: %s", fails, s.Fence.Mismatch)
			}
			r.wantGrants("192.0.2.2")
		}
	})
}

// halfFence guards the doors that it is given, but fails all the same, as often as left
// says.
type halfFence struct {
	Fence
	mu   sync.Mutex
	left int
}

func (f *halfFence) fails(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = n
}

func (f *halfFence) Guard(doors []fence.Door) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.Fence.Guard(doors)
	if f.left == 0 {
		return err
	}
	f.left--
	return errors.New("no buffer space available")
}

// Knocks open doors while the fence is checked, and while the listeners are set.
func TestKnocksWhileTheFenceIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r, f, e := besides(t, m, configPath(t), sshDoor)
		fence, ears := f.check.close(), e.set.close()
		time.Sleep(upkeepInterval + time.Second)
		synctest.Wait()
		if f.check.passed() == 0 || e.set.passed() < 2 {
			t.Errorf("upkeep has checked the fence %d times, and set the listeners %d times", f.check.passed(), e.set.passed())
		}
		r.touch(visitor, 59000, 59002)
		r.wantGrants("192.0.2.2")
		fence()
		ears()
		const want = "the listener on 59001/tcp had died; reopened"
		if last := m.trail[len(m.trail)-1]; last.Reason != want {
			t.Errorf("the last record is %q, want %q", last.Reason, want)
		}
	})
}

// Whoever closes a door with UDP ports is answered when its flows have been ended, and
// nobody else waits for that.
func TestFlowsEndBesideTheTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		udp := strings.Replace(sshDoor, `ports = ["22/tcp"]`, `ports = ["22/tcp", "60001/udp"]`, 1)
		r, f, _ := besides(t, m, configPath(t), udp)
		r.touch(netip.MustParseAddr("198.51.100.7"), 59000, 59002)
		open := f.flows.close()
		waits := asking(3, func() string { return r.order(control.CloseRequest{Door: "ssh", Source: "198.51.100.7"}) })
		r.touch(visitor, 59000, 59002)
		r.wantGrants("192.0.2.2")
		if f.flows.passed() != 1 {
			t.Errorf("flows are being ended %d times, want once at a time", f.flows.passed())
		}
		open()
		for _, got := range waits() {
			if !strings.Contains(got, "no new connections") && !strings.Contains(got, "are ended") {
				t.Errorf("close: %q", got)
			}
		}
		if f.flows.passed() > 2 {
			t.Errorf("flows were ended %d times for 3 orders, want once for all that came meanwhile", f.flows.passed())
		}
	})
}

// A configuration that is being rolled back cannot be kept, although the disk has accepted
// that it is kept.
func TestKeepWhileItIsRolledBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		disk, f := &slowStore{Store: (*disk)(m), m: m}, &slowFence{}
		write(t, path, sshDoor)
		r := restartWith(t, m, path, func(w *World) {
			f.Fence = w.Fence
			w.Fence, w.Open = f, func() (Store, error) { return disk, nil }
		})
		write(t, path, sshDoor+webDoor)
		r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
		time.Sleep(time.Minute - time.Second)
		goOn := disk.hang(t)
		keep := asking(1, func() string { return r.order(control.ApplyRequest{Action: "keep"}) })
		open := f.guard.close()
		time.Sleep(time.Second)
		synctest.Wait()
		goOn()
		want := "error: the new configuration was rolled back before its confirmation was on disk"
		if got := keep()[0]; got != want {
			t.Errorf("keep: %q, want %q", got, want)
		}
		for _, action := range []string{"keep", "undo", "apply"} {
			if got := r.order(control.ApplyRequest{Action: action}); !strings.HasPrefix(got, "error: another configuration") {
				t.Errorf("%s while the fence is raised: %q", action, got)
			}
		}
		open()
		if s := r.status1(); s.Pending != nil || len(s.Doors) != 1 || len(m.doors) != 1 || string(m.applied.Confirmed) != sshDoor {
			t.Errorf("pending %v, %d doors in use, guarded %v, on disk %q", s.Pending, len(s.Doors), m.doors, m.applied.Confirmed)
		}
	})
}
