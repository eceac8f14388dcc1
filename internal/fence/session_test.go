//go:build linux

package fence

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

// opened connects before there is a fence, and so before there is any connection
// tracking in the namespace.
func (p *place) opened(addr string) net.Conn {
	p.t.Helper()
	c, err := dialFrom(p.visitor, "tcp", "", addr, patience)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	if err := echo(c, patience); err != nil {
		p.t.Fatal(err)
	}
	return c
}

func TestStandingSessionsLiveOn(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]string{
		"as usual":                      "net.ipv4.ip_forward=0",
		"conntrack takes up no session": "net.netfilter.nf_conntrack_tcp_loose=0",
		"no early demultiplexing":       "net.ipv4.ip_early_demux=0",
		"none of TCP":                   "net.ipv4.tcp_early_demux=0",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			listen(t, p.host, 22)
			p.host.Run("sysctl", "-q", setting)
			sessions := []net.Conn{p.opened(at(hostIP, 22)), p.opened(at(hostIP6, 22))}
			p.f = openIn(t, p.host, false)
			p.host.Do(func() error { return p.f.Guard([]Door{{Name: "ssh", Ports: ports(t, "22/tcp")}}) }) // in the namespace, whose settings it reads
			for range 3 {
				for _, c := range sessions {
					if err := echo(c, patience); err != nil {
						t.Fatalf("standing session with %s: %v", c.RemoteAddr(), err)
					}
				}
			}
			want(t, p.visitor, "tcp", at(hostIP, 22), dark)
			want(t, p.visitor, "tcp", at(hostIP6, 22), dark)
		})
	}
}

// generation returns the number of the ruleset's last change.
func (p *place) generation() uint32 {
	p.t.Helper()
	n, err := p.f.conn.Generation()
	p.do(err)
	return n
}

// A session whose handshake connection tracking considered invalid is still a session:
// its next segment acknowledges the same number, but does not complete a handshake.
func TestSessionIsNoHandshake(t *testing.T) {
	t.Parallel()
	p, a := served(t, Door{Name: "ssh", Ports: ports(t, "22/tcp")})
	loose := func(on string) { p.host.Run("sysctl", "-q", "net.netfilter.nf_conntrack_tcp_loose="+on) }
	p.give(grant("ssh", visitorIP, time.Minute))
	c, ok := a.ask(visitorPort(40000), hostSSH, 1)
	if !ok {
		t.Fatal("a SYN under a grant was not answered")
	}
	loose("0")
	p.host.Run("conntrack", "-F")
	c.complete() // for connection tracking, this is invalid
	eventually(t, "the connection is made", func() bool { return socketsOf(p.host, visitorIP) == 1 })
	loose("1")
	p.revoke(grant("ssh", visitorIP, 0))
	if !c.lives() {
		t.Error("a session was cut")
	}
}

// For untracked packets it is not known whether a connection is new or established, but a
// SYN is recognised all the same.
func TestNotTracked(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.host.Run("nft", `table inet raw {
		chain pre { type filter hook prerouting priority raw; tcp dport 22 notrack
		}
		chain out { type filter hook output priority raw; tcp sport 22 notrack;
		} 
	}`)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp")})
	want(t, p.visitor, "tcp", at(hostIP, 22), dark)
	g := grant("ssh", visitorIP, time.Minute)
	p.give(g)
	c, err := dialFrom(p.visitor, "tcp", "", at(hostIP, 22), silence)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p.revoke(g)
	want(t, p.visitor, "tcp", at(hostIP, 22), dark)
	if err := echo(c, patience); err != nil {
		t.Errorf("the session opened under the grant: %v", err)
	}
}

