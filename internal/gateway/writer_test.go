package gateway

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/store"
)

// slowStore is a disk that takes its time.
type slowStore struct {
	Store
	m       *machine // whose mutex guards the rest
	takes   time.Duration
	until   chan struct{} // not nil: until this is closed
	commits []store.Change
}

func (s *slowStore) Commit(c store.Change) ([]audit.Record, error) {
	var takes time.Duration
	var until chan struct{}
	s.m.do(func() { takes, until = s.takes, s.until })
	time.Sleep(takes)
	if until != nil {
		<-until
	}
	s.m.do(func() { s.commits = append(s.commits, c) })
	return s.Store.Commit(c)
}

// takesFor makes each commit take so long from now on, and forgets those before.
func (s *slowStore) takesFor(d time.Duration) {
	s.m.do(func() { s.takes, s.commits = d, nil })
}

// made returns the commits that have ended.
func (s *slowStore) made() (all []store.Change) {
	s.m.do(func() { all = slices.Clone(s.commits) })
	return all
}

// runSlowly runs a gateway on a disk that is fast until the test says otherwise.
func runSlowly(t *testing.T, m *machine, path, text string) (*running, *slowStore) {
	t.Helper()
	s := &slowStore{Store: (*disk)(m), m: m}
	return runWith(t, m, path, text, func(w *World) { w.Open = func() (Store, error) { return s, nil } }), s
}

// hang makes the disk hang until the returned function is called.
func (s *slowStore) hang(t *testing.T) (goOn func()) {
	t.Helper()
	hung := make(chan struct{})
	s.m.do(func() { s.until = hung })
	goOn = sync.OnceFunc(func() {
		s.m.do(func() { s.until = nil })
		close(hung)
		synctest.Wait()
	})
	t.Cleanup(goOn)
	return goOn
}

// A disk that hangs holds up neither knocks nor the watchdog. Orders are answered after a
// few seconds, and from then on at once; status says that it hangs, and for how long.
func TestADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r, disk := runSlowly(t, m, configPath(t), sshDoor)
		goOn := disk.hang(t)
		r.touch(visitor, 59000, 59002)
		if len(m.grants) != 1 {
			t.Fatalf("the kernel has %d grants after the knock, want 1: the knock waits for the disk", len(m.grants))
		}
		begun := time.Now()
		told := r.order(control.OpenRequest{Door: "ssh", Source: "192.0.2.3"})
		if want := "error: it is done, but a restart would forget it: the latest changes have not been written to disk for 5s"; told != want {
			t.Errorf("an order while the disk hangs: %q, want %q", told, want)
		}
		if took := time.Since(begun); took != slowDisk || len(m.grants) != 2 {
			t.Errorf("the order was answered after %v with %d grants in the kernel, want %v and 2", took, len(m.grants), slowDisk)
		}
		time.Sleep(7 * time.Second)
		want := "the latest changes have not been written to disk for 12s: a restart would forget them"
		begun = time.Now()
		if s, _ := r.Status(); !slices.Contains(s.Warnings, want) || len(s.Doors[0].Grants) != 2 {
			t.Errorf("status has warnings %q and grants %v, want %q and two", s.Warnings, s.Doors[0].Grants, want)
		}
		if n := r.ReadMetrics().Warnings; n != 1 {
			t.Errorf("the metrics have %d warnings, want 1", n)
		}
		told = r.order(control.OpenRequest{Door: "ssh", Source: "192.0.2.4"})
		if took := time.Since(begun); took != 0 || !strings.Contains(told, "for 12s") {
			t.Errorf("status and an order took %v: %q; want them at once", took, told)
		}
		for range 50 {
			time.Sleep(time.Second)
			if ctx := t.Context(); !r.Alive(ctx, 0) && !r.Alive(ctx, time.Millisecond) {
				t.Fatal("the watchdog is missed")
			}
		}
		if len(disk.made()) != 1 || len(m.claims) != 0 {
			t.Errorf("%d commits ended and the disk has %v, want that of the start alone", len(disk.made()), m.claims)
		}
		goOn()
		if s, _ := r.Status(); len(s.Warnings) != 0 || m.disk["ssh"].State != "open" || s.Events["granted"] != 3 {
			t.Errorf("once the disk responds: warnings %q, on disk %v, counted %v", s.Warnings, m.disk["ssh"], s.Events)
		}
	})
}

