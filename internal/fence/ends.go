//go:build linux

package fence

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// askAtOnce bounds the questions that are under way: their answers, each a message
// of its own, must fit into the socket's buffer as the system gives it, which is
// 208 KiB on most (net.core.rmem_default).
const askAtOnce = 64

// endless is how long a grant lasts that has no end, as only another program can
// have made it.
const endless = 100 * 365 * 24 * time.Hour

// Ends returns when the kernel's grants of those sources end, as seen from now: the
// zero time where it has none, or no more. It asks for each one alone, and so takes
// as many answers as there are grants, whatever else is in the sets; Until means
// nothing. Others see to their changes between any two parts of a few dozen grants,
// so that the answer is not of one moment: what is given or renewed meanwhile may be
// told as it was before.
func (f *Fence) Ends(grants []Grant) ([]time.Time, error) {
	ends := make([]time.Time, 0, len(grants))
	for part := range slices.Chunk(grants, askAtOnce) {
		err := f.read(func(c *conn, _ *table) error {
			some, err := c.ends(part)
			ends = append(ends, some...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("fence: look for grants: %w", err)
		}
	}
	return ends, nil
}

// ends returns when each grant ends. Where there is no set or no table, there are no
// grants.
func (c *conn) ends(grants []Grant) ([]time.Time, error) {
	var questions []netlink.Message
	for _, g := range grants {
		if !g.Source.IsValid() {
			return nil, fmt.Errorf("door %q: the grant's source is no valid prefix", g.Door)
		}
		w, key := widthOf(g)
		questions = append(questions, message(unix.NFT_MSG_GETSETELEM, 0, elementList(w.set(), []element{{key: key}})))
	}
	sent, err := c.nl.SendMessages(questions)
	if err != nil {
		return nil, &brokenError{"ask the kernel", err}
	}
	ends := make([]time.Time, len(grants))
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
		switch {
		case !refused:
			if ends[i], err = endOf(msgs); err != nil {
				refusal = cmp.Or(refusal, err)
			}
		case !errors.Is(op.Err, unix.ENOENT):
			refusal = cmp.Or(refusal, op.Err)
		}
	}
	return ends, refusal
}

// endOf reads when the one grant of an answer ends.
func endOf(msgs []netlink.Message) (end time.Time, err error) {
	elems, err := decodeElements(msgs)
	for _, e := range elems {
		switch {
		case !e.timed:
			end = time.Now().Add(endless)
		case e.left > 0:
			end = time.Now().Add(e.left)
		}
	}
	return end, err
}
