//go:build linux

package fence

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// replaces says whether got cannot be changed into want, only replaced: it is
// of another layout, or lacks a flag that the kernel takes at creation alone.
func (want *table) replaces(got *table) bool {
	return got != nil && (got.comment != want.comment ||
		(want.flags^got.flags)&tableFlagPersist != 0)
}

// carry reads, by set, the grants that got holds but will lose on the way to
// want, because their set or the table is made anew. One that never ends, which
// is not the fence's, is not carried.
func (want *table) carry(c *conn, got *table) (map[string][]element, error) {
	carry := map[string][]element{}
	for _, w := range want.sets {
		if got == nil || !outlives(w.name) {
			continue
		}
		g := got.set(w.name)
		if g == nil || g.def.keyLen != w.def.keyLen || g.def == w.def && !want.replaces(got) {
			continue
		}
		elems, err := c.readElements(w.name)
		if err != nil {
			return nil, err
		}
		carry[w.name] = slices.DeleteFunc(elems, func(e element) bool { return !isGiven(e) })
	}
	return carry, nil
}

// outlives says whether what a set of that name holds is carried over: grants,
// who has used them, and which flows were let in and ended. A handshake under way
// is not, and has to begin again.
func outlives(set string) bool {
	_, grants := parseWidth(set)
	return grants || strings.Contains(set, usedInfix) ||
		strings.HasPrefix(set, flowsSet) || strings.HasPrefix(set, endedSet)
}

// plan adds to b what makes got, nil when there is no table, into want. Sets of
// grants that stay are not touched; those made anew get what carry has for
// them. The order is the kernel's: nothing goes while something refers to it.
func (want *table) plan(b *batch, got *table, carry map[string][]element) {
	if want.replaces(got) {
		b.add("delete the table", unix.NFT_MSG_DELTABLE, 0, inTable())
		got = nil
	}
	addTable(b, want.flags)
	if got == nil {
		got = &table{}
	}
	stale := want.stale(got)
	for _, n := range stale.flush {
		b.add(fmt.Sprintf("flush chain %q", n), unix.NFT_MSG_DELRULE, 0, inTable().with(unix.NFTA_RULE_CHAIN, n))
	}
	for _, n := range stale.empty {
		b.add(fmt.Sprintf("flush set %q", n), unix.NFT_MSG_DELSETELEM, 0, inTable().with(unix.NFTA_SET_ELEM_LIST_SET, n))
	}
	for _, n := range stale.sets {
		b.add(fmt.Sprintf("delete set %q", n), unix.NFT_MSG_DELSET, 0, inTable().with(unix.NFTA_SET_NAME, n))
	}
	for _, n := range stale.chains {
		b.add(fmt.Sprintf("delete chain %q", n), unix.NFT_MSG_DELCHAIN, 0, inTable().with(unix.NFTA_CHAIN_NAME, n))
	}
	for _, n := range got.counters {
		if !slices.Contains(want.counters, n) {
			data := inTable().with(unix.NFTA_OBJ_NAME, n)
			data.u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
			b.add(fmt.Sprintf("delete counter %q", n), unix.NFT_MSG_DELOBJ, 0, data)
		}
	}
	want.build(b, got, stale, carry)
}

// stale is what of a table goes before another is built from it.
type stale struct {
	flush  []string // chains whose rules go
	empty  []string // interval sets whose elements go
	sets   []string
	chains []string
}

func (want *table) stale(got *table) stale {
	var s stale
	// What is made anew under the same name may be referred to from anywhere.
	all := false
	for _, g := range got.sets {
		w := want.set(g.name)
		if w == nil || w.def != g.def {
			s.sets = append(s.sets, g.name)
			all = all || w != nil
		}
	}
	for _, g := range got.chains {
		w := want.chain(g.name)
		if w == nil || w.base != g.base {
			s.chains = append(s.chains, g.name)
			all = all || w != nil
		}
	}
	for _, g := range got.chains {
		if w := want.chain(g.name); all || w == nil || !slices.Equal(w.rules, g.rules) {
			s.flush = append(s.flush, g.name)
		}
	}
	for _, g := range got.sets {
		w := want.set(g.name)
		if slices.Contains(s.sets, g.name) || g.def.flags&unix.NFT_SET_INTERVAL == 0 {
			continue
		}
		if all || !slices.Equal(w.elems, g.elems) {
			s.empty = append(s.empty, g.name)
		}
	}
	return s
}

// build adds what want has and got, without what is stale, has not.
func (want *table) build(b *batch, got *table, stale stale, carry map[string][]element) {
	for _, n := range want.counters {
		if !slices.Contains(got.counters, n) {
			addCounter(b, n)
		}
	}
	for i, s := range want.sets {
		isNew := got.set(s.name) == nil || slices.Contains(stale.sets, s.name)
		if isNew {
			addSet(b, s, uint32(i+1))
			addElements(b, s.name, carry[s.name])
		}
	}
	for _, n := range want.chains {
		if got.chain(n.name) == nil || slices.Contains(stale.chains, n.name) {
			addChain(b, n)
		}
	}
	for _, n := range want.chains {
		if got.chain(n.name) != nil && !slices.Contains(stale.flush, n.name) {
			continue
		}
		for _, r := range n.rules {
			addRule(b, n.name, r)
		}
	}
	for _, s := range want.sets {
		if got.set(s.name) == nil || slices.Contains(stale.sets, s.name) || slices.Contains(stale.empty, s.name) {
			addElements(b, s.name, s.elems)
		}
	}
}