// What is answered is on disk: orders, status and metrics wait for the commit.
func TestWhatIsToldIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r, disk := runSlowly(t, m, configPath(t), sshDoor)
		goOn := disk.hang(t)
		r.touch(visitor6, 59001)
		newer := r.Newer()
		statuses := asking(3, func() int { s, _ := r.Status(); return len(s.Doors[0].Penalties) })
		vitals := asking(1, func() int { return r.ReadMetrics().Doors[0].Penalties })
		replies := asking(1, func() string { return r.order(control.ArmRequest{Source: visitor6.String()}) })
		time.Sleep(slowDisk / 2)
		synctest.Wait()
		select {
		case <-newer:
			t.Error("followers of the audit trail are notified before it has anything")
		default:
		}
		if len(m.banned) != 0 {
			t.Fatal("the disk does not hang")
		}
		done := make(chan bool)
		go func() { vitals(); statuses(); replies(); close(done) }()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("status, metrics and reply do not wait for the disk")
		default:
		}
		goOn()
		<-done
		if got := statuses(); !slices.Equal(got, []int{1, 1, 1}) {
			t.Errorf("status has %v penalties, want what the commit has: 1", got)
		}
		if got := replies(); !slices.Equal(got, []string{"2001:db8::7 may knock again"}) {
			t.Errorf("reply %q", got)
		}
		select {
		case <-newer:
		default:
			t.Error("followers of the audit trail are not notified when it has more")
		}
	})
}

// On a disk that takes 20 ms for a sync, a flood of wrong knocks costs one commit every
// 20 ms, however many they are, and no right knock waits.
func TestCommitsAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r, disk := runSlowly(t, m, configPath(t), sshDoor)
		disk.takesFor(20 * time.Millisecond)
		const wrong = 1000
		for n := range wrong {
			r.touch(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), 59001)
			time.Sleep(time.Millisecond)
			if n%100 == 50 {
				v := netip.AddrFrom4([4]byte{203, 0, 113, byte(n / 100)})
				r.touch(v, 59000, 59002)
				if _, in := m.grants[grantKey{"ssh", door.Source(v)}]; !in && m.running["ssh.service"] && n > 50 {
					t.Errorf("after %d wrong knocks a right one waits", n)
				}
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(disk.made()); n > wrong/20+2 {
			t.Errorf("%d wrong knocks in a second cost %d commits of 20 ms, want at most %d", wrong, n, wrong/20+2)
		}
		if n := len(m.banned); n != wrong {
			t.Errorf("the disk has %d penalties, want %d", n, wrong)
		}
	})
}

