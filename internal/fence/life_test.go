//go:build linux

package fence

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func sshDoor(t testing.TB) Door { return Door{Name: "ssh", Ports: ports(t, "22/tcp")} }

func TestOwnedTableStandsForeignFlush(t *testing.T) {
	t.Parallel()
	n := nstest.New(t)
	nstest.Need(t, "nft")
	f := openIn(t, n, false)
	if !f.Owned() {
		t.Fatal("not owned: this test needs Linux 6.9")
	}
	must(t, f.Guard([]Door{sshDoor(t)}))
	before := list(n)
	n.Run("nft", "flush", "ruleset")
	for _, args := range [][]string{
		{"delete", "table", "inet", "doorward"},
		{"flush", "chain", "inet", "doorward", "door-ssh"},
		{"add", "element", "inet", "doorward", "door-ssh.v4.32", "{ 192.0.2.2 }"},
	} {
		out, err := n.Command(t.Context(), "nft", args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Operation not permitted") {
			t.Errorf("nft %s: %v, want it not permitted\n%s", strings.Join(args, " "), err, out)
		}
	}
	if after := list(n); after != before {
		t.Errorf("the table was\n%s\nand is\n%s", before, after)
	}
	must(t, f.Check())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOnlyOneOwns(t *testing.T) {
	t.Parallel()
	n := nstest.New(t)
	f := openIn(t, n, false)
	n.Do(func() error {
		if _, err := Open(f.log); !errors.Is(err, ErrBusy) {
			t.Errorf("a second Open: %v, want ErrBusy", err)
		}
		if err := Cleanup(); !errors.Is(err, ErrBusy) {
			t.Errorf("Cleanup beside an owner: %v, want ErrBusy", err)
		}
		return nil
	})
	stands := func(want bool) {
		t.Helper()
		n.Do(func() error {
			if got, err := Stands(); err != nil || got != want {
				t.Errorf("Stands: %v, %v, want %v", got, err, want)
			}
			return nil
		})
	}
	stands(true) // regardless of who owns it
	must(t, f.Close())
	stands(true)
	n.Do(Cleanup)
	stands(false)
	n.Do(Cleanup) // no table is not an error
	n.Do(func() error {
		c, err := nft.Dial(tableName)
		if err != nil {
			return err
		}
		defer c.Netlink.Close()
		if got, err := c.Read(); got != nil || err != nil {
			t.Errorf("after Cleanup the table is %v, %v", got, err)
		}
		return nil
	})
}

// After the daemon has ended, the table still guards, and a new daemon adopts it with its
// grants as they are.
func TestAdoption(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	doors := []Door{sshDoor(t), {Name: "vpn", Ports: ports(t, "1194/udp")}}
	p.guard(doors...)
	p.give(grant("ssh", visitorIP, time.Hour), grant("ssh", "2001:db8:7::/48", time.Hour), grant("vpn", visitorIP, time.Hour))
	before := list(p.host)
	must(t, p.f.Close())
	must(t, p.f.Close()) // a second Close is not an error
	want(t, p.visitor, "tcp", at(hostIP6, 22), dark)

	p.f = openIn(t, p.host, false)
	if err := p.f.Check(); !errors.Is(err, errNoDoors) {
		t.Errorf("Check before Guard: %v", err)
	}
	gen := p.generation()
	must(t, p.f.Guard(doors))
	if p.generation() != gen {
		t.Error("Guard changed a table that was right already")
	}
	if after := list(p.host); after != before {
		t.Errorf("the table was\n%s\nand is\n%s", before, after)
	}
	gs, err := p.f.allGrants()
	must(t, err)
	if len(gs) != 3 {
		t.Errorf("Grants() = %v, want the three given", gs)
	}
	for _, g := range gs {
		if left(g) > time.Hour || left(g) < 50*time.Minute {
			t.Errorf("%v has %v left of an hour", g.Source, left(g))
		}
	}
	want(t, p.visitor, "tcp", at(hostIP, 22), reached)

	// A door that is removed loses its grants; others keep theirs.
	must(t, p.f.Guard(doors[:1]))
	must(t, p.f.Guard(doors))
	gs, err = p.f.allGrants()
	must(t, err)
	if len(gs) != 2 || gs[0].Door != "ssh" || gs[1].Door != "ssh" {
		t.Errorf("Grants() = %v, want the two of ssh", gs)
	}
}

func TestKilledDaemonLeavesAFence(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	cmd := p.host.Command(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	in, err := cmd.StdinPipe()
	must(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "guarding\n" {
		t.Fatalf("the child says %q", line)
	}
	must(t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		t.Fatal("the child was not killed")
	}
	want(t, p.visitor, "tcp", at(hostIP6, 22), dark)
	want(t, p.visitor, "tcp", at(hostIP, 22), reached)
	p.guard(sshDoor(t))
	if gs, err := p.f.allGrants(); err != nil || len(gs) != 1 {
		t.Errorf("Grants() = %v, %v, want the one given", gs, err)
	}
}

// Without the kernel's protection, Watch notices changes, and Guard restores the table.
func TestWatchAndRestore(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "nft")
	n := nstest.New(t)
	f := openIn(t, n, true)
	if f.Owned() {
		t.Fatal("the fence owns the table, although it must not")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var changed <-chan struct{}
	n.Do(func() (err error) { changed, err = f.Watch(ctx); return })
	doors := []Door{sshDoor(t)}
	must(t, f.Guard(doors))
	must(t, f.Change(Changes{Give: []Grant{grant("ssh", "192.0.2.9", time.Hour), grant("ssh", "192.0.2.9/24", time.Hour)}}))
	before := list(n)

	for _, what := range []string{"flush ruleset", "delete table inet doorward", "flush table inet doorward"} {
		n.Run("nft", "add table ip other") // does not concern the fence
		n.Run("nft", what)
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("nft %s: not noticed", what)
		}
		if err := f.Check(); err == nil {
			t.Errorf("nft %s: not seen by Check", what)
		}
		if _, err := f.allGrants(); err == nil && what != "flush table inet doorward" {
			t.Errorf("nft %s: not seen by Grants", what)
		}
		must(t, f.Guard(doors))
		must(t, f.Check())
		must(t, f.Change(Changes{Give: []Grant{grant("ssh", "192.0.2.9", time.Hour), grant("ssh", "192.0.2.9/24", time.Hour)}}))
		if d := gocmp.Diff(blocks(before), blocks(list(n))); d != "" {
			t.Errorf("nft %s: the table is not restored (-before +after):\n%s", what, d)
		}
	}
	// Only changes of the table by others are signalled.
	n.Run("nft", "add table ip other2")
	select {
	case <-changed:
		t.Error("a signal, although nobody else has changed the table")
	case <-time.After(silence):
	}
	cancel()
	for range changed {
		t.Error("a signal after Watch ended")
	}
}

// blocks splits a listing, so that listings can be compared whatever the order of sets
// and chains.
func blocks(s string) []string {
	version := fmt.Sprintf("comment %q\n", layoutVersion)
	s = strings.Replace(strings.TrimSuffix(s, "}\n"), version, version+"\n", 1)
	b := strings.Split(s, "\n\n")
	for i := range b {
		b[i] = strings.TrimSpace(b[i])
	}
	slices.Sort(b)
	return b
}

func TestCheckNamesTampering(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "nft")
	n := nstest.New(t)
	f := openIn(t, n, true)
	doors := []Door{
		{Name: "ssh", Ports: ports(t, "22/tcp"), Always: prefixes("192.0.2.0/24")},
		{Name: "vpn", Ports: ports(t, "1194/udp"), Reject: true},
	}
	for _, tc := range []struct{ do, want string }{
		{"delete table inet doorward", "the table is gone"},
		{"flush ruleset", "the table is gone"},
		{"add table inet doorward { flags dormant; }", "the table is switched off (flag dormant)"},
		{"flush chain inet doorward prerouting", `chain "prerouting": the rule "this host itself" is gone`},
		{"flush chain inet doorward door-ssh", `chain "door-ssh": the rule "strangers" is gone`},
		{"insert rule inet doorward door-ssh accept", `chain "door-ssh": rule 1, "", is not the fence's`},
		{`insert rule inet doorward door-ssh drop comment "grants, IPv4/32"`, `chain "door-ssh": the rule "grants, IPv4/32" was changed`},
		{`flush chain inet doorward door-ssh; add rule inet doorward door-ssh counter name "door-ssh" comment "strangers"`,
			`chain "door-ssh": the rule "grants, IPv4/32" is gone`},
		{`add rule inet doorward door-ssh counter name "door-ssh" comment "strangers"`, `chain "door-ssh": the rules are repeated or in another order`},
		{"add chain inet doorward prerouting { policy drop; }", `chain "prerouting" has another policy`},
		{"add chain inet doorward mine", `chain "mine" is not the fence's`},
		{"flush chain inet doorward prerouting; delete chain inet doorward prerouting; add chain inet doorward prerouting { type filter hook input priority 0; }",
			`chain "prerouting" hangs at another hook`},
		{"delete element inet doorward doors.tcp { 22 }", `the elements of set "doors.tcp" were changed`},
		{"add element inet doorward doors.tcp { 80 : drop }", `the elements of set "doors.tcp" were changed`},
		{"delete element inet doorward doors.tcp { 22 }; add element inet doorward doors.tcp { 22 : goto door-ssh }", `the elements of set "doors.tcp" were changed`},
		{"delete element inet doorward rejecting.udp { 1194 }", `the elements of set "rejecting.udp" were changed`},
		{"add element inet doorward door-ssh.always.v4 { 198.51.100.0/24 }", `the elements of set "door-ssh.always.v4" were changed`},
		{"flush chain inet doorward door-ssh; delete set inet doorward door-ssh.v4.32", `set "door-ssh.v4.32" is gone`},
		{"flush chain inet doorward door-ssh; delete set inet doorward door-ssh.v4.32; add set inet doorward door-ssh.v4.32 { type ipv4_addr; }",
			`set "door-ssh.v4.32" is of another kind`},
		{"add set inet doorward mine { type ipv4_addr; }", `set "mine" is not the fence's`},
		{"flush chain inet doorward door-vpn; delete counter inet doorward door-vpn", `counter "door-vpn" is gone`},
		{"add counter inet doorward mine", `counter "mine" is not the fence's`},
		{"flush map inet doorward doors.tcp; flush chain inet doorward door-ssh; delete chain inet doorward door-ssh",
			`chain "door-ssh" is gone`},
	} {
		must(t, f.Guard(doors))
		must(t, f.Check())
		before := list(n)
		n.Run("nft", tc.do)
		err := f.Check()
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("nft %s: Check says %v, want %q", tc.do, err, tc.want)
		}
		if err := f.Guard(doors); err != nil {
			t.Errorf("Guard after nft %s: %v", tc.do, err)
		}
		if d := gocmp.Diff(blocks(before), blocks(list(n))); d != "" {
			t.Errorf("Guard after nft %s (-before +after):\n%s", tc.do, d)
		}
	}
}

