//go:build linux

package fence

import (
	"errors"
	"maps"
	"slices"
	"strings"

	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"
)

// replaces says whether got can only be replaced by want, not changed into it: it has
// another layout, or lacks a flag that the kernel accepts only at creation.
func replaces(want, got *nft.Table) bool {
	return got != nil && (got.Comment != want.Comment ||
		(want.Flags^got.Flags)&nft.TableFlagPersist != 0)
}

// elementsToKeep reads, by set, the grants that got holds but will lose on the way to
// want, because their set or the table is replaced. One that never ends, which is not the
// fence's, is left out.
func elementsToKeep(c *nft.Conn, want, got *nft.Table) (map[string][]nft.Element, error) {
	kept := map[string][]nft.Element{}
	if got == nil {
		return kept, nil
	}
	there := index(got.Sets, setName)
	for _, w := range want.Sets {
		g := there[w.Name]
		if !outlives(w.Name) || g == nil || g.Def.KeyLen != w.Def.KeyLen || g.Def == w.Def && !replaces(want, got) {
			continue
		}
		elems, err := c.ReadElements(w.Name)
		if err != nil && !errors.Is(err, nft.ErrInterrupted) {
			return nil, err
		}
		kept[w.Name] = slices.DeleteFunc(elems, func(e nft.Element) bool { return !isGiven(e) })
	}
	return kept, nil
}

// outlives says whether the contents of a set of that name are carried over: grants, who
// has used them, which flows were let in and ended, and which connections were cut. A
// handshake under way is not, and has to begin again.
func outlives(set string) bool {
	_, grants := parseWidth(set)
	return grants || strings.HasPrefix(set, usedSet) || strings.Contains(set, usedInfix) ||
		strings.HasPrefix(set, flowsSet) || strings.HasPrefix(set, endedSet) || strings.HasPrefix(set, cutSet)
}

// planTable adds to b what turns got, nil when there is no table, into want.
func planTable(b *nft.Batch, want, got *nft.Table, carry map[string][]nft.Element) {
	if replaces(want, got) {
		b.DeleteTable()
		got = nil
	}
	b.MakeTable(want.Flags, want.Comment)
	if got == nil {
		got = &nft.Table{}
	}
	plan(b, want, got, staleOf(want, got), carry)
}

// plan adds to b what turns got into want; the same parts may be left out of both. Sets
// of grants that stay are not touched; those that are replaced get what carry has for
// them. The order is dictated by the kernel: nothing is removed while something refers
// to it.
func plan(b *nft.Batch, want, got *nft.Table, old stale, carry map[string][]nft.Element) {
	for _, n := range old.flush {
		b.FlushChain(n)
	}
	for _, n := range slices.Sorted(maps.Keys(old.empty)) {
		b.FlushSet(n)
	}
	for _, n := range old.sets {
		b.DeleteSet(n)
	}
	for _, n := range old.chains {
		b.DeleteChain(n)
	}
	due := toSet(want.Counters)
	for _, n := range got.Counters {
		if !due[n] {
			b.DeleteCounter(n)
		}
	}
	build(b, want, got, old, carry)
}

// stale is what is removed from a table before another is built from it.
type stale struct {
	flush  []string        // chains whose rules are removed
	empty  map[string]bool // interval sets whose elements are removed
	sets   []string
	chains []string
}

// staleOf finds what is stale. Sets named by again are replaced as well.
func staleOf(want, got *nft.Table, again ...string) stale {
	s := stale{empty: map[string]bool{}}
	sets, chains := index(want.Sets, setName), index(want.Chains, chainName)
	// What is replaced under the same name may be referred to from anywhere.
	all := false
	for _, g := range got.Sets {
		if w := sets[g.Name]; w == nil || w.Def != g.Def || slices.Contains(again, g.Name) {
			s.sets = append(s.sets, g.Name)
			all = all || w != nil
		}
	}
	for _, g := range got.Chains {
		if w := chains[g.Name]; w == nil || w.Base != g.Base {
			s.chains = append(s.chains, g.Name)
			all = all || w != nil
		}
	}
	for _, g := range got.Chains {
		if w := chains[g.Name]; all || w == nil || !slices.Equal(w.Rules, g.Rules) {
			s.flush = append(s.flush, g.Name)
		}
	}
	for _, g := range got.Sets {
		if w := sets[g.Name]; w == nil || w.Def != g.Def || g.Def.Flags&unix.NFT_SET_INTERVAL == 0 {
			continue
		} else if all || !slices.Equal(w.Elems, g.Elems) {
			s.empty[g.Name] = true
		}
	}
	return s
}

// build adds what want has and got, without what is stale, does not have.
func build(b *nft.Batch, want, got *nft.Table, old stale, carry map[string][]nft.Element) {
	counters := toSet(got.Counters)
	sets := toSet(names(got.Sets, setName), old.sets...)
	chains := toSet(names(got.Chains, chainName), old.chains...)
	filled := toSet(names(got.Chains, chainName), old.flush...)
	for _, n := range want.Counters {
		if !counters[n] {
			b.MakeCounter(n)
		}
	}
	for _, s := range want.Sets {
		if !sets[s.Name] {
			b.MakeSet(s)
			b.AddElements(s.Name, carry[s.Name])
		}
	}
	for _, n := range want.Chains {
		if !chains[n.Name] {
			b.MakeChain(n)
		}
	}
	for _, n := range want.Chains {
		if filled[n.Name] {
			continue
		}
		for _, r := range n.Rules {
			b.AddRule(n.Name, r)
		}
	}
	for _, s := range want.Sets {
		if !sets[s.Name] || old.empty[s.Name] {
			b.AddElements(s.Name, s.Elems)
		}
	}
}

// toSet returns the names that are not gone.
func toSet(names []string, gone ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	for _, n := range gone {
		delete(m, n)
	}
	return m
}

func names[T any](things []T, name func(T) string) []string {
	var all []string
	for _, t := range things {
		all = append(all, name(t))
	}
	return all
}
