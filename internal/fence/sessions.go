//go:build linux

package fence

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/doorward/doorward/internal/port"
)

// Session is a connection that stands before the fence rises, seen from this
// host. Only TCP has sessions whose packets tell themselves from a new one's;
// others are passed over.
type Session struct {
	Proto         port.Proto
	Local, Remote netip.AddrPort
}

// Admit makes the standing sessions those of sessions; nothing is changed when
// they are so already.
func (f *Fence) Admit(sessions []Session) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do("admit sessions", func(c *conn) error {
		b := &batch{}
		if err := admit(c, b, f.base, sessions); err != nil {
			return err
		}
		return busy(c.commit(b))
	})
}

// admit adds to b what makes the standing sets of t hold sessions.
func admit(c *conn, b *batch, t *table, sessions []Session) error {
	for _, fam := range families() {
		name := standing + "." + fam.name
		want := map[string]bool{}
		for _, s := range sessions {
			if key, ok := sessionKey(s, fam); ok {
				want[key] = true
			}
		}
		var gone []element
		if t != nil && t.set(name) != nil {
			have, err := c.readElements(name)
			if err != nil {
				return err
			}
			for _, e := range have {
				if !want[e.key] {
					gone = append(gone, e)
				}
				delete(want, e.key)
			}
		}
		var come []element
		for _, key := range slices.Sorted(maps.Keys(want)) {
			come = append(come, element{key: key})
		}
		deleteElements(b, name, gone)
		addElements(b, name, come)
	}
	return nil
}

// sessionKey is the session's element in the standing set of its family: remote
// address and port, local address and port, each padded to a register.
func sessionKey(s Session, f family) (string, bool) {
	local, remote := s.Local.Addr().Unmap().WithZone(""), s.Remote.Addr().Unmap().WithZone("")
	if s.Proto != port.TCP || !local.IsValid() || !remote.IsValid() ||
		familyOf(local).name != f.name || familyOf(remote).name != f.name {
		return "", false
	}
	return string(slices.Concat(
		remote.AsSlice(), []byte(portKey(s.Remote.Port())), []byte{0, 0},
		local.AsSlice(), []byte(portKey(s.Local.Port())), []byte{0, 0})), true
}