// with appends a name.
func (a attrs) with(typ int, name string) attrs {
	a.str(typ, name)
	return a
}

// addTable makes the table, or makes this connection the owner of one that is
// there, when flags say so.
func addTable(b *batch, flags uint32) {
	data := inTable()
	data.u32(unix.NFTA_TABLE_FLAGS, flags)
	data.bytes(tableUserdata, userdata(layoutVersion))
	b.add("make the table", unix.NFT_MSG_NEWTABLE, netlink.Create, data)
}

func addCounter(b *batch, name string) {
	data := inTable().with(unix.NFTA_OBJ_NAME, name)
	data.u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	data.bytes(unix.NFTA_OBJ_DATA, nil)
	b.add(fmt.Sprintf("make counter %q", name), unix.NFT_MSG_NEWOBJ, netlink.Create, data)
}

// addSet makes a set. One of size 0 has no limit (the kernel sets one of 65,535
// where rules take elements in or out).
func addSet(b *batch, s set, id uint32) {
	data := inTable().with(unix.NFTA_SET_NAME, s.name)
	data.u32(unix.NFTA_SET_FLAGS, s.def.flags)
	data.u32(unix.NFTA_SET_KEY_TYPE, s.def.keyType)
	data.u32(unix.NFTA_SET_KEY_LEN, s.def.keyLen)
	if s.def.dataType != 0 {
		data.u32(unix.NFTA_SET_DATA_TYPE, s.def.dataType)
	}
	if s.def.gcInterval != 0 {
		data.u32(unix.NFTA_SET_GC_INTERVAL, s.def.gcInterval)
	}
	addDescription(&data, s)
	if s.udata != nil {
		data.bytes(nftaSetUdata, s.udata)
	}
	if s.def.once {
		addOnce(&data)
	}
	data.u32(unix.NFTA_SET_ID, id)
	b.add(fmt.Sprintf("make set %q", s.name), unix.NFT_MSG_NEWSET, netlink.Create, data)
}

// addOnce gives each element of a set a limit of its own, of one packet, which is
// asked when the element is added, be it there or not: of two processors one alone
// adds it. What came in vain, since it could not spend the grant yet, may come
// again after a tenth of a second.
func addOnce(data *attrs) {
	x := data.open(nftaSetExpr)
	data.str(unix.NFTA_EXPR_NAME, "limit")
	limit := data.open(unix.NFTA_EXPR_DATA)
	data.u64(limitRate, 10)
	data.u64(limitUnit, 1) // a second
	data.u32(limitBurst, 1)
	data.close(limit)
	data.close(x)
}

// addDescription says how many elements a set holds (NFTA_SET_DESC_SIZE), and how
// a concatenated key is made up: NFTA_SET_DESC_CONCAT, a list of
// NFTA_SET_FIELD_LEN.
func addDescription(data *attrs, s set) {
	if s.size == 0 && s.lengths == nil {
		return
	}
	desc := data.open(unix.NFTA_SET_DESC)
	if s.size != 0 {
		data.u32(1, s.size)
	}
	if s.lengths != nil {
		fields := data.open(2)
		for _, n := range s.lengths {
			elem := data.open(unix.NFTA_LIST_ELEM)
			data.u32(1, n)
			data.close(elem)
		}
		data.close(fields)
	}
	data.close(desc)
}

func addChain(b *batch, n chain) {
	data := inTable().with(unix.NFTA_CHAIN_NAME, n.name)
	if n.base != (hook{}) {
		h := data.open(unix.NFTA_CHAIN_HOOK)
		data.u32(unix.NFTA_HOOK_HOOKNUM, n.base.number)
		data.u32(unix.NFTA_HOOK_PRIORITY, uint32(n.base.priority))
		data.close(h)
		data.u32(unix.NFTA_CHAIN_POLICY, n.base.policy)
		data.str(unix.NFTA_CHAIN_TYPE, n.base.kind)
	}
	b.add(fmt.Sprintf("make chain %q", n.name), unix.NFT_MSG_NEWCHAIN, netlink.Create, data)
}

func addRule(b *batch, chain string, r rule) {
	data := inTable().with(unix.NFTA_RULE_CHAIN, chain)
	data.bytes(unix.NFTA_RULE_EXPRESSIONS, []byte(r.exprs))
	data.bytes(unix.NFTA_RULE_USERDATA, userdata(r.what))
	b.add(fmt.Sprintf("add the rule %q to chain %q", r.what, chain),
		unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, data)
}

func addElements(b *batch, set string, elems []element) {
	for part := range slices.Chunk(elems, maxElements) {
		b.add("add to set "+set, unix.NFT_MSG_NEWSETELEM, netlink.Create, elementList(set, part))
	}
}

func elementList(set string, elems []element) attrs {
	data := slices.Grow(inTable(), 64+len(elems)*elementSize).with(unix.NFTA_SET_ELEM_LIST_SET, set)
	list := data.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, e := range elems {
		i := data.open(unix.NFTA_LIST_ELEM)
		data.value(unix.NFTA_SET_ELEM_KEY, []byte(e.key))
		if e.end {
			data.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		if e.chain != "" {
			v := data.open(unix.NFTA_SET_ELEM_DATA)
			data.verdict(unix.NFT_GOTO, e.chain)
			data.close(v)
		}
		if e.left > 0 {
			data.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(e.left/time.Millisecond))
		}
		data.close(i)
	}
	data.close(list)
	return data
}
