package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
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

// Whatever happens to the store on a disk, and however long it takes to open, the doors
// are guarded by then.
func TestTheFenceComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		run(t, m, configPath(t), sshDoor)
		if !m.guardedFirst || m.opened != 1 {
			t.Errorf("the store was opened %d times, behind a fence: %v, want once and behind one", m.opened, m.guardedFirst)
		}
	})
}

// The doors are guarded even if the kernel has no room for a watch of the fence.
func TestTheFenceComesBeforeItsWatch(t *testing.T) {
	m, path := newMachine(), configPath(t)
	m.unwatched = errors.New("too many open files")
	write(t, path, sshDoor)
	err := New(Options{Path: path, Version: "v1", Log: slog.New(slog.DiscardHandler)}).Run(t.Context(), m.world(), func() {})
	if want := "watch the fence: too many open files"; err == nil || err.Error() != want {
		t.Errorf("the gateway ends with %v, want %s", err, want)
	}
	if !m.table {
		t.Error("the doors are unguarded")
	}
}

// A fence that nobody else can change is not watched.
func TestAnOwnedFenceIsNotWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.owned, m.unwatched = true, errors.New("it was watched")
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		r.wantState("open")
	})
}

// A table that is there guards already. A file that was rolled back must not change it:
// the grants of the doors in use would be lost.
func TestAFileThatWasRolledBackCostsNoGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, webDoor)
		r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
		r.order(control.ApplyRequest{Action: "undo"})
		synctest.Wait() // until the door has looked for log data
		r.touch(visitor, 59000, 59002)
		r.stop()
		r = restart(t, m, path)
		if got := r.status(); got.Name != "ssh" || len(got.Grants) != 1 {
			t.Errorf("after the restart door %s has grants %v, want the visitor's at ssh", got.Name, got.Grants)
		}
	})
}

// If the store cannot be opened or read the doors are guarded all the same: they begin
// dark, a right knock opens, a penalty counts, and warnings say what is wrong.
func TestWithoutAStore(t *testing.T) {
	for name, breaks := range map[string]func(*machine){
		"cannot be opened": func(m *machine) { m.closed = errors.New("read-only file system") },
		"cannot be read":   func(m *machine) { m.lost = errors.New("read-only file system") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				breaks(m)
				r := run(t, m, configPath(t), sshDoor)
				if !m.table {
					t.Fatal("the doors are unguarded")
				}
				s, _ := r.Status()
				want := "nothing is saved: a restart would forget penalties, open doors and the audit trail; " +
					"fix this and restart the daemon: read-only file system"
				if !slices.Contains(s.Warnings, want) {
					t.Errorf("warnings %q, want %q among them", s.Warnings, want)
				}
				r.touch(visitor6, 59001)
				if got := r.status().Penalties; len(got) != 1 {
					t.Errorf("penalties %v, want the wrong knock's", got)
				}
				r.touch(visitor, 59000, 59002)
				r.wantState("open")
				page, err := r.Log(control.LogQuery{Limit: 100})
				trail := page.Records
				var events []string
				for _, rec := range trail {
					events = append(events, rec.Event)
				}
				if got := strings.Join(events, " "); err != nil || got != "started error refused opened granted" {
					t.Errorf("the audit trail has %q, %v", got, err)
				}
				write(t, r.path, sshDoor+webDoor)
				if got := r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"}); !strings.HasPrefix(got,
					"error: nothing was changed: a restart would not roll it back, since nothing can be saved: read-only file system") {
					t.Errorf("apply --confirm: %q, want it refused", got)
				}
				if len(m.trail)+len(m.disk) > 0 {
					t.Errorf("on the disk are %v and %v", m.trail, m.disk)
				}
			})
		})
	}
}

// Without a store all doors begin dark, and grants that the kernel still has are removed.
func TestWithoutAStoreNobodyStaysIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59000, 59002)
		r.stop()
		m.closed = errors.New("input/output error")
		r = restart(t, m, path)
		r.wantState("dark")
		if len(m.grants) != 0 {
			t.Errorf("at a dark door the kernel lets in %v", m.grants)
		}
	})
}

// If another daemon has the store this one ends: the other one guards.
func TestASecondDaemonEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		write(t, path, sshDoor)
		m.closed = fmt.Errorf("%q: %w", "doorward.lock", store.ErrLocked)
		if restart(t, m, path) != nil {
			t.Error("it runs beside another daemon")
		}
	})
}

