//go:build linux

package fence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

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
	tableFlagOwner   = 0x2
	tableFlagPersist = 0x4
)

// read returns the kernel's table, nil when there is none. With errInterrupted it
// returns one too, whose lists are not all of one moment.
func (c *conn) read() (*Table, error) {
	t, err := c.readTable()
	if t == nil {
		return nil, err
	}
	for _, list := range []func(*Table) error{c.countersOf, c.readSets, c.readElementsOf, c.readChains, c.readRules} {
		switch once := list(t); {
		case errors.Is(once, errInterrupted):
			err = errInterrupted
		case once != nil:
			return nil, once
		}
	}
	return t, err
}

// list asks for a list and has each thing in it decoded. That it is not of one
// moment it says when all is decoded.
func (c *conn) list(what string, typ int, query attrs, decode func(*netlink.AttributeDecoder)) error {
	msgs, err := c.dump(typ, query)
	if err != nil && !errors.Is(err, errInterrupted) {
		return fmt.Errorf("list %s: %w", what, err)
	}
	if unread := each(msgs, decode); unread != nil {
		return unread
	}
	return err
}

func (c *conn) countersOf(t *Table) error {
	err := c.readCounters(func(name string, _ uint64) { t.counters = append(t.counters, name) })
	slices.Sort(t.counters)
	return err
}

// readTable returns the table alone, without what is in it.
func (c *conn) readTable() (*Table, error) {
	var found *Table
	err := c.list("tables", unix.NFT_MSG_GETTABLE, nil, func(ad *netlink.AttributeDecoder) {
		var name string
		t := &Table{}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				name = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				t.flags = ad.Uint32()
			case tableOwner:
				t.owner = ad.Uint32()
			case tableUserdata:
				t.comment = comment(ad.Bytes())
			}
		}
		if name == c.table {
			found = t
		}
	})
	return found, err
}

func (c *conn) readCounters(counter func(name string, packets uint64)) error {
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

func (c *conn) readSets(t *Table) error {
	var query attrs
	query.str(unix.NFTA_SET_TABLE, c.table)
	return c.list("sets", unix.NFT_MSG_GETSET, query, func(ad *netlink.AttributeDecoder) {
		var table string
		s := Set{count: -1}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_SET_TABLE:
				table = ad.String()
			case unix.NFTA_SET_NAME:
				s.name = ad.String()
			case unix.NFTA_SET_FLAGS:
				s.def.flags = ad.Uint32()
			case unix.NFTA_SET_KEY_TYPE:
				s.def.keyType = ad.Uint32()
			case unix.NFTA_SET_KEY_LEN:
				s.def.keyLen = ad.Uint32()
			case unix.NFTA_SET_DATA_TYPE:
				s.def.dataType = ad.Uint32()
			case unix.NFTA_SET_GC_INTERVAL:
				s.def.gcInterval = ad.Uint32()
			case nftaSetExpr:
				s.def.once = true
			case nftaSetCount:
				s.count = int(ad.Uint32())
			}
		}
		if table == c.table {
			t.sets = append(t.sets, s)
		}
	})
}

// readElementsOf reads the elements of those sets that do not move by themselves.
func (c *conn) readElementsOf(t *Table) (err error) {
	for i := range t.sets {
		s := &t.sets[i]
		if s.def.flags&unix.NFT_SET_INTERVAL == 0 {
			continue
		}
		var once error
		s.elems, once = c.readElements(s.name)
		sortElements(s.elems)
		switch {
		case errors.Is(once, errInterrupted):
			err = errInterrupted
		case once != nil:
			return once
		}
	}
	return err
}

// readElements returns a set's elements; those that have timed out are not
// there any more. A set that the table does not have is an error. With
// errInterrupted it returns elements too, of which few may be missing, or be there
// twice.
func (c *conn) readElements(set string) ([]Element, error) {
	var query attrs
	query.str(unix.NFTA_SET_ELEM_LIST_TABLE, c.table)
	query.str(unix.NFTA_SET_ELEM_LIST_SET, set)
	var elems []Element
	err := c.list(fmt.Sprintf("the elements of set %q", set), unix.NFT_MSG_GETSETELEM, query,
		decodeElements(func(e Element) { elems = append(elems, e) }))
	return elems, err
}

// eachElement calls each with the elements of a set as they come. In memory there
// is never more than one message of them. With errInterrupted few may have been
// missed, or come twice.
func (c *conn) eachElement(set string, each func(Element)) error {
	query := inTable(c.table)[4:].with(unix.NFTA_SET_ELEM_LIST_SET, set)
	interrupted := false
	var unread error
	decode := decodeElements(each)
	err := c.stream(unix.NFT_MSG_GETSETELEM, query, func(m netlink.Message) {
		interrupted = interrupted || isInterrupted(m)
		if unread == nil {
			unread = eachOf(m, decode)
		}
	})
	switch {
	case err != nil:
		return fmt.Errorf("list the elements of set %q: %w", set, err)
	case unread == nil && interrupted:
		return errInterrupted
	}
	return unread
}

