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

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/presence"
)

var neighbour = netip.MustParseAddr("192.0.2.9")

// lock is the order that locks somebody out.
func lock(name string) control.KindRequest {
	return control.KindRequest{Kind: "club", What: "lock", Args: fmt.Appendf(nil, `{"name":%q}`, name)}
}

// want compares what there is with what is expected.
func want[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// Several doors hear one place; what is heard goes to the one that it names, and to the
// first if there is none of that name. Each has its own state.
func TestDoorsThatShareAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		want(t, "answer of web", c.says(visitor, "web open alice"), "web: open for 30s")
		want(t, "answer of ssh", c.says(visitor, "ssh open alice"), "ssh: waits; ssh: open for 30s")
		want(t, "answer to a door that is not there", c.says(neighbour, "nowhere open alice"), "ssh: open for 30s")
		want(t, "at web", c.in("web"), "192.0.2.2 club alice")
		want(t, "at ssh", c.in("ssh"), "192.0.2.2 club alice, 192.0.2.9 club alice")
		if at := (knock.Place{Medium: knock.Datagrams, Port: 5005}); c.m.openers[at] != knock.Opener(clubOpener(5005)) {
			t.Errorf("datagrams are opened by %v, want the Kept's opener", c.m.openers[at])
		}
	})
}

// A file is in force when the gateway has looked; whoever is not in it any more loses what
// they have, at all doors, and a neighbour keeps it.
func TestAFileChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		for _, what := range []string{"web open alice", "web open bob", "ssh open alice"} {
			c.says(visitor, what)
		}
		c.says(neighbour, "web open alice")
		read := c.files.read
		time.Sleep(2 * upkeepInterval)
		if synctest.Wait(); c.files.read != read {
			t.Errorf("a file that has not changed was read %d times", c.files.read-read)
		}
		c.says(visitor, "web open alice")
		c.says(visitor, "web open bob")
		c.says(visitor, "ssh open alice")
		c.says(neighbour, "web open alice")
		c.members("bob", nil)
		want(t, "at web", c.in("web"), "192.0.2.2 club bob")
		want(t, "at ssh", c.in("ssh"), "")
		if _, lets := c.m.grants[grantKey{"web", door.Source(neighbour)}]; lets {
			t.Error("the kernel still lets in who is no member")
		}
		want(t, "ends", c.events(audit.EventRevoked), []string{"192.0.2.2 club alice: they may not knock any more",
			"192.0.2.2 club alice: they may not knock any more", "192.0.2.9 club alice: they may not knock any more"})
		want(t, "what the trail has of the file", c.events(audit.EventKeys), []string{": 2 members", ": 1 members"})
	})
}

// A file that cannot be read, or not relied on, is reported once, and shown until it can
// be; what it had stays in force.
func TestAFileThatCannotBeUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		kept := c.keepOf("club").of.(*clubKept)
		warnings := func() []string {
			s, _ := c.Status()
			return slices.DeleteFunc(s.Warnings, func(w string) bool { return !strings.Contains(w, "club") })
		}
		const doors = "the club has 2 doors"
		want(t, "warnings at first", warnings(), []string{doors})
		for range 3 {
			c.members("alice bob", errors.New(`"/members" belongs to mallory`))
		}
		want(t, "warnings", warnings(), []string{doors, `club knocks: "/members" belongs to mallory; what the file had when it was read last stays in force`})
		want(t, "records", len(c.events(audit.EventError)), 1)
		want(t, "answer", c.says(visitor, "web open alice"), "web: open for 30s")
		c.members("alice bob", nil)
		want(t, "warnings when it can be used again", warnings(), []string{doors})
		c.members("", nil)
		want(t, "warnings about what it has", warnings(), []string{doors, "the club has no members"})
		want(t, "what the kind was told", kept.readAloud, []string{"alice bob", `"/members" belongs to mallory`, "alice bob", ""})
	})
}

