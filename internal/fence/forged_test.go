//go:build linux

package fence

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Segments with the visitor's address, from somebody who does not see what is sent to
// that, spend no single-use grant and end no session.
func TestForgedSegmentsSpendNothing(t *testing.T) {
	t.Parallel()
	for _, syncookies := range []string{"1", "2"} {
		t.Run("cookies "+syncookies, func(t *testing.T) {
			t.Parallel()
			p, a := served(t, Door{Name: "ssh", Ports: ports(t, "22/tcp"), SingleUse: true})
			p.host.Run("sysctl", "-q", "net.ipv4.tcp_syncookies="+syncookies)
			for round := range 5 {
				p.give(grant("ssh", visitorIP, time.Minute))
				for i := range uint16(200) {
					from := visitorPort(40000 + uint16(round)*200 + i)
					a.send(segment{from: from, to: hostSSH, flags: syn, seq: 1})
					for n := range uint32(5) { // numbers that do not acknowledge the answer
						a.send(segment{from: from, to: hostSSH, flags: ack | psh, seq: 2, ack: n * 0x3333_3333, data: []byte("x")})
					}
					a.send(segment{from: from, to: hostSSH, flags: rst, seq: 2})
					a.send(segment{from: from, to: hostSSH, flags: fin | ack, seq: 2, ack: 1})
				}
				if gs, err := p.f.allGrants(); err != nil || len(gs) != 1 {
					t.Fatalf("round %d: Grants() = %v, %v, want the one that nobody has used", round, gs, err)
				}
				c, err := dialFrom(p.visitor, "tcp", "", at(hostIP, 22), patience)
				if err != nil {
					t.Fatalf("round %d: the visitor: %v", round, err)
				}
				if err := echo(c, patience); err != nil {
					t.Errorf("round %d: the visitor: %v", round, err)
				}
				c.Close()
			}
			want(t, p.visitor, "tcp", at(hostIP, 22), dark)
		})
	}
}

// Somebody who may come in, too, knows the numbers of their own handshakes. In another
// visitor's name these complete none, even if connection tracking does not look at numbers.
// And no number is left in the priority of what the host sends on.
func TestNumbersOfOtherHandshakes(t *testing.T) {
	t.Parallel()
	for at, door := range map[string]int{"this host": 22, "a published port": 8080} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.publish("8080")
			listen(t, p.host, 22)
			listen(t, p.host, 24)
			p.host.Run("nft", `table inet numbers { chain post { type filter hook postrouting priority 0;
				meta priority != none counter
				}
			}`)
			p.host.Run("sysctl", "-q", "net.netfilter.nf_conntrack_tcp_be_liberal=1")
			mute(p.visitor, "40000-40999")
			const others = "192.0.2.3"
			p.visitor.Run("ip", "addr", "add", others+"/24", "dev", p.peerIf())
			p.guard(Door{Name: "once", Ports: ports(t, "22/tcp", "8080/tcp"), SingleUse: true}, Door{Name: "open", Ports: ports(t, "24/tcp")})
			p.give(grant("once", visitorIP, time.Minute), grant("open", others, time.Minute))
			a, to := newAttacker(t, p.visitor), netip.AddrPortFrom(hostSSH.Addr(), uint16(door))
			own, ok := a.ask(addrPort(others+":40000"), netip.AddrPortFrom(hostSSH.Addr(), 24), 1)
			if !ok {
				t.Fatal("no answer under a grant")
			}
			c, ok := a.ask(visitorPort(40000), to, 1)
			if !ok {
				t.Fatal("no answer to what the forger asks in the visitor's name: the test proves nothing")
			}
			for range 3 {
				a.send(segment{from: c.from, to: to, flags: ack, seq: c.seq, ack: own.ack})
			}
			if _, used, err := p.f.Used("once", c.from.Addr()); err != nil || used {
				t.Errorf("a number of somebody else's handshake is a use: %v, %v", used, err)
			}
			if gs, err := p.f.allGrants(); err != nil || len(gs) != 2 {
				t.Errorf("a number of somebody else's handshake spends a grant: left are %v, %v", gs, err)
			}
			c.complete()
			if !c.lives() {
				t.Error("the visitor's own number completes no handshake")
			}
			own.complete()
			if !own.lives() {
				t.Error("the other's number does not complete their own handshake")
			}
			if out := p.host.Run("nft", "list", "table", "inet", "numbers"); !strings.Contains(out, "counter packets 0 ") {
				t.Errorf("a packet has a priority:\n%s", out)
			}
		})
	}
}