// A table that a boot script loaded from a listing does not have the flags with which it
// could be adopted; one of another version has another layout. Both are replaced, and
// their grants are kept.
func TestReplacesForeignTable(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "nft")
	for name, change := range map[string]func(string) string{
		"saved and loaded": func(s string) string { return s },
		"other version":    func(s string) string { return strings.Replace(s, layoutVersion, "doorward layout 0", 1) },
		"no version":       func(s string) string { return strings.Replace(s, `comment "`+layoutVersion+`"`, "", 1) },
		"no rules": func(string) string {
			return "table inet doorward {\nset door-ssh.v4.32 {\ntype ipv4_addr\nflags timeout,interval\nelements = { 192.0.2.9 timeout 1h }\n}\n}\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := nstest.New(t)
			f := openIn(t, n, false)
			must(t, f.Guard([]Door{sshDoor(t)}))
			must(t, f.Change(Changes{Give: []Grant{grant("ssh", "192.0.2.9", time.Hour)}}))
			right := list(n)
			must(t, f.Close())
			n.Do(Cleanup)
			cmd := n.Command(t.Context(), "nft", "-f", "-")
			cmd.Stdin = strings.NewReader(change(strings.Replace(right, "flags owner", "", 1)))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			f = openIn(t, n, false)
			if f.Owned() {
				t.Error("the fence owns a table that cannot be owned")
			}
			must(t, f.Guard([]Door{sshDoor(t)}))
			must(t, f.Check())
			if !f.Owned() {
				t.Error("the fence does not own the table after Guard")
			}
			gs, err := f.allGrants()
			if err != nil || len(gs) != 1 || left(gs[0]) < 59*time.Minute {
				t.Errorf("Grants() = %v, %v, want the one that was there", gs, err)
			}
		})
	}
}

