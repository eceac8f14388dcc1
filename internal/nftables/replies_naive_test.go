//go:build linux

package nftables

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// naive reads the table from the answers. It returns false if an answer that must be
// read is not sound.
func (r *replies) naive() (t *Table, sound bool) {
	tables, ok := r.lists(unix.NFT_MSG_GETTABLE)
	for _, l := range tables {
		ok = ok && l.sound(4, unix.NFTA_TABLE_FLAGS, tableOwner)
		if l.str(unix.NFTA_TABLE_NAME) == testTable {
			note, _ := l.last(tableUserdata)
			t = &Table{Flags: uint32(l.number(unix.NFTA_TABLE_FLAGS)), Owner: uint32(l.number(tableOwner)), Comment: naiveComment(note)}
		}
	}
	if !ok || t == nil {
		return nil, ok
	}
	objects, ok := r.lists(unix.NFT_MSG_GETOBJ)
	for _, l := range objects {
		data, whole := l.nested(unix.NFTA_OBJ_DATA)
		for _, d := range data {
			whole = whole && d.sound(8, unix.NFTA_COUNTER_PACKETS)
		}
		ok = ok && whole
		if l.str(unix.NFTA_OBJ_TABLE) == testTable {
			t.Counters = append(t.Counters, l.str(unix.NFTA_OBJ_NAME))
		}
	}
	slices.Sort(t.Counters)
	return t, ok && r.naiveSets(t) && r.naiveChains(t)
}

// lists splits the answers to a request.
func (r *replies) lists(question int) ([]attributeList, bool) {
	var all []attributeList
	for _, m := range r.kept[question] {
		if len(m.Data) < 4 {
			return nil, false
		}
		l, ok := attributes(m.Data[4:])
		if !ok {
			return nil, false
		}
		all = append(all, l)
	}
	return all, true
}

func (r *replies) naiveSets(t *Table) bool {
	sets, ok := r.lists(unix.NFT_MSG_GETSET)
	for _, l := range sets {
		ok = ok && l.sound(4, unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN,
			unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_GC_INTERVAL, nftaSetCount)
		if l.str(unix.NFTA_SET_TABLE) == testTable {
			_, once := l.last(nftaSetExpr)
			count := -1
			if _, told := l.last(nftaSetCount); told {
				count = int(l.number(nftaSetCount))
			}
			t.Sets = append(t.Sets, Set{Name: l.str(unix.NFTA_SET_NAME), Count: count, Def: SetDef{
				Flags:      uint32(l.number(unix.NFTA_SET_FLAGS)),
				KeyType:    uint32(l.number(unix.NFTA_SET_KEY_TYPE)),
				KeyLen:     uint32(l.number(unix.NFTA_SET_KEY_LEN)),
				DataType:   uint32(l.number(unix.NFTA_SET_DATA_TYPE)),
				GCInterval: uint32(l.number(unix.NFTA_SET_GC_INTERVAL)),
				Once:       once}})
		}
	}
	for i, s := range t.Sets {
		if !ok || s.Def.Flags&unix.NFT_SET_INTERVAL == 0 {
			continue
		}
		t.Sets[i].Elems, ok = r.naiveElements(s.Name)
	}
	return ok
}

func (r *replies) naiveElements(set string) ([]Element, bool) {
	var elems []Element
	for _, m := range r.kept[unix.NFT_MSG_GETSETELEM] {
		if len(m.Data) < 4 {
			return nil, false
		}
		l, whole := attributes(m.Data[4:])
		if l.str(unix.NFTA_SET_ELEM_LIST_SET) != set {
			continue // the kernel sends only the set that was asked for
		}
		lists, ok := l.nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		if !whole || !ok {
			return nil, false
		}
		for _, list := range lists {
			members, ok := list.nested(-1)
			for _, e := range members {
				elem, sound := naiveElement(e)
				elems, ok = append(elems, elem), ok && sound
			}
			if !ok {
				return nil, false
			}
		}
	}
	return elems, true
}

// longest is the most whole milliseconds that a Duration holds.
const longest = math.MaxInt64 / time.Millisecond * time.Millisecond