// An order is answered when what it marks is on disk and the grants have ended; a restart,
// and a configuration without the kind, forget nothing of it.
func TestAnOrderToAKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		c.says(visitor, "web open alice")
		c.says(neighbour, "web open bob")
		reply, err := c.ask(lock("alice"))
		if err != nil || string(reply.Result) != `{"locked":true}` || reply.Message != "club lock: done; grants ended: 1" || !reply.Changed {
			t.Errorf("answered %+v, %v", reply, err)
		}
		want(t, "marks", c.m.marks, map[markKey][]byte{{"", "club", "alice"}: []byte("locked")})
		want(t, "at web", c.in("web"), "192.0.2.9 club bob")
		want(t, "records", c.events(audit.EventKeys)[1:], []string{"operator alice (uid 1000): alice is locked out"})
		want(t, "ends", c.events(audit.EventRevoked), []string{"192.0.2.2 club alice: they may not knock any more, by order of operator alice (uid 1000)"})

		write(t, c.path, webDoor)
		c.order(control.ApplyRequest{Action: "apply"})
		c.again()
		write(t, c.path, clubDoors)
		c.order(control.ApplyRequest{Action: "apply"})
		synctest.Wait() // until it listens
		want(t, "answer to who is locked out", c.says(visitor, "web open alice"), "web: refused: wrong")
		want(t, "answer to a member", c.says(visitor, "web open bob"), "web: open for 30s")
	})
}

func TestOrdersThatAreNotCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		for _, tt := range []struct {
			order      control.KindRequest
			code, want string
			hint       string
		}{
			{control.KindRequest{Kind: "clubs", What: "lock"}, control.CodeRefused, `there is no kind of knock "clubs" that takes orders: those that do are `, ""},
			{control.KindRequest{Kind: "touch", What: "lock"}, control.CodeRefused, `there is no kind of knock "touch" that takes orders`, ""},
			{control.KindRequest{Kind: "club", What: "dance"}, control.CodeUsage, "the club knows no dance", "lock"},
			{lock(""), control.CodeRefused, "nobody is locked out", ""},
			{control.KindRequest{Kind: "club", What: "Lock"}, control.CodeUsage, `order "Lock": allowed are 1 to 24 characters`, ""},
			{control.KindRequest{Kind: "club", What: "lock", Args: []byte("[1]")}, control.CodeUsage, `the arguments of order "lock" to the club knock are not one JSON object`, ""},
		} {
			_, err := c.ask(tt.order)
			told, ok := errors.AsType[*control.Error](err)
			if !ok || told.Code != tt.code || !strings.Contains(told.Message, tt.want) || told.Hint != tt.hint {
				t.Errorf("%s %s: %#v, want code %q, %q and hint %q", tt.order.Kind, tt.order.What, err, tt.code, tt.want, tt.hint)
			}
		}
	})
}

// Who is locked out while their knock waits for the disk is not let in.
func TestLockedOutMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		c.stop()
		slow := &slowStore{Store: (*disk)(c.m), m: c.m}
		c.running = restartWith(t, c.m, c.path, func(w *World) { c.files.change(w); w.Open = func() (Store, error) { return slow, nil } })
		goOn := slow.hang(t)
		c.says(visitor, "web open first alice")
		go c.order(lock("alice"))
		synctest.Wait()
		goOn()
		want(t, "answer", c.hears(), "web: refused: ended")
		want(t, "at web", c.in("web"), "")
	})
}

// A grant from before a restart ends if its holder was taken out of the file meanwhile;
// a file that cannot be read then changes nothing.
func TestAFileThatChangedWhileNoDaemonRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		c.says(visitor, "web open alice")
		c.says(neighbour, "web open bob")
		c.in("web") // and so on disk
		c.stop()
		c.m.do(func() { c.files.text["/members"] = "bob" })
		c.again()
		want(t, "at web", c.in("web"), "192.0.2.9 club bob")
	})
}