// A conntrack helper that expects a connection to a guarded port, here because an FTP
// server was made to announce port 22, does not open a door.
func TestExpectedConnectionsNeedAGrant(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.host.Run("nft", `table inet helpers {
		ct helper ftp { type "ftp" protocol tcp; }
		chain pre { type filter hook prerouting priority filter; tcp dport 21 ct helper set "ftp";
		} 
	}`)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp")})
	var l net.Listener
	p.host.Do(func() (err error) { l, err = net.Listen("tcp", ":21"); return })
	defer l.Close()
	go func() { // ends with the visitor's connection
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(c, "220 ready\r\n")
		bufio.NewReader(c).ReadString('\n')
		fmt.Fprint(c, "227 Entering Passive Mode (192,0,2,1,0,22)\r\n")
		bufio.NewReader(c).ReadString('\n')
	}()
	c, err := dialFrom(p.visitor, "tcp", "", at(hostIP, 21), silence)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	r.ReadString('\n')
	fmt.Fprint(c, "PASV\r\n")
	r.ReadString('\n')
	if out := p.host.Run("conntrack", "-L", "expect"); !strings.Contains(out, "dport=22") {
		t.Fatalf("the helper does not expect a connection:\n%s", out)
	}
	want(t, p.visitor, "tcp", at(hostIP, 22), dark)
}

// behind returns a third namespace, to which the host forwards.
func (p *place) behind() *nstest.NS {
	p.t.Helper()
	b := nstest.New(p.t)
	nstest.Link(p.host, b, []string{"198.51.100.1/24", "2001:db8:5::1/64"}, []string{"198.51.100.2/24", "2001:db8:5::2/64"})
	p.host.Run("sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	b.Run("ip", "route", "add", "default", "via", "198.51.100.1")
	b.Run("ip", "route", "add", "default", "via", "2001:db8:5::1")
	p.visitor.Run("ip", "route", "add", "198.51.100.0/24", "via", hostIP)
	p.visitor.Run("ip", "route", "add", "2001:db8:5::/64", "via", hostIP6)
	awaitLink(p.t, p.visitor, "198.51.100.2", "2001:db8:5::2")
	return b
}

// publish has the host forward connections to ports of its own to a server behind it, as
// those to published ports of containers are.
func (p *place) publish(ports string) {
	p.t.Helper()
	listen(p.t, p.behind(), 80)
	p.host.Run("nft", `table inet containers { chain pre { type nat hook prerouting priority dstnat;
		fib daddr type local tcp dport `+ports+` dnat ip to 198.51.100.2:80
		fib daddr type local tcp dport `+ports+` dnat ip6 to [2001:db8:5::2]:80
		}
	}`)
}

func TestForwardedTrafficIsNotOurs(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	b := p.behind()
	listen(t, b, 22)
	listen(t, p.host, 22)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp")})
	for _, network := range []string{"tcp", "udp"} {
		want(t, p.visitor, network, "198.51.100.2:22", reached)
		want(t, p.visitor, network, "[2001:db8:5::2]:22", reached)
		want(t, p.visitor, network, "198.51.100.1:22", dark) // the host's other side
		want(t, p.visitor, network, "[2001:db8:5::1]:22", dark)
	}
	want(t, b, "tcp", "198.51.100.1:22", dark)
}

// Published ports of containers are guarded. They are destination NAT to another
// address.
func TestPublishedPortsAreGuarded(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.publish("8080-8081")
	p.guard(Door{Name: "web", Ports: ports(t, "8080/tcp")}, Door{Name: "other", Ports: ports(t, "80/tcp")})
	for _, ip := range []string{hostIP, hostIP6} {
		want(t, p.visitor, "tcp", at(ip, 8080), dark)
		want(t, p.visitor, "tcp", at(ip, 8081), reached)
	}
	p.give(grant("web", visitorIP, time.Minute), grant("web", visitorIP6, time.Minute))
	for _, ip := range []string{hostIP, hostIP6} {
		want(t, p.visitor, "tcp", at(ip, 8080), reached)
	}
	for _, ip := range []string{visitorIP, visitorIP6} { // and it is the door of the published port that was used
		for door, want := range map[string]bool{"web": true, "other": false} {
			if _, used, err := p.f.Used(door, netip.MustParseAddr(ip)); err != nil || used != want {
				t.Errorf("%s has used door %s: %v, %v, want %v", ip, door, used, err, want)
			}
		}
	}
}

func TestSingleUse(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp"), SingleUse: true})
	for _, tc := range []struct{ source, ip string }{
		{visitorIP, hostIP}, {"192.0.2.0/24", hostIP}, {visitorIP6, hostIP6}, {"::/0", hostIP6},
	} {
		for _, network := range []string{"tcp", "udp"} {
			p.give(grant("ssh", tc.source, time.Minute))
			c, err := dialFrom(p.visitor, network, "", at(tc.ip, 22), silence)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := echo(c, patience); err != nil {
					t.Errorf("the first connection over %s of %s: %v", network, tc.source, err)
				}
			}
			want(t, p.visitor, network, at(tc.ip, 22), dark)
			if err := echo(c, patience); err != nil {
				t.Errorf("the first connection over %s of %s after the second was refused: %v", network, tc.source, err)
			}
			c.Close()
		}
	}
	if gs, err := p.f.allGrants(); err != nil || len(gs) != 0 {
		t.Errorf("Grants() = %v, %v, want all spent", gs, err)
	}
	// A narrower grant is spent before a wider one.
	p.give(grant("ssh", visitorIP, time.Minute), grant("ssh", "192.0.2.0/24", time.Minute))
	want(t, p.visitor, "tcp", at(hostIP, 22), reached)
	if gs, err := p.f.allGrants(); err != nil || len(gs) != 1 || gs[0].Source != netip.MustParsePrefix("192.0.2.0/24") {
		t.Errorf("Grants() = %v, %v, want the wider one unspent", gs, err)
	}
	// Who always comes in spends nothing.
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp"), SingleUse: true, Always: prefixes("192.0.2.0/24")})
	for _, network := range []string{"tcp", "udp", "tcp"} {
		want(t, p.visitor, network, at(hostIP, 22), reached)
	}
	if gs, err := p.f.allGrants(); err != nil || len(gs) != 1 {
		t.Errorf("Grants() = %v, %v after connections of somebody in always, want the one unspent", gs, err)
	}
}

