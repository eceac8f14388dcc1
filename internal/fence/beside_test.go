//go:build linux

package fence

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
	"pgregory.net/rapid"
)

// manyOf makes the fence believe that a door has more grants than are removed one by
// one.
func manyOf(f *Fence, door string) {
	for set := range f.doors[door].most {
		f.doors[door].most[set] = fewElements + 1
	}
}

// A door is emptied before everything else in a change, and other doors keep their
// grants.
func TestEmptied(t *testing.T) {
	t.Parallel()
	for _, anew := range []bool{false, true} {
		f := openIn(t, nstest.New(t), false)
		must(t, f.Guard([]Door{sshDoor(t), {Name: "web", Ports: ports(t, "80/tcp")}}))
		stays := []Grant{grant("web", "192.0.2.7", time.Hour), grant("ssh", "198.51.100.0/24", time.Hour), grant("ssh", "192.0.2.5", time.Hour)}
		must(t, f.Change(Changes{Give: append(many("ssh", 30), stays[0],
			grant("ssh", "192.0.2.0/24", time.Hour), grant("ssh", "::/0", time.Hour), grant("ssh", "192.0.2.5", time.Minute))}))
		if anew {
			manyOf(f, "ssh")
		}
		must(t, f.Change(Changes{Empty: []string{"ssh", "ssh"}, Revoke: []Grant{grant("ssh", "192.0.2.5", 0)}, Give: stays[1:]}))
		must(t, f.Check())
		gs, err := f.allGrants()
		must(t, err)
		if got, want := slices.Sorted(slices.Values(told(gs))), slices.Sorted(slices.Values(told(stays))); !slices.Equal(got, want) {
			t.Errorf("with new sets %v: the grants are %v, want %v", anew, got, want)
		}
		if err := f.Change(Changes{Empty: []string{"sh"}}); err == nil {
			t.Error("emptying a door that is not guarded succeeded")
		}
	}
}

// If a door has many grants, the work to empty it does not grow with their number.
func TestEmptyingTakesTheSameForMany(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	must(t, f.Guard([]Door{sshDoor(t)}))
	var sizes []int
	for _, n := range []int{4_000, 40_000} {
		must(t, f.Change(Changes{Give: many("ssh", n)}))
		b := f.conn.Batch()
		next := f.newParts(b, []string{"ssh"}, nil)
		sizes = append(sizes, b.Size())
		must(t, f.conn.Commit(b))
		must(t, f.changed(f.conn, next))
		if gs, err := f.allGrants(); err != nil || len(gs) > 0 {
			t.Errorf("there are %d grants in an empty door, %v", len(gs), err)
		}
	}
	if sizes[0] != sizes[1] {
		t.Errorf("emptying takes %d bytes of messages, and with ten times the grants %d, want the same", sizes[0], sizes[1])
	}
}

// A single-use grant that is given after its door was emptied is good for one
// connection, and the fence still knows who used the door before.
func TestEmptiedSingleUse(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.guard(Door{Name: "once", Ports: ports(t, "22/tcp"), SingleUse: true})
	g := grant("once", visitorIP, time.Minute)
	p.give(g)
	want(t, p.visitor, "tcp", at(hostIP, 22), reached)
	p.give(g)
	for _, anew := range []bool{false, true} {
		if anew {
			manyOf(p.f, "once")
		}
		p.do(p.f.Change(Changes{Empty: []string{"once"}}))
		want(t, p.visitor, "tcp", at(hostIP, 22), dark)
		p.do(p.f.Change(Changes{Empty: []string{"once"}, Give: []Grant{g}}))
		want(t, p.visitor, "tcp", at(hostIP, 22), reached)
		want(t, p.visitor, "tcp", at(hostIP, 22), dark)
	}
	if _, used, err := p.f.Used("once", g.Source.Addr()); err != nil || !used {
		t.Errorf("Used() = %v, %v after the door was emptied, want true", used, err)
	}
}

