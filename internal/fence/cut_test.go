//go:build linux

package fence

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func endsOf(c net.Conn) Ends {
	return Ends{Visitor: netip.MustParseAddrPort(c.LocalAddr().String()), Host: netip.MustParseAddrPort(c.RemoteAddr().String())}
}

// A forwarded connection that is cut stays so, whatever its ends go on sending; a
// neighbour's behind the same address goes on, as does one that ends here, and whoever has
// a grant can come in between the same ends again.
func TestCut(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.publish("8080")
	listen(t, p.host, 22)
	web, ssh := Door{Name: "web", Ports: ports(t, "8080/tcp")}, Door{Name: "ssh", Ports: ports(t, "22/tcp")}
	p.guard(web, ssh)
	for _, at := range []struct{ visitor, host string }{{visitorIP, hostIP}, {visitorIP6, hostIP6}} {
		p.give(grant("web", at.visitor, time.Minute), grant("ssh", at.visitor, time.Minute))
		dial := func(number int, from string) net.Conn {
			t.Helper()
			c, err := dialFrom(p.visitor, "tcp", from, net.JoinHostPort(at.host, map[int]string{22: "22", 8080: "8080"}[number]), patience)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if err := echo(c, patience); err != nil {
				t.Fatal(err)
			}
			return c
		}
		mine, neighbours, here := dial(8080, ""), dial(8080, ""), dial(22, "")
		if err := p.f.Cut([]Ends{endsOf(mine), endsOf(here), {endsOf(mine).Host, endsOf(mine).Visitor}}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := echo(mine, silence); err == nil {
				t.Errorf("%s: a connection that was cut goes on", at.host)
			}
		}
		p.guard(ssh, web) // nothing changes, and what was cut is remembered
		for whose, c := range map[string]net.Conn{"a neighbour's": neighbours, "one that ends in a socket here": here} {
			if err := echo(c, patience); err != nil {
				t.Errorf("%s: %s was cut, too: %v", at.host, whose, err)
			}
		}
		if err := echo(mine, silence); err == nil {
			t.Errorf("%s: a connection that was cut goes on when the fence is put up again", at.host)
		}
		// A request between the same ends is judged as any other.
		mine.(*net.TCPConn).SetLinger(0)
		mine.Close()
		again := func() (cut bool) {
			c, err := dialFrom(p.visitor, "tcp", mine.LocalAddr().String(), mine.RemoteAddr().String(), silence)
			if err == nil {
				c.Close()
			}
			_, cut = p.note(cutSet, mine)
			return cut
		}
		p.revoke(grant("web", at.visitor, 0))
		if !again() {
			t.Errorf("%s: a request without a grant has it forgotten what was cut", at.host)
		}
		p.give(grant("web", at.visitor, time.Minute))
		if again() {
			t.Errorf("%s: what was cut is remembered although a connection between the same ends was let in", at.host)
		}
	}
	if err := p.f.Cut(nil); err != nil {
		t.Errorf("nothing to cut: %v", err)
	}
}
