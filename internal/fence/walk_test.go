//go:build linux

package fence

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	nft "github.com/doorward/doorward/internal/nftables"
)

// walk is a fence, and a model of what it should be.
type walk struct {
	t      testing.TB
	n      *nstest.NS
	f      *Fence
	plain  bool
	doors  []Door
	grants map[string]Grant // by door and source
	widths map[width]bool
}

// TestRandomWalk makes random calls, restarts and changes by others, and compares the
// kernel's table with the model after each.
func TestRandomWalk(t *testing.T) {
	nstest.Need(t, "nft")
	if testing.Short() {
		t.Skip("long")
	}
	few(t)
	n, fresh := nstest.New(t), nstest.New(t)
	rapid.Check(t, func(rt *rapid.T) {
		n.Do(Cleanup)
		w := &walk{t: t, n: n, plain: rapid.Bool().Draw(rt, "plain"), grants: map[string]Grant{}, widths: map[width]bool{}}
		w.f = openIn(t, n, w.plain)
		defer func() { w.f.Close() }()
		w.guard(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"guard":  w.guard,
			"change": w.change,
			"reopen": func(rt *rapid.T) { w.reopen(t, rt) },
			"tamper": w.tamper,
			"":       w.compare,
		})
		w.compareListing(t, rt, fresh)
	})
}

// few makes rapid do as many walks as a test run has time for.
func few(t *testing.T) {
	for name, value := range map[string]string{"rapid.checks": "15", "rapid.steps": "15"} {
		f := flag.Lookup(name)
		old := f.Value.String()
		must(t, f.Value.Set(value))
		t.Cleanup(func() { f.Value.Set(old) })
	}
}

func (w *walk) guard(rt *rapid.T) {
	doors := []Door{}
	for i, name := range []string{"ssh", "vpn", "9-x_"} {
		if !rapid.Bool().Draw(rt, "guarded "+name) {
			continue
		}
		doors = append(doors, Door{
			Name:      name,
			Ports:     ports(w.t, fmt.Sprintf("%d-%d/tcp", 100*i+1, 100*i+rapid.IntRange(1, 100).Draw(rt, "last")), fmt.Sprintf("%d/udp", i+1)),
			Reject:    rapid.Bool().Draw(rt, "reject"),
			SingleUse: rapid.Bool().Draw(rt, "single use"),
			Always:    rapid.SliceOfN(prefixGen(), 0, 4).Draw(rt, "always"),
		})
	}
	w.doors = rapid.Permutation(doors).Draw(rt, "doors")
	if there := slices.Sorted(maps.Keys(w.f.doors)); len(there) > 0 && rapid.Bool().Draw(rt, "halts") {
		err := halt(w.f, w.doors, rapid.SampledFrom(there).Draw(rt, "where"))
		if err != nil && !errors.Is(err, unix.ENOENT) || (err != nil) != (w.f.Check() != nil) {
			rt.Fatalf("Guard halted: %v, and Check: %v", err, w.f.Check())
		}
	}
	if err := w.f.Guard(w.doors); err != nil {
		rt.Fatal(err)
	}
	guarded := func(door string) bool {
		return slices.ContainsFunc(doors, func(d Door) bool { return d.Name == door })
	}
	maps.DeleteFunc(w.grants, func(_ string, g Grant) bool { return !guarded(g.Door) })
	maps.DeleteFunc(w.widths, func(v width, _ bool) bool { return !guarded(v.door) })
}

// prefixGen makes prefixes that are often equal or contained in each other.
func prefixGen() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(rt *rapid.T) netip.Prefix {
		a := netip.MustParseAddr(rapid.SampledFrom([]string{
			"192.0.2.1", "192.0.2.200", "198.51.100.7", "2001:db8::1", "2001:db8:0:1::", "::ffff:192.0.2.1", "255.255.255.255",
		}).Draw(rt, "address"))
		bits := rapid.SampledFrom([]int{0, 1, 8, 24, 25, 31, 32}).Draw(rt, "bits")
		if !a.Is4() {
			bits += 96
		}
		return netip.PrefixFrom(a, bits)
	})
}

func (w *walk) draw(rt *rapid.T, what string) []Grant {
	var gs []Grant
	if len(w.doors) == 0 {
		return nil
	}
	for range rapid.IntRange(0, 4).Draw(rt, what) {
		d := rapid.SampledFrom(w.doors).Draw(rt, "door")
		gs = append(gs, Grant{d.Name, prefixGen().Draw(rt, "source"), time.Now().Add(time.Duration(rapid.IntRange(1, 9).Draw(rt, "hours")) * time.Hour)})
	}
	return gs
}

func grantKey(g Grant) string { return g.Door + " " + canonical(g.Source).String() }

