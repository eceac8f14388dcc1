package gateway

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// asking has n goroutines ask at once; answers returns what they are answered.
func asking[T any](n int, ask func() T) (answers func() []T) {
	var mu sync.Mutex
	var got []T
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			a := ask()
			mu.Lock()
			defer mu.Unlock()
			got = append(got, a)
		})
	}
	synctest.Wait()
	return func() []T { all.Wait(); return got }
}

// However many clients ask for status at once, the lists are gone through once. A touch
// that comes meanwhile is judged in the same turn, before the snapshot is made.
func TestManyWhoAskCostOneSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		const penalised, asked = 60_000, 300
		r.sync(func(now time.Time) {
			for n := range penalised {
				a := netip.AddrFrom4([4]byte{198, 18 + byte(n>>16), byte(n >> 8), byte(n)})
				r.doors[0].door.RestorePenalty(now, door.Penalty{Source: door.Source(a), Until: now.Add(time.Hour), For: time.Hour, Times: 1})
			}
		})
		made, release := r.statusCache.made, r.hold()
		statuses := asking(asked, func() control.Status { s, _ := r.Status(); return s })
		vitals := asking(asked, r.ReadMetrics)
		r.touch(visitor, 59000, 59002)
		release()
		for _, s := range statuses() {
			if d := s.Doors[0]; d.PenaltiesTotal != penalised || d.State == "dark" {
				t.Fatalf("status tells of %d penalties and a door that is %s, want %d, and the knock heard before",
					d.PenaltiesTotal, d.State, penalised)
			}
		}
		for _, v := range vitals() {
			if d := v.Doors[0]; d.Penalties != penalised {
				t.Fatalf("the metrics tell of %d penalties, want %d", d.Penalties, penalised)
			}
		}
		if n := r.statusCache.made - made; n != 1 {
			t.Errorf("for %d clients the lists were gone through %d times, want once", asked, n)
		}
	})
}

// While nothing changes, clients that ask do not disturb the loop; a change shows at once.
func TestASnapshotStaysUntilSomethingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		first, _ := r.Status()
		release := r.hold() // whose turn makes the snapshot out of date
		release()
		r.Status()
		made, vitals := r.statusCache.made, r.metricsCache.made
		time.Sleep(time.Second)
		for range 100 {
			if s, _ := r.Status(); !s.Time.Equal(time.Now()) || s.Time.Equal(first.Time) {
				t.Fatalf("the status is of %v, and it is %v", s.Time, time.Now())
			}
			r.ReadMetrics()
		}
		if r.statusCache.made != made || r.metricsCache.made > vitals+1 {
			t.Errorf("nothing has changed, but %d snapshots were made", r.statusCache.made-made)
		}
		r.touch(visitor, 59000, 59002)
		r.wantState("open")
		if v := r.ReadMetrics(); v.Doors[0].State != "open" || v.Doors[0].Grants != 1 || v.Events["ssh"]["granted"] != 1 {
			t.Errorf("the metrics are %+v, want an open door and a grant", v)
		}
	})
}

// Snapshots take at most a share of the loop's time, however long they take to make and
// however often they are asked for.
func TestSnapshotsTakeAShareOfTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost, changes = 50 * time.Millisecond, 40
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.sync(func(time.Time) { r.doors[0].service.svc = &slowName{r.doors[0].service.svc.(*unit), cost} })
		made, begun := r.statusCache.made, time.Now()
		for range changes {
			r.sync(func(time.Time) {}) // like any event, it makes the snapshot out of date
			r.Status()
		}
		took, n := time.Since(begun), r.statusCache.made-made
		if n != changes || took < (changes-1)*(snapshotShare+1)*cost {
			t.Errorf("%d snapshots of %v each in %v, want %d in at least %v", n, cost, took, changes, (changes-1)*(snapshotShare+1)*cost)
		}
		if took > (changes+1)*(snapshotShare+1)*cost {
			t.Errorf("%d snapshots took %v, which is longer than necessary", n, took)
		}
	})
}

// slowName is a service whose name takes long to get.
type slowName struct {
	*unit
	cost time.Duration
}

func (s *slowName) String() string { time.Sleep(s.cost); return s.unit.String() }

// What only the kernel knows is read when it is asked for, once for all who ask at the
// same time; for metrics at most once a second.
func TestTheKernelIsAskedOnceInASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.Status()
		for _, tt := range []struct {
			what  string
			ask   func()
			times int
		}{
			{"status", func() { asking(100, func() control.Status { s, _ := r.Status(); return s })() }, 10},
			{"numbers", func() { asking(100, r.ReadMetrics)() }, 5},
		} {
			before := m.measured
			for range 10 {
				time.Sleep(measureEvery / 2)
				tt.ask()
			}
			if n := m.measured - before; n != tt.times {
				t.Errorf("in 5 s of 1,000 questions for %s the kernel was asked %d times, want %d", tt.what, n, tt.times)
			}
		}
	})
}

// sync runs f in a turn, and waits until it has ended.
func (r *running) sync(f event) {
	done := make(chan struct{})
	r.post(func(now time.Time) { f(now); close(done) })
	<-done
	synctest.Wait()
}

// A gateway that has ended, or ends while it is asked, answers that it is shutting down.
func TestAskingAGatewayThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		release := r.hold()
		answers := asking(10, func() control.Status { s, _ := r.Status(); return s })
		go r.stop()
		release()
		for _, s := range answers() {
			if len(s.Doors) == 0 && (len(s.Warnings) != 1 || s.Warnings[0] != "the daemon is shutting down") {
				t.Errorf("got %+v, want the doors, or that the daemon is shutting down", s)
			}
		}
		if s, _ := r.Status(); len(s.Warnings) != 1 || s.Warnings[0] != "the daemon is shutting down" {
			t.Errorf("afterwards: %+v, want that the daemon is shutting down", s)
		}
		r.ReadMetrics()
	})
}