// A forger's request in the visitor's name ends when the visitor's host resets it. So it
// does not block the visitor's own connection.
func TestResetsArrive(t *testing.T) {
	t.Parallel()
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single use %v", single), func(t *testing.T) {
			t.Parallel()
			p, a := served(t, Door{Name: "ssh", Ports: ports(t, "22/tcp"), SingleUse: single})
			requests := func() bool {
				return strings.Contains(p.host.Run("ss", "-Htn", "state", "syn-recv"), visitorIP)
			}
			p.give(grant("ssh", visitorIP, time.Minute))
			if _, ok := a.ask(visitorPort(40000), hostSSH, 1); !ok || !requests() {
				t.Fatal("no request remains although the visitor's host is silent: the test proves nothing")
			}
			p.revoke(grant("ssh", visitorIP, 0))
			a.send(segment{from: visitorPort(40000), to: hostSSH, flags: rst, seq: 2})
			eventually(t, "the request is reset", func() bool { return !requests() })
			p.give(grant("ssh", visitorIP, time.Minute))
			if _, ok := a.ask(visitorPort(41000), hostSSH, 1); !ok {
				t.Fatal("a SYN under a grant was not answered")
			}
			eventually(t, "the visitor's host resets the forger's request", func() bool { return !requests() })
			c, err := dialFrom(p.visitor, "tcp", visitorIP+":41000", hostIP+":22", patience)
			if err != nil {
				t.Fatalf("from the port that the forger used: %v", err)
			}
			defer c.Close()
			if err := echo(c, patience); err != nil {
				t.Errorf("from the port that the forger used: %v", err)
			}
		})
	}
}

// Of several handshakes that are completed at the same time under one single-use grant,
// one makes a connection.
func TestOneHandshakeSpendsTheGrant(t *testing.T) {
	t.Parallel()
	p, a := served(t, Door{Name: "ssh", Ports: ports(t, "22/tcp"), SingleUse: true})
	for round := range uint16(10) {
		p.give(grant("ssh", visitorIP, time.Minute))
		var asked []*connection
		for i := range uint16(8) {
			c, ok := a.ask(visitorPort(40000+round*8+i), hostSSH, 1)
			if !ok {
				t.Fatal("no answer under a grant")
			}
			asked = append(asked, c)
		}
		for _, c := range asked {
			c.complete()
		}
		in := 0
		for _, c := range asked {
			if c.echoes() {
				in++
			}
		}
		if in != 1 {
			t.Fatalf("round %d: one grant let %d connections in", round, in)
		}
	}
}

// A forged SYN with a live session's ports, which a grant lets pass, does not cut the
// session when the grant is over. Nor does the loss of its entry in connection tracking.
func TestSessionsOutliveForgeryAndForgetting(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"0.0.0.0:22", hostIP + ":22"} {
		for _, single := range []bool{false, true} {
			t.Run(fmt.Sprintf("listener at %s, single use %v", at, single), func(t *testing.T) {
				t.Parallel()
				p := newPlace(t)
				echoAt(t, p.host, at)
				before := p.opened(hostIP + ":22")
				p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp"), SingleUse: single})
				p.give(grant("ssh", visitorIP, time.Minute))
				c, err := dialFrom(p.visitor, "tcp", "", hostIP+":22", patience)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				a := newAttacker(t, p.visitor)
				p.give(grant("ssh", visitorIP, time.Minute))
				for _, s := range []net.Conn{before, c} {
					from := addrPort(s.LocalAddr().String())
					a.send(segment{from: from, to: hostSSH, flags: syn, seq: 77})
					a.send(segment{from: from, to: hostSSH, flags: rst | ack, seq: 77, ack: 77})
				}
				p.revoke(grant("ssh", visitorIP, 0))
				for _, what := range []string{"forged", "forgotten", "forgotten again"} {
					for _, s := range []net.Conn{before, c} {
						if err := echo(s, patience); err != nil {
							t.Fatalf("%s: the session of %s: %v", what, s.LocalAddr(), err)
						}
					}
					p.host.Run("conntrack", "-F")
				}
				// A segment of no connection gets no answer, even if there is a listener.
				stray := visitorPort(40000)
				a.send(segment{from: stray, to: hostSSH, flags: ack, seq: 5, ack: 5})
				if s, ok := a.hear(hostSSH, stray, rst, silence); ok {
					t.Errorf("a stray segment was answered: %+v", s)
				}
			})
		}
	}
}

