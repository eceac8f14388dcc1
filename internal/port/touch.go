package port

import (
	"net/netip"
	"time"
)

// Touch is one touch of a port by a visitor, as an ear heard it.
type Touch struct {
	Source netip.Addr // never IPv4-mapped, never with a zone
	Port   Port
	Time   time.Time // when it was heard; keeps its monotonic reading
	Proven bool      // the source can receive at its address: it completed a handshake
}
