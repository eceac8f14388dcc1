//go:build linux

package fence

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// replaces says whether got cannot be changed into want, only replaced: it is
// of another layout, or lacks a flag that the kernel takes at creation alone.
func replaces(want, got *Table) bool {
	return got != nil && (got.comment != want.comment ||
		(want.flags^got.flags)&tableFlagPersist != 0)
}

// carry reads, by set, the grants that got holds but will lose on the way to
// want, because their set or the table is made anew. One that never ends, which
// is not the fence's, is not carried.
func carry(c *conn, want, got *Table) (map[string][]Element, error) {
	kept := map[string][]Element{}
	if got == nil {
		return kept, nil
	}
	there := index(got.sets, setName)
	for _, w := range want.sets {
		g := there[w.name]
		if !outlives(w.name) || g == nil || g.def.keyLen != w.def.keyLen || g.def == w.def && !replaces(want, got) {
			continue
		}
		elems, err := c.readElements(w.name)
		if err != nil && !errors.Is(err, errInterrupted) {
			return nil, err
		}
		kept[w.name] = slices.DeleteFunc(elems, func(e Element) bool { return !isGiven(e) })
	}
	return kept, nil
}

// outlives says whether what a set of that name holds is carried over: grants,
// who has used them, and which flows were let in and ended. A handshake under way
// is not, and has to begin again.
func outlives(set string) bool {
	_, grants := parseWidth(set)
	return grants || strings.Contains(set, usedInfix) ||
		strings.HasPrefix(set, flowsSet) || strings.HasPrefix(set, endedSet)
}

// planTable adds to b what makes got, nil when there is no table, into want.
func planTable(b *batch, want, got *Table, carry map[string][]Element) {
	if replaces(want, got) {
		b.deleteTable()
		got = nil
	}
	b.makeTable(want.flags, want.comment)
	if got == nil {
		got = &Table{}
	}
	plan(b, want, got, staleOf(want, got), carry)
}

// plan adds to b what makes got into want, of which the same parts may be left
// out. Sets of grants that stay are not touched; those made anew get what carry
// has for them. The order is the kernel's: nothing goes while something refers to
// it.
func plan(b *batch, want, got *Table, old stale, carry map[string][]Element) {
	for _, n := range old.flush {
		b.flushChain(n)
	}
	for _, n := range slices.Sorted(maps.Keys(old.empty)) {
		b.flushSet(n)
	}
	for _, n := range old.sets {
		b.deleteSet(n)
	}
	for _, n := range old.chains {
		b.deleteChain(n)
	}
	due := toSet(want.counters)
	for _, n := range got.counters {
		if !due[n] {
			b.deleteCounter(n)
		}
	}
	build(b, want, got, old, carry)
}

// stale is what of a table goes before another is built from it.
type stale struct {
	flush  []string        // chains whose rules go
	empty  map[string]bool // interval sets whose elements go
	sets   []string
	chains []string
}

// staleOf finds what is stale. Sets that again names are made anew as well.
func staleOf(want, got *Table, again ...string) stale {
	s := stale{empty: map[string]bool{}}
	sets, chains := index(want.sets, setName), index(want.chains, chainName)
	// What is made anew under the same name may be referred to from anywhere.
	all := false
	for _, g := range got.sets {
		if w := sets[g.name]; w == nil || w.def != g.def || slices.Contains(again, g.name) {
			s.sets = append(s.sets, g.name)
			all = all || w != nil
		}
	}
	for _, g := range got.chains {
		if w := chains[g.name]; w == nil || w.base != g.base {
			s.chains = append(s.chains, g.name)
			all = all || w != nil
		}
	}
	for _, g := range got.chains {
		if w := chains[g.name]; all || w == nil || !slices.Equal(w.rules, g.rules) {
			s.flush = append(s.flush, g.name)
		}
	}
	for _, g := range got.sets {
		if w := sets[g.name]; w == nil || w.def != g.def || g.def.flags&unix.NFT_SET_INTERVAL == 0 {
			continue
		} else if all || !slices.Equal(w.elems, g.elems) {
			s.empty[g.name] = true
		}
	}
	return s
}

// build adds what want has and got, without what is stale, has not.
func build(b *batch, want, got *Table, old stale, carry map[string][]Element) {
	counters := toSet(got.counters)
	sets := toSet(names(got.sets, setName), old.sets...)
	chains := toSet(names(got.chains, chainName), old.chains...)
	filled := toSet(names(got.chains, chainName), old.flush...)
	for _, n := range want.counters {
		if !counters[n] {
			b.makeCounter(n)
		}
	}
	for _, s := range want.sets {
		if !sets[s.name] {
			b.makeSet(s)
			b.addElements(s.name, carry[s.name])
		}
	}
	for _, n := range want.chains {
		if !chains[n.name] {
			b.makeChain(n)
		}
	}
	for _, n := range want.chains {
		if filled[n.name] {
			continue
		}
		for _, r := range n.rules {
			b.addRule(n.name, r)
		}
	}
	for _, s := range want.sets {
		if !sets[s.name] || old.empty[s.name] {
			b.addElements(s.name, s.elems)
		}
	}
}

// toSet has the names that are not gone.
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
