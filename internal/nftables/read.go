//go:build linux

package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// NFTA_TABLE_OWNER and NFTA_TABLE_USERDATA, of linux/netfilter/nf_tables.h.
const (
	tableUserdata = 6
	tableOwner    = 7
)

// Flags of a table, of linux/netfilter/nf_tables.h: it belongs to one socket
// (5.12), and does not go away with it (6.9).
const (
	TableFlagOwner   = 0x2
	TableFlagPersist = 0x4
)

// Read returns the kernel's table, nil when there is none. With errInterrupted it
// returns one too, whose lists are not all of one moment.
func (c *Conn) Read() (*Table, error) {
	t, err := c.ReadTable()
	if t == nil {
		return nil, err
	}
	for _, list := range []func(*Table) error{c.countersOf, c.ReadSets, c.readElementsOf, c.readChains, c.readRules} {
		switch once := list(t); {
		case errors.Is(once, ErrInterrupted):
			err = ErrInterrupted
		case once != nil:
			return nil, once
		}
	}
	return t, err
}

// list asks for a list and has each thing in it decoded. That it is not of one
// moment it says when all is decoded.
func (c *Conn) list(what string, typ int, query attrs, decode func(*netlink.AttributeDecoder)) error {
	msgs, err := c.dump(typ, query)
	if err != nil && !errors.Is(err, ErrInterrupted) {
		return fmt.Errorf("list %s: %w", what, err)
	}
	if unread := each(msgs, decode); unread != nil {
		return unread
	}
	return err
}

func (c *Conn) countersOf(t *Table) error {
	err := c.ReadCounters(func(name string, _ uint64) { t.Counters = append(t.Counters, name) })
	slices.Sort(t.Counters)
	return err
}

// ReadTable returns the table alone, without what is in it.
func (c *Conn) ReadTable() (*Table, error) {
	var found *Table
	err := c.list("tables", unix.NFT_MSG_GETTABLE, nil, func(ad *netlink.AttributeDecoder) {
		var name string
		t := &Table{}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				name = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				t.Flags = ad.Uint32()
			case tableOwner:
				t.Owner = ad.Uint32()
			case tableUserdata:
				t.Comment = comment(ad.Bytes())
			}
		}
		if name == c.table {
			found = t
		}
	})
	return found, err
}

// ReadCounters calls counter with each of the table's counters.
func (c *Conn) ReadCounters(counter func(name string, packets uint64)) error {
	var query attrs
	query.str(unix.NFTA_OBJ_TABLE, c.table)
	query.u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	return c.list("counters", unix.NFT_MSG_GETOBJ, query, func(ad *netlink.AttributeDecoder) {
		var table, name string
		var packets uint64
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_OBJ_TABLE:
				table = ad.String()
			case unix.NFTA_OBJ_NAME:
				name = ad.String()
			case unix.NFTA_OBJ_DATA:
				ad.Nested(func(nad *netlink.AttributeDecoder) error {
					for nad.Next() {
						if nad.Type() == unix.NFTA_COUNTER_PACKETS {
							packets = nad.Uint64()
						}
					}
					return nil
				})
			}
		}
		if table == c.table {
			counter(name, packets)
		}
	})
}

// ReadSets appends the table's sets to t, without elements.
func (c *Conn) ReadSets(t *Table) error {
	var query attrs
	query.str(unix.NFTA_SET_TABLE, c.table)
	return c.list("sets", unix.NFT_MSG_GETSET, query, func(ad *netlink.AttributeDecoder) {
		var table string
		s := Set{Count: -1}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_SET_TABLE:
				table = ad.String()
			case unix.NFTA_SET_NAME:
				s.Name = ad.String()
			case unix.NFTA_SET_FLAGS:
				s.Def.Flags = ad.Uint32()
			case unix.NFTA_SET_KEY_TYPE:
				s.Def.KeyType = ad.Uint32()
			case unix.NFTA_SET_KEY_LEN:
				s.Def.KeyLen = ad.Uint32()
			case unix.NFTA_SET_DATA_TYPE:
				s.Def.DataType = ad.Uint32()
			case unix.NFTA_SET_GC_INTERVAL:
				s.Def.GCInterval = ad.Uint32()
			case nftaSetExpr:
				s.Def.Once = true
			case nftaSetCount:
				s.Count = int(ad.Uint32())
			}
		}
		if table == c.table {
			t.Sets = append(t.Sets, s)
		}
	})
}