// A flood of refusals is summed up on its way to the disk; decisions are recorded among
// them, and at the end no refusal is left out.
func TestAFloodOfRefusalsIsSummedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		// Without a penalty the prefix is still heard.
		r := run(t, m, configPath(t), sshDoor+"penalty = \"0s\"\n")
		r.touch(visitor, 59000, 59002)
		const flood = 3000
		for n := range flood {
			a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7, 7, byte(n >> 8), byte(n), 15: 1}) // each of another /64
			r.Hear([]knock.Heard{touchOf(a, 59001, time.Now())})
		}
		synctest.Wait()
		count := func() (records int, times uint64) {
			m.do(func() {
				for _, rec := range m.trail {
					if rec.Event == audit.EventRefused {
						records++
						times += rec.Times()
					}
				}
			})
			return records, times
		}
		if records, _ := count(); records > 50 {
			t.Errorf("%d records of one prefix at once, want a few", records)
		}
		if got := r.status().Refusals; len(got) != keepRefusals {
			t.Errorf("status shows %d refusals, want the latest %d", len(got), keepRefusals)
		}
		time.Sleep(time.Minute + upkeepInterval)
		synctest.Wait()
		records, times := count()
		if records > 50 || times != flood {
			t.Errorf("after a minute %d records count %d refusals, want a few that count %d", records, times, flood)
		}
		if s, _ := r.Status(); s.Events[audit.EventRefused] != flood || s.Events[audit.EventGranted] != 1 {
			t.Errorf("events %v, want %d refused and 1 granted", s.Events, flood)
		}
		time.Sleep(2 * time.Minute)
		for n := range 100 {
			r.touch(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 8, 8, 0, byte(n), 15: 1}), 59001)
		}
		r.stop()
		if _, times := count(); times != flood+100 {
			t.Errorf("at the end %d refusals are recorded, want %d", times, flood+100)
		}
	})
}

// While nothing can be saved, refusals do not take up the room of all other records.
func TestRefusalsThatCannotBeSaved(t *testing.T) {
	c := newChanges()
	for range 2 * maxUnsaved {
		c.record(audit.Record{Event: audit.EventRefused})
	}
	c.record(audit.Record{Event: audit.EventGranted, Source: door.SourceString(door.Source(visitor))})
	if last := c.records[len(c.records)-1]; last.Event != audit.EventGranted || len(c.records) > maxUnsaved {
		t.Errorf("%d records wait, the last is %v, want the grant", len(c.records), last)
	}
}

// With a store on a disk, 102,000 refusals of one /48 and 10,000 from everywhere do not
// push out any decision that was recorded before.
func TestTheAuditTrailCannotBeWashed(t *testing.T) {
	dir, path := t.TempDir(), configPath(t)
	if shm, err := os.MkdirTemp("/dev/shm", "doorward-gateway"); err == nil {
		t.Cleanup(func() { os.RemoveAll(shm) })
		dir = shm // this is not a test of the disk
	}
	kept, err := store.Open(dir, store.AuditLimit{Records: 500}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	synctest.Test(t, func(t *testing.T) {
		r := runWith(t, newMachine(), path, strings.Replace(sshDoor, "kind", "penalty = \"0s\"\nkind", 1),
			func(w *World) { w.Open = func() (Store, error) { return kept, nil } })
		for n := range 10 {
			r.touch(netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)}), 59000, 59002)
		}
		page, err := r.Log(control.LogQuery{Limit: 100})
		before := page.Records
		if err != nil || len(before) != 12 { // started, opened, and ten grants
			t.Fatalf("before: %d records, %v, want 12", len(before), err)
		}
		wrong := func(n int, from func(n int) netip.Addr) {
			for n > 0 {
				var ts []knock.Heard
				for range min(n, 1000) {
					n--
					ts = append(ts, touchOf(from(n), 59001, time.Now()))
				}
				r.Hear(ts)
			}
			synctest.Wait()
		}
		wrong(102_000, func(n int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7, 7, byte(n >> 8), byte(n), byte(n >> 16), 15: 1})
		})
		wrong(10_000, func(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}) })
		wrong(10_000, func(n int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(n >> 8), byte(n), 15: 1}) // each of a /48 of its own
		})
		page, err = r.Log(control.LogQuery{Limit: 10_000})
		all := page.Records
		if err != nil || len(all) < len(before) {
			t.Fatalf("after: %d records, %v", len(all), err)
		}
		if d := cmp.Diff(before, all[:len(before)]); d != "" {
			t.Errorf("what was decided before the flood (-want +got):\n%s", d)
		}
		if len(all) > 500 {
			t.Errorf("%d records are kept, want at most 500", len(all))
		}
		r.stop()
	})
}