func naiveElement(l attributeList) (Element, bool) {
	_, timed := l.last(unix.NFTA_SET_ELEM_TIMEOUT)
	e := Element{End: l.number(unix.NFTA_SET_ELEM_FLAGS)&unix.NFT_SET_ELEM_INTERVAL_END != 0, Timed: timed}
	ms := new(big.Int).SetUint64(l.number(unix.NFTA_SET_ELEM_EXPIRATION))
	e.Left = longest // 292 years; the kernel allows more
	if ms.Mul(ms, big.NewInt(int64(time.Millisecond))).IsInt64() {
		e.Left = time.Duration(ms.Int64())
	}
	keys, ok := l.nested(unix.NFTA_SET_ELEM_KEY)
	for _, k := range keys {
		for _, v := range k {
			e.Key = string(v.data)
		}
	}
	data, whole := l.nested(unix.NFTA_SET_ELEM_DATA)
	ok = ok && whole && l.sound(4, unix.NFTA_SET_ELEM_FLAGS) && l.sound(8, unix.NFTA_SET_ELEM_EXPIRATION)
	for _, d := range data {
		verdicts, whole := d.nested(unix.NFTA_DATA_VERDICT)
		ok = ok && whole
		for _, v := range verdicts {
			ok = ok && v.sound(4, unix.NFTA_VERDICT_CODE)
			for _, a := range v { // what goes elsewhere gets a name that no chain has
				one := attributeList{a}
				code := int32(one.number(unix.NFTA_VERDICT_CODE))
				switch {
				case a.typ == unix.NFTA_VERDICT_CODE && code != unix.NFT_JUMP:
					e.Chain = fmt.Sprintf("verdict %d ", code)
				case a.typ == unix.NFTA_VERDICT_CHAIN:
					e.Chain += one.str(unix.NFTA_VERDICT_CHAIN)
				}
			}
		}
	}
	return e, ok
}

func (r *replies) naiveChains(t *Table) bool {
	chains, ok := r.lists(unix.NFT_MSG_GETCHAIN)
	for _, l := range chains {
		hooks, whole := l.nested(unix.NFTA_CHAIN_HOOK)
		ok = ok && whole && l.sound(4, unix.NFTA_CHAIN_POLICY)
		c := Chain{Name: l.str(unix.NFTA_CHAIN_NAME), Base: Hook{Kind: l.str(unix.NFTA_CHAIN_TYPE),
			Policy: uint32(l.number(unix.NFTA_CHAIN_POLICY))}}
		for _, h := range hooks {
			ok = ok && h.sound(4, unix.NFTA_HOOK_HOOKNUM, unix.NFTA_HOOK_PRIORITY)
			if _, there := h.last(unix.NFTA_HOOK_HOOKNUM); there {
				c.Base.Number = uint32(h.number(unix.NFTA_HOOK_HOOKNUM))
			}
			if _, there := h.last(unix.NFTA_HOOK_PRIORITY); there {
				c.Base.Priority = int32(h.number(unix.NFTA_HOOK_PRIORITY))
			}
		}
		if l.str(unix.NFTA_CHAIN_TABLE) == testTable {
			t.Chains = append(t.Chains, c)
		}
	}
	rules, whole := r.lists(unix.NFT_MSG_GETRULE)
	for _, l := range rules {
		exprs, _ := l.last(unix.NFTA_RULE_EXPRESSIONS)
		note, _ := l.last(unix.NFTA_RULE_USERDATA)
		i := slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == l.str(unix.NFTA_RULE_CHAIN) })
		if i >= 0 && l.str(unix.NFTA_RULE_TABLE) == testTable {
			t.Chains[i].Rules = append(t.Chains[i].Rules, Rule{naiveComment(note), string(exprs)})
		}
	}
	return ok && whole
}

// naiveComment returns the first item of type 0 in nft's user data, if that item and
// all before it are whole.
func naiveComment(b []byte) string {
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return ""
	}
	if text := b[2 : 2+int(b[1])]; b[0] == 0 && len(text) > 0 {
		return string(text[:len(text)-1])
	}
	return naiveComment(b[2+int(b[1]):])
}

// inOneOrder sorts the elements of a table's sets by all their fields, since elements
// with equal keys have no order among themselves.
func (t *Table) inOneOrder() *Table {
	for _, s := range t.Sets {
		oneOrder(s.Elems)
	}
	return t
}

func oneOrder(elems []Element) {
	slices.SortFunc(elems, func(a, b Element) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Chain, b.Chain), cmp.Compare(a.Left, b.Left),
			cmp.Compare(fmt.Sprint(a.End, a.Timed), fmt.Sprint(b.End, b.Timed)))
	})
}