// Reading does not delay changes of grants.
func TestReadingBeside(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	must(t, f.Guard([]Door{sshDoor(t)}))
	given := many("ssh", 9)
	must(t, f.Change(Changes{Give: given}))
	for name, call := range map[string]func() error{
		"Check":   f.Check,
		"Grants":  func() error { _, err := f.allGrants(); return err },
		"Ends":    func() error { _, err := f.Ends(given); return err },
		"Refused": func() error { _, err := f.Refused(); return err },
		"Guard":   func() error { return f.Guard([]Door{sshDoor(t)}) },
	} {
		f.lister.turn.Lock() // the kernel is slow to answer
		f.asker.turn.Lock()
		done := make(chan error)
		go func() { done <- call() }()
		must(t, f.Change(Changes{Give: given, Empty: []string{"ssh"}}))
		select {
		case err := <-done:
			t.Errorf("%s did not wait for its turn to read: %v", name, err)
		default:
		}
		f.lister.turn.Unlock()
		f.asker.turn.Unlock()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A change of all doors is made in parts, and grants can be changed between them.
func TestGuardInParts(t *testing.T) {
	t.Parallel()
	p := &place{t: t, host: nstest.New(t)}
	doors := func(shift int, single bool) (ds []Door) {
		for i := range 60 {
			ds = append(ds, Door{Name: fmt.Sprint("d", i+shift), SingleUse: single, Ports: ports(t, fmt.Sprintf("%d/tcp", 100+i))})
		}
		return ds
	}
	p.guard(doors(0, false)...)
	g := grant("d29", "192.0.2.0/24", time.Hour)
	p.give(g)
	for _, next := range [][]Door{doors(0, true), doors(5, true), doors(5, false)} {
		before := p.generation()
		p.guard(next...)
		if n := p.generation() - before; n < 3 || n >= 60 {
			t.Errorf("Guard took %d transactions for 60 doors, want some, and fewer than doors", n)
		}
		must(t, p.f.Check())
		if gs, err := p.f.allGrants(); err != nil || len(gs) != 1 || gs[0].Source != g.Source {
			t.Errorf("Grants() = %v, %v, want the one", gs, err)
		}
	}
	before := p.generation()
	p.guard(doors(5, false)...)
	if p.generation() != before {
		t.Error("Guard changed a table that was right already")
	}
}

// While ports move from one door to another, a port that is guarded before and after is
// guarded meanwhile, and none leads to the new rules of a door to which it will not
// belong in the end.
func TestPortsThatMove(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(what string) []nft.Element {
			var doors []Door
			at := uint16(1)
			for range rapid.IntRange(0, 5).Draw(rt, what) {
				first := at + rapid.Uint16Range(0, 2).Draw(rt, "gap")
				last := first + rapid.Uint16Range(0, 3).Draw(rt, "more")
				if rapid.IntRange(0, 9).Draw(rt, "to the end") == 0 {
					last = 65535
				}
				doors = append(doors, Door{Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "door"),
					Ports: []port.Range{{Proto: port.TCP, First: first, Last: last}}})
				if at = last + 1; last == 65535 {
					break
				}
			}
			return portSet("doors.tcp", nft.SetDef{}, doors, port.TCP, "").Elems
		}
		old, next := draw("old"), draw("next")
		changing := map[string]bool{}
		for _, name := range []string{"a", "b", "c"} {
			changing[name] = rapid.Bool().Draw(rt, "changes "+name)
		}
		now, moves := between(old, next, changing)
		dropped := false
		was, will, is := naivePorts(old), naivePorts(next), naivePorts(now)
		for p := range 65536 {
			want := was[p]
			if want != "" && changing[doorOf(want)] && will[p] != want {
				want, dropped = "", true
			}
			if is[p] != want {
				rt.Fatalf("port %d leads to %q, want %q: before %q, after %q", p, is[p], want, was[p], will[p])
			}
		}
		if moves != dropped {
			rt.Fatalf("moves is %v, want %v", moves, dropped)
		}
	})
}

// naivePorts returns where each port leads.
func naivePorts(elems []nft.Element) (chains [65536]string) {
	for i, e := range elems {
		last := 65535
		if i+1 < len(elems) {
			last = int(elems[i+1].Key[0])<<8 + int(elems[i+1].Key[1]) - 1
		}
		for p := int(e.Key[0])<<8 + int(e.Key[1]); p <= last; p++ {
			chains[p] = e.Chain
		}
	}
	return chains
}

// In the kernel too, a port that moves to another door leads nowhere meanwhile.
func TestPortsThatMoveAreDark(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	before := []Door{{Name: "a", Ports: ports(t, "22/tcp", "22/udp")}}
	p.guard(before...)
	p.give(grant("a", visitorIP, time.Minute))
	between, moves := betweenPorts(p.f.shared.want, layoutShared([]Door{{Name: "b", Ports: before[0].Ports}}, p.f.manner), map[string]bool{"a": true})
	if !moves {
		t.Fatal("nothing moves")
	}
	p.do(p.f.share(between, nil))
	p.do(p.f.Check())
	for _, network := range []string{"tcp", "udp"} {
		want(t, p.visitor, network, at(hostIP, 22), dark)
	}
	p.guard(before...)
	for _, network := range []string{"tcp", "udp"} {
		want(t, p.visitor, network, at(hostIP, 22), reached)
	}
}

