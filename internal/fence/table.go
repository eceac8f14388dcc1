//go:build linux

package fence

import (
	"cmp"
	"slices"
	"time"
)

// Table is a table of the family inet, as it should be or as the kernel has it,
// without what moves by itself: elements that time out, counts.
type Table struct {
	flags    uint32
	owner    uint32 // netlink port of the owner; only as read
	comment  string // as nft shows it
	counters []string
	sets     []Set
	chains   []Chain
}

// Set is a named set, or a map from keys to chains.
type Set struct {
	name    string
	def     SetDef
	elems   []Element // of interval sets, sorted; others are not the table's
	lengths []uint32  // of a concatenated key's fields; only to create
	size    uint32    // elements it can hold, 0 for the kernel's choice; only to create
	udata   []byte    // what nft is to know of its type; only to create
	count   int       // elements, those that have timed out with them; only as read, and -1 before Linux 6.16
}

// SetDef is what makes two sets the same kind of set.
type SetDef struct {
	flags, keyType, keyLen, dataType, gcInterval uint32

	once bool // to add an element is granted to one packet and not to others at the same time
}

// Element is a member of a set: a key, the end of an interval (the first key
// behind it), or a key and the chain to go to.
type Element struct {
	key   string
	end   bool
	chain string        // Dropped for no chain, but the packet's end
	timed bool          // it has a timeout; only as read
	left  time.Duration // until it times out, at least a millisecond
}

// Dropped stands for the verdict "drop" where an Element names a chain.
const Dropped = "verdict 0 "

// Chain is a chain with its rules, in their order.
type Chain struct {
	name  string
	base  Hook // zero: not a base chain
	rules []Rule
}

// Hook is where a base chain hangs.
type Hook struct {
	kind     string
	number   uint32
	priority int32
	policy   uint32
}

// Rule is compared whole: its purpose, which nft shows as its comment, and the
// bytes of its expressions.
type Rule struct{ what, exprs string }

// set returns the set of that name, nil if there is none.
func (t *Table) set(name string) *Set {
	i := slices.IndexFunc(t.sets, func(s Set) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return &t.sets[i]
}

// chain returns the chain of that name, nil if there is none.
func (t *Table) chain(name string) *Chain {
	i := slices.IndexFunc(t.chains, func(c Chain) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return &t.chains[i]
}

// sortElements puts elements into the order in which interval sets are compared.
func sortElements(e []Element) {
	slices.SortFunc(e, func(a, b Element) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.chain, b.chain))
	})
}
