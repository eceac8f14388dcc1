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

// Batch is a transaction that is being put together: its messages and, for
// errors, a description of each.
type Batch struct {
	table string
	msgs  []netlink.Message
	what  []string
	size  int
}

// Batch begins a transaction about the table, for Commit.
func (c *Conn) Batch() *Batch { return &Batch{table: c.table} }

// Size returns how many bytes the transaction's messages have so far, without their
// headers.
func (b *Batch) Size() int { return b.size }

func (b *Batch) add(what string, typ int, flags netlink.HeaderFlags, data []byte) {
	b.msgs = append(b.msgs, message(typ, flags, data))
	b.size += len(data)
	b.what = append(b.what, what)
}

// named adds a message about something in the table that has a name.
func (b *Batch) named(what string, name string, typ, attribute int) {
	b.add(fmt.Sprintf("%s %q", what, name), typ, 0, inTable(b.table).str(attribute, name))
}

// DeleteTable removes the table with everything in it.
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

// FlushSet removes all elements of a set, one by one: the kernel needs about a
// microsecond for each, and nobody else can change the ruleset meanwhile.
func (b *Batch) FlushSet(name string) {
	b.named("flush set", name, unix.NFT_MSG_DELSETELEM, unix.NFTA_SET_ELEM_LIST_SET)
}

// FlushChain removes all rules of a chain.
func (b *Batch) FlushChain(name string) {
	b.named("flush chain", name, unix.NFT_MSG_DELRULE, unix.NFTA_RULE_CHAIN)
}

// DeleteCounter removes a counter.
func (b *Batch) DeleteCounter(name string) {
	data := inTable(b.table).str(unix.NFTA_OBJ_NAME, name).u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	b.add(fmt.Sprintf("delete counter %q", name), unix.NFT_MSG_DELOBJ, 0, data)
}

// MakeTable makes the table. If it exists, and flags have TableFlagOwner, it makes this
// connection its owner.
func (b *Batch) MakeTable(flags uint32, note string) {
	data := inTable(b.table).u32(unix.NFTA_TABLE_FLAGS, flags).bytes(tableUserdata, userdata(note))
	b.add("make the table", unix.NFT_MSG_NEWTABLE, netlink.Create, data)
}

// MakeCounter makes a counter, whose value is 0.
func (b *Batch) MakeCounter(name string) {
	data := inTable(b.table).str(unix.NFTA_OBJ_NAME, name).
		u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER).bytes(unix.NFTA_OBJ_DATA, nil)
	b.add(fmt.Sprintf("make counter %q", name), unix.NFT_MSG_NEWOBJ, netlink.Create, data)
}

// MakeSet makes a set, without its elements. A set of size 0 has no limit, except
// that the kernel limits it to 65,535 elements where rules add or delete them.
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
	if s.Def.Once {
		data = data.bytes(nftaSetExpr, once())
	}
	data = data.u32(unix.NFTA_SET_ID, uint32(len(b.msgs)+1)) // any, but no other's in the transaction
	b.add(fmt.Sprintf("make set %q", s.Name), unix.NFT_MSG_NEWSET, netlink.Create, data)
}

// once gives each element of a set a limit of its own, of one packet, which is evaluated
// whenever the element is added, even if it is there already: when two processors add it
// at the same time, only one of them succeeds. A packet that could not spend the grant yet
// may come again after a tenth of a second.
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

// AddRule adds a rule after those that the chain has.
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

// SetElements sets the timeouts of elements, and removes those that have no time
// left. Before Linux 6.12 the timeout of an element cannot be changed, and before
// 6.3 an element that is not there cannot be deleted. Adding it (which leaves
// alone one that is there), deleting it and adding it again works everywhere, and
// since this is one transaction, no packet sees the gap.
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
		if e.Chain != "" {
			data = data.bytes(unix.NFTA_SET_ELEM_DATA, verdict(unix.NFT_JUMP, e.Chain))
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

// refusal returns the kernel's error about message i, with what that message was
// to do; message 0 began the batch.
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

// Ownership reports whether the kernel supports the flags owner and persist. It
// tries them on a table that exists within one transaction only.
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
