//go:build linux

package fence

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// usedFor is how long it is remembered who has used a port.
const usedFor = 24 * time.Hour

// usedMost is how many ports and users of each family are remembered: 20 MB of the
// kernel's memory. Who finds no room enters all the same.
const usedMost = 1 << 18

// askedPorts is how many TCP ports a door may have for Used to look for users.
const askedPorts = 1024

// userSet has a port and an address for each.
func (f family) userSet() nft.Set {
	return nft.Set{
		Name: usedSet + f.name,
		Def: nft.SetDef{Flags: setConcat | unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, KeyLen: 4 + uint32(f.bits/8),
			KeyType: concat(typeInetService, f.keyType), GCInterval: gcInterval},
		Lengths: []uint32{2, uint32(f.bits / 8)},
		Size:    usedMost,
	}
}

// uses notes that the packet's source has used a port, which at loads into the first
// register.
func (f family) uses(at nft.Expr) nft.Rule {
	return newRule("used, IP"+f.name, f.is(), isProto(unix.IPPROTO_TCP), []nft.Expr{at,
		nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.source, uint32(f.bits/8), unix.NFT_REG32_00+1),
		nft.Update(usedSet+f.name, usedFor)})
}

// Used says whether a source has completed a connection to a door's TCP ports within the
// last day, and how long ago the latest began. Of a door with more than 1,024 TCP ports it
// says that nobody has. It costs the same however many users there are, and grows with the
// door's ports.
func (f *Fence) Used(door string, source netip.Addr) (ago time.Duration, ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err = f.do("look who used a door", func(c *nft.Conn) error {
		p := netip.PrefixFrom(source.WithZone(""), source.BitLen())
		if _, _, err := placeOf(f.doors, Grant{Door: door, Source: p}); err != nil {
			return err
		}
		for some := range slices.Chunk(usersOf(f.doors[door].door.Ports, canonical(p).Addr()), askAtOnce) {
			err := c.Find(some, func(_ int, e nft.Element) {
				if since := max(0, usedFor-e.Left); !ok || since < ago {
					ago, ok = since, true
				}
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	return ago, ok, nil
}

// usersOf returns the elements that say that a source has used one of the ports; none if
// those are too many.
func usersOf(ports []port.Range, source netip.Addr) (members []nft.Member) {
	for _, r := range ports {
		if r.Proto != port.TCP {
			continue
		}
		if int(r.Last-r.First) >= askedPorts-len(members) {
			return nil
		}
		for p := int(r.First); p <= int(r.Last); p++ {
			members = append(members, nft.Member{Set: usedSet + familyOf(source).name,
				Key: fmt.Sprintf("%s\x00\x00%s", portKey(uint16(p)), source.AsSlice())})
		}
	}
	return members
}
