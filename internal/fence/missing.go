//go:build linux

package fence

import (
	"fmt"
	"slices"

	nft "github.com/doorward/doorward/internal/nftables"
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
		err := f.ask(&f.asker, func(c *nft.Conn) error {
			members, err := membersOf(part)
			if err != nil {
				return err
			}
			there, err := c.Have(members)
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

// membersOf are the elements that grants are.
func membersOf(grants []Grant) ([]nft.Member, error) {
	var members []nft.Member
	for _, g := range grants {
		if !g.Source.IsValid() {
			return nil, fmt.Errorf("door %q: the grant's source is no valid prefix", g.Door)
		}
		w, key := widthOf(g)
		members = append(members, nft.Member{Set: w.set(), Key: key})
	}
	return members, nil
}
