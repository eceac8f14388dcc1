//go:build linux

package nftables

import (
	"errors"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
)

// ofTable is the attribute that names the table, in messages about tables and about
// everything in them: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and so on.
const ofTable = 1

// NFTA_TABLE_USERDATA and NFTA_TABLE_OWNER of linux/netfilter/nf_tables.h.
const (
	tableUserdata = 6
	tableOwner    = 7
)

// Flags of a table, of linux/netfilter/nf_tables.h: it belongs to one socket
// (since Linux 5.12), and outlives that socket (since 6.9).
const (
	TableFlagOwner   = 0x2
	TableFlagPersist = 0x4
)

// Read returns the kernel's table, or nil if there is none. With ErrInterrupted it
// returns a table too, but its lists are not all of one moment.
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

// list asks for a list of tables, or of things in them, and reads each item into the
// variables that fields point to. Then it calls next, which uses what was read and
// resets the variables; ours is false for an item that is not the table's. A list that
// is not of one moment is read to its end before list returns ErrInterrupted.
func (c *Conn) list(what string, typ int, query attrs, fields nfnetlink.Fields, next func(ours bool)) error {
	var table string
	fields[ofTable] = nfnetlink.Text(&table)
	msgs, err := c.dump(what, typ, query)
	if err != nil && !errors.Is(err, ErrInterrupted) {
		return err
	}
	for _, m := range msgs {
		table = ""
		if err := nfnetlink.Attributes(m, fields.Read); err != nil {
			return err
		}
		next(table == c.table)
	}
	return err
}

func (c *Conn) countersOf(t *Table) error {
	err := c.ReadCounters(func(name string, _ uint64) { t.Counters = append(t.Counters, name) })
	slices.Sort(t.Counters)
	return err
}

// ReadTable returns the table without its contents, or nil if there is none.
func (c *Conn) ReadTable() (found *Table, err error) {
	var t Table
	err = c.list("tables", unix.NFT_MSG_GETTABLE, nil, nfnetlink.Fields{
		unix.NFTA_TABLE_FLAGS: nfnetlink.Number(&t.Flags),
		tableOwner:            nfnetlink.Number(&t.Owner),
		tableUserdata:         comment(&t.Comment),
	}, func(ours bool) {
		if ours {
			found = new(t)
		}
		t = Table{}
	})
	return found, err
}

// ReadCounters calls counter for each of the table's counters.
func (c *Conn) ReadCounters(counter func(name string, packets uint64)) error {
	var name string
	var packets uint64
	query := attrs{}.str(ofTable, c.table).u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	return c.list("counters", unix.NFT_MSG_GETOBJ, query, nfnetlink.Fields{
		unix.NFTA_OBJ_NAME: nfnetlink.Text(&name),
		unix.NFTA_OBJ_DATA: nfnetlink.Fields{unix.NFTA_COUNTER_PACKETS: nfnetlink.Number(&packets)}.Nested,
	}, func(ours bool) {
		if ours {
			counter(name, packets)
		}
		name, packets = "", 0
	})
}

// ReadSets appends the table's sets to t, without elements.
func (c *Conn) ReadSets(t *Table) error {
	s := Set{Count: -1}
	return c.list("sets", unix.NFT_MSG_GETSET, attrs{}.str(ofTable, c.table), nfnetlink.Fields{
		unix.NFTA_SET_NAME:        nfnetlink.Text(&s.Name),
		unix.NFTA_SET_FLAGS:       nfnetlink.Number(&s.Def.Flags),
		unix.NFTA_SET_KEY_TYPE:    nfnetlink.Number(&s.Def.KeyType),
		unix.NFTA_SET_KEY_LEN:     nfnetlink.Number(&s.Def.KeyLen),
		unix.NFTA_SET_DATA_TYPE:   nfnetlink.Number(&s.Def.DataType),
		unix.NFTA_SET_GC_INTERVAL: nfnetlink.Number(&s.Def.GCInterval),
		nftaSetExpr:               func(*netlink.AttributeDecoder) { s.Def.Once = true },
		nftaSetCount:              func(ad *netlink.AttributeDecoder) { s.Count = int(ad.Uint32()) },
	}, func(ours bool) {
		if ours {
			t.Sets = append(t.Sets, s)
		}
		s = Set{Count: -1}
	})
}

// readElementsOf reads the elements of the interval sets, which do not change by
// themselves.
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
	var n Chain
	return c.list("chains", unix.NFT_MSG_GETCHAIN, nil, nfnetlink.Fields{
		unix.NFTA_CHAIN_NAME:   nfnetlink.Text(&n.Name),
		unix.NFTA_CHAIN_TYPE:   nfnetlink.Text(&n.Base.Kind),
		unix.NFTA_CHAIN_POLICY: nfnetlink.Number(&n.Base.Policy),
		unix.NFTA_CHAIN_HOOK: nfnetlink.Fields{
			unix.NFTA_HOOK_HOOKNUM:  nfnetlink.Number(&n.Base.Number),
			unix.NFTA_HOOK_PRIORITY: func(ad *netlink.AttributeDecoder) { n.Base.Priority = int32(ad.Uint32()) },
		}.Nested,
	}, func(ours bool) {
		if ours {
			t.Chains = append(t.Chains, n)
		}
		n = Chain{}
	})
}

func (c *Conn) readRules(t *Table) error {
	at := map[string]int{}
	for i, n := range t.Chains {
		at[n.Name] = i
	}
	var in string
	var r Rule
	return c.list("rules", unix.NFT_MSG_GETRULE, attrs{}.str(ofTable, c.table), nfnetlink.Fields{
		unix.NFTA_RULE_CHAIN:       nfnetlink.Text(&in),
		unix.NFTA_RULE_EXPRESSIONS: func(ad *netlink.AttributeDecoder) { r.Exprs = string(ad.Bytes()) },
		unix.NFTA_RULE_USERDATA:    comment(&r.What),
	}, func(ours bool) {
		if i, ok := at[in]; ours && ok {
			t.Chains[i].Rules = append(t.Chains[i].Rules, r)
		}
		in, r = "", Rule{}
	})
}

// comment reads the comment in nft's user data.
func comment(to *string) func(*netlink.AttributeDecoder) {
	return func(ad *netlink.AttributeDecoder) { *to = commentIn(ad.Bytes()) }
}

// commentIn returns the comment in nft's user data of a table or a rule, which is a
// sequence of type, length and value. Type 0 is the comment, with a closing zero.
func commentIn(b []byte) string {
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

// userdata writes what commentIn reads.
func userdata(text string) []byte {
	return append(append([]byte{0, byte(len(text) + 1)}, text...), 0)
}
