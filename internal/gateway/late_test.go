package gateway

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// A crash must not take back what status has just shown.
func TestStatusShowsWhatIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		m.do(func() { m.full = errors.New("no space left on device") })
		done := r.hold()
		r.touch(visitor, 59001)
		var s control.Status
		go func() { s, _ = r.Status() }()
		synctest.Wait()
		done()
		if len(s.Doors) != 1 || len(s.Doors[0].Penalties) != 1 {
			t.Fatalf("status %+v", s)
		}
		if all := strings.Join(s.Warnings, "; "); !strings.Contains(all, "nothing is saved") {
			t.Errorf("status shows a penalty as if it were saved; warnings %q", all)
		}
	})
}

// Even in a late turn, a source is heard whose penalty was over when it knocked.
func TestTouchesAfterThePenaltysEndAreHeardInALateTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newMachine(), configPath(t), sshDoor)
		r.touch(visitor, 59001)
		time.Sleep(5*time.Minute - time.Second)
		done := r.hold()
		time.Sleep(2 * time.Second)
		r.touch(visitor, 59000, 59002)
		done()
		r.wantState("open")
	})
}

// A knock that cannot be completed because the door ignores knocks by then is not wrong.
func TestAKnockThatAFailsafeInterruptsIsNotPenalised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		time.Sleep(30 * time.Second)
		r.touch(visitor, 59000)
		m.do(func() { m.seen = door.Seen{NoData: "no log data"} })
		time.Sleep(2 * time.Minute)
		r.wantState("failsafe")
		if p := r.status().Penalties; len(p) != 0 {
			t.Errorf("penalties %v", p)
		}
	})
}

// A fence that is up again but does not accept grants yet gets them later.
func TestGrantsThatWentWithTheTableComeBackHoweverLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		m.do(func() { m.refuses = 1 })
		m.flush()
		time.Sleep(fenceRetry)
		synctest.Wait()
		if left := time.Until(m.grants[grantKey{"ssh", door.Source(visitor)}]); left != 30*time.Second-fenceRetry {
			t.Errorf("the grant has %v left", left)
		}
	})
}

// A configuration comes back even if somebody has taken one of its ports meanwhile.
func TestATakenPortHoldsNoRollbackUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, webDoor)
		r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
		m.do(func() { m.taken = []uint16{59002} })
		time.Sleep(time.Minute)
		synctest.Wait()
		if s, _ := r.Status(); s.Pending != nil || s.Doors[0].Name != "ssh" || m.doors[0].Name != "ssh" {
			t.Errorf("pending %v, doors %v, the kernel guards %v", s.Pending, s.Doors, m.doors)
		}
	})
}

// A knock is not unfinished while its last touch waits for the gateway.
func TestAKnockIsNotJudgedBeforeItsLastTouchIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newMachine(), configPath(t), sshDoor)
		r.touch(visitor, 59000)
		time.Sleep(time.Minute - time.Second)
		done := r.hold()
		// The touch comes after the turn has taken what it will hear, and the turn is slow.
		now := r.world.Now
		r.world.Now = func() time.Time {
			r.world.Now = now
			r.heard <- []knock.Heard{touchOf(visitor, 59002, now())}
			time.Sleep(2 * time.Second)
			return now()
		}
		done()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		r.wantState("open")
		if p := r.status().Penalties; len(p) != 0 {
			t.Errorf("penalties %v", p)
		}
	})
}

// If the clock is set back once, a penalty does not begin again at each start.
func TestAPenaltyBeginsAnewAtMostOnceForAClockThatIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59001)
		r.stop()
		for k, p := range m.banned {
			p.Until = p.Until.Add(24 * time.Hour)
			m.banned[k] = p
		}
		for range 2 {
			r = restart(t, m, path)
			time.Sleep(2 * time.Minute)
			r.stop()
		}
		r = restart(t, m, path)
		if p := r.status().Penalties; len(p) != 1 || time.Until(p[0].Until) != time.Minute {
			t.Errorf("penalties %v, want one for another minute", p)
		}
	})
}

// Even in a late turn, no grant ends later than was said: what it has left is computed
// when the fence is changed.
func TestAGrantOfALateTurnEndsWhenItWasSaidTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		m.do(func() { m.stall = 12 * time.Second })
		said := time.Now().Add(30 * time.Second)
		r.touch(visitor, 59000, 59002)
		time.Sleep(13 * time.Second)
		synctest.Wait()
		end := m.grants[grantKey{"ssh", door.Source(visitor)}]
		if grants := r.status().Grants; len(grants) != 1 || !grants[0].Expires.Equal(end) || end.After(said) {
			t.Errorf("status says %v, the kernel %v; want %v", grants, end, said)
		}
		m.do(func() { m.stall = time.Minute })
		r.touch(netip.MustParseAddr("192.0.2.77"), 59000, 59002)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if left, ok := m.grants[grantKey{"ssh", door.Source(netip.MustParseAddr("192.0.2.77"))}]; ok {
			t.Errorf("a grant that was over before the fence was changed was given until %v", left)
		}
	})
}

// Touches from the machine itself are not knocks, whoever let them through.
func TestTouchesOverLoopbackAreNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newMachine(), configPath(t), sshDoor)
		for _, a := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "127.9.9.9"} {
			r.touch(netip.MustParseAddr(a), 59000, 59002)
			r.touch(netip.MustParseAddr(a), 59001)
		}
		r.wantState("dark")
		if p := r.status().Penalties; len(p) != 0 {
			t.Errorf("penalties %v for touches from the machine itself", p)
		}
	})
}

// Closing a door, revoking a grant and going dark end flows over UDP, and only
// of doors that have such ports.
func TestFlowsEndWithTheirGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), strings.Replace(sshDoor, `"22/tcp"`, `"22/tcp", "22/udp"`, 1))
		r.touch(visitor, 59000, 59002)
		if len(m.ended) != 0 {
			t.Errorf("flows of %v were ended by opening", m.ended)
		}
		r.order(control.CloseRequest{Door: "ssh", Source: visitor.String()})
		if len(m.ended) != 1 || m.ended[0].Source != door.Source(visitor) {
			t.Errorf("revoking ended the flows of %v, want %v", m.ended, visitor)
		}
		m.ended = nil
		reply := r.order(control.CloseRequest{Door: "ssh", Source: visitor.String()})
		if len(m.ended) != 1 || m.ended[0].Source != door.Source(visitor) || reply != "192.0.2.2 has no grant at door ssh; any flows over UDP that it had are ended" {
			t.Errorf("closing to a source that no longer has a grant ended the flows of %v, and said %q", m.ended, reply)
		}
		m.ended = nil
		r.order(control.CloseRequest{Door: "ssh"})
		if len(m.ended) != 2 || m.ended[0].Source.Bits()+m.ended[1].Source.Bits() != 0 {
			t.Errorf("closing ended the flows of %v, want everybody's", m.ended)
		}
	})
}