// NAT and routes may lead to guarded ports, but do not bypass a door.
func TestOtherWaysToAGuardedPort(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.host.Do(func() error { return transparent(t, p) })
	p.host.Run("nft", `table ip other { chain pre { type nat hook prerouting priority dstnat;
		tcp dport 2222 redirect to :22
		udp dport 2222 redirect to :22
		ip daddr 198.51.100.7 tcp dport 443 dnat to 192.0.2.1:22
		ip daddr 198.51.100.7 udp dport 443 dnat to 192.0.2.1:22
		}
	}`)
	p.host.Run("ip", "route", "add", "198.51.100.0/24", "dev", "lo")
	p.host.Run("ip", "route", "add", "local", "203.0.113.0/24", "dev", "lo", "table", "100")
	p.host.Run("ip", "rule", "add", "iif", p.hostIf, "lookup", "100", "pref", "1")
	for _, r := range []string{"198.51.100.0/24", "203.0.113.0/24"} {
		p.visitor.Run("ip", "route", "add", r, "via", hostIP)
	}
	p.host.Run("sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
	ways := []struct{ network, addr string }{
		{"tcp", hostIP + ":2222"}, {"udp", hostIP + ":2222"},
		{"tcp", "198.51.100.7:443"}, {"udp", "198.51.100.7:443"},
		{"tcp", "203.0.113.9:23"},
	}
	for _, w := range ways {
		want(t, p.visitor, w.network, w.addr, reached) // the test itself works
	}
	d := Door{Name: "ssh", Ports: ports(t, "22-23/tcp", "22/udp")}
	for _, single := range []bool{false, true} {
		d.SingleUse = single
		p.guard(d)
		p.host.Run("conntrack", "-F")
		for _, w := range ways {
			want(t, p.visitor, w.network, w.addr, dark)
			p.give(grant("ssh", visitorIP, time.Minute))
			want(t, p.visitor, w.network, w.addr, reached)
			if w.network == "tcp" && single {
				want(t, p.visitor, w.network, w.addr, dark)
			}
			p.revoke(grant("ssh", visitorIP, 0))
		}
		d.Always = prefixes(visitorIP + "/32")
		p.guard(d)
		for _, w := range ways {
			want(t, p.visitor, w.network, w.addr, reached)
		}
		d.Always = nil
	}
}

// transparent listens on port 23, for any address that is routed to the host.
func transparent(t testing.TB, p *place) error {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
		})
	}}
	l, err := lc.Listen(t.Context(), "tcp4", ":23")
	if err == nil {
		serve(t, l)
	}
	return err
}

// A single-use grant lets one connection in to a published port, although the handshake
// is with another host.
func TestPublishedPortsOfSingleUse(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.publish("8080")
	mute(p.visitor, "40000-40999")
	p.guard(Door{Name: "web", Ports: ports(t, "8080/tcp"), SingleUse: true})
	a, web := newAttacker(t, p.visitor), addrPort(hostIP+":8080")
	p.give(grant("web", visitorIP, time.Minute))
	var asked []*connection
	for i := range uint16(3) {
		c, ok := a.ask(visitorPort(40000+i), web, 1)
		if !ok {
			t.Fatal("no answer under a grant")
		}
		asked = append(asked, c)
	}
	a.send(segment{from: asked[2].from, to: web, flags: ack, seq: 2, ack: asked[2].ack + 1}) // a wrong guess
	for i, c := range asked {
		c.complete()
		in := c.echoes
		if i == 0 {
			in = c.lives
		}
		if got := in(); got != (i == 0) {
			t.Errorf("connection %d of one grant is in: %v", i, got)
		}
	}
	if !asked[0].lives() {
		t.Error("the first connection was cut")
	}
	p.give(grant("web", visitorIP, time.Minute))
	c, ok := a.ask(visitorPort(40100), web, 1)
	p.revoke(grant("web", visitorIP, 0))
	if c.complete(); !ok || c.echoes() {
		t.Errorf("asked %v, and a handshake was completed after the grant's end", ok)
	}
}