// The SYN of the first connection may have to be sent again, since the answer was lost on
// the way, or the SYN itself was lost behind the host.
func TestSingleUseOutlivesLoss(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		door int // guarded
		at   func(p *place, behind *nstest.NS) *nstest.NS
		rule string // loses the first packet, and counts
	}{
		"answer": {
			22, func(p *place, _ *nstest.NS) *nstest.NS { return p.host },
			"type filter hook postrouting priority 0; tcp sport 22 tcp flags & (syn|ack) == (syn|ack) counter drop",
		},
		"request behind the host": {
			8080, func(_ *place, b *nstest.NS) *nstest.NS { return b },
			"type filter hook prerouting priority -300; tcp dport 22 counter drop",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			b := p.behind()
			listen(t, b, 22)
			listen(t, p.host, 22)
			p.host.Run("nft", `table ip containers { chain pre { type nat hook prerouting priority dstnat;
				ip daddr 192.0.2.1 tcp dport 8080 dnat to 198.51.100.2:22;
		} 
	}`)
			lossy := tc.at(p, b)
			p.guard(Door{Name: "once", Ports: ports(t, fmt.Sprintf("%d/tcp", tc.door)), SingleUse: true})
			p.give(grant("once", visitorIP, time.Minute))
			lossy.Run("nft", "table inet loss { chain c { "+tc.rule+"\n}\n}")
			connected := make(chan error, 1)
			go func() { // ends with the dial
				c, err := dialFrom(p.visitor, "tcp", "", at(hostIP, tc.door), 10*time.Second)
				if err == nil {
					defer c.Close()
					err = echo(c, patience)
				}
				connected <- err
			}()
			eventually(t, "the packet is lost", func() bool {
				return !strings.Contains(lossy.Run("nft", "list", "table", "inet", "loss"), "packets 0 ")
			})
			lossy.Run("nft", "delete", "table", "inet", "loss")
			if err := <-connected; err != nil {
				t.Errorf("the first connection, after its first packet was lost: %v", err)
			}
			want(t, p.visitor, "tcp", at(hostIP, tc.door), dark)
		})
	}
}
