//go:build linux

package fence

import (
	"fmt"
	"slices"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
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
		some := make([]time.Time, len(part))
		err := f.ask(&f.asker, func(c *nft.Conn) error {
			members, err := membersOf(part)
			if err != nil {
				return err
			}
			clear(some)
			return c.Find(members, func(i int, e nft.Element) { some[i] = endOf(e) })
		})
		if err != nil {
			return nil, fmt.Errorf("fence: look for grants: %w", err)
		}
		ends = append(ends, some...)
	}
	return ends, nil
}

// endOf is when an element ends, zero if it has.
func endOf(e nft.Element) time.Time {
	switch {
	case !e.Timed:
		return time.Now().Add(endless)
	case e.Left > 0:
		return time.Now().Add(e.Left)
	}
	return time.Time{}
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
