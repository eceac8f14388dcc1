//go:build linux

package nftables

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
)

// Batch is one transaction in the making: its messages and, for each, what it
// does in words for an error.
type Batch struct {
	table string
	msgs  []netlink.Message
	what  []string
}

// Batch begins a transaction about the table, for Commit.
func (c *Conn) Batch() *Batch { return &Batch{table: c.table} }

// Len is how many messages the transaction has so far.
func (b *Batch) Len() int { return len(b.msgs) }

func (b *Batch) add(what string, typ int, flags netlink.HeaderFlags, data []byte) {
	b.msgs = append(b.msgs, message(typ, flags, data))
	b.what = append(b.what, what)
}

// named adds a message about something in the table that has a name.
func (b *Batch) named(what string, name string, typ, attribute int) {
	b.add(fmt.Sprintf("%s %q", what, name), typ, 0, inTable(b.table).str(attribute, name))
}

// DeleteTable removes the table with all that is in it.
func (b *Batch) DeleteTable() { b.add("delete the table", unix.NFT_MSG_DELTABLE, 0, inTable(b.table)) }

// DeleteSet removes a set, which no rule may refer to any more; its elements are freed
// after the transaction.
func (b *Batch) DeleteSet(name string) {
	b.named("delete set", name, unix.NFT_MSG_DELSET, unix.NFTA_SET_NAME)
}

// DeleteChain removes a chain without rules.
func (b *Batch) DeleteChain(name string) {
	b.named("delete chain", name, unix.NFT_MSG_DELCHAIN, unix.NFTA_CHAIN_NAME)
}

// FlushSet takes all elements out of a set, one by one: the kernel needs a
// microsecond for each, in which nobody else changes the ruleset.
func (b *Batch) FlushSet(name string) {
	b.named("flush set", name, unix.NFT_MSG_DELSETELEM, unix.NFTA_SET_ELEM_LIST_SET)
}

// FlushChain takes all rules out of a chain.
func (b *Batch) FlushChain(name string) {
	b.named("flush chain", name, unix.NFT_MSG_DELRULE, unix.NFTA_RULE_CHAIN)
}

// DeleteCounter removes a counter.
func (b *Batch) DeleteCounter(name string) {
	data := inTable(b.table).str(unix.NFTA_OBJ_NAME, name).u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	b.add(fmt.Sprintf("delete counter %q", name), unix.NFT_MSG_DELOBJ, 0, data)
}

// MakeTable makes the table, or makes this connection the owner of one that is
// there, when flags say so.
func (b *Batch) MakeTable(flags uint32, note string) {
	data := inTable(b.table).u32(unix.NFTA_TABLE_FLAGS, flags).bytes(tableUserdata, userdata(note))
	b.add("make the table", unix.NFT_MSG_NEWTABLE, netlink.Create, data)
}

// MakeCounter makes a counter that stands at 0.
func (b *Batch) MakeCounter(name string) {
	data := inTable(b.table).str(unix.NFTA_OBJ_NAME, name).
		u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER).bytes(unix.NFTA_OBJ_DATA, nil)
	b.add(fmt.Sprintf("make counter %q", name), unix.NFT_MSG_NEWOBJ, netlink.Create, data)
}

// MakeSet makes a set, without its elements. One of size 0 has no limit (the
// kernel sets one of 65,535 where rules take elements in or out).
func (b *Batch) MakeSet(s Set) {
	data := inTable(b.table).str(unix.NFTA_SET_NAME, s.Name).u32(unix.NFTA_SET_FLAGS, s.Def.Flags).
		u32(unix.NFTA_SET_KEY_TYPE, s.Def.KeyType).u32(unix.NFTA_SET_KEY_LEN, s.Def.KeyLen)
	if s.Def.DataType != 0 {
		data = data.u32(unix.NFTA_SET_DATA_TYPE, s.Def.DataType)
	}
	if s.Def.GCInterval != 0 {
		data = data.u32(unix.NFTA_SET_GC_INTERVAL, s.Def.GCInterval)
	}
	if desc := description(s); desc != nil {
		data = data.bytes(unix.NFTA_SET_DESC, desc)
	}
	if s.Udata != nil {
		data = data.bytes(nftaSetUdata, s.Udata)
	}
	if s.Def.Once {
		data = data.bytes(nftaSetExpr, once())
	}
	data = data.u32(unix.NFTA_SET_ID, uint32(len(b.msgs)+1)) // any, but no other's in the transaction
	b.add(fmt.Sprintf("make set %q", s.Name), unix.NFT_MSG_NEWSET, netlink.Create, data)
}

// once gives each element of a set a limit of its own, of one packet, which is asked when
// the element is added, be it there or not: of two processors one alone adds it. A packet
// that could not spend the grant yet may come again after a tenth of a second.
func once() attrs {
	const second = 1
	return attrs{}.str(unix.NFTA_EXPR_NAME, "limit").bytes(unix.NFTA_EXPR_DATA,
		attrs{}.u64(limitRate, 10).u64(limitUnit, second).u32(limitBurst, 1))
}

