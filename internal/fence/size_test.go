//go:build linux

package fence

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"golang.org/x/sys/unix"
)

func TestManyGrantsAtOnce(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	must(t, f.Guard([]Door{sshDoor(t)}))
	gs := many("ssh", 10_000)
	must(t, f.Change(Changes{Give: gs, Revoke: gs})) // revoked and given, twice
	must(t, f.Change(Changes{Give: gs, Revoke: gs}))
	got, err := f.allGrants()
	must(t, err)
	sources := map[netip.Prefix]bool{}
	for _, g := range got {
		sources[g.Source] = true
	}
	for _, g := range gs {
		if !sources[g.Source] {
			t.Fatalf("%v was given and is not there", g.Source)
		}
	}
	if len(got) != len(gs) {
		t.Errorf("there are %d grants, want the %d that were given", len(got), len(gs))
	}
	must(t, f.Change(Changes{Give: gs[:1], Revoke: gs})) // one is given again
	if got, err := f.allGrants(); err != nil || len(got) != 1 {
		t.Errorf("Grants() = %d, %v, want the one", len(got), err)
	}
}

// Long lists of ports and prefixes, which take more than one message each, are complete.
func TestManyOfAll(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	d := Door{Name: strings.Repeat("x", 24)}
	for i := range 3000 {
		d.Ports = append(d.Ports, ports(t, fmt.Sprintf("%d/tcp", 2*i+1))...)
		d.Always = append(d.Always, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 25))
		d.Listen = append(d.Listen, ports(t, fmt.Sprintf("%d/tcp", 2*i+2))...)
	}
	must(t, f.Guard([]Door{d}))
	must(t, f.Check())
	d.Ports = d.Ports[1000:]
	must(t, f.Guard([]Door{d}))
	must(t, f.Check())
	if got := len(f.shared.base.Set("doors.tcp").Elems); got != 2*2000 {
		t.Errorf("%d elements for 2000 ports, want two each", got)
	}
}

func TestSingleUseIsFull(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	d := sshDoor(t)
	d.SingleUse = true
	must(t, f.Guard([]Door{d}))
	gs := many("ssh", 2*65_536)
	must(t, f.Change(Changes{Give: gs[:2*65_535]}))
	must(t, f.Change(Changes{Give: gs[:9]})) // giving grants again does not add to their number
	err := f.Change(Changes{Give: gs[2*65_535:]})
	if !errors.Is(err, unix.ENFILE) || !strings.Contains(err.Error(), "no more than 65,535 unspent grants") {
		t.Errorf("one grant too many: %v", err)
	}
	must(t, f.Change(Changes{Give: []Grant{grant("ssh", "192.0.2.0/24", time.Minute)}, Revoke: gs[:1]}))
}
