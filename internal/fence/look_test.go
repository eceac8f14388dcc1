//go:build linux

package fence

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/nstest"
)

// What differs is believed at once where nobody changed anything meanwhile, and else when
// it is seen each time. A door that the fence itself was changing is looked at again: what
// somebody else did to it at that moment must not be passed over.
func TestLookBelieves(t *testing.T) {
	differs := func(names ...string) map[string][]string {
		m := map[string][]string{}
		for _, n := range names {
			m[n] = []string{n + " differs"}
		}
		return m
	}
	moved := func(names ...string) map[string]bool {
		m := map[string]bool{}
		for _, n := range names {
			m[n] = true
		}
		return m
	}
	ssh, web, none := differs("ssh"), moved("web"), differs()
	for _, tt := range []struct {
		name  string
		shows []comparison // one reading after the other, the last again and again
		reads int
		want  []string
		all   bool
	}{
		{"nothing", []comparison{{none, moved(), true}}, 1, nil, true},
		{"nothing, while others change something", []comparison{{none, moved(), false}}, 1, nil, true},
		{"a difference, and no change", []comparison{{ssh, moved(), true}}, 1, []string{"ssh differs"}, true},
		{"a difference beside a change", []comparison{{ssh, moved(), false}, {ssh, moved(), true}}, 2, []string{"ssh differs"}, true},
		{"a difference beside many changes", []comparison{{ssh, moved(), false}}, lookTries, []string{"ssh differs"}, true},
		{"half of a change", []comparison{{ssh, moved(), false}, {none, moved(), false}}, 2, nil, true},
		{"a door that was being changed", []comparison{{none, web, false}, {differs("web"), moved(), true}}, 2, []string{"web differs"}, true},
		{"a door that was changed just before", []comparison{{none, web, true}, {none, moved(), true}}, 2, nil, true},
		{"a door that is always being changed", []comparison{{none, web, false}}, lookTries, nil, false},
		{"a door that is always being changed, and differs at the end", []comparison{{none, web, false}, {none, web, false}, {differs("web"), moved(), false}}, lookTries, nil, false},
		{"one of each", []comparison{{ssh, web, true}}, 1, []string{"ssh differs"}, false},
	} {
		reads := 0
		var before comparison
		got, all, err := lookBy(func(suspects map[string]bool) (comparison, error) {
			for _, name := range slices.Concat(slices.Collect(maps.Keys(before.differ)), slices.Collect(maps.Keys(before.moved))) {
				if !suspects[name] {
					t.Errorf("%s: reading %d does not look at %s", tt.name, reads+1, name)
				}
			}
			before = tt.shows[min(reads, len(tt.shows)-1)]
			reads++
			return before, nil
		})
		if err != nil || reads != tt.reads || !slices.Equal(got, tt.want) || all != tt.all {
			t.Errorf("%s: %q, all: %v, %v after %d readings, want %q, all: %v after %d", tt.name, got, all, err, reads, tt.want, tt.all, tt.reads)
		}
	}
	broken := errors.New("broken")
	if _, _, err := lookBy(func(map[string]bool) (comparison, error) { return comparison{}, broken }); err != broken {
		t.Errorf("a reading that fails: %v, want its error", err)
	}
}

// The table is still while nobody changes a ruleset, be it another one, and what the fence
// itself changes meanwhile is known to have moved.
func TestStill(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "nft")
	ns := nstest.New(t)
	f := openIn(t, ns, true)
	must(t, f.Guard([]Door{sshDoor(t), {Name: "web", Ports: ports(t, "80/tcp")}}))
	for _, tt := range []struct {
		name  string
		do    func()
		still bool
	}{
		{"nothing", func() {}, true},
		{"a grant", func() { must(t, f.Change(Changes{Give: []Grant{grant("ssh", "192.0.2.9", time.Hour)}})) }, false},
		{"somebody's table", func() { ns.Run("nft", "add table inet other") }, false},
	} {
		err := f.ask(&f.asker, func(c *nft.Conn) error {
			still, err := stillFor(c, func() error { tt.do(); return nil })
			if still != tt.still {
				t.Errorf("%s: still is %v, want %v", tt.name, still, tt.still)
			}
			return err
		})
		must(t, err)
	}
	ns.Run("nft", "flush chain inet doorward door-web")
	c, err := f.compareOnce(nil)
	if err != nil || !c.still || len(c.differ) != 1 || len(c.differ["web"]) == 0 {
		t.Errorf("a door without rules: %+v, %v; want that it differs, while all is still", c, err)
	}
}