// What a commit could not save is in the next one, as changed since then. Without a
// change it is tried again at the next upkeep.
func TestWhatCouldNotBeSavedGoesWithTheNextChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r, disk := runSlowly(t, m, configPath(t), sshDoor)
		m.do(func() { m.full = errors.New("no space left on device") })
		disk.takesFor(0)
		r.touch(visitor, 59001)
		r.touch(visitor6, 59001)
		r.order(control.ArmRequest{Source: visitor.String()})
		if n := len(disk.made()); n != 2 {
			t.Errorf("2 changes and an order on a full disk cost %d commits, want that of the first and that of the order", n)
		}
		time.Sleep(upkeepInterval)
		synctest.Wait()
		if n := len(disk.made()); n > 4 {
			t.Errorf("without any change it is tried %d times until the next upkeep", n-2)
		}
		disk.takesFor(0)
		for n := range 1000 {
			r.touch(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), 59001)
			time.Sleep(5 * time.Millisecond)
		}
		if n := len(disk.made()); n < 4 || n > 7 {
			t.Errorf("1,000 wrong knocks in 5 s cost %d commits of all that is not saved, want one a second", n)
		}
		r.order(control.ArmRequest{})
		r.touch(visitor6, 59001)
		m.do(func() { m.full = nil })
		time.Sleep(upkeepInterval)
		synctest.Wait()
		of := slices.Collect(maps.Keys(m.banned))
		if len(of) != 1 || of[0].Source != network(visitor6) {
			t.Errorf("the disk has penalties of %v, want that of %v alone", of, visitor6)
		}
		if got, want := strings.ReplaceAll(m.events(), "refused", ""), "started   armed"; !strings.HasPrefix(got, want) {
			t.Errorf("audit trail %q, want %q", got, want)
		}
		m.do(func() { m.full = errors.New("no space left on device") })
		r.touch(visitor, 59001)
		m.do(func() { m.full = nil })
		r.stop()
		if len(m.banned) != 2 {
			t.Errorf("at the end the disk has penalties of %v, want also those that it refused a moment before", m.banned)
		}
	})
}

// Two deltas joined are the same as one after the other.
func TestFollow(t *testing.T) {
	a, b := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	grant := func(name string, source netip.Prefix) *store.Grant { return &store.Grant{Door: name, Source: source} }
	first, then := newDelta(), newDelta()
	for _, name := range []string{"ssh", "web"} {
		first.claims[store.GrantKey{Door: name, Source: a}] = grant(name, a)
		first.penalties[store.PenaltyKey{Door: name, Source: a}] = &store.Penalty{Door: name, Source: a}
		first.doors[name] = store.Door{Name: name}
		first.mark(store.Mark{Door: name, Knock: "sealed", Key: "k", Value: []byte("1")})
	}
	first.applied = &store.Applied{By: "first"}
	first.record(audit.Record{Reason: "first"})
	then.clearGrants("ssh")
	then.clearPenalties("ssh")
	then.claims[store.GrantKey{Door: "ssh", Source: b}] = grant("ssh", b)
	then.claims[store.GrantKey{Door: "web", Source: a}] = nil
	then.endDoor("web")
	then.mark(store.Mark{Door: "ssh", Knock: "sealed", Key: "k", Value: []byte("2")})
	then.applied = &store.Applied{By: "then"}
	then.record(audit.Record{Reason: "then"})
	first.follow(&then)
	want := store.Change{
		ClearGrants: []string{"ssh"}, ClearPenalties: []string{"ssh"}, EndDoors: []string{"web"},
		Grants: []store.Grant{*grant("ssh", b)}, EndGrants: []store.GrantKey{{Door: "web", Source: a}},
		Penalties: []store.Penalty{{Door: "web", Source: a}}, Doors: []store.Door{{Name: "ssh"}},
		Marks:   []store.Mark{{Door: "ssh", Knock: "sealed", Key: "k", Value: []byte("2")}},
		Applied: &store.Applied{By: "then"}, Records: []audit.Record{{Reason: "first"}, {Reason: "then"}},
	}
	if d := cmp.Diff(want, first.change(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("both as one change (-want +got):\n%s", d)
	}
}

var mark = store.Mark{Door: "ssh", Knock: "sealed", Key: "1", Value: []byte("seen")}

// knockFirst is a right knock with a mark.
func (r *running) knockFirst(a netip.Addr) {
	r.post(func(time.Time) {
		r.doors[0].knockFirst(door.Knock{Name: "touch", Source: door.Source(a), By: "sealed", Reason: "right"}, []store.Mark{mark}, knock.Verdict{Right: true})
	})
	synctest.Wait()
}

// A mark that must come first is on disk before the door hears of its knock.
func TestMarksAreFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r, disk := runSlowly(t, m, configPath(t), strings.Replace(sshDoor, "[door.ssh.service]\nunit = \"ssh.service\"\n", "", 1))
		goOn := disk.hang(t)
		r.knockFirst(visitor)
		if len(m.grants) != 0 {
			t.Fatal("the kernel lets in before the mark is on disk")
		}
		goOn()
		var marks []store.Mark
		for _, c := range disk.made() {
			marks = append(marks, c.Marks...)
		}
		if len(m.grants) != 1 || len(marks) != 1 || string(marks[0].Value) != "seen" {
			t.Errorf("once the disk goes on: grants %v, marks %v", m.grants, marks)
		}
	})
}

