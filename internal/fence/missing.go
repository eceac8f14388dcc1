//go:build linux

package fence

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// askAtOnce bounds the questions that are under way: their answers, each a message
// of its own, must fit into the socket's buffer as the system gives it, which is
// 208 KiB on most (net.core.rmem_default).
const askAtOnce = 64

// Missing returns those of grants that the kernel does not have, or no more. It
// asks for each one alone, and so takes as many answers as there are grants,
// whatever else is in the sets; Until means nothing. Others see to their changes
// between any two parts of a few dozen grants, so that the answer is not of one
// moment: what is given or renewed meanwhile may be told as missing, if it was not
// there when it was asked for.
func (f *Fence) Missing(grants []Grant) ([]Grant, error) {
	var gone []Grant
	for part := range slices.Chunk(grants, askAtOnce) {
		err := f.ask(&f.asker, func(c *conn) error {
			there, err := c.have(part)
			for i, g := range part {
				if err == nil && !there[i] {
					gone = append(gone, g)
				}
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("fence: look for grants: %w", err)
		}
	}
	return gone, nil
}

// have says for each grant whether the kernel has it. Where there is no set or no
// table, there are no grants.
func (c *conn) have(grants []Grant) ([]bool, error) {
	var questions []netlink.Message
	for _, g := range grants {
		if !g.Source.IsValid() {
			return nil, fmt.Errorf("door %q: the grant's source is no valid prefix", g.Door)
		}
		w, key := widthOf(g)
		questions = append(questions, message(unix.NFT_MSG_GETSETELEM, 0, elementList(c.table, w.set(), []Element{{key: key}})))
	}
	sent, err := c.nl.SendMessages(questions)
	if err != nil {
		return nil, &brokenError{"ask the kernel", err}
	}
	there := make([]bool, len(grants))
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
