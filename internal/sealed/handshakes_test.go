package sealed

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/seal"
)

// An answer has the ports of its door when it is given again, whichever doors were told in
// between; to note one more of the same door takes no memory.
func TestPortsAreToldAgain(t *testing.T) {
	h, now := newHandshakes(), time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC)
	of := func(door int) seal.Answer {
		return seal.Answer{Status: seal.Opened, Left: time.Hour, Ports: []seal.Port{{First: uint16(1000 + door), Last: uint16(1000 + door)}}}
	}
	var all []*seal.Knock
	for n := range 6 {
		k := &seal.Knock{Number: [12]byte{byte(n)}, Issued: now}
		if first, room := h.first(k, "alice", now); !first || !room {
			t.Fatalf("handshake %d: first %t, room %t, want both", n, first, room)
		}
		h.note(k, of(n%3), now)
		all = append(all, k)
	}
	for n, k := range all {
		e := h.now.answers[numberOf(k)]
		if diff := cmp.Diff(of(n%3).Ports, h.now.ports[e.ports]); diff != "" {
			t.Errorf("handshake %d (-want +got):\n%s", n, diff)
		}
	}
	if n := len(h.now.ports); n != 4 {
		t.Errorf("%d lists of ports, want one for each of three doors and none", n)
	}
	a := of(2)
	a.Source = netip.MustParseAddr("192.0.2.7")
	if n := testing.AllocsPerRun(100, func() { h.note(all[5], a, now) }); n != 0 {
		t.Errorf("to note an answer takes memory %v times, want none", n)
	}
}