// The kind is told of a knock whose marks cannot be saved, and of no other; what it says
// takes their place when the disk accepts what it was given.
func TestTheKindLearnsWhatIsUnsaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r, _ := runSlowly(t, m, configPath(t), sshDoor)
		unsaved := 0
		before := knock.Mark{Key: mark.Key, Value: []byte("as before")}
		for n, full := range []error{nil, errors.New("no space left on device"), nil} {
			m.do(func() { m.full = full })
			r.post(func(time.Time) {
				r.doors[0].knockFirst(door.Knock{Name: "touch", Source: door.Source(visitor), By: "sealed", Reason: "right"}, []store.Mark{mark},
					knock.Verdict{Right: true, Undo: func() []knock.Mark { unsaved++; return []knock.Mark{before} }})
			})
			time.Sleep(slowDisk)
			synctest.Wait()
			if want := min(n, 1); unsaved != want {
				t.Errorf("after knock %d, with %v, the kind was told %d times, want %d", n+1, full, unsaved, want)
			}
			m.do(func() { m.full = nil })
			time.Sleep(upkeepInterval)
			synctest.Wait()
			var got string
			m.do(func() { got = string(m.marks[markKey{mark.Door, mark.Knock, mark.Key}]) })
			if want := []string{"seen", "as before", "seen"}[n]; got != want {
				t.Errorf("after knock %d, when the disk can be written, its mark is %q, want %q", n+1, got, want)
			}
		}
	})
}

// A right knock whose mark cannot be saved is refused, and that is recorded.
func TestAMarkThatCannotBeKept(t *testing.T) {
	const because = "a right knock, but what must be remembered of it is not on disk: "
	for _, tt := range []struct {
		name   string
		breaks func(*testing.T, *running, *slowStore) (mends func())
		why    string
	}{
		{"the disk is full", func(_ *testing.T, r *running, _ *slowStore) func() {
			r.m.do(func() { r.m.full = errors.New("no space left on device") })
			return func() { r.m.do(func() { r.m.full = nil }) }
		}, because + "no space left on device"},
		{"the disk hangs", func(t *testing.T, _ *running, s *slowStore) func() { return s.hang(t) },
			because + "the latest changes have not been written to disk for 5s"},
		{"nothing is kept", func(_ *testing.T, r *running, _ *slowStore) func() {
			r.sync(func(time.Time) { r.storeProblem = "read-only file system" })
			return func() {}
		}, because + "nothing is kept: read-only file system"},
		{"too many wait", func(_ *testing.T, r *running, _ *slowStore) func() {
			r.sync(func(time.Time) {
				for n := range maxUnsaved {
					r.changes.mark(store.Mark{Door: "ssh", Knock: "sealed", Key: "other " + string(rune('a'+n%20)) + time.Duration(n).String()})
				}
				r.doors[0].knockFirst(door.Knock{Source: door.Source(visitor), By: "sealed"}, []store.Mark{mark}, knock.Verdict{Right: true})
			})
			return func() {}
		}, because + "10000 marks are already waiting for the disk"},
		{"it is too big", func(_ *testing.T, r *running, _ *slowStore) func() {
			r.sync(func(time.Time) {
				r.doors[0].knockFirst(door.Knock{Source: door.Source(visitor), By: "sealed"},
					[]store.Mark{{Door: "ssh", Knock: "sealed", Key: "1", Value: make([]byte, 1025)}}, knock.Verdict{Right: true})
			})
			return func() {}
		}, because + "a mark has a key of 1 bytes and a value of 1025: allowed are 1 to 128, and at most 1024"},
		{"it is penalised meanwhile", func(t *testing.T, r *running, s *slowStore) func() {
			goOn := s.hang(t)
			r.knockFirst(visitor)
			r.touch(visitor, 59001)
			goOn()
			return func() {}
		}, "touched a port that must be left alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				r, disk := runSlowly(t, m, configPath(t), sshDoor)
				mends := tt.breaks(t, r, disk)
				if len(r.status().Refusals) == 0 {
					r.knockFirst(visitor)
				}
				time.Sleep(slowDisk)
				synctest.Wait()
				got := r.status().Refusals
				if len(got) == 0 || !strings.Contains(got[len(got)-1].Reason, tt.why) {
					t.Errorf("refusals %v, want %q", got, tt.why)
				}
				mends()
				time.Sleep(upkeepInterval)
				synctest.Wait()
				if len(m.grants) != 0 || m.running["ssh.service"] {
					t.Errorf("the knock opens all the same: %v", m.grants)
				}
			})
		})
	}
}