// With TCP fast open a SYN alone makes a connection. A grant does not let that in, since
// it takes a handshake.
func TestFastOpenTakesAHandshake(t *testing.T) {
	t.Parallel()
	p, a := served(t, Door{Name: "ssh", Ports: ports(t, "22/tcp"), SingleUse: true})
	p.give(grant("ssh", visitorIP, time.Minute))
	for i, s := range []segment{
		{options: []byte{34, 2, 1, 1}},
		{options: []byte{254, 4, 0xf9, 0x89}},
		{data: []byte("hello")},
		{options: []byte{1, 1, 1, 1}, data: []byte("h")},
		{options: []byte{2, 4, 5, 0xb4, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1}, data: []byte("hello")},
	} {
		s.from, s.to, s.flags, s.seq = visitorPort(40000+uint16(i)), hostSSH, syn, 1
		a.send(s)
		if _, ok := a.hear(hostSSH, s.from, syn|ack, silence); ok {
			t.Errorf("case %d: a SYN that may make a connection was answered", i)
		}
	}
	want(t, p.visitor, "tcp", hostIP+":22", reached)
}

// With TCP_DEFER_ACCEPT, the server waits for the client's first data: the handshake is
// completed, and the grant spent, long before there is a socket.
func TestDeferredAccept(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.host.Do(func() error {
		lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30) })
		}}
		l, err := lc.Listen(t.Context(), "tcp", ":22")
		if err == nil {
			serve(t, l)
		}
		return err
	})
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp"), SingleUse: true})
	p.give(grant("ssh", visitorIP, time.Minute))
	c, err := dialFrom(p.visitor, "tcp", "", hostIP+":22", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "the grant is spent", func() bool { gs, err := p.f.allGrants(); return err == nil && len(gs) == 0 })
	want(t, p.visitor, "tcp", hostIP+":22", dark)
	if err := echo(c, patience); err != nil {
		t.Errorf("the connection that spent the grant: %v", err)
	}
}

// EndFlows ends the UDP flows of a grant, and no others.
func TestEndFlows(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 53)
	listen(t, p.host, 54)
	p.host.Run("nft", "table inet other { chain pre { type nat hook prerouting priority dstnat; udp dport 5353 redirect to :53\n}\n}")
	p.guard(Door{Name: "dns", Ports: ports(t, "53/udp", "5353/udp")}, Door{Name: "vpn", Ports: ports(t, "54/udp")})
	both := []Grant{grant("dns", visitorIP, time.Minute), grant("dns", visitorIP6, time.Minute)}
	everybody := []Grant{grant("dns", "0.0.0.0/0", 0), grant("dns", "::/0", 0)}
	for name, ends := range map[string][]Grant{"each": both, "everybody": everybody} {
		p.give(append(both, grant("vpn", visitorIP, time.Minute))...)
		var flows []net.Conn
		for _, addr := range []string{at(hostIP, 53), at(hostIP6, 53), at(hostIP, 5353), at(hostIP, 54)} {
			c, err := dialFrom(p.visitor, "udp", "", addr, patience)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := echo(c, patience); err != nil {
				t.Fatalf("%s: %s under a grant: %v", name, addr, err)
			}
			flows = append(flows, c)
		}
		p.revoke(append(both, grant("vpn", visitorIP, 0))...)
		p.do(p.f.EndFlows([]Grant{grant("dns", "192.0.2.99", 0)})) // somebody else's
		for _, c := range flows {
			if err := echo(c, patience); err != nil {
				t.Errorf("%s: the flow to %s was ended with another's: %v", name, c.RemoteAddr(), err)
			}
		}
		p.do(p.f.EndFlows(ends))
		for i, c := range flows {
			if err := echo(c, silence); (err == nil) != (i == 3) {
				t.Errorf("%s: the flow to %s, of the other door: %v: %v", name, c.RemoteAddr(), i == 3, err)
			}
		}
	}
}

