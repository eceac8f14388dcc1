//go:build linux

package fence

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// table is the nftables table, as it should be or as the kernel has it, without
// what moves by itself: grants, handshakes under way, counts.
type table struct {
	flags    uint32
	owner    uint32 // netlink port of the owner; only as read
	comment  string // names the layout's version
	counters []string
	sets     []set
	chains   []chain
}

type set struct {
	name    string
	def     setDef
	elems   []element // of interval sets, sorted; others are not the table's
	lengths []uint32  // of a concatenated key's fields; only to create
	size    uint32    // elements it can hold, 0 for the kernel's choice; only to create
	udata   []byte    // what nft is to know of its type; only to create
}

// setDef is what makes two sets the same kind of set.
type setDef struct {
	flags, keyType, keyLen, dataType, gcInterval uint32

	once bool // to add an element is granted to one packet and not to others at the same time
}

// element is a member of a set: a key, the end of an interval (the first key
// behind it), or a port and the chain to go to.
type element struct {
	key   string
	end   bool
	chain string
	timed bool          // it has a timeout; only as read
	left  time.Duration // until it times out, at least a millisecond
}

type chain struct {
	name  string
	base  hook // zero: not a base chain
	rules []rule
}

type hook struct {
	kind     string
	number   uint32
	priority int32
	policy   uint32
}

// rule is compared whole: its purpose, which nft shows as its comment, and the
// bytes of its expressions.
type rule struct{ what, exprs string }

func (t *table) set(name string) *set {
	i := slices.IndexFunc(t.sets, func(s set) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return &t.sets[i]
}

func (t *table) chain(name string) *chain {
	i := slices.IndexFunc(t.chains, func(c chain) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return &t.chains[i]
}

// differences names all that is otherwise in got than in want, which is nil
// when there is no table. The words fit behind "table inet doorward: ".
func (want *table) differences(got *table) []string {
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
	for _, c := range want.counters {
		if !slices.Contains(got.counters, c) {
			d = append(d, fmt.Sprintf("counter %q is gone", c))
		}
	}
	for _, c := range got.counters {
		if !slices.Contains(want.counters, c) {
			d = append(d, fmt.Sprintf("counter %q is not the fence's", c))
		}
	}
	d = append(d, want.setDifferences(got)...)
	return append(d, want.chainDifferences(got)...)
}

func (want *table) setDifferences(got *table) []string {
	var d []string
	for _, w := range want.sets {
		g := got.set(w.name)
		switch {
		case g == nil:
			d = append(d, fmt.Sprintf("set %q is gone", w.name))
		case g.def != w.def:
			d = append(d, fmt.Sprintf("set %q is of another kind", w.name))
		case !slices.Equal(g.elems, w.elems):
			d = append(d, fmt.Sprintf("the elements of set %q were changed", w.name))
		}
	}
	for _, g := range got.sets {
		if want.set(g.name) == nil {
			d = append(d, fmt.Sprintf("set %q is not the fence's", g.name))
		}
	}
	return d
}

func (want *table) chainDifferences(got *table) []string {
	var d []string
	for _, w := range want.chains {
		g := got.chain(w.name)
		switch {
		case g == nil:
			d = append(d, fmt.Sprintf("chain %q is gone", w.name))
			continue
		case g.base.policy != w.base.policy:
			d = append(d, fmt.Sprintf("chain %q has another policy", w.name))
		case g.base != w.base:
			d = append(d, fmt.Sprintf("chain %q hangs at another hook", w.name))
		}
		d = append(d, w.ruleDifferences(g)...)
	}
	for _, g := range got.chains {
		if want.chain(g.name) == nil {
			d = append(d, fmt.Sprintf("chain %q is not the fence's", g.name))
		}
	}
	return d
}

func (want *chain) ruleDifferences(got *chain) []string {
	if slices.Equal(want.rules, got.rules) {
		return nil
	}
	var d []string
	for _, w := range want.rules {
		switch i := slices.IndexFunc(got.rules, func(g rule) bool { return g.what == w.what }); {
		case i < 0:
			d = append(d, fmt.Sprintf("chain %q: the rule %q is gone", want.name, w.what))
		case got.rules[i] != w:
			d = append(d, fmt.Sprintf("chain %q: the rule %q was changed", want.name, w.what))
		}
	}
	for i, g := range got.rules {
		if !slices.ContainsFunc(want.rules, func(w rule) bool { return w.what == g.what }) {
			d = append(d, fmt.Sprintf("chain %q: rule %d, %q, is not the fence's", want.name, i+1, g.what))
		}
	}
	if d == nil {
		d = append(d, fmt.Sprintf("chain %q: the rules are repeated or in another order", want.name))
	}
	return d
}
