package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/store"
)

var onceDoor = strings.Replace(sshDoor, "ports", "single_use = true\nports", 1)

// spend does what a connection does at a door with single_use: it uses up the grant.
func (m *machine) spend(k grantKey) { m.do(func() { delete(m.grants, k) }) }

// wantGrants checks that status and kernel have grants of just these sources.
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

// What the kernel says of a grant applies to the moment at which it was asked.
func TestAGrantGivenWhileTheKernelIsAskedIsNotSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), onceDoor)
		time.Sleep(upkeepInterval - 5*time.Second)
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
		time.Sleep(upkeepInterval)
		synctest.Wait()
		r.wantGrants(visitor.String())
	})
}

// A grant that a turn gives is in the kernel only when the turn ends, and the kernel may
// have been asked before that.
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
			d.apply(effects)
			r.lookForSpent()
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r.wantGrants(visitor.String(), visitor6.String())
	})
}

// Nor is a grant spent that the kernel did not accept: nothing is asked while the fence is
// down, and what was asked before is asked again.
func TestAGrantThatTheKernelDoesNotHaveYetIsNotSpent(t *testing.T) {
	for _, before := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			r := run(t, m, configPath(t), onceDoor)
			r.touch(visitor6, 59000, 59002)
			time.Sleep(upkeepInterval - 5*time.Second)
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
			if before { // the table goes, and cannot be made again yet
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
				want = want[:1] // it is not known whether the other was spent
			}
			r.wantGrants(want...)
		})
	}
}

// The kernel is asked one question at a time, and only for the grants that matter.
func TestUpkeepAsksForWhatItMustKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		other := strings.NewReplacer("door.ssh", "door.web", `"22/tcp"`, `"443/tcp"`, "ssh.service", "web.service",
			"59", "60").Replace(sshDoor)
		r := run(t, m, configPath(t), onceDoor+other)
		reads := m.reads
		time.Sleep(upkeepInterval)
		synctest.Wait()
		if m.asked != nil {
			t.Errorf("asked for %v, although there are no grants", m.asked)
		}
		answer := make(chan bool)
		m.do(func() { m.answer = answer })
		r.touch(visitor, 59000, 59002, 60000, 60002)
		time.Sleep(2 * upkeepInterval)
		synctest.Wait()
		close(answer)
		synctest.Wait()
		if len(m.asked) != 1 || m.asked[0].Door != "ssh" {
			t.Errorf("asked for %v, want the one of the door with single_use, once", m.asked)
		}
		if m.reads != reads {
			t.Errorf("all grants were read %d times, although nobody had changed anything", m.reads-reads)
		}
	})
}

// Everybody's grant is a single one for the door, and one in each family for the kernel.
// However the door learns that it was spent, none is left.
func TestEverybodysGrantIsSpentOnce(t *testing.T) {
	for what, notice := range map[string]func(*running){
		"upkeep":           func(*running) { time.Sleep(upkeepInterval) },
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
					t.Errorf("after %s the kernel lets %v in, although the grant was spent", what, m.grants)
				}
			})
		})
	}
}

// A kernel that does not answer is asked again at the next upkeep, not at once.
func TestAKernelThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.silent = errors.New("interrupted system call")
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		r.stop()
		m.do(func() { m.asked, m.reads = nil, 0 })
		r = restart(t, m, r.path)
		m.do(func() { delete(m.grants, grantKey{"ssh", door.Source(visitor)}) })
		time.Sleep(upkeepInterval / 2)
		synctest.Wait()
		if len(m.asked) != 1 {
			t.Errorf("asked %d times at the start, want once", len(m.asked))
		}
		m.do(func() { m.silent = nil })
		time.Sleep(upkeepInterval)
		synctest.Wait()
		r.wantGrants()
	})
}

// crowd returns n sources.
func crowd(n int) (all []netip.Prefix) {
	for i := range n {
		all = append(all, door.Source(netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)})))
	}
	return all
}

// crowded gives a crowd grants until a moment, in the store and in the kernel of a
// machine, at a door that is open.
func (m *machine) crowded(t *testing.T, path, text string, all []netip.Prefix, until time.Time) {
	t.Helper()
	r := run(t, m, path, text)
	r.order(control.OpenRequest{Door: "ssh", Source: "192.0.2.99", For: "1s"})
	synctest.Wait()
	r.stop()
	m.do(func() {
		for _, source := range all {
			m.grants[grantKey{"ssh", source}] = until
			m.claims[store.GrantKey{Door: "ssh", Source: source, By: "touch"}] =
				store.Grant{Door: "ssh", Source: source, By: "touch", Until: until, For: time.Hour}
		}
	})
}

