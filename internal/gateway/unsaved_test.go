package gateway

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/store"
)

// What the disk does not take and gives somebody a right is undone, and what takes a right
// stays in force and is saved later: either way a restart changes nothing.
func TestOrdersThatCannotBeSaved(t *testing.T) {
	unlock := lock("alice")
	unlock.What = "unlock"
	const inForce = "error: club lock: it is in force, but not on disk, and until it is, a restart would forget it: "
	const undone = "error: nothing was changed, since it cannot be saved: "
	for _, tt := range []struct {
		name   string
		breaks func(c *clubHouse) (mends func())
		why    string
	}{
		{"the disk is full", func(c *clubHouse) func() {
			c.m.do(func() { c.m.full = errors.New("no space left on device") })
			return func() { c.m.do(func() { c.m.full = nil }) }
		}, "no space left on device"},
		{"the disk hangs", func(c *clubHouse) func() { return c.store.(*slowStore).hang(c.t) },
			"the latest changes have not been written to disk for 5s"},
		{"too much waits for the disk", func(c *clubHouse) func() {
			c.m.do(func() { c.m.full = errors.New("no space left on device") })
			c.sync(func(time.Time) {
				for n := range maxUnsaved {
					c.changes.mark(store.Mark{Door: "web", Knock: "club", Key: fmt.Sprint(n), Value: []byte("x")})
				}
			})
			return func() { c.m.do(func() { c.m.full = nil }) }
		}, "no space left on device"},
		{"nothing is kept", func(c *clubHouse) func() {
			c.sync(func(time.Time) { c.storeProblem = "read-only file system" })
			return func() { c.sync(func(time.Time) { c.storeProblem = "" }) }
		}, "nothing is kept: read-only file system"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := openClub(t, newMachine(), clubDoors)
				c.stop()
				c.running = restartWith(t, c.m, c.path, func(w *World) {
					c.files.change(w)
					w.Open = func() (Store, error) { return &slowStore{Store: (*disk)(c.m), m: c.m}, nil }
				})
				mends := tt.breaks(c)
				want(t, "answer to a lock", c.order(lock("alice")), inForce+tt.why)
				want(t, "answer to alice", c.says(visitor, "web open alice"), "web: refused: wrong")
				mends()
				time.Sleep(upkeepInterval)
				synctest.Wait()
				want(t, "on disk", string(c.m.marks[markKey{"", "club", "alice"}]), "locked")
				mends = tt.breaks(c)
				want(t, "answer to an unlock", c.order(unlock), undone+tt.why)
				want(t, "answer to alice", c.says(visitor, "web open alice"), "web: refused: wrong")
				mends()
				time.Sleep(upkeepInterval)
				synctest.Wait()
				want(t, "on disk", string(c.m.marks[markKey{"", "club", "alice"}]), "locked")
				c.again()
				want(t, "answer to alice after a restart", c.says(visitor, "web open alice"), "web: refused: wrong")
				all := c.events(audit.EventKeys)
				if last := all[len(all)-2]; !strings.HasSuffix(last, "undone, since it could not be saved: alice is let in again") {
					t.Errorf("the trail ends with %q, want that the order was undone before the file was read again", all)
				}
			})
		})
	}
}

// What counts once is not used up where nothing comes of it, and is used once where
// something does.
func TestNothingIsUsedUpInVain(t *testing.T) {
	for _, tt := range []struct {
		name  string
		wrong func(c *clubHouse) (mends func())
		why   string
	}{
		{"no log data", func(c *clubHouse) func() {
			c.m.do(func() { c.m.seen.NoData = "no log" })
			time.Sleep(2 * time.Minute)
			return func() {
				c.m.do(func() { c.m.seen.NoData = "" })
				time.Sleep(2 * time.Minute)
			}
		}, "ssh: refused: failsafe"},
		{"a penalty", func(c *clubHouse) func() {
			c.touch(visitor, 59001)
			return func() { c.order(control.ArmRequest{}) }
		}, "ssh: refused: penalty"},
		{"the fence cannot be changed", func(c *clubHouse) func() {
			c.m.do(func() { c.m.broken = errors.New("operation not permitted") })
			c.says(neighbour, "ssh open bob")
			time.Sleep(time.Minute)
			return func() {
				c.m.do(func() { c.m.broken = nil })
				time.Sleep(time.Minute)
			}
		}, "ssh: refused: kernel"},
		{"the disk is full", func(c *clubHouse) func() {
			c.m.do(func() { c.m.full = errors.New("no space left on device") })
			return func() {
				c.m.do(func() { c.m.full = nil })
				time.Sleep(upkeepInterval)
			}
		}, "ssh: refused: unsaved"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := openClub(t, newMachine(), strings.Replace(clubDoors, "[door.ssh]\n", "[door.ssh]\npenalties = \"door\"\n", 1))
				mends := tt.wrong(c)
				synctest.Wait()
				c.hears()
				want(t, "answer", c.says(visitor, "ssh ticket alice"), tt.why)
				mends()
				synctest.Wait()
				c.hears()
				if used := c.m.marks[markKey{"", "club", "ticket"}]; used != nil {
					t.Errorf("the disk has %q, want nothing of a ticket that was not used", used)
				}
				c.again()
				if got := c.says(visitor, "ssh ticket alice"); !strings.HasSuffix(got, "open for 30s") {
					t.Errorf("the same ticket later: %q, want that it opens", got)
				}
				want(t, "answer to the ticket once more", c.says(neighbour, "ssh ticket alice"), "ssh: refused: wrong")
				c.again()
				want(t, "answer to it after a restart", c.says(neighbour, "ssh ticket alice"), "ssh: refused: wrong")
			})
		})
	}
}
