//go:build linux

package nstest

import (
	"context"
	"net"
	"testing"
	"time"
)

func TestLinkedNamespacesReachEachOther(t *testing.T) {
	a, b := New(t), New(t)
	Link(a, b, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
	for _, addr := range []string{"192.0.2.2:4242", "[2001:db8::2]:4242"} {
		var l net.Listener
		b.Do(func() (err error) { l, err = net.Listen("tcp", addr); return })
		a.Do(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			return c.Close()
		})
		l.Close()
	}
}
