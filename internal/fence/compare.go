//go:build linux

package fence

import (
	"fmt"
	"slices"

	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"
)

// differences names everything that is different in got from want; got is nil when there
// is no table. The words fit behind "table inet doorward: ".
func differences(want, got *nft.Table) []string {
	if got == nil {
		return []string{errGone.Error()}
	}
	var d []string
	switch {
	case got.Flags&unix.NFT_TABLE_F_DORMANT != 0:
		d = append(d, "the table is switched off (flag dormant)")
	case got.Flags != want.Flags:
		d = append(d, fmt.Sprintf("the table has flags %#x instead of %#x", got.Flags, want.Flags))
	}
	if got.Comment != want.Comment {
		d = append(d, fmt.Sprintf("the table is of %q instead of %q", got.Comment, want.Comment))
	}
	self := func(name string) string { return name }
	d = append(d, compare("counter", self, want.Counters, got.Counters, func(w, g *string) []string { return nil })...)
	d = append(d, compare("set", setName, want.Sets, got.Sets, setDifferences)...)
	return append(d, compare("chain", chainName, want.Chains, got.Chains, chainDifferences)...)
}

func setName(s nft.Set) string     { return s.Name }
func chainName(c nft.Chain) string { return c.Name }

// index finds things by their names.
func index[T any](things []T, name func(T) string) map[string]*T {
	at := make(map[string]*T, len(things))
	for i := range things {
		at[name(things[i])] = &things[i]
	}
	return at
}

// compare names what is missing, what is not the fence's, and what else differs.
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

func setDifferences(want, got *nft.Set) []string {
	switch {
	case got.Def != want.Def:
		return []string{fmt.Sprintf("set %q is of another kind", want.Name)}
	case !slices.Equal(got.Elems, want.Elems):
		return []string{fmt.Sprintf("the elements of set %q were changed", want.Name)}
	}
	return nil
}

func chainDifferences(want, got *nft.Chain) []string {
	var d []string
	switch {
	case got.Base.Policy != want.Base.Policy:
		d = append(d, fmt.Sprintf("chain %q has another policy", want.Name))
	case got.Base != want.Base:
		d = append(d, fmt.Sprintf("chain %q hangs at another hook", want.Name))
	}
	return append(d, ruleDifferences(want, got)...)
}

func ruleDifferences(want, got *nft.Chain) []string {
	if slices.Equal(want.Rules, got.Rules) {
		return nil
	}
	var d []string
	for _, w := range want.Rules {
		switch i := slices.IndexFunc(got.Rules, func(g nft.Rule) bool { return g.What == w.What }); {
		case i < 0:
			d = append(d, fmt.Sprintf("chain %q: the rule %q is gone", want.Name, w.What))
		case got.Rules[i] != w:
			d = append(d, fmt.Sprintf("chain %q: the rule %q was changed", want.Name, w.What))
		}
	}
	for i, g := range got.Rules {
		if !slices.ContainsFunc(want.Rules, func(w nft.Rule) bool { return w.What == g.What }) {
			d = append(d, fmt.Sprintf("chain %q: rule %d, %q, is not the fence's", want.Name, i+1, g.What))
		}
	}
	if d == nil {
		d = append(d, fmt.Sprintf("chain %q: the rules are repeated or in another order", want.Name))
	}
	return d
}