// readElementsOf reads the elements of those sets that do not move by themselves.
func (c *Conn) readElementsOf(t *Table) (err error) {
	for i := range t.Sets {
		s := &t.Sets[i]
		if s.Def.Flags&unix.NFT_SET_INTERVAL == 0 {
			continue
		}
		var once error
		s.Elems, once = c.ReadElements(s.Name)
		SortElements(s.Elems)
		switch {
		case errors.Is(once, ErrInterrupted):
			err = ErrInterrupted
		case once != nil:
			return once
		}
	}
	return err
}

func (c *Conn) readChains(t *Table) error {
	return c.list("chains", unix.NFT_MSG_GETCHAIN, nil, func(ad *netlink.AttributeDecoder) {
		var table string
		var n Chain
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				n.Name = ad.String()
			case unix.NFTA_CHAIN_TYPE:
				n.Base.Kind = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				n.Base.Policy = ad.Uint32()
			case unix.NFTA_CHAIN_HOOK:
				ad.Nested(func(nad *netlink.AttributeDecoder) error {
					for nad.Next() {
						switch nad.Type() {
						case unix.NFTA_HOOK_HOOKNUM:
							n.Base.Number = nad.Uint32()
						case unix.NFTA_HOOK_PRIORITY:
							n.Base.Priority = int32(nad.Uint32())
						}
					}
					return nil
				})
			}
		}
		if table == c.table {
			t.Chains = append(t.Chains, n)
		}
	})
}

func (c *Conn) readRules(t *Table) error {
	var query attrs
	query.str(unix.NFTA_RULE_TABLE, c.table)
	at := map[string]int{}
	for i, n := range t.Chains {
		at[n.Name] = i
	}
	return c.list("rules", unix.NFT_MSG_GETRULE, query, func(ad *netlink.AttributeDecoder) {
		var table, in string
		var r Rule
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				in = ad.String()
			case unix.NFTA_RULE_EXPRESSIONS:
				r.Exprs = string(ad.Bytes())
			case unix.NFTA_RULE_USERDATA:
				r.What = comment(ad.Bytes())
			}
		}
		if i, ok := at[in]; table == c.table && ok {
			t.Chains[i].Rules = append(t.Chains[i].Rules, r)
		}
	})
}

// each decodes the attributes behind each message's nfgenmsg, in network order.
func each(msgs []netlink.Message, decode func(*netlink.AttributeDecoder)) error {
	for _, m := range msgs {
		if err := eachOf(m, decode); err != nil {
			return err
		}
	}
	return nil
}

func eachOf(m netlink.Message, decode func(*netlink.AttributeDecoder)) error {
	if len(m.Data) < 4 {
		return fmt.Errorf("nf_tables sent a message of %d bytes", len(m.Data))
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return fmt.Errorf("decode nf_tables' answer: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	decode(ad)
	if err := ad.Err(); err != nil {
		return fmt.Errorf("decode nf_tables' answer: %w", err)
	}
	return nil
}

// comment reads nft's user data of tables and rules: type, length, value, of
// which type 0 is the comment with a closing zero.
func comment(b []byte) string {
	for len(b) >= 2 {
		n := int(b[1])
		if len(b) < 2+n {
			return ""
		}
		if b[0] == 0 && n > 0 {
			return string(b[2 : 2+n-1])
		}
		b = b[2+n:]
	}
	return ""
}

// userdata writes what comment reads.
func userdata(text string) []byte {
	return append(append([]byte{0, byte(len(text) + 1)}, text...), 0)
}
