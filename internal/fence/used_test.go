//go:build linux

package fence

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
)

// When no more users can be remembered, visitors come in all the same, to the host and to
// published ports; and whoever is remembered already is remembered anew.
func TestUsedIsFull(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.publish("8080")
	listen(t, p.host, 22)
	ssh, web := Door{Name: "ssh", Ports: ports(t, "22/tcp")}, Door{Name: "web", Ports: ports(t, "8080/tcp"), SingleUse: true}
	p.guard(ssh, web)
	used := func(door string) bool {
		t.Helper()
		ago, ok, err := p.f.Used(door, netip.MustParseAddr(visitorIP))
		p.do(err)
		return ok && ago < time.Hour
	}
	elems := []nft.Element{{Key: ssh.user(netip.MustParseAddr(visitorIP))[0].Key, Left: usedFor - 2*time.Hour}}
	for i := uint32(0); len(elems) < usedMost; i++ {
		elems = append(elems, nft.Element{Key: portKey(9) + "\x00\x00" + string(binary.BigEndian.AppendUint32(nil, 0x0a00_0000+i)), Left: time.Hour})
	}
	p.do(p.f.step(func(_ *nft.Conn, b *nft.Batch) (func(), error) {
		b.AddElements(usedSet+"v4", elems)
		return func() {}, nil
	}))
	p.give(grant("ssh", visitorIP, time.Minute), grant("web", visitorIP, time.Minute))
	if used("ssh") {
		t.Error("a use two hours ago counts as a new one")
	}
	want(t, p.visitor, "tcp", at(hostIP, 22), reached)
	want(t, p.visitor, "tcp", at(hostIP, 8080), reached)
	want(t, p.visitor, "tcp", at(hostIP, 8080), dark) // and the grant is spent
	if !used("ssh") || used("web") {
		t.Errorf("the visitor has used the door ssh: %v, want true, and web: %v, want false, since there is no room", used("ssh"), used("web"))
	}
}
