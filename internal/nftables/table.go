//go:build linux

package nftables

import (
	"cmp"
	"slices"
	"time"
)

// Table is a table of the family inet, as it should be or as the kernel has it,
// without what changes by itself: elements that time out, and counts.
type Table struct {
	Flags    uint32
	Owner    uint32 // netlink port of the owner; only as read
	Comment  string // as nft shows it
	Counters []string
	Sets     []Set
	Chains   []Chain
}

// Set is a named set, or a map from keys to chains.
type Set struct {
	Name    string
	Def     SetDef
	Elems   []Element // of interval sets only, sorted
	Lengths []uint32  // of a concatenated key's fields; only to create
	Size    uint32    // elements it can hold, 0 for the kernel's choice; only to create
	Count   int       // elements, including those that have timed out; only as read, and -1 before Linux 6.16
}

// SetDef is what makes two sets the same kind of set.
type SetDef struct {
	Flags, KeyType, KeyLen, DataType, GCInterval uint32

	Once bool // of packets that add the same element at the same time, only one succeeds
}

// Element is a member of a set: a key, the end of an interval (the first key
// after it), or a key and the chain to jump to.
type Element struct {
	Key   string
	End   bool
	Chain string
	Timed bool          // it has a timeout; only as read
	Left  time.Duration // until it times out, at least a millisecond
}

// Chain is a chain with its rules, in their order.
type Chain struct {
	Name  string
	Base  Hook // zero: not a base chain
	Rules []Rule
}

// Hook is the place where a base chain is attached.
type Hook struct {
	Kind     string
	Number   uint32
	Priority int32
	Policy   uint32
}

// Rule is a rule: its purpose, which nft shows as its comment, and the bytes of its
// expressions. Rules are compared whole.
type Rule struct{ What, Exprs string }

// Set returns the set of that name, or nil if there is none.
func (t *Table) Set(name string) *Set {
	i := slices.IndexFunc(t.Sets, func(s Set) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &t.Sets[i]
}

// Chain returns the chain of that name, or nil if there is none.
func (t *Table) Chain(name string) *Chain {
	i := slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &t.Chains[i]
}

// SortElements sorts elements into the order in which interval sets are compared.
func SortElements(e []Element) {
	slices.SortFunc(e, func(a, b Element) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Chain, b.Chain))
	})
}