func (w *walk) change(rt *rapid.T) {
	give, revoke := w.draw(rt, "give"), w.draw(rt, "revoke")
	var empty []string
	for _, d := range w.doors {
		if rapid.IntRange(0, 3).Draw(rt, "empty") == 0 {
			empty = append(empty, d.Name)
			if rapid.Bool().Draw(rt, "many") {
				manyOf(w.f, d.Name)
			}
		}
	}
	if err := w.f.Change(Changes{Empty: empty, Give: give, Revoke: revoke}); err != nil {
		rt.Fatal(err)
	}
	maps.DeleteFunc(w.grants, func(_ string, g Grant) bool { return slices.Contains(empty, g.Door) })
	for _, g := range revoke {
		delete(w.grants, grantKey(g))
	}
	for _, g := range give {
		g.Source = canonical(g.Source)
		w.grants[grantKey(g)] = g
		w.widths[width{g.Door, familyOf(g.Source.Addr()).name, g.Source.Bits()}] = true
	}
}

func (w *walk) reopen(t *testing.T, rt *rapid.T) {
	if err := w.f.Close(); err != nil {
		rt.Fatal(err)
	}
	w.f = openIn(t, w.n, w.plain)
	if err := w.f.Guard(w.doors); err != nil {
		rt.Fatal(err)
	}
}

// tamper deletes or empties something of a table that is not owned; the kernel refuses
// that for an owned one.
func (w *walk) tamper(rt *rapid.T) {
	if !w.plain {
		return
	}
	var c *nft.Conn
	w.n.Do(func() (err error) { c, err = nft.Dial(tableName); return })
	defer c.Netlink.Close()
	b := c.Batch()
	pick := rapid.SampledFrom(w.f.wholeOf(shown).Chains).Draw(rt, "chain")
	switch rapid.IntRange(0, 3).Draw(rt, "how") {
	case 0:
		b.FlushChain(pick.Name)
	case 1:
		b.AddRule(pick.Name, newRule("tampered", []nft.Expr{nft.Accept()}))
	case 2:
		b.FlushSet("doors.tcp")
		b.AddElements("doors.tcp", []nft.Element{{Key: portKey(9), Chain: refuseChain}, {Key: portKey(12), End: true}})
	case 3:
		b.DeleteTable()
		clear(w.grants)
		clear(w.widths)
	}
	if err := c.Commit(b); err != nil {
		rt.Fatal(err)
	}
	if len(pick.Rules) > 0 && w.f.Check() == nil {
		rt.Fatal("Check did not notice the change")
	}
	if err := w.f.Guard(w.doors); err != nil {
		rt.Fatal(err)
	}
}

// compare compares everything that the model has with the kernel.
func (w *walk) compare(rt *rapid.T) {
	if err := w.f.Check(); err != nil {
		rt.Fatal(err)
	}
	if d := differences(w.f.wholeOf(wanted), w.f.wholeOf(shown)); len(d) > 0 {
		rt.Fatalf("the kernel's table differs from what was written: %q", d)
	}
	got, err := w.f.allGrants()
	if err != nil {
		rt.Fatal(err)
	}
	byKey := func(a, b Grant) int { return cmp.Compare(grantKey(a), grantKey(b)) }
	slices.SortFunc(got, byKey)
	want := slices.SortedFunc(maps.Values(w.grants), byKey)
	if d := gocmp.Diff(want, got, gocmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		gocmp.Comparer(func(a, b time.Time) bool { return a.Sub(b).Abs() < time.Minute })); d != "" && len(want)+len(got) > 0 {
		rt.Fatalf("grants (-want +got):\n%s", d)
	}
}

// compareListing compares nft's listing with that of a new fence that makes the same
// table at once.
func (w *walk) compareListing(t *testing.T, rt *rapid.T, fresh *nstest.NS) {
	fresh.Do(Cleanup)
	f := openIn(t, fresh, w.plain)
	defer f.Close()
	if err := f.Guard(w.doors); err != nil {
		rt.Fatal(err)
	}
	var used []Grant
	for v := range w.widths {
		source := netip.PrefixFrom(netip.IPv4Unspecified(), v.bits)
		if v.family == "v6" {
			source = netip.PrefixFrom(netip.IPv6Unspecified(), v.bits)
		}
		used = append(used, Grant{v.door, source, time.Now().Add(time.Hour)})
	}
	err := errors.Join(f.Change(Changes{Give: used}), f.Change(Changes{Revoke: used}), f.Change(Changes{Give: slices.Collect(maps.Values(w.grants))}))
	if err != nil {
		rt.Fatal(err)
	}
	// A grant that was moved to a new set is listed with another timeout; compare has
	// checked the time that each has left.
	grants := regexp.MustCompile(`\telements = {[^}]* timeout [^}]*}\n`)
	listing := func(n *nstest.NS) []string { return blocks(grants.ReplaceAllString(list(n), "")) }
	if d := gocmp.Diff(listing(fresh), listing(w.n)); d != "" {
		rt.Fatalf("the table after the walk differs from a new one (-new +walk):\n%s", d)
	}
}
