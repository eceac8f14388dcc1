//go:build linux

// Package ruleset tells what the nftables rules of a machine do with a packet on
// its way in. It walks the rules as the kernel has them, expression by
// expression, with a packet of which some is known and some is not: the answer
// is that it passes, that it is dropped, or that it cannot be told, with the rule
// that it hangs on. What the package does not understand may do anything, so that
// it never says "passes" of a packet that the kernel might drop.
//
// Nothing here sends a packet or changes a rule. [Read] reads the rules of the
// caller's network namespace, which takes CAP_NET_ADMIN; the rest is pure.
package ruleset

import (
	"cmp"
	"fmt"
	"slices"
)

// Ruleset is what rules there are. It is read by one goroutine at a time.
type Ruleset struct {
	Chains []*Chain
	Sets   []*Set
}

// Chain is a chain of a table.
type Chain struct {
	Family   string // "ip", "ip6", "inet", "netdev" or "bridge", which is not walked
	Table    string
	Name     string
	Hook     string   // "ingress", "prerouting" or "input"; "" for one that is only called
	Type     string   // "filter", "nat" or "route"; "" without a hook
	Priority int32    // lower ones are passed first
	Drop     bool     // the policy drops what reaches the end
	Devices  []string // of ingress: on which interfaces it is
	Rules    []Rule
}

// Rule is a rule, with the handle by which "nft -a list chain" shows it.
type Rule struct {
	Handle uint64
	Exprs  []Expr
}

// Expr is an expression as the kernel tells of it: its name, and its attributes
// by their numbers in linux/netfilter/nf_tables.h.
type Expr struct {
	Name  string
	Attrs map[uint16][]byte
}

// Set is a set or a map.
type Set struct {
	Family   string
	Table    string
	Name     string
	Interval bool
	Concat   bool
	KeyLen   int // bytes
	Elements []Element

	spanned []span
}

// Element is an element of a set.
type Element struct {
	Key, KeyEnd []byte
	Data        []byte // of a map: the value, as NFTA_SET_ELEM_DATA has it
	End         bool   // ends the interval before it
	CatchAll    bool   // stands for all that no other has
	Depends     bool   // on a rate, a quota or the like of its own
}

// Place is where a packet's fate is decided.
type Place struct {
	Base   *Chain // which the packet came through
	Chain  *Chain // whose rule it is
	Handle uint64 // of the rule; 0 for the policy of the base chain
	Why    string // what it depends on, for people; "" for nothing. See [Port]
}

// Answer is what becomes of a packet. More than one may be so where it cannot
// be told.
type Answer struct {
	Passes bool // every chain lets it through
	Drops  bool
	// Away says that it is for another host, or may be, when its destination
	// has been rewritten; what becomes of it there is not looked at.
	Away   bool
	DropAt []Place  // where it is dropped, if it is
	Doubts []Place  // what the answer depends on, if it cannot be told
	Chains []*Chain // which it came through, or may have
}

// Port is why an answer is not the same for all ports of a packet's.
const Port = "port"

// Certain says whether there is one answer.
func (a Answer) Certain() bool { return a.Passes != a.Drops }

func (s *Ruleset) chain(like *Chain, name string) *Chain {
	for _, c := range s.Chains {
		if c.Family == like.Family && c.Table == like.Table && c.Name == name {
			return c
		}
	}
	return nil
}

func (s *Ruleset) set(like *Chain, name string) *Set {
	for _, t := range s.Sets {
		if t.Family == like.Family && t.Table == like.Table && t.Name == name {
			return t
		}
	}
	return nil
}

// bases are the base chains that a packet passes, in its order.
func (s *Ruleset) bases(p *Packet) []*Chain {
	hooks := []string{"ingress", "prerouting", "input"}
	family := "ip"
	if p.IPv6 {
		family = "ip6"
	}
	var all []*Chain
	for _, c := range s.Chains {
		if slices.Contains(hooks, c.Hook) && (c.Family == family || c.Family == "inet" || c.Family == "netdev") {
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b *Chain) int {
		return cmp.Or(cmp.Compare(slices.Index(hooks, a.Hook), slices.Index(hooks, b.Hook)), cmp.Compare(a.Priority, b.Priority))
	})
	return all
}

// Untracks says whether a rule of c, or of the chains that it calls by name, takes
// packets out of connection tracking.
func (s *Ruleset) Untracks(c *Chain) bool { return s.untracks(c, map[*Chain]bool{}) }

func (s *Ruleset) untracks(c *Chain, seen map[*Chain]bool) bool {
	if c == nil || seen[c] {
		return false
	}
	seen[c] = true
	for _, r := range c.Rules {
		for _, e := range r.Exprs {
			if e.Name == "notrack" {
				return true
			}
			if v := e.verdict(); v != nil && s.untracks(s.chain(c, v.chain), seen) {
				return true
			}
		}
	}
	return false
}

// String is "table inet filter, chain input".
func (c *Chain) String() string {
	return fmt.Sprintf("table %s %s, chain %s", c.Family, c.Table, c.Name)
}
