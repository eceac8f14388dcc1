package gateway

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/store"
)

// clubAhead has the club write ahead which season it is, from 1 on, unless that is under
// way.
type clubAhead struct {
	disk  func() string // what the disk has of it
	asked int
	under bool
	said  []string // of each that was written: whether it was saved, and what the disk had then
}

var seasonKey = markKey{"", "club", "season"}

func (a *clubAhead) Ahead(time.Time) ([]knock.Mark, func(bool)) {
	if a.under {
		return nil, nil
	}
	a.asked++
	a.under = true
	return []knock.Mark{{Key: seasonKey.key, Value: fmt.Append(nil, a.asked)}}, func(saved bool) {
		a.under = false
		a.said = append(a.said, fmt.Sprint(saved, " ", a.disk()))
	}
}

func (a *clubAhead) Leave() []knock.Mark {
	return []knock.Mark{{Key: seasonKey.key, Value: []byte("over")}}
}

// openSeason starts a gateway whose club writes ahead.
func openSeason(t *testing.T) (*clubHouse, *slowStore, *clubAhead) {
	var s *slowStore
	m := newMachine()
	c := openClub(t, m, clubDoors)
	c.stop()
	c.running = restartWith(t, m, c.path, func(w *World) {
		c.files.change(w)
		s = &slowStore{Store: (*disk)(m), m: m}
		w.Open = func() (Store, error) { return s, nil }
	})
	a := &clubAhead{disk: func() (has string) { m.do(func() { has = string(m.marks[seasonKey]) }); return has }}
	c.sync(func(time.Time) { c.keepOf("club").of.(*clubKept).ahead = a })
	return c, s, a
}

// What a kind has written ahead it learns to be on disk when it is, and not before. That
// is asked for at each upkeep, and after a knock that had to wait for the disk.
func TestMarksAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, a := openSeason(t)
		said := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			c.sync(func(time.Time) {
				if diff := cmp.Diff(want, a.said); diff != "" {
					t.Errorf("%s: saved, and what the disk had (-want +got):\n%s", what, diff)
				}
				a.said = nil
			})
		}
		time.Sleep(upkeepInterval)
		said("after an upkeep", "true 1")
		c.says(visitor, "web open alice")
		said("after a knock without marks")
		c.says(visitor, "web ticket1 alice")
		said("after a knock with marks that are first", "true 2")

		goOn := s.hang(t)
		time.Sleep(upkeepInterval)
		time.Sleep(slowDisk - time.Second)
		said("while the disk hangs")
		time.Sleep(time.Second)
		said("when nobody waits for it any more", "false 2")
		goOn()
		said("when it goes on")
		if got := a.disk(); got != "3" {
			t.Errorf("then the disk has %q, want 3", got)
		}

		c.m.do(func() { c.m.full = errors.New("no space left on device") })
		time.Sleep(upkeepInterval)
		said("on a full disk", "false 3")
		c.m.do(func() { c.m.full = nil })
		c.stop()
		if got := a.disk(); got != "over" {
			t.Errorf("after a clean end the disk has %q, want the last mark", got)
		}
	})
}

// After a clean end the last mark would say that the disk has all others: where one was
// lost there is none, nor anything that is written ahead.
func TestNoMarksAheadWhereOneWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, a := openSeason(t)
		time.Sleep(upkeepInterval)
		c.m.do(func() { c.m.full = errors.New("no space left on device") })
		c.sync(func(time.Time) {
			for n := range maxUnsaved {
				c.changes.mark(store.Mark{Door: "web", Knock: "club", Key: fmt.Sprint(n), Value: []byte("x")})
			}
			c.remember([]store.Mark{{Door: "web", Knock: "club", Key: "one more", Value: []byte("x")}})
		})
		c.m.do(func() { c.m.full = nil })
		time.Sleep(2 * upkeepInterval)
		c.stop()
		if got := a.disk(); got != "1" || a.asked != 1 {
			t.Errorf("the disk has %q, and %d were written ahead, want the first alone", got, a.asked)
		}
	})
}
