//go:build linux

package fence

import (
	"fmt"
	"net/netip"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// usedFor is how long it is remembered who has used a door.
const usedFor = 24 * time.Hour

// How many users of each family are remembered: 20 MB of the kernel's memory for the
// ports of all doors, and 5 MB for a door that has sets of its own. Who finds no room
// enters all the same.
const (
	usedMost = 1 << 18
	ownMost  = 1 << 16
)

// manyPorts is how many TCP ports a door may have for Used to ask about each of them. One
// that has more remembers its users by itself.
const manyPorts = askAtOnce

// hasManyPorts says whether the door remembers its users by itself.
func (d Door) hasManyPorts() bool {
	n := 0
	for _, r := range d.Ports {
		if r.Proto == port.TCP {
			n += int(r.Last-r.First) + 1
		}
	}
	return n > manyPorts
}

// userSet has a port and an address for each user.
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

// addUsed adds what a door with many ports needs to remember its users by itself; n is the
// chain that judges handshakes first.
func addUsed(t *nft.Table, name string, n *nft.Chain) {
	for _, f := range families() {
		used := name + usedInfix + f.name
		t.Sets = append(t.Sets, nft.Set{Name: used, Size: ownMost, Def: nft.SetDef{
			Flags:   unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL,
			KeyType: f.keyType, KeyLen: uint32(f.bits / 8), GCInterval: gcInterval}})
		n.Rules = append(n.Rules, newRule("used, IP"+f.name, completes(f), []nft.Expr{f.loadSource(), nft.Update(used, usedFor)}))
	}
}

// Used says whether a source has completed a connection to a door's TCP ports within the
// last day, and how long ago the latest began. It costs the same however many users there
// are, and at most 64 look-ups.
func (f *Fence) Used(door string, source netip.Addr) (ago time.Duration, ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err = f.do("look who used a door", func(c *nft.Conn) error {
		p := netip.PrefixFrom(source.WithZone(""), source.BitLen())
		if _, _, err := placeOf(f.doors, Grant{Door: door, Source: p}); err != nil {
			return err
		}
		return c.Find(f.doors[door].door.user(canonical(p).Addr()), func(_ int, e nft.Element) {
			if since := max(0, usedFor-e.Left); !ok || since < ago {
				ago, ok = since, true
			}
		})
	})
	if err != nil {
		return 0, false, err
	}
	return ago, ok, nil
}

// user returns the elements any of which says that a source has used the door.
func (d Door) user(source netip.Addr) (members []nft.Member) {
	family, addr := familyOf(source).name, source.AsSlice()
	if d.hasManyPorts() {
		return []nft.Member{{Set: doorPrefix + d.Name + usedInfix + family, Key: string(addr)}}
	}
	for _, r := range d.Ports {
		if r.Proto != port.TCP {
			continue
		}
		for p := int(r.First); p <= int(r.Last); p++ {
			members = append(members, nft.Member{Set: usedSet + family, Key: fmt.Sprintf("%s\x00\x00%s", portKey(uint16(p)), addr)})
		}
	}
	return members
}