// A knock from the machine itself does not count, and looks the same on every port.
func TestKnocksOfTheHostItself(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	listen(t, p.host, 59000)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp"), Listen: ports(t, "59000-59001/tcp", "59000/udp", "59001/udp")})
	for _, ip := range []string{"127.0.0.1", "127.9.9.9", "::1", hostIP, hostIP6} {
		want(t, p.host, "tcp", at(ip, 59000), rejected) // heard
		want(t, p.host, "tcp", at(ip, 59001), rejected) // not heard
		want(t, p.host, "udp", at(ip, 59000), rejected)
		want(t, p.host, "udp", at(ip, 59001), rejected)
		want(t, p.host, "tcp", at(ip, 22), reached)
	}
	for _, ip := range []string{hostIP, hostIP6} {
		want(t, p.visitor, "tcp", at(ip, 59000), reached)
		want(t, p.visitor, "udp", at(ip, 59000), reached)
	}
}

// A source that has completed a connection has used the door; one that only sent a SYN
// has not.
func TestUsed(t *testing.T) {
	t.Parallel()
	p, a := served(t, Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp")})
	used := func(ip string) bool {
		t.Helper()
		ago, ok, err := p.f.Used("ssh", netip.MustParseAddr(ip))
		p.do(err)
		if ok && (ago < 0 || ago > time.Minute) {
			t.Errorf("%s has used the door %s ago", ip, ago)
		}
		return ok
	}
	p.give(grant("ssh", visitorIP, time.Minute), grant("ssh", "2001:db8::/64", time.Minute))
	a.ask(visitorPort(40000), hostSSH, 1)
	want(t, p.visitor, "udp", at(hostIP, 22), reached)
	if used(visitorIP) || used(visitorIP6) {
		t.Error("a SYN alone counts as use of the door")
	}
	for _, ip := range []string{hostIP, hostIP6} {
		want(t, p.visitor, "tcp", at(ip, 22), reached)
	}
	if !used(visitorIP) || !used("::ffff:"+visitorIP) || !used(visitorIP6) || used("192.0.2.3") {
		t.Error("Used does not return who has used the door")
	}
	for many, before := range map[string]bool{"1-64/tcp": true, "23-80/tcp": false, "1-65/tcp": false} {
		p.guard(Door{Name: "ssh", Ports: ports(t, many, "1-65535/udp")})
		if got := used(visitorIP); got != before {
			t.Errorf("after a connection to port 22, a door with ports %s was used: %v", many, got)
		}
	}
	for _, once := range []bool{false, true} {
		p.guard()
		p.guard(Door{Name: "ssh", Ports: ports(t, "1-65/tcp"), SingleUse: once})
		p.give(grant("ssh", visitorIP, time.Minute))
		a.ask(visitorPort(40001), hostSSH, 1)
		if used(visitorIP) {
			t.Errorf("a SYN alone counts as use of a door of many ports (single use: %v)", once)
		}
		want(t, p.visitor, "tcp", at(hostIP, 22), reached)
		if !used(visitorIP) || used(visitorIP6) {
			t.Errorf("Used does not return who has used a door of many ports (single use: %v)", once)
		}
	}
	if _, _, err := p.f.Used("sh", netip.MustParseAddr(visitorIP)); err == nil || !strings.Contains(err.Error(), `door "sh" is not guarded`) {
		t.Errorf("Used() of an unknown door: %v", err)
	}
}

// A grant ends at its time, however late the kernel receives it.
func TestLateGrantsHaveWhatIsLeft(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp")})
	soon, over := grant("ssh", visitorIP, time.Hour), grant("ssh", visitorIP6, 50*time.Millisecond)
	p.give(over)
	p.f.mu.Lock() // as if another change were under way
	given := make(chan error)
	go func() { given <- p.f.Change(Changes{Give: []Grant{soon, over}}) }()
	time.Sleep(time.Until(over.Until)) // this test is about the clock
	p.f.mu.Unlock()
	p.do(<-given)
	gs, err := p.f.allGrants()
	p.do(err)
	if len(gs) != 1 || gs[0].Until.After(soon.Until.Add(20*time.Millisecond)) {
		t.Errorf("Grants() = %v, want one until %v", gs, soon.Until)
	}
}
