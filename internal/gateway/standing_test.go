package gateway

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/store"
)

// Where somebody may come from, and until when, holds for what they have as well: a grant
// elsewhere ends when the file changes, one that would last longer ends in time, in the
// kernel and after a restart, and so does one that is still on its way.
func TestWhatAFileNarrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors+"\n[door.web.presence]\nlogins = \"off\"\n")
		c.order(control.OpenRequest{Door: "web", Source: neighbour.String(), For: "1h"})
		for _, from := range []netip.Addr{visitor, neighbour} {
			c.says(from, "web open alice")
		}
		c.members("alice=192.0.2.2 bob", nil)
		want(t, "at web", c.in("web"), "192.0.2.2 club alice, 192.0.2.9 operator alice (uid 1000)")
		want(t, "ends", c.events(audit.EventRevoked), []string{"192.0.2.9 club alice: they may not knock any more"})
		want(t, "answer elsewhere", c.says(neighbour, "web open alice"), "web: refused: ended")

		kernel := func() time.Duration {
			var left time.Duration
			c.m.do(func() {
				if until, ok := c.m.grants[grantKey{"web", door.Source(visitor)}]; ok {
					left = time.Until(until).Round(time.Second)
				}
			})
			return left
		}
		c.says(visitor, "web open alice")
		until := time.Now().Add(upkeepInterval + 5*time.Second)
		c.members("alice=192.0.2.2,"+until.UTC().Format(time.RFC3339)+" bob", nil)
		if got := kernel(); got != 5*time.Second {
			t.Errorf("the kernel lets alice in for %v more, want 5 s: her time ends then", got)
		}
		want(t, "answer to another knock", c.says(visitor, "web open alice"), "web: open for 5s")
		c.in("web") // and so on disk
		c.again()
		if got := kernel(); got != 5*time.Second {
			t.Errorf("after a restart the kernel lets alice in for %v more, want 5 s", got)
		}
		time.Sleep(6 * time.Second)
		want(t, "when her time is over", c.in("web"), "192.0.2.9 operator alice (uid 1000)")
	})
}

// A grant that may have been spent is not given again in order to end earlier.
func TestWhatMayBeSpentEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), strings.Replace(clubDoors, "[door.web]\n", "[door.web]\nsingle_use = true\n", 1))
		c.says(visitor, "web open alice")
		c.m.spend(grantKey{"web", door.Source(visitor)})
		c.m.do(func() { c.files.text["/members"] = "alice," + time.Now().Add(11*time.Second).UTC().Format(time.RFC3339) + " bob" })
		c.sync(func(now time.Time) { c.readFiles(now, true) })
		synctest.Wait()
		c.m.do(func() {
			if _, lets := c.m.grants[grantKey{"web", door.Source(visitor)}]; lets {
				t.Error("a grant that was spent lets alice in again")
			}
		})
	})
}

// After a crash the kernel may have a grant of which nobody knows whose it is. It stands, as
// the visitor was let in; but whoever is locked, or dropped from a file, has nothing left, and
// so it ends then at the doors of that kind: also when the comparison finds it only later, and
// when it is what is left of a longer one. At other doors, and at a start, it stays.
func TestWhatIsNobodysEndsWithAnybodys(t *testing.T) {
	strange, touched := grantKey{"web", door.Source(visitor)}, grantKey{"ssh", door.Source(neighbour)}
	for what, change := range map[string]func(c *clubHouse){
		"an order":              func(c *clubHouse) { c.order(lock("bob")) },
		"a file":                func(c *clubHouse) { c.members("alice", nil) },
		"another configuration": func(c *clubHouse) { c.order(control.ApplyRequest{Action: "apply"}) },
	} {
		synctest.Test(t, func(t *testing.T) {
			doors := sshDoor + webDoor + `
[[door.web.knock]]
kind = "club"
port = 5005
members = "/members"
`
			c := openClub(t, newMachine(), doors)
			c.says(visitor, "web open alice")
			c.touch(neighbour, 59000, 59002)
			c.in("web")
			c.stop()
			c.m.do(func() {
				for _, k := range []grantKey{strange, touched} {
					c.m.grants[k] = time.Now().Add(time.Hour)
				}
				delete(c.m.claims, store.GrantKey{Door: "ssh", Source: touched.source, By: "touch"})
			})
			c.again()
			time.Sleep(upkeepInterval)
			want(t, what+": at the start, at web", c.in("web"), "192.0.2.2 before the restart+club alice")
			want(t, what+": at the start, at ssh", c.in("ssh"), "192.0.2.9 before the restart")
			if what == "another configuration" {
				write(t, c.path, strings.Replace(doors, "[door.web]\n", "[door.web]\nopen_for = \"40s\"\n", 1))
			}
			change(c)
			time.Sleep(time.Second)
			synctest.Wait()
			if got := c.in("web"); got != "192.0.2.2 club alice" && got != "" {
				t.Errorf("%s: at web afterwards: %s, want nobody's to have ended", what, got)
			}
			want(t, what+": at ssh afterwards", c.in("ssh"), "192.0.2.9 before the restart")
			c.m.do(func() {
				if left := time.Until(c.m.grants[strange]); left > time.Minute {
					t.Errorf("%s: the kernel lets it in for %v more", what, left)
				}
			})
		})
	}
}

// The same where the comparison has not come that far when somebody is locked.
func TestWhatIsFoundAfterALockIsNobodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		c.says(neighbour, "web open bob")
		c.in("web")
		c.stop()
		strange := grantKey{"web", door.Source(visitor)}
		c.m.do(func() {
			c.m.grants[strange] = time.Now().Add(time.Hour)
			c.m.answer = make(chan bool)
		})
		c.again()
		c.order(lock("alice"))
		c.m.do(func() { close(c.m.answer) })
		time.Sleep(upkeepInterval)
		want(t, "at web", c.in("web"), "192.0.2.9 club bob")
		c.m.do(func() {
			if !c.m.grants[strange].IsZero() {
				t.Error("what alice may have been let in by stands")
			}
		})
	})
}