// readElement returns one element of a set, and whether it is there. That costs
// the same however many there are.
func (c *conn) readElement(set, key string) (Element, bool, error) {
	msgs, err := c.ask(message(unix.NFT_MSG_GETSETELEM, 0, elementList(c.table, set, []Element{{key: key}})))
	if errors.Is(err, unix.ENOENT) && !isBroken(err) {
		return Element{}, false, nil
	}
	if err != nil {
		return Element{}, false, fmt.Errorf("look for an element of set %q: %w", set, err)
	}
	var found Element
	n := 0
	err = each(msgs, decodeElements(func(e Element) { found, n = e, n+1 }))
	return found, err == nil && n == 1, err
}

// Member is an element of a set.
type Member struct{ Set, Key string }

// have says for each element whether the kernel has it. Where there is no set or
// no table, there are no elements. The answers, a message each, must fit into the
// socket's buffer.
func (c *conn) have(members []Member) ([]bool, error) {
	var questions []netlink.Message
	for _, m := range members {
		questions = append(questions, message(unix.NFT_MSG_GETSETELEM, 0, elementList(c.table, m.Set, []Element{{key: m.Key}})))
	}
	sent, err := c.nl.SendMessages(questions)
	if err != nil {
		return nil, &brokenError{"ask the kernel", err}
	}
	there := make([]bool, len(members))
	var refusal error
	for answered := 0; answered < len(sent); {
		msgs, err := c.receive()
		op, refused := errors.AsType[*netlink.OpError](err)
		var sequence uint32
		switch {
		case refused && op.Sequence != 0:
			sequence = op.Sequence
		case err != nil:
			return nil, &brokenError{"hear from the kernel", err}
		case len(msgs) == 0:
			continue
		default:
			sequence = msgs[0].Header.Sequence
		}
		i := int(sequence - sent[0].Header.Sequence)
		if i >= len(sent) {
			continue // a leftover of an earlier question
		}
		answered++
		there[i] = !refused
		if refused && !errors.Is(op.Err, unix.ENOENT) && refusal == nil {
			refusal = op.Err
		}
	}
	return there, refusal
}

// decodeElements calls each with all elements of a message.
func decodeElements(each func(Element)) func(*netlink.AttributeDecoder) {
	return func(ad *netlink.AttributeDecoder) {
		for ad.Next() {
			if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(elem *netlink.AttributeDecoder) error {
						each(decodeElement(elem))
						return nil
					})
				}
				return nil
			})
		}
	}
}

func decodeElement(ad *netlink.AttributeDecoder) Element {
	var e Element
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			ad.Nested(func(key *netlink.AttributeDecoder) error {
				for key.Next() {
					e.key = string(key.Bytes())
				}
				return nil
			})
		case unix.NFTA_SET_ELEM_DATA:
			ad.Nested(func(data *netlink.AttributeDecoder) error {
				for data.Next() {
					if data.Type() == unix.NFTA_DATA_VERDICT {
						data.Nested(decodeVerdict(&e))
					}
				}
				return nil
			})
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = ad.Uint32()&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.timed = true
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.left = millis(ad.Uint64())
		}
	}
	return e
}

// millis is a time of ms milliseconds. The kernel takes 584 years, a Duration
// holds half of that, and more than it holds must not come out as none left: the
// grant would be there and nobody would see it.
func millis(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(math.MaxInt64/time.Millisecond))) * time.Millisecond
}

// decodeVerdict reads the chain that an element goes to; any other verdict than
// going there is made to differ from all that the fence writes.
func decodeVerdict(e *Element) func(*netlink.AttributeDecoder) error {
	return func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_VERDICT_CODE:
				if code := int32(ad.Uint32()); code != unix.NFT_GOTO {
					e.chain = fmt.Sprintf("verdict %d ", code)
				}
			case unix.NFTA_VERDICT_CHAIN:
				e.chain += ad.String()
			}
		}
		return nil
	}
}

func (c *conn) readChains(t *Table) error {
	return c.list("chains", unix.NFT_MSG_GETCHAIN, nil, func(ad *netlink.AttributeDecoder) {
		var table string
		var n Chain
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				n.name = ad.String()
			case unix.NFTA_CHAIN_TYPE:
				n.base.kind = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				n.base.policy = ad.Uint32()
			case unix.NFTA_CHAIN_HOOK:
				ad.Nested(func(nad *netlink.AttributeDecoder) error {
					for nad.Next() {
						switch nad.Type() {
						case unix.NFTA_HOOK_HOOKNUM:
							n.base.number = nad.Uint32()
						case unix.NFTA_HOOK_PRIORITY:
							n.base.priority = int32(nad.Uint32())
						}
					}
					return nil
				})
			}
		}
		if table == c.table {
			t.chains = append(t.chains, n)
		}
	})
}

func (c *conn) readRules(t *Table) error {
	var query attrs
	query.str(unix.NFTA_RULE_TABLE, c.table)
	at := map[string]int{}
	for i, n := range t.chains {
		at[n.name] = i
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
				r.exprs = string(ad.Bytes())
			case unix.NFTA_RULE_USERDATA:
				r.what = comment(ad.Bytes())
			}
		}
		if i, ok := at[in]; table == c.table && ok {
			t.chains[i].rules = append(t.chains[i].rules, r)
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
