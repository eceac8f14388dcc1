//go:build linux

package fence

import (
	"net/netip"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
)

// Used says whether a source has completed a connection to a door's TCP ports
// within the last day, and how long ago the latest began. It costs the same
// however many there are.
func (f *Fence) Used(door string, source netip.Addr) (ago time.Duration, ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err = f.do("look who used a door", func(c *nft.Conn) error {
		p := netip.PrefixFrom(source.WithZone(""), source.BitLen())
		if _, _, err := placeOf(f.doors, Grant{Door: door, Source: p}); err != nil {
			return err
		}
		addr := canonical(p).Addr()
		who := nft.Member{Set: doorPrefix + door + usedInfix + familyOf(addr).name, Key: string(addr.AsSlice())}
		return c.Find([]nft.Member{who}, func(_ int, e nft.Element) { ago, ok = max(0, usedFor-e.Left), true })
	})
	if err != nil {
		return 0, false, err
	}
	return ago, ok, nil
}