// A door that becomes single-use, or stops being so, needs sets of another kind.
func TestGrantsOutliveAChangeOfKind(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	d := sshDoor(t)
	p.guard(d)
	p.give(grant("ssh", visitorIP, time.Hour), grant("ssh", "2001:db8::/60", time.Hour))
	for _, single := range []bool{true, false, true} {
		d.SingleUse = single
		p.guard(d)
		must(t, p.f.Check())
		if gs, err := p.f.allGrants(); err != nil || len(gs) != 2 {
			t.Fatalf("single-use %v: Grants() = %v, %v, want two", single, gs, err)
		}
	}
	want(t, p.visitor, "tcp", at(hostIP, 22), reached)
	want(t, p.visitor, "tcp", at(hostIP, 22), dark)
}

// After the connection broke, the next call makes a new one.
func TestGoesOnAfterABrokenConnection(t *testing.T) {
	t.Parallel()
	n := nstest.New(t)
	f := openIn(t, n, false)
	must(t, f.Guard([]Door{sshDoor(t)}))
	g := []Grant{grant("ssh", "192.0.2.9", time.Hour)}
	for _, call := range []func() error{
		func() error { return f.Change(Changes{Give: g}) },
		func() error { return f.Check() },
		func() error { _, _, err := f.Used("ssh", netip.MustParseAddr("192.0.2.9")); return err },
		func() error { return f.Guard([]Door{sshDoor(t)}) },
	} {
		must(t, f.conn.Netlink.Close())
		if err := call(); err == nil {
			t.Error("no error over a closed connection")
		}
		if f.Owned() {
			t.Error("owned without a connection")
		}
		if err := call(); err == nil || !strings.Contains(err.Error(), "another network namespace") {
			t.Errorf("connected again from another namespace: %v", err)
		}
		n.Do(call)
		if !f.Owned() {
			t.Error("not owned again")
		}
	}
	must(t, f.Check())
	must(t, f.lister.conn.Netlink.Close())
	for range 2 {
		if gs, err := f.allGrants(); err == nil {
			t.Errorf("Grants() = %v without a connection", gs)
		}
	}
	n.Do(func() error {
		gs, err := f.allGrants()
		if len(gs) != 1 {
			t.Errorf("Grants() = %v, want one", gs)
		}
		return err
	})
	must(t, f.Close())
	if _, err := f.allGrants(); !errors.Is(err, errClosed) {
		t.Errorf("Grants() of a closed fence: %v", err)
	}
	if err := f.Check(); !errors.Is(err, errClosed) {
		t.Errorf("Check() of a closed fence: %v", err)
	}
}