// A visitor closes what they have at an address, and can have it at one address alone;
// others' claims stay.
func TestCloseAndOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		for _, from := range []netip.Addr{visitor, neighbour, visitor6} {
			c.says(from, "web open alice")
			c.says(from, "web open bob")
		}
		want(t, "answer", c.says(visitor, "web close alice"), "web: closed")
		want(t, "the same again", c.says(visitor, "web close alice"), "web: closed")
		want(t, "at web", c.in("web"), "192.0.2.2 club bob, 192.0.2.9 club alice+club bob, 2001:db8::7 club alice+club bob")
		want(t, "answer at one address", c.says(visitor, "web only bob"), "web: open for 30s")
		want(t, "at web", c.in("web"), "192.0.2.2 club bob, 192.0.2.9 club alice, 2001:db8::7 club alice+club bob")
		want(t, "ends", c.events(audit.EventRevoked), []string{"192.0.2.2 club alice: is a member",
			"192.0.2.9 club bob: a knock from 192.0.2.2 takes its place"})
		want(t, "answer to bob's last", c.says(visitor, "web close bob"), "web: closed")
		if _, lets := c.m.grants[grantKey{"web", door.Source(visitor)}]; lets {
			t.Error("the kernel still lets in who has closed all")
		}
	})
}

// Somebody with several names, as with certificates that are renewed, is one visitor: what
// one name has earned is extended, moved, closed and counted as theirs in another, also
// after a restart, and the trail tells the names apart.
func TestOneVisitorHasSeveralNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		c := openClub(t, m, clubDoors)
		c.members("alice@old alice@new bob", nil)
		c.says(visitor, "web open alice@old")
		c.says(visitor, "web open bob")
		want(t, "answer to an extension", c.says(visitor, "web extend alice@new"), "web: open for 30s")
		want(t, "at web", c.in("web"), "192.0.2.2 club alice@new+club bob")
		want(t, "answer from elsewhere", c.says(neighbour, "web only alice@old"), "web: open for 30s")
		want(t, "at web", c.in("web"), "192.0.2.2 club bob, 192.0.2.9 club alice@old")
		c.again()
		want(t, "at web after a restart", c.in("web"), "192.0.2.2 club bob, 192.0.2.9 club alice@old")
		want(t, "answer", c.says(neighbour, "web close alice@new"), "web: closed")
		want(t, "at web in the end", c.in("web"), "192.0.2.2 club bob")
		c.again()
		want(t, "at web after another restart", c.in("web"), "192.0.2.2 club bob")
		want(t, "ends", c.events(audit.EventRevoked), []string{
			"192.0.2.2 club alice@new: a knock from 192.0.2.9 takes its place", "192.0.2.9 club alice@old: is a member"})
	})
}

// A file that takes the right from one name of somebody's leaves them what they have
// earned in another.
func TestANameOfSomebodysEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		c.members("alice@old alice@new", nil)
		c.says(visitor, "web open alice@old")
		c.says(neighbour, "web open alice@new")
		c.members("alice@new", nil)
		want(t, "at web", c.in("web"), "192.0.2.9 club alice@new")
	})
}

// A right knock that the door ignores is answered with the reason, where the source is
// proven, and is not heard as another kind's would be.
func TestWhyARightKnockOpensNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(c *clubHouse)
		want string
	}{
		{"a penalty", func(c *clubHouse) { c.touch(visitor, 59001) }, "penalty"},
		{"no log data", func(c *clubHouse) {
			c.m.do(func() { c.m.seen.NoData = "no log" })
			time.Sleep(2 * time.Minute)
			synctest.Wait()
		}, "failsafe"},
		{"the service does not start", func(c *clubHouse) { c.m.do(func() { c.m.stubborn = errors.New("exit status 1") }) }, "failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := openClub(t, newMachine(), strings.Replace(clubDoors, "[door.ssh]\n", "[door.ssh]\npenalties = \"door\"\n", 1))
				tt.make(c)
				got := strings.TrimPrefix(c.told(visitor, "ssh open alice", false), "ssh: waits")
				want(t, "answer to who is not proven", got, "")
				got = strings.TrimPrefix(c.says(visitor, "ssh open bob"), "ssh: waits; ")
				want(t, "answer", got, "ssh: refused: "+tt.want)
				want(t, "at ssh", c.in("ssh"), "")
			})
		})
	}
}