// A door that goes while a mark is on its way hears nothing of it.
func TestADoorThatGoesWhileAMarkIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r, disk := runSlowly(t, m, path, sshDoor)
		write(t, path, webDoor)
		disk.takesFor(time.Second)
		replies := asking(1, func() string { return r.order(control.ApplyRequest{Action: "apply"}) })
		r.knockFirst(visitor) // its mark is saved after the promise to roll back
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := replies(); !strings.Contains(got[0], "door ssh is no longer guarded") || len(m.grants)+m.starts != 0 {
			t.Errorf("apply: %q; grants %v, %d starts; want none", got, m.grants, m.starts)
		}
	})
}

// When the daemon ends it waits for the commit in progress and makes the last one, but it
// does not wait for a disk that hangs.
func TestTheEndOnASlowDisk(t *testing.T) {
	for _, takes := range []time.Duration{2 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			r, disk := runSlowly(t, m, configPath(t), sshDoor)
			disk.takesFor(takes)
			r.touch(visitor, 59001)
			begun := time.Now()
			r.stop()
			took := time.Since(begun)
			if takes < slowDisk && (took != 2*takes || m.events() != "started refused stopped") {
				t.Errorf("with commits of %v the end takes %v, and the trail has %q; want both commits", takes, took, m.events())
			}
			if took > 2*endTime {
				t.Errorf("with commits of %v the end takes %v, want at most %v", takes, took, 2*endTime)
			}
			time.Sleep(2 * takes) // until nothing of it is left
		})
	}
}

// When a door goes, what has not been saved of it yet goes with it.
func TestADoorThatGoesOnAFullDisk(t *testing.T) {
	d := newDelta()
	d.doors["ssh"] = store.Door{Name: "ssh", State: "open"}
	d.mark(mark)
	d.endDoor("ssh")
	if c := d.change(); len(c.Doors)+len(c.Marks) != 0 || !slices.Equal(c.EndDoors, []string{"ssh"}) {
		t.Errorf("doors %v, marks %v, ended %v; want the end alone", c.Doors, c.Marks, c.EndDoors)
	}
}

