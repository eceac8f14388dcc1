//go:build linux

package fence

import (
	"fmt"
	"slices"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
)

// askAtOnce limits the queries under way: their answers, each a message of its own, must
// fit into the socket's buffer in its default size, 208 KiB on most systems
// (net.core.rmem_default).
const askAtOnce = 64

// endless is how long a grant without an end lasts, which only another program can have
// made.
const endless = 100 * 365 * 24 * time.Hour

// Ends returns when the kernel's grants of those sources end, as seen from now: the zero
// time if it does not have one, or no longer. It queries each one separately, so its cost
// grows with the grants asked for, whatever else is in the sets; Until is ignored. Other
// callers make their changes between batches of a few dozen grants, so the answer does
// not show a single moment: for a grant given or renewed meanwhile it may be the earlier
// one.
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

// endOf returns when an element ends, zero if it has ended.
func endOf(e nft.Element) time.Time {
	switch {
	case !e.Timed:
		return time.Now().Add(endless)
	case e.Left > 0:
		return time.Now().Add(e.Left)
	}
	return time.Time{}
}

// membersOf returns the elements of grants.
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
