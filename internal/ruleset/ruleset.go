//go:build linux

// Package ruleset finds out what the nftables rules of a machine do with an incoming
// packet. It evaluates the rules as the kernel has them, expression by expression, for
// a packet that is known only in part. The answer is that the packet passes, that it is
// dropped, or that this depends on something unknown, with the rule that decides. An
// expression that the package does not understand may do anything, so the answer is
// never that a packet certainly passes if the kernel might drop it.
//
// Nothing here sends a packet or changes a rule. [Read] reads the rules of the
// caller's network namespace, which takes CAP_NET_ADMIN; the rest is pure.
package ruleset

import (
	"cmp"
	"fmt"
	"slices"
)

// Ruleset is a machine's rules. It is not safe for concurrent use.
type Ruleset struct {
	Chains []*Chain
	Sets   []*Set
}

// Chain is a chain of a table.
type Chain struct {
	Family   string // "ip", "ip6", "inet", "netdev" or "bridge", which is not walked
	Table    string
	Name     string
	Hook     string   // "ingress", "prerouting", "input" or "other"; "" for one that is only called
	Type     string   // "filter", "nat" or "route"; "" without a hook
	Priority int32    // packets pass chains with lower ones first
	Drop     bool     // the policy drops packets that reach the end
	Devices  []string // the interfaces of an ingress chain; nil if not known
	Rules    []Rule
}

// Rule is a rule, with the handle by which "nft -a list chain" shows it.
type Rule struct {
	Handle uint64
	Exprs  []Expr
}

// Expr is an expression as the kernel reports it: its name, and its attributes by
// their numbers in linux/netfilter/nf_tables.h.
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
	Data        []byte // of a map: the value, in the form of NFTA_SET_ELEM_DATA
	End         bool   // it ends the interval before it
	CatchAll    bool   // it stands for all keys that no other element has
	Depends     bool   // whether it is found depends on a limit, a quota or the like of its own
}

// Place is where a packet's fate is decided.
type Place struct {
	Base   *Chain // the base chain that the packet came through
	Chain  *Chain // the chain of the rule
	Handle uint64 // of the rule; 0 for the policy of the base chain
	Why    string // what it depends on, in words that follow "the"; "" for nothing. See [Port]
}

// Answer says what becomes of a packet. Both Passes and Drops are set if that depends
// on something unknown.
type Answer struct {
	Passes bool // every chain lets it through
	Drops  bool // a chain drops it
	// Away says that the packet passes, but its destination was or may have been
	// changed to another host; what becomes of it from there on is not followed.
	Away   bool
	DropAt []Place  // where it is dropped, or may be
	Doubts []Place  // what the answer depends on, if it is not certain
	Chains []*Chain // the chains that it came through, or may have
}

// Port is the Why of an answer that differs between the ports of a Packet.
const Port = "port"

// Certain reports whether the answer is either that the packet passes or that it is
// dropped.
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

// bases returns the base chains that a packet passes, in that order.
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

// Untracks reports whether a rule of c, or of a chain that it calls by name, keeps
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

// String returns the chain in words, such as "table inet filter, chain input".
func (c *Chain) String() string {
	return fmt.Sprintf("table %s %s, chain %s", c.Family, c.Table, c.Name)
}