// A start does not wait for the kernel's grants, however many there are, and knocks are
// handled between any two pages of them. Grants that were lost are noticed.
func TestAStartWithManyGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, lost = 5 * pageSize, 7
		m, path, all := newMachine(), configPath(t), crowd(n)
		m.crowded(t, path, sshDoor, all, time.Now().Add(time.Hour))
		strange := grantKey{"ssh", netip.MustParsePrefix("203.0.113.0/24")}
		m.do(func() {
			for _, source := range all[n-lost:] {
				delete(m.grants, grantKey{"ssh", source})
			}
			m.grants[strange] = time.Now().Add(time.Hour)
			m.asked, m.reads = nil, 0
			m.answer = make(chan bool)
		})
		r := restart(t, m, path)
		r.touch(visitor, 59000, 59002)
		if got := r.status(); got.GrantsTotal != n+2 || len(m.asked) > pageSize || m.reads != 0 {
			t.Errorf("at the start %d have a grant, %d were asked for and all were read %d times, want %d, at most %d and never",
				got.GrantsTotal, len(m.asked), m.reads, n+2, pageSize)
		}
		if m.grants[grantKey{"ssh", door.Source(visitor)}].IsZero() {
			t.Error("a right knock waits for the comparison")
		}
		close(m.answer)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := r.status(); got.GrantsTotal != n-lost+2 || m.reads != 1 || len(m.asked) > n+lost {
			t.Errorf("in the end %d have a grant, %d were asked for and all were read %d times", got.GrantsTotal, len(m.asked), m.reads)
		}
		if m.grants[strange].IsZero() || m.largest > pageSize {
			t.Errorf("what was let in before the crash stands until %v; at most %d grants were changed at once", m.grants[strange], m.largest)
		}
	})
}

// If a door has very many grants, a start does not read the kernel's list of them. It is
// read once who may knock there changes, or somebody else has changed something.
func TestALongListIsSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		m, all := c.m, crowd(maxListed+1)
		c.stop()
		m.crowded(t, c.path, clubDoors, all, time.Now().Add(time.Hour))
		strange := grantKey{"ssh", netip.MustParsePrefix("203.0.113.0/24")}
		m.do(func() { m.grants[strange], m.reads, m.listed = time.Now().Add(time.Hour), 0, nil })
		c.again()
		time.Sleep(time.Minute)
		synctest.Wait()
		if m.grants[strange].IsZero() || m.reads != 1 || !slices.Equal(m.listed, []string{"web"}) || c.uncompared {
			t.Errorf("at the start the grants of %v were listed, %d times; what was let in before the crash stands until %v; compared: %v",
				m.listed, m.reads, m.grants[strange], !c.uncompared)
		}
		c.order(lock("bob"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if !m.grants[strange].IsZero() {
			t.Error("what was let in before the crash stands, although bob is locked")
		}
		m.do(func() { m.grants[strange] = time.Now().Add(time.Hour) })
		m.changed <- struct{}{}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !m.grants[strange].IsZero() {
			t.Error("what somebody else let in stands")
		}
	})
}

// Grants that somebody else's flush took are given again in parts, with knocks between
// them.
func TestManyGrantsAreGivenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5 * pageSize
		m, path, all := newMachine(), configPath(t), crowd(n)
		until := time.Now().Add(time.Hour)
		m.crowded(t, path, sshDoor, all, until)
		r := restart(t, m, path)
		time.Sleep(time.Second)
		synctest.Wait()
		m.do(func() { m.largest, m.answer = 0, make(chan bool) })
		m.flush()
		synctest.Wait()
		r.touch(visitor, 59000, 59002)
		if len(m.grants) != 1 {
			t.Errorf("while the first are asked for %d are let in, want the visitor", len(m.grants))
		}
		close(m.answer)
		time.Sleep(time.Second)
		synctest.Wait()
		for _, source := range all {
			if got := m.grants[grantKey{"ssh", source}]; !got.Equal(until) {
				t.Fatalf("%s is let in until %v, want %v", source, got, until)
			}
		}
		if m.largest > pageSize {
			t.Errorf("%d grants were given at once, want at most %d", m.largest, pageSize)
		}
	})
}

// Going dark, and the end of many grants at once, cost a turn no more than if there were
// few.
func TestTheEndOfManyGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5 * pageSize
		m, path, all := newMachine(), configPath(t), crowd(n)
		m.crowded(t, path, sshDoor, all, time.Now().Add(time.Hour))
		r := restart(t, m, path)
		time.Sleep(time.Second)
		synctest.Wait()
		m.do(func() { m.largest, m.emptied, m.told = 0, 0, 0 })
		r.order(control.CloseRequest{Door: "ssh"})
		synctest.Wait()
		if m.largest != 0 || m.emptied != 1 || m.told > 3 || len(m.grants)+len(m.claims) > 0 {
			t.Errorf("to close the door %d grants were changed one by one, it was emptied %d times and a commit had %d parts; left are %d and %d",
				m.largest, m.emptied, m.told, len(m.grants), len(m.claims))
		}
		r.stop()
		m.crowded(t, path, sshDoor, all, time.Now().Add(time.Minute))
		r = restart(t, m, path)
		time.Sleep(time.Minute) // what several turns end may be saved in one commit, for which no turn waits
		synctest.Wait()
		if got := r.status().GrantsTotal; got != 0 || len(m.claims) > 0 {
			t.Errorf("all are over, but %d have a grant, on disk %d", got, len(m.claims))
		}
	})
}