// Those who wait for the service are told what came of it, so many of a door at most, and
// once each.
func TestToldTwice(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(c *clubHouse, goOn func())
		want string
	}{
		{"it starts", func(_ *clubHouse, goOn func()) { goOn() }, "ssh: open for 30s"},
		{"the door is closed", func(c *clubHouse, goOn func()) { c.order(control.CloseRequest{Door: "ssh"}); goOn() }, "ssh: refused: ended"},
		{"somebody is shut out", func(c *clubHouse, goOn func()) {
			c.order(control.CloseRequest{Door: "ssh", Source: "192.0.2.0/24"})
			goOn()
		}, "ssh: refused: ended"},
		{"somebody is locked out", func(c *clubHouse, goOn func()) { c.order(lock("alice")); goOn() }, "ssh: refused: ended"},
		{"the door goes", func(c *clubHouse, goOn func()) {
			write(c.t, c.path, webDoor)
			c.order(control.ApplyRequest{Action: "apply"})
			goOn()
		}, "ssh: refused: ended"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				c := openClub(t, m, clubDoors)
				slow := make(chan struct{})
				m.do(func() { m.slow = slow })
				want(t, "first answers", c.says(visitor, "ssh open alice")+"; "+c.says(visitor, "ssh open alice"), "ssh: waits; ssh: waits")
				tt.then(c, func() { close(slow); synctest.Wait() })
				want(t, "second answer", c.hears(), tt.want)
			})
		})
	}
	t.Run("very many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			c := openClub(t, m, clubDoors)
			slow := make(chan struct{})
			m.do(func() { m.slow = slow })
			a := netip.MustParseAddr("198.51.100.0")
			for range maxExpected + 20 {
				a = a.Next()
				c.says(a, "ssh open alice")
			}
			time.Sleep(time.Second)
			close(slow)
			synctest.Wait()
			want(t, "second answers", strings.Count(c.hears(), "open for"), maxExpected)
		})
	})
}

// An alarm is recorded once a minute for the same visitor, and counted.
func TestAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		c.order(lock("alice"))
		c.order(lock("bob"))
		for range 3 {
			c.says(visitor, "web open alice")
		}
		c.says(visitor, "web open bob")
		want(t, "alarms", c.events(audit.EventAlarm), []string{"192.0.2.2 club alice: is locked out", "192.0.2.2 club bob: is locked out"})
		time.Sleep(alarmEvery)
		c.says(visitor, "web open alice")
		want(t, "alarms a minute later", len(c.events(audit.EventAlarm)), 3)
		if got := c.ReadMetrics().Events["web"][audit.EventAlarm]; got != 3 {
			t.Errorf("%d alarms are counted, want 3", got)
		}
	})
}

// With an order that cuts, those who came in by what has ended are out, and nobody else.
func TestSessionsAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		c := openClub(t, m, clubDoors)
		c.says(visitor, "web open alice")
		c.says(neighbour, "web open bob")
		c.says(visitor6, "web open alice")
		c.says(visitor6, "web open bob") // by grants of both
		var all []presence.Connection
		for _, from := range []netip.Addr{visitor, neighbour, visitor6} {
			all = append(all, presence.Connection{Proto: 6, Local: netip.MustParseAddrPort("198.51.100.1:443"), Remote: netip.AddrPortFrom(from, 40000)})
		}
		m.do(func() { m.sessions = all })
		seen := c.world.Connections // flows cannot be seen, and sockets can
		c.world.Connections = func(ports [][]port.Range) ([][]presence.Connection, error) {
			all, _ := seen(ports)
			return all, presence.ErrFlows
		}
		c.order(lock("alice"))
		synctest.Wait()
		want(t, "cut", m.cut, []string{"192.0.2.2:40000"})
	})
}