// If more grants end at once than records may wait for a disk, the records come one after
// the other, and none is lost. If the disk takes too long the trail says how many are
// missing.
func TestRecordsOfManyEnds(t *testing.T) {
	for _, tt := range []struct {
		hangs         time.Duration
		want, missing int
	}{
		{time.Second, 2 * maxUnsaved, 0},
		{time.Minute, maxUnsaved, maxUnsaved},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, path := newMachine(), configPath(t)
			m.crowded(t, path, sshDoor, crowd(2*maxUnsaved), time.Now().Add(time.Minute))
			m.do(func() { // those of visitors would be summed up
				for k, g := range m.claims {
					delete(m.claims, k)
					g.By = "operator alice (uid 1000)"
					k.By = g.By
					m.claims[k] = g
				}
			})
			r, disk := runSlowly(t, m, path, sshDoor)
			time.Sleep(time.Minute - 2*time.Second)
			goOn := disk.hang(t)
			r.touch(visitor, 59001) // so that a commit is in progress
			time.Sleep(2*time.Second + tt.hangs)
			goOn()
			time.Sleep(upkeepInterval)
			synctest.Wait()
			expired, missing := 0, 0
			m.do(func() {
				for _, rec := range m.trail {
					if rec.Event == audit.EventExpired {
						expired++
					}
					if n, _, found := strings.Cut(rec.Reason, " records are missing here"); found {
						missing, _ = strconv.Atoi(n)
					}
				}
			})
			if expired < tt.want-8 || expired > tt.want+8 || expired+missing < 2*maxUnsaved || missing > tt.missing+8 {
				t.Errorf("after %v without a disk %d grants are recorded to have ended and %d records to be missing, want %d and %d",
					tt.hangs, expired, missing, tt.want, tt.missing)
			}
			if len(m.claims) != 0 {
				t.Errorf("%d claims stand", len(m.claims))
			}
		})
	}
}

// However many penalties begin and are forgotten again while nothing can be saved, be it
// that the disk hangs or is full, few of them wait for it; and afterwards it has those
// that there still are.
func TestPenaltiesWhileTheDiskTakesNothing(t *testing.T) {
	for _, what := range []string{"hangs", "is full"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				r, disk := runSlowly(t, m, configPath(t), sshDoor)
				source := func(n int) netip.Prefix {
					return door.Source(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}))
				}
				wrong := func(now time.Time, n int) {
					r.doors[0].apply(r.doors[0].door.Wrong(now, door.Wrong{Name: "touch", Source: source(n), By: "touch",
						Reason: "wrong", Penalty: time.Hour, Proven: true}))
				}
				r.sync(func(now time.Time) { wrong(now, 1); wrong(now, 2) }) // these are on disk
				goOn := func() { m.do(func() { m.full = nil }); time.Sleep(upkeepInterval) }
				if what == "hangs" {
					goOn = disk.hang(t)
				} else {
					m.do(func() { m.full = errors.New("no space left on device") })
				}
				for from := 3; from < 4*maxUnsaved; from += 100 {
					r.sync(func(now time.Time) {
						for n := from; n < from+100; n++ {
							wrong(now, n)
							effects, _ := r.doors[0].door.ArmSource(now, source(n), "operator")
							r.doors[0].apply(effects)
						}
					})
				}
				r.sync(func(now time.Time) {
					wrong(now, 0)
					effects, _ := r.doors[0].door.ArmSource(now, source(1), "operator")
					r.doors[0].apply(effects)
				})
				unsaved := 0
				r.sync(func(time.Time) {
					for _, d := range []*delta{&r.changes.delta, r.writer.commit, r.writer.held} {
						if d != nil {
							unsaved += len(d.penalties)
						}
					}
				})
				if most := maxUnsaved + 1000; unsaved > most {
					t.Errorf("%d penalties wait for the disk, want at most %d", unsaved, most)
				}
				goOn()
				synctest.Wait()
				has := func(n int) bool {
					_, ok := m.banned[store.PenaltyKey{Door: "ssh", Knock: "touch", Source: source(n)}]
					return ok
				}
				if len(m.banned) != 2 || !has(0) || !has(2) {
					t.Errorf("the disk has %d penalties (the first %v, the last %v), want these two", len(m.banned), has(2), has(0))
				}
			})
		})
	}
}
