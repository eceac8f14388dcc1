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

// read returns the kernel's table, nil when there is none.
func (c *conn) read() (*table, error) {
	t, err := c.readTable()
	if t == nil || err != nil {
		return nil, err
	}
	if err := c.readCounters(func(name string, _ uint64) { t.counters = append(t.counters, name) }); err != nil {
		return nil, err
	}
	slices.Sort(t.counters)
	if err := c.readSets(t); err != nil {
		return nil, err
	}
	if err := c.readChains(t); err != nil {
		return nil, err
	}
	return t, c.readRules(t)
}

// readTable returns the table alone, without what is in it.
func (c *conn) readTable() (*table, error) {
	msgs, err := c.dump(unix.NFT_MSG_GETTABLE, nil)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var found *table
	err = each(msgs, func(ad *netlink.AttributeDecoder) {
		var name string
		t := &table{}
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
		if name == tableName {
			found = t
		}
	})
	return found, err
}

func (c *conn) readCounters(counter func(name string, packets uint64)) error {
	var query attrs
	query.str(unix.NFTA_OBJ_TABLE, tableName)
	query.u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	msgs, err := c.dump(unix.NFT_MSG_GETOBJ, query)
	if err != nil {
		return fmt.Errorf("list counters: %w", err)
	}
	return each(msgs, func(ad *netlink.AttributeDecoder) {
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
		if table == tableName {
			counter(name, packets)
		}
	})
}

func (c *conn) readSets(t *table) error {
	var query attrs
	query.str(unix.NFTA_SET_TABLE, tableName)
	msgs, err := c.dump(unix.NFT_MSG_GETSET, query)
	if err != nil {
		return fmt.Errorf("list sets: %w", err)
	}
	err = each(msgs, func(ad *netlink.AttributeDecoder) {
		var table string
		var s set
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
			}
		}
		if table == tableName {
			t.sets = append(t.sets, s)
		}
	})
	for i := range t.sets {
		if err == nil && t.sets[i].def.flags&unix.NFT_SET_INTERVAL != 0 {
			t.sets[i].elems, err = c.readElements(t.sets[i].name)
			sortElements(t.sets[i].elems)
		}
	}
	return err
}

// readElements returns a set's elements; those that have timed out are not
// there any more. A set that the table does not have is an error. With
// errInterrupted it returns elements too, of which few may be missing.
func (c *conn) readElements(set string) ([]element, error) {
	var query attrs
	query.str(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	query.str(unix.NFTA_SET_ELEM_LIST_SET, set)
	msgs, err := c.dump(unix.NFT_MSG_GETSETELEM, query)
	if err != nil {
		err = fmt.Errorf("list the elements of set %q: %w", set, err)
	}
	elems, unread := decodeElements(msgs)
	return elems, errors.Join(err, unread)
}

// readElement returns one element of a set, and whether it is there. That costs
// the same however many there are.
func (c *conn) readElement(set, key string) (element, bool, error) {
	msgs, err := c.ask(message(unix.NFT_MSG_GETSETELEM, 0, elementList(set, []element{{key: key}})))
	if errors.Is(err, unix.ENOENT) && !isBroken(err) {
		return element{}, false, nil
	}
	if err != nil {
		return element{}, false, fmt.Errorf("look for an element of set %q: %w", set, err)
	}
	elems, err := decodeElements(msgs)
	if err != nil || len(elems) != 1 {
		return element{}, false, err
	}
	return elems[0], true, nil
}

func decodeElements(msgs []netlink.Message) (elems []element, err error) {
	err = each(msgs, func(ad *netlink.AttributeDecoder) {
		for ad.Next() {
			if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(elem *netlink.AttributeDecoder) error {
						elems = append(elems, decodeElement(elem))
						return nil
					})
				}
				return nil
			})
		}
	})
	return elems, err
}

func decodeElement(ad *netlink.AttributeDecoder) element {
	var e element
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
func decodeVerdict(e *element) func(*netlink.AttributeDecoder) error {
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

func (c *conn) readChains(t *table) error {
	msgs, err := c.dump(unix.NFT_MSG_GETCHAIN, nil)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	return each(msgs, func(ad *netlink.AttributeDecoder) {
		var table string
		var n chain
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
		if table == tableName {
			t.chains = append(t.chains, n)
		}
	})
}

func (c *conn) readRules(t *table) error {
	var query attrs
	query.str(unix.NFTA_RULE_TABLE, tableName)
	msgs, err := c.dump(unix.NFT_MSG_GETRULE, query)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	return each(msgs, func(ad *netlink.AttributeDecoder) {
		var table, in string
		var r rule
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
		if n := t.chain(in); table == tableName && n != nil {
			n.rules = append(n.rules, r)
		}
	})
}

// each decodes the attributes behind each message's nfgenmsg, in network order.
func each(msgs []netlink.Message, decode func(*netlink.AttributeDecoder)) error {
	for _, m := range msgs {
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