// description says how many elements a set holds (NFTA_SET_DESC_SIZE), and how
// a concatenated key is made up: NFTA_SET_DESC_CONCAT, a list of
// NFTA_SET_FIELD_LEN.
func description(s Set) (desc attrs) {
	if s.Size != 0 {
		desc = desc.u32(1, s.Size)
	}
	var fields attrs
	for _, n := range s.Lengths {
		fields = fields.bytes(unix.NFTA_LIST_ELEM, attrs{}.u32(1, n))
	}
	if fields != nil {
		desc = desc.bytes(2, fields)
	}
	return desc
}

// MakeChain makes a chain, without its rules.
func (b *Batch) MakeChain(n Chain) {
	data := inTable(b.table).str(unix.NFTA_CHAIN_NAME, n.Name)
	if n.Base != (Hook{}) {
		hook := attrs{}.u32(unix.NFTA_HOOK_HOOKNUM, n.Base.Number).u32(unix.NFTA_HOOK_PRIORITY, uint32(n.Base.Priority))
		data = data.bytes(unix.NFTA_CHAIN_HOOK, hook).
			u32(unix.NFTA_CHAIN_POLICY, n.Base.Policy).str(unix.NFTA_CHAIN_TYPE, n.Base.Kind)
	}
	b.add(fmt.Sprintf("make chain %q", n.Name), unix.NFT_MSG_NEWCHAIN, netlink.Create, data)
}

// AddRule adds a rule behind those that the chain has.
func (b *Batch) AddRule(chain string, r Rule) {
	data := inTable(b.table).str(unix.NFTA_RULE_CHAIN, chain).
		bytes(unix.NFTA_RULE_EXPRESSIONS, []byte(r.Exprs)).bytes(unix.NFTA_RULE_USERDATA, userdata(r.What))
	b.add(fmt.Sprintf("add the rule %q to chain %q", r.What, chain),
		unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, data)
}

// AddElements adds elements to a set; those that are there stay as they are.
func (b *Batch) AddElements(set string, elems []Element) {
	for part := range slices.Chunk(elems, maxElements) {
		b.add("add to set "+set, unix.NFT_MSG_NEWSETELEM, netlink.Create, elementList(b.table, set, part))
	}
}

// SetElements gives elements their time, and removes those that have none left.
// An element's time cannot be changed before Linux 6.12, and one that is not
// there cannot be deleted before 6.3; to add, which leaves alone what is there,
// to delete and to add again works everywhere, and as it is one transaction no
// packet sees the gap.
func (b *Batch) SetElements(set string, elems []Element) {
	for part := range slices.Chunk(elems, maxElements) {
		list := elementList(b.table, set, part)
		b.add("add to set "+set, unix.NFT_MSG_NEWSETELEM, netlink.Create, list)
		b.add("delete from set "+set, unix.NFT_MSG_DELSETELEM, 0, list)
		if !slices.ContainsFunc(part, func(e Element) bool { return e.Left <= 0 }) {
			b.add("add to set "+set, unix.NFT_MSG_NEWSETELEM, netlink.Create, list)
			continue
		}
		b.AddElements(set, slices.DeleteFunc(slices.Clone(part), func(e Element) bool { return e.Left <= 0 }))
	}
}

func elementList(table, set string, elems []Element) attrs {
	data := slices.Grow(inTable(table), 64+len(elems)*elementSize).str(unix.NFTA_SET_ELEM_LIST_SET, set)
	list := data.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, e := range elems {
		i := data.open(unix.NFTA_LIST_ELEM)
		data = data.value(unix.NFTA_SET_ELEM_KEY, []byte(e.Key))
		if e.End {
			data = data.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		switch e.Chain {
		case "":
		case Dropped:
			data = data.bytes(unix.NFTA_SET_ELEM_DATA, verdict(nfDrop, ""))
		default:
			data = data.bytes(unix.NFTA_SET_ELEM_DATA, verdict(unix.NFT_GOTO, e.Chain))
		}
		if e.Left > 0 {
			data = data.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(e.Left/time.Millisecond))
		}
		data.close(i)
	}
	data.close(list)
	return data
}

// inTable begins a message about something in the table.
func inTable(table string) attrs {
	return attrs(nfnetlink.Header(unix.NFPROTO_INET)).str(ofTable, table)
}

// refusal says which message it was; the 0th began the batch.
func (b *Batch) refusal(i int, op *netlink.OpError) error {
	err := op.Err
	if op.Message != "" {
		err = fmt.Errorf("%w (%s)", err, op.Message)
	}
	if i == 0 || i > len(b.what) {
		return fmt.Errorf("commit: %w", err)
	}
	return fmt.Errorf("%s: %w", b.what[i-1], err)
}

// Ownership tries whether the kernel knows owner and persist, with a table that
// nobody ever sees.
func (c *Conn) Ownership() (bool, error) {
	b := &Batch{table: c.table + "-probe"}
	b.MakeTable(TableFlagOwner|TableFlagPersist, "probe")
	b.DeleteTable()
	err := c.Commit(b)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	return err == nil, err
}
