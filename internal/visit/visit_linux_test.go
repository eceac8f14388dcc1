package visit

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

// inside returns a Visitor whose connections come from within a namespace.
func inside(n *nstest.NS) *Visitor {
	return &Visitor{Dial: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		n.Do(func() error {
			c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return nil
		})
		return c, err
	}}
}

// TestKernelAnswers checks the text of TouchErrors with the answers of a real
// network stack.
func TestKernelAnswers(t *testing.T) {
	nstest.Need(t, "ip", "nft", "nsenter")
	visitor, gate := nstest.New(t), nstest.New(t)
	nstest.Link(visitor, gate, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
	gate.Run("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; };"+
		"add rule inet t in tcp dport 59001 drop; add rule inet t in tcp dport 59003 reject")
	for _, port := range []string{"59000", "59002"} {
		var l net.Listener
		gate.Do(func() (err error) { l, err = net.Listen("tcp", ":"+port); return })
		defer l.Close()
	}
	far := netip.MustParseAddr("198.51.100.9")
	tests := []struct {
		name  string
		addrs []netip.Addr
		touch []uint16
		want  string
	}{
		{"complete", []netip.Addr{gate4}, []uint16{59000, 59002}, ""},
		{"complete over IPv6", []netip.Addr{gate6}, []uint16{59002, 59000}, ""},
		{"closed", []netip.Addr{gate4}, []uint16{59004}, "59004/tcp on 192.0.2.2 refuses connections"},
		{"closed, IPv6", []netip.Addr{gate6}, []uint16{59000, 59004},
			"59004/tcp on 2001:db8::2 refuses connections, after 59000 had been touched"},
		{"dropped", []netip.Addr{gate4}, []uint16{59001},
			"59001/tcp on 192.0.2.2 did not answer within 300ms"},
		{"rejected", []netip.Addr{gate4}, []uint16{59003}, "59003/tcp on 192.0.2.2 refuses connections"},
		{"no route", []netip.Addr{far}, []uint16{59000},
			"59000/tcp on 198.51.100.9 cannot be reached: network is unreachable"},
		{"no route, then the next address", []netip.Addr{far, gate4}, []uint16{59000}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			each := 10 * time.Second // neighbour discovery on a new link may need a second try
			if tt.name == "dropped" {
				each = 300 * time.Millisecond
			}
			at := inside(visitor).Knock(t.Context(), tt.addrs, Knock{Touch: tt.touch, Each: each})
			if got := errText(at.Err); got != tt.want {
				t.Errorf("error %q, want %q", got, tt.want)
			}
		})
	}
}
