package gateway

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

var onceDoor = strings.Replace(sshDoor, "ports", "single_use = true\nports", 1)

// spend is what a connection does at a door of single use.
func (m *machine) spend(k grantKey) { m.do(func() { delete(m.grants, k) }) }

// wantGrants holds status and kernel to have just these sources' grants.
func (r *running) wantGrants(sources ...string) {
	r.t.Helper()
	var got []string
	for _, g := range r.status().Grants {
		got = append(got, g.Source)
	}
	if strings.Join(got, " ") != strings.Join(sources, " ") {
		r.t.Errorf("status has grants of %q, want %q", got, sources)
	}
	for _, source := range sources {
		who, _ := parseSource(source)
		for _, f := range families(who) {
			r.m.do(func() {
				if _, ok := r.m.grants[grantKey{"ssh", f}]; !ok {
					r.t.Errorf("the kernel has no grant of %s", f)
				}
			})
		}
	}
}

// What the kernel says of a grant is about the moment at which it was asked.
func TestAGrantGivenWhileTheKernelIsAskedIsNotSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), onceDoor)
		time.Sleep(upkeepEvery - 5*time.Second)
		r.touch(visitor, 59000, 59002)
		r.touch(visitor6, 59000, 59002)
		m.spend(grantKey{"ssh", door.Source(visitor)})
		m.spend(grantKey{"ssh", door.Source(visitor6)})
		answer := make(chan bool)
		m.do(func() { m.answer = answer })
		time.Sleep(5 * time.Second) // upkeep asks
		synctest.Wait()
		r.touch(visitor, 59000, 59002)
		close(answer)
		synctest.Wait()
		r.wantGrants(visitor.String())
		time.Sleep(upkeepEvery)
		synctest.Wait()
		r.wantGrants(visitor.String())
	})
}

// A grant that a turn gives is in the kernel when the turn ends, and the kernel may
// be asked before.
func TestAGrantOfTheSameTurnIsNotSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), onceDoor)
		r.touch(visitor6, 59000, 59002)
		m.do(func() { m.stall = time.Second })
		r.post(func(now time.Time) {
			d := r.door("ssh")
			effects, err := d.door.Open(now, door.Source(visitor), time.Minute, "operator")
			if err != nil {
				t.Error(err)
			}
			d.carry(effects)
			r.lookForSpent(now)
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r.wantGrants(visitor.String(), visitor6.String())
	})
}

// A grant that the kernel would not take is no spent one either: nothing is asked
// while the fence is down, and what was asked before is asked again.
func TestAGrantThatTheKernelDoesNotHaveYetIsNotSpent(t *testing.T) {
	for _, before := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			r := run(t, m, configPath(t), onceDoor)
			r.touch(visitor6, 59000, 59002)
			time.Sleep(upkeepEvery - 5*time.Second)
			answer := make(chan bool)
			broken := errors.New("no buffer space available")
			m.do(func() { m.answer = answer })
			if !before {
				m.do(func() { m.broken = broken })
				r.touch(visitor, 59000, 59002)
			}
			time.Sleep(5 * time.Second) // upkeep asks
			synctest.Wait()
			if asked := len(m.asked) > 0; asked != before {
				t.Errorf("asked about %v while the fence was down: %v", m.asked, !before)
			}
			if before { // the table goes, and cannot be made anew yet
				m.do(func() { m.table, m.broken = false, broken; clear(m.grants) })
				m.changed <- struct{}{}
				synctest.Wait()
				r.touch(visitor, 59000, 59002)
			}
			close(answer)
			synctest.Wait()
			m.do(func() { m.broken = nil })
			time.Sleep(2 * fenceRetry)
			synctest.Wait()
			want := []string{visitor.String(), visitor6.String()}
			if before {
				want = want[:1] // nobody knows whether the other was spent
			}
			r.wantGrants(want...)
		})
	}
}

// The kernel is asked once at a time, and not for all that is in it.
func TestUpkeepAsksForWhatItMustKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		other := strings.NewReplacer("door.ssh", "door.web", `"22/tcp"`, `"443/tcp"`, "ssh.service", "web.service",
			"59", "60").Replace(sshDoor)
		r := run(t, m, configPath(t), onceDoor+other)
		reads := m.reads
		time.Sleep(upkeepEvery)
		synctest.Wait()
		if m.asked != nil {
			t.Errorf("asked for %v, and there are no grants", m.asked)
		}
		answer := make(chan bool)
		m.do(func() { m.answer = answer })
		r.touch(visitor, 59000, 59002, 60000, 60002)
		time.Sleep(2 * upkeepEvery)
		synctest.Wait()
		close(answer)
		synctest.Wait()
		if len(m.asked) != 1 || m.asked[0].Door != "ssh" {
			t.Errorf("asked for %v, want the one of the door with single_use, once", m.asked)
		}
		if m.reads != reads {
			t.Errorf("all grants were read %d times, and nobody had changed anything", m.reads-reads)
		}
	})
}

// Everybody's grant is one grant, and one in each family to the kernel. Whichever
// way its end comes to be known, none is left.
func TestEverybodysGrantIsSpentOnce(t *testing.T) {
	for what, notice := range map[string]func(*running){
		"upkeep":           func(*running) { time.Sleep(upkeepEvery) },
		"a foreign change": func(r *running) { r.m.changed <- struct{}{} },
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			r := run(t, m, configPath(t), onceDoor)
			r.order(control.OpenRequest{Door: "ssh", Source: "any", For: "60s"})
			synctest.Wait()
			r.wantGrants("any")
			m.spend(grantKey{"ssh", families(door.Any)[0]})
			notice(r)
			synctest.Wait()
			r.wantGrants()
			m.do(func() {
				if len(m.grants) > 0 {
					t.Errorf("after %s the kernel lets %v in, and the grant was spent", what, m.grants)
				}
			})
		})
	}
}
