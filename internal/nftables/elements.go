//go:build linux

package nftables

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
)

// ReadElements returns the elements of a set that have not timed out. A set that
// the table does not have is an error. With ErrInterrupted it returns elements
// too, but a few may be missing or appear twice.
func (c *Conn) ReadElements(set string) ([]Element, error) {
	msgs, err := c.dump("the elements of set "+strconv.Quote(set), unix.NFT_MSG_GETSETELEM, c.aboutSet(set))
	if err != nil && !errors.Is(err, ErrInterrupted) {
		return nil, err
	}
	var elems []Element
	for _, m := range msgs {
		if unread := decodeElements(m, func(e Element) { elems = append(elems, e) }); unread != nil {
			return nil, unread
		}
	}
	return elems, err
}

// EachElement calls each for the elements of a set as they arrive, so that memory
// never holds more than one message of them. With ErrInterrupted, a few elements
// may have been missed or have come twice.
func (c *Conn) EachElement(set string, each func(Element)) error {
	interrupted := false
	err := c.Netlink.Ask(listing(unix.NFT_MSG_GETSETELEM, c.aboutSet(set)), func(m netlink.Message) error {
		interrupted = interrupted || isInterrupted(m)
		return decodeElements(m, each)
	})
	switch {
	case err != nil:
		return fmt.Errorf("list the elements of set %q: %w", set, err)
	case interrupted:
		return ErrInterrupted
	}
	return nil
}

func (c *Conn) aboutSet(set string) attrs {
	return inTable(c.table)[nfnetlink.HeaderLen:].str(unix.NFTA_SET_ELEM_LIST_SET, set)
}

// Member is an element of a set.
type Member struct{ Set, Key string }

// Find calls found for every member that the kernel has, with its index in members and
// the element. A look-up costs the same however many elements the set has. A set or
// table that does not exist has no elements. The answers, one message each, must fit
// into the socket's receive buffer.
func (c *Conn) Find(members []Member, found func(i int, e Element)) error {
	var questions []netlink.Message
	for _, m := range members {
		questions = append(questions, message(unix.NFT_MSG_GETSETELEM, 0, elementList(c.table, m.Set, []Element{{Key: m.Key}})))
	}
	sent, err := c.Netlink.SendMessages(questions)
	if err != nil {
		return nfnetlink.Broken(err)
	}
	var refusal error
	for answered := 0; answered < len(sent); {
		var unread error
		sequence, refused, err := c.Netlink.Hear(func(m netlink.Message) {
			if i := m.Header.Sequence - sent[0].Header.Sequence; i < uint32(len(sent)) {
				unread = cmp.Or(unread, decodeElements(m, func(e Element) { found(int(i), e) }))
			}
		})
		switch {
		case err != nil:
			return err
		case sequence-sent[0].Header.Sequence >= uint32(len(sent)):
			continue // left over from a question before, or an empty list
		case refused != nil && !errors.Is(refused.Err, unix.ENOENT):
			unread = refused.Err
		}
		answered++
		refusal = cmp.Or(refusal, unread)
	}
	return refusal
}

// decodeElements calls each for every element of a message.
func decodeElements(m netlink.Message, each func(Element)) error {
	var e Element
	fields := nfnetlink.Fields{
		unix.NFTA_SET_ELEM_KEY: func(ad *netlink.AttributeDecoder) {
			ad.Nested(func(key *netlink.AttributeDecoder) error {
				for key.Next() {
					e.Key = string(key.Bytes())
				}
				return nil
			})
		},
		unix.NFTA_SET_ELEM_DATA: nfnetlink.Fields{unix.NFTA_DATA_VERDICT: nfnetlink.Fields{
			// Any verdict other than a jump gets a name that no chain has, so that it
			// differs from everything that is ever written.
			unix.NFTA_VERDICT_CODE: func(ad *netlink.AttributeDecoder) {
				if code := int32(ad.Uint32()); code != unix.NFT_JUMP {
					e.Chain = fmt.Sprintf("verdict %d ", code)
				}
			},
			unix.NFTA_VERDICT_CHAIN: func(ad *netlink.AttributeDecoder) { e.Chain += ad.String() },
		}.Nested}.Nested,
		unix.NFTA_SET_ELEM_FLAGS:      func(ad *netlink.AttributeDecoder) { e.End = ad.Uint32()&unix.NFT_SET_ELEM_INTERVAL_END != 0 },
		unix.NFTA_SET_ELEM_TIMEOUT:    func(*netlink.AttributeDecoder) { e.Timed = true },
		unix.NFTA_SET_ELEM_EXPIRATION: func(ad *netlink.AttributeDecoder) { e.Left = millis(ad.Uint64()) },
	}
	list := func(list *netlink.AttributeDecoder) error {
		for list.Next() {
			e = Element{}
			fields.Nested(list)
			each(e)
		}
		return nil
	}
	return nfnetlink.Attributes(m, nfnetlink.Fields{
		unix.NFTA_SET_ELEM_LIST_ELEMENTS: func(ad *netlink.AttributeDecoder) { ad.Nested(list) },
	}.Read)
}

// millis returns a duration of ms milliseconds. The kernel accepts up to 584 years and
// a Duration holds half of that. A longer time must not come out as none left: the
// grant would exist and nobody would see it.
func millis(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(math.MaxInt64/time.Millisecond))) * time.Millisecond
}
