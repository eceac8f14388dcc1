//go:build linux

package nftables

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ReadElements returns a set's elements; those that have timed out are not
// there any more. A set that the table does not have is an error. With
// errInterrupted it returns elements too, of which few may be missing, or be there
// twice.
func (c *Conn) ReadElements(set string) ([]Element, error) {
	var query attrs
	query.str(unix.NFTA_SET_ELEM_LIST_TABLE, c.table)
	query.str(unix.NFTA_SET_ELEM_LIST_SET, set)
	var elems []Element
	err := c.list(fmt.Sprintf("the elements of set %q", set), unix.NFT_MSG_GETSETELEM, query,
		decodeElements(func(e Element) { elems = append(elems, e) }))
	return elems, err
}

// EachElement calls each with the elements of a set as they come. In memory there
// is never more than one message of them. With errInterrupted few may have been
// missed, or come twice.
func (c *Conn) EachElement(set string, each func(Element)) error {
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
		return ErrInterrupted
	}
	return unread
}

// ReadElement returns one element of a set, and whether it is there. That costs
// the same however many there are.
func (c *Conn) ReadElement(set, key string) (Element, bool, error) {
	msgs, err := c.ask(message(unix.NFT_MSG_GETSETELEM, 0, elementList(c.table, set, []Element{{Key: key}})))
	if errors.Is(err, unix.ENOENT) && !IsBroken(err) {
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

// Find calls each with the number of every member that the kernel has, and with what
// it has there. Where there is no set or no table, there are no elements. The
// answers, a message each, must fit into the socket's buffer.
func (c *Conn) Find(members []Member, found func(i int, e Element)) error {
	var questions []netlink.Message
	for _, m := range members {
		questions = append(questions, message(unix.NFT_MSG_GETSETELEM, 0, elementList(c.table, m.Set, []Element{{Key: m.Key}})))
	}
	sent, err := c.Netlink.SendMessages(questions)
	if err != nil {
		return &brokenError{"ask the kernel", err}
	}
	var refusal error
	for answered := 0; answered < len(sent); {
		msgs, err := c.receive()
		op, refused := errors.AsType[*netlink.OpError](err)
		var sequence uint32
		switch {
		case refused && op.Sequence != 0:
			sequence = op.Sequence
		case err != nil:
			return &brokenError{"hear from the kernel", err}
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
		switch {
		case !refused:
			err = each(msgs, decodeElements(func(e Element) { found(i, e) }))
		case errors.Is(op.Err, unix.ENOENT):
			err = nil
		default:
			err = op.Err
		}
		refusal = cmp.Or(refusal, err)
	}
	return refusal
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
					e.Key = string(key.Bytes())
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
			e.End = ad.Uint32()&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.Timed = true
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.Left = millis(ad.Uint64())
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
					e.Chain = fmt.Sprintf("verdict %d ", code)
				}
			case unix.NFTA_VERDICT_CHAIN:
				e.Chain += ad.String()
			}
		}
		return nil
	}
}