// A list has the grants of the doors that were asked for.
func TestList(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	must(t, f.Guard([]Door{sshDoor(t), {Name: "web", Ports: ports(t, "80/tcp")}, {Name: "vpn", Ports: ports(t, "1194/udp")}}))
	must(t, f.Change(Changes{Give: slices.Concat(many("ssh", 2_000), many("web", 30), []Grant{grant("ssh", "::/0", time.Hour)})}))
	for _, tc := range []struct {
		doors []string
		want  map[string]int
	}{
		{nil, map[string]int{"ssh": 2_001, "web": 30}},
		{[]string{"web", "vpn", "sh"}, map[string]int{"web": 30}},
	} {
		var got map[string]int
		var whole bool
		var err error
		for range 5 { // one may come twice while the kernel's table grows, which ends
			got = map[string]int{}
			if whole, err = f.list(tc.doors, func(g Grant) { got[g.Door]++ }); maps.Equal(got, tc.want) {
				break
			}
		}
		if err != nil || !whole || !maps.Equal(got, tc.want) {
			t.Errorf("list(%v) has %v, %v, %v, want %v of one moment", tc.doors, got, whole, err, tc.want)
		}
	}
}

// If a door is emptied while grants are read, only its own grants are missing from the
// list.
func TestEmptiedWhileItIsRead(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	must(t, f.Guard([]Door{sshDoor(t), {Name: "web", Ports: ports(t, "80/tcp")}}))
	must(t, f.Change(Changes{Give: many("ssh", 10_000)}))
	must(t, f.Change(Changes{Give: many("web", 30)}))
	first, web := true, map[string]bool{} // one may come twice
	whole, err := f.list(nil, func(g Grant) {
		if first {
			must(t, f.Change(Changes{Empty: []string{"ssh"}}))
		}
		first = false
		if g.Door == "web" {
			web[g.Source.String()] = true
		}
	})
	if whole || err != nil || len(web) != 30 {
		t.Errorf("list() = %v, %v, with %d grants of another door; want false, none, 30", whole, err, len(web))
	}
}

// No query waits for a change, nor a change for a query: whoever queries never has the lock
// that changes take.
func TestQueriesTakeNoLock(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	must(t, f.Guard([]Door{sshDoor(t)}))
	g := []Grant{grant("ssh", "192.0.2.9", time.Hour)}
	must(t, f.Change(Changes{Give: g}))
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, query := range map[string]func() error{
		"Refused":  func() error { _, err := f.Refused(); return err },
		"Ends":     func() error { _, err := f.Ends(g); return err },
		"Grants":   func() error { _, err := f.allGrants(); return err },
		"EndFlows": func() error { return f.EndFlows(g) },
		"Check":    f.Check,
		"Owned":    func() error { f.Owned(); return nil },
	} {
		ended := make(chan error, 1)
		go func() { ended <- query() }()
		select {
		case err := <-ended:
			must(t, err)
		case <-time.After(10 * time.Second): // a deadlock
			t.Errorf("%s waits for a change that is under way", name)
		}
	}
}

// While grants are changed, a look at the table shows no difference: Guard would lock
// every change out for as long as it takes to read and write the whole table.
func TestChangesAreNoDifference(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	var doors []Door
	for i := range 40 {
		doors = append(doors, Door{Name: fmt.Sprintf("door%d", i), Ports: ports(t, fmt.Sprintf("%d/tcp", 1000+i))})
	}
	must(t, f.Guard(doors))
	ended, stop := make(chan error), make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			door := doors[i%len(doors)].Name
			f.mu.Lock()
			manyOf(f, door)
			f.mu.Unlock()
			err := f.Change(Changes{Empty: []string{door}, Give: []Grant{grant(door, fmt.Sprintf("192.0.2.0/%d", 20+i%8), time.Hour)}})
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 50 {
		if d, _, err := f.look(); err != nil || len(d) > 0 {
			t.Errorf("differences %q, %v", d, err)
			break
		}
	}
	// A door that changed while it was read is known to have, so that it is read again.
	eventually := time.Now().Add(10 * time.Second)
	for moved := 0; moved == 0; {
		c, err := f.compareOnce(nil)
		must(t, err)
		if moved = len(c.moved); time.Now().After(eventually) {
			t.Error("no door is known to have changed while it was read")
			break
		}
	}
	close(stop)
	must(t, <-ended)
	must(t, f.Check())
}
