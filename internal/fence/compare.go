//go:build linux

package fence

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// differences names all that is otherwise in got than in want; got is nil when
// there is no table. The words fit behind "table inet doorward: ".
func differences(want, got *Table) []string {
	if got == nil {
		return []string{"the table is gone"}
	}
	var d []string
	switch {
	case got.flags&unix.NFT_TABLE_F_DORMANT != 0:
		d = append(d, "the table is switched off (flag dormant)")
	case got.flags != want.flags:
		d = append(d, fmt.Sprintf("the table has flags %#x instead of %#x", got.flags, want.flags))
	}
	if got.comment != want.comment {
		d = append(d, fmt.Sprintf("the table is of %q instead of %q", got.comment, want.comment))
	}
	self := func(name string) string { return name }
	d = append(d, compare("counter", self, want.counters, got.counters, func(w, g *string) []string { return nil })...)
	d = append(d, compare("set", setName, want.sets, got.sets, setDifferences)...)
	return append(d, compare("chain", chainName, want.chains, got.chains, chainDifferences)...)
}

func setName(s Set) string     { return s.name }
func chainName(c Chain) string { return c.name }

// index finds things by their names.
func index[T any](things []T, name func(T) string) map[string]*T {
	at := make(map[string]*T, len(things))
	for i := range things {
		at[name(things[i])] = &things[i]
	}
	return at
}

// compare names what is gone, what is not the fence's, and what differs else.
func compare[T any](what string, name func(T) string, want, got []T, differ func(want, got *T) []string) []string {
	var d []string
	there, due := index(got, name), index(want, name)
	for i := range want {
		n := name(want[i])
		if g := there[n]; g != nil {
			d = append(d, differ(&want[i], g)...)
			continue
		}
		d = append(d, fmt.Sprintf("%s %q is gone", what, n))
	}
	for _, g := range got {
		if due[name(g)] == nil {
			d = append(d, fmt.Sprintf("%s %q is not the fence's", what, name(g)))
		}
	}
	return d
}

func setDifferences(want, got *Set) []string {
	switch {
	case got.def != want.def:
		return []string{fmt.Sprintf("set %q is of another kind", want.name)}
	case !slices.Equal(got.elems, want.elems):
		return []string{fmt.Sprintf("the elements of set %q were changed", want.name)}
	}
	return nil
}

func chainDifferences(want, got *Chain) []string {
	var d []string
	switch {
	case got.base.policy != want.base.policy:
		d = append(d, fmt.Sprintf("chain %q has another policy", want.name))
	case got.base != want.base:
		d = append(d, fmt.Sprintf("chain %q hangs at another hook", want.name))
	}
	return append(d, ruleDifferences(want, got)...)
}

func ruleDifferences(want, got *Chain) []string {
	if slices.Equal(want.rules, got.rules) {
		return nil
	}
	var d []string
	for _, w := range want.rules {
		switch i := slices.IndexFunc(got.rules, func(g Rule) bool { return g.what == w.what }); {
		case i < 0:
			d = append(d, fmt.Sprintf("chain %q: the rule %q is gone", want.name, w.what))
		case got.rules[i] != w:
			d = append(d, fmt.Sprintf("chain %q: the rule %q was changed", want.name, w.what))
		}
	}
	for i, g := range got.rules {
		if !slices.ContainsFunc(want.rules, func(w Rule) bool { return w.what == g.what }) {
			d = append(d, fmt.Sprintf("chain %q: rule %d, %q, is not the fence's", want.name, i+1, g.what))
		}
	}
	if d == nil {
		d = append(d, fmt.Sprintf("chain %q: the rules are repeated or in another order", want.name))
	}
	return d
}