// Whoever is cut off loses what they are in by, be the grant that let them in over or not.
// Who lost their grants before, and was not to be cut off then, stays in, as does who may
// have come in by a neighbour's grant.
func TestSessionsWhoseGrantsAreOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		c := openClub(t, m, clubDoors)
		c.says(visitor, "web open alice")
		c.says(neighbour, "web open bob")
		c.says(visitor6, "web open alice")
		c.says(visitor6, "web open bob")
		var all []presence.Connection
		for _, from := range []netip.Addr{visitor, neighbour, visitor6} {
			all = append(all, presence.Connection{Proto: 6, Local: netip.MustParseAddrPort("198.51.100.1:443"), Remote: netip.AddrPortFrom(from, 40000)})
		}
		m.do(func() { m.sessions = all })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		want(t, "grants after two minutes", c.in("web"), "")
		c.m.do(func() { c.files.text["/members"] = "alice" })
		time.Sleep(time.Minute)
		synctest.Wait()
		want(t, "answer", c.order(lock("alice")), "club lock: done; grants ended: 0")
		synctest.Wait()
		want(t, "cut", m.cut, []string{"192.0.2.2:40000"})
	})
}

// Very many grants end in parts, and the order is answered after the last.
func TestVeryManyGrantsOfOneParty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		c := openClub(t, m, clubDoors)
		const many = mostOfOne
		a := netip.MustParseAddr("198.18.0.0")
		var all []knock.Heard
		for range many {
			a = a.Next()
			h := letterFrom(a, "")
			h.Said = clubSaid("web open alice")
			all = append(all, h)
		}
		for part := range slices.Chunk(all, 500) {
			c.Hear(part)
		}
		synctest.Wait()
		c.says(visitor, "web open bob")
		m.do(func() { m.largest = 0 })
		want(t, "answer", c.order(lock("alice")), fmt.Sprintf("club lock: done; grants ended: %d", many))
		want(t, "at web", c.in("web"), "192.0.2.2 club bob")
		if m.largest > 2*maxBatch {
			t.Errorf("one change of the fence has %d grants, want %d at most", m.largest, 2*maxBatch)
		}
		if len(m.claims) != 1 {
			t.Errorf("%d claims are on disk, want 1", len(m.claims))
		}
	})
}

// Rules are the Kept's before a recogniser is made of them, and those of the configuration
// that comes back when another was not kept.
func TestRulesInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		rules := func() (all []string) {
			for _, use := range c.keepOf("club").of.(*clubKept).rules {
				all = append(all, use.Door+" "+use.Rule.(clubRule).members)
			}
			return all
		}
		want(t, "rules", rules(), []string{"ssh /members", "web /members"})
		c.m.do(func() { c.files.text["/others"] = "carol" })
		write(t, c.path, strings.ReplaceAll(clubDoors, "/members", "/others"))
		c.says(visitor, "web open alice")
		c.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
		synctest.Wait() // until its files are read
		want(t, "rules of the new one", rules(), []string{"ssh /others", "web /others"})
		want(t, "answer to carol", c.says(visitor, "web open carol"), "web: open for 30s")
		c.order(control.ApplyRequest{Action: "undo"})
		synctest.Wait()
		want(t, "rules of the old one", rules(), []string{"ssh /members", "web /members"})
		want(t, "answer to bob", c.says(visitor, "web open bob"), "web: open for 30s")
	})
}

// Marks under no door are the Kept's alone: nothing that goes takes them along.
func TestMarksUnderNoDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.marks[markKey{"", "club", "alice"}] = []byte("locked")
		m.marks[markKey{"", "unheard-of", "x"}] = []byte("y")
		before := len(m.marks)
		c := openClub(t, m, clubDoors)
		want(t, "answer", c.says(visitor, "web open alice"), "web: refused: wrong")
		write(t, c.path, webDoor)
		c.order(control.ApplyRequest{Action: "apply"})
		c.again()
		c.Status()
		want(t, "marks", len(m.marks), before)
	})
}