// Grants that end at many doors at once end in parts, too, at each door in its turn.
func TestTheEndOfManyGrantsAtManyDoors(t *testing.T) {
	const doors, each = 12, 1200
	var text strings.Builder
	for i := range doors {
		fmt.Fprintf(&text, "[door.d%d]\nports = [\"%d/tcp\"]\n[door.d%d.presence]\nlogins = \"off\"\n"+
			"[[door.d%d.knock]]\nkind = \"touch\"\nlisten = [%d, %d]\ntouch = [%d]\n", i, 1000+i, i, i, 2000+i, 3000+i, 2000+i)
	}
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newMachine(), configPath(t), text.String())
		r.sync(func(now time.Time) {
			for _, d := range r.doors {
				for _, source := range crowd(each) {
					effects, err := d.door.Open(now, source, time.Minute, "operator")
					if err != nil {
						t.Error(err)
					}
					d.apply(effects)
				}
			}
			left, over := doors*each, now.Add(time.Minute)
			for turns := 1; left > 0; turns++ {
				before := left
				r.tick(over)
				left = 0
				for _, d := range r.doors {
					left += d.door.Granted()
				}
				if before-left > maxBatch || turns > 3*doors {
					t.Errorf("in turn %d the number of grants goes from %d to %d", turns, before, left)
					break
				}
			}
		})
	})
}

// A door that is emptied in the middle of a turn has the grants that are given later in
// that turn, and none of those before.
func TestEmptiedInTheMidstOfATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		text := strings.NewReplacer("[door.ssh.service]", "", `unit = "ssh.service"`, "").Replace(sshDoor)
		r := run(t, m, configPath(t), text)
		open := func(now time.Time, source netip.Addr) {
			effects, err := r.doors[0].door.Open(now, door.Source(source), time.Minute, "operator")
			if err != nil {
				t.Error(err)
			}
			r.doors[0].apply(effects)
		}
		r.sync(func(now time.Time) {
			open(now, visitor)
			r.doors[0].apply(r.doors[0].door.Close(now, "operator"))
			open(now, visitor6)
		})
		r.wantGrants(visitor6.String())
		if len(m.grants) != 1 || len(m.claims) != 1 {
			t.Errorf("the kernel lets %v in, on disk are %v; want %s alone", m.grants, m.claims, visitor6)
		}
	})
}

// tardy is a kernel that takes long to answer about more than one source.
type tardy struct{ *kernel }

func (k tardy) Ends(grants []fence.Grant) ([]time.Time, error) {
	if len(grants) > len(families(door.Any)) {
		time.Sleep(time.Minute)
	}
	return k.kernel.Ends(grants)
}

// If everybody's grant has ended by the time the daemon starts, presence does not prolong
// it, however long the comparison of all other grants takes.
func TestNobodyDrawsOutWhatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, strings.Replace(sshDoor, "touch = ", "scope = \"door\"\njudge = \"every 5s\"\nwithin = \"5s\"\ntouch = ", 1))
		r.touch(visitor, 59000, 59002)
		time.Sleep(10 * time.Second)
		r.order(control.OpenRequest{Door: "ssh", Source: visitor6.String(), For: "1h"})
		synctest.Wait()
		r.wantGrants("any", visitor6.String())
		r.stop()
		for _, source := range families(door.Any) {
			m.spend(grantKey{"ssh", source})
		}
		m.do(func() { m.seen = door.Seen{Connections: 1} })
		r = restartWith(t, m, path, func(w *World) { w.Fence = tardy{(*kernel)(m)} })
		time.Sleep(30 * time.Second)
		synctest.Wait()
		r.wantGrants(visitor6.String())
		if len(m.grants) != 1 {
			t.Errorf("the kernel lets %v in", m.grants)
		}
	})
}

// Grants that somebody else put into the kernel, and no door knows, are removed.
func TestStrangeGrantsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		time.Sleep(time.Second)
		strange := grantKey{"ssh", netip.MustParsePrefix("203.0.113.0/24")}
		m.do(func() { m.grants[strange] = time.Now().Add(time.Hour) })
		m.changed <- struct{}{}
		time.Sleep(time.Second)
		synctest.Wait()
		r.wantGrants(visitor.String())
		if _, stands := m.grants[strange]; stands {
			t.Error("somebody else's grant stands")
		}
	})
}

// Grants that a crash left at a door that is not open are removed at once, however long
// the comparison takes.
func TestADarkDoorIsEmptiedAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.stop()
		m.do(func() {
			m.grants[grantKey{"ssh", door.Source(visitor)}] = time.Now().Add(time.Hour)
			m.answer = make(chan bool)
		})
		r = restart(t, m, path)
		r.wantState("dark")
		if len(m.grants) > 0 {
			t.Errorf("the door is dark, but the kernel lets %v in", m.grants)
		}
		close(m.answer)
	})
}
