//go:build linux

package fence

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/google/go-cmp/cmp"
)

// missing returns those of grants that the kernel does not have.
func missing(f *Fence, grants []Grant) (gone []Grant, err error) {
	ends, err := f.Ends(grants)
	for i, end := range ends {
		if end.IsZero() && err == nil {
			gone = append(gone, grants[i])
		}
	}
	return gone, err
}

func TestEnds(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	if _, err := f.Ends(nil); err != nil {
		t.Errorf("Ends(nothing) before the first Guard: %v", err)
	}
	if gone, err := f.Ends([]Grant{grant("ssh", "192.0.2.2", 0)}); err == nil {
		t.Errorf("Ends() before the first Guard = %v, want an error", gone)
	}
	must(t, f.Guard([]Door{sshDoor(t)}))
	given := append(many("ssh", 300),
		grant("ssh", "192.0.2.0/24", time.Hour), grant("ssh", "::/0", time.Hour), grant("ssh", "::ffff:198.51.100.7", time.Hour))
	must(t, f.Change(Changes{Give: given}))
	never := []Grant{
		grant("ssh", "192.0.2.0/25", time.Hour), // no set has that length
		grant("ssh", "0.0.0.0/0", time.Hour),
		grant("ssh", "192.0.2.0", time.Hour),
		grant("web", "192.0.2.2", time.Hour), // there is no such door
	}
	revoked := slices.Concat(given[7:9], given[60:70], given[299:300])
	must(t, f.Change(Changes{Revoke: revoked}))
	gone, err := missing(f, slices.Concat(given[:150], never, given[150:]))
	must(t, err)
	want := slices.Concat(given[7:9], given[60:70], never, given[299:300])
	if diff := cmp.Diff(told(want), told(gone)); diff != "" {
		t.Errorf("missing grants (-want +got):\n%s", diff)
	}
	lasts := []Grant{grant("ssh", "192.0.2.2", time.Hour), grant("ssh", "192.0.2.3", time.Minute)}
	must(t, f.Change(Changes{Give: lasts}))
	ends, err := f.Ends(lasts)
	must(t, err)
	for i, end := range ends {
		if off := lasts[i].Until.Sub(end); off < -time.Second || off > 30*time.Second {
			t.Errorf("the grant that was given until %s ends at %s", lasts[i].Until, end)
		}
	}
	if gone, err := missing(f, []Grant{given[0], {Door: "ssh"}}); err == nil {
		t.Errorf("Ends() of no source = %v, want an error", gone)
	}
	if gone, err := missing(f, given[:7]); err != nil || len(gone) > 0 {
		t.Errorf("Ends() after that = %v, %v, want none", gone, err)
	}
	f.Close()
	if gone, err := missing(f, given); err == nil {
		t.Errorf("Ends() of a closed fence = %v, want an error", gone)
	}
}

func told(grants []Grant) (words []string) {
	for _, g := range grants {
		words = append(words, fmt.Sprint(g.Door, " ", g.Source))
	}
	return words
}

// A grant that a connection has spent is missing, even if the kernel has not freed it
// yet.
func TestSpentIsMissing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.guard(Door{Name: "once", Ports: ports(t, "22/tcp"), SingleUse: true})
	other := grant("once", "198.51.100.9", time.Minute)
	p.give(grant("once", visitorIP, time.Minute), other)
	want(t, p.visitor, "tcp", at(hostIP, 22), reached)
	gone, err := missing(p.f, []Grant{other, grant("once", visitorIP, 0)})
	must(t, err)
	if len(gone) != 1 || gone[0].Source.Addr().String() != visitorIP {
		t.Errorf("missing are %v, want the one that was spent", gone)
	}
}

// The cost, in messages, of querying grants and of reading all of them is bounded. The
// kernel walks a set again for each message of a list, so the messages must be as large
// as it makes them.
func TestWhatReadingCosts(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	must(t, f.Guard([]Door{sshDoor(t)}))
	must(t, f.Change(Changes{Give: many("ssh", 1)})) // so that the reader's connection exists
	if _, err := f.allGrants(); err != nil {
		t.Fatal(err)
	}
	heard := func(read func() error) int {
		before := f.lister.conn.Netlink.Heard + f.asker.conn.Netlink.Heard
		must(t, read())
		return f.lister.conn.Netlink.Heard + f.asker.conn.Netlink.Heard - before
	}
	for _, n := range []int{2_000, 20_000} {
		gs := many("ssh", n)
		must(t, f.Change(Changes{Give: gs}))
		for _, asked := range []int{1, 100, n} {
			if got := heard(func() error { _, err := f.Ends(gs[:asked]); return err }); got != asked {
				t.Errorf("with %d grants, a query of %d of them has %d answers, want one for each", n, asked, got)
			}
		}
		most := n/500 + 4 // the sets' first messages are smaller
		if got := heard(func() error { _, err := f.allGrants(); return err }); got > most {
			t.Errorf("reading %d grants took %d messages, want at most %d", n, got, most)
		}
	}
}