// A refusal by the kernel changes nothing, and the connection can still be used.
func TestRefusalChangesNothing(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "nft")
	n := nstest.New(t)
	f := openIn(t, n, true)
	must(t, f.Guard([]Door{sshDoor(t)}))
	n.Run("nft", "delete table inet doorward")
	for range 3 {
		err := f.Change(Changes{Give: []Grant{grant("ssh", "192.0.2.9", time.Hour)}})
		if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "add to set door-ssh.v4.32: ") {
			t.Errorf("Change without a table: %v, want ENOENT and the set's name", err)
		}
	}
	must(t, f.Guard([]Door{sshDoor(t)}))
	must(t, f.Change(Changes{Give: []Grant{grant("ssh", "192.0.2.9", time.Hour)}}))
}

func TestWithoutPrivilege(t *testing.T) {
	t.Parallel()
	n := nstest.New(t)
	n.Do(func() error { // on a thread that ends afterwards
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			return err
		}
		_, err := Open(nil)
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "run as root or with CAP_NET_ADMIN") {
			t.Errorf("Open without privileges: %v", err)
		}
		return nil
	})
}

func TestBadArguments(t *testing.T) {
	t.Parallel()
	n := nstest.New(t)
	f := openIn(t, n, false)
	for _, tc := range []struct {
		doors []Door
		want  string
	}{
		{[]Door{{Name: "a.b"}}, `door "a.b": a name has 1 to 24 of the characters a-z, 0-9, - and _`},
		{[]Door{{Name: "a"}, {Name: "a"}}, `door "a" is there twice`},
		{[]Door{{Name: "a", Ports: ports(t, "20-22/tcp")}, {Name: "b", Ports: ports(t, "22/tcp")}},
			`door "b": ports "22/tcp" are already guarded by door "a" as "20-22/tcp"`},
		{[]Door{{Name: "a", Ports: ports(t, "22/tcp", "22/tcp")}}, `already guarded by door "a"`},
		{[]Door{{Name: "a", Ports: []port.Range{{Proto: 17}}}}, `door "a": ports "0/udp": allowed are 1 to 65535 of tcp or udp`},
		{[]Door{{Name: "a", Always: make([]netip.Prefix, 1)}}, `door "a": always: a prefix is not valid`},
	} {
		if err := f.Guard(tc.doors); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Guard(%v) = %v, want %q", tc.doors, err, tc.want)
		}
	}
	if err := f.Change(Changes{Give: []Grant{grant("ssh", "192.0.2.9", time.Hour)}}); !errors.Is(err, errNoDoors) {
		t.Errorf("Change before Guard: %v", err)
	}
	must(t, f.Guard([]Door{sshDoor(t)}))
	if err := f.Change(Changes{Give: []Grant{grant("sh", "192.0.2.9", time.Hour)}}); err == nil || !strings.Contains(err.Error(), `door "sh" is not guarded`) {
		t.Errorf("Change for an unknown door: %v", err)
	}
	if err := f.Change(Changes{Revoke: []Grant{{Door: "ssh"}}}); err == nil || !strings.Contains(err.Error(), `door "ssh": the grant's source is no valid prefix`) {
		t.Errorf("Change without a source: %v", err)
	}
}
