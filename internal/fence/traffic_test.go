//go:build linux

package fence

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"golang.org/x/sys/unix"
)

func TestStrangersMeetSilence(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	listen(t, p.host, 80)
	for _, ip := range []string{hostIP, hostIP6} {
		want(t, p.visitor, "tcp", at(ip, 22), reached) // the test itself works
	}
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp")})
	for _, ip := range []string{hostIP, hostIP6} {
		for _, network := range []string{"tcp", "udp"} {
			want(t, p.visitor, network, at(ip, 22), dark)
			want(t, p.visitor, network, at(ip, 80), reached)
		}
		want(t, p.host, "tcp", at(ip, 22), reached) // the host reaches itself
	}
	want(t, p.host, "tcp", "127.0.0.1:22", reached)
	refused, err := p.f.Refused()
	if err != nil || refused["ssh"] < 4 {
		t.Errorf("Refused() = %v, %v; want at least the 4 packets sent to ssh", refused, err)
	}
}

func TestGrantsLetIn(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	listen(t, p.host, 23)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp")}, Door{Name: "telnet", Ports: ports(t, "23/tcp")})
	for _, tc := range []struct{ source, ip, other string }{
		{visitorIP, hostIP, hostIP6},
		{"::ffff:" + visitorIP, hostIP, hostIP6},
		{visitorIP6, hostIP6, hostIP},
		{"192.0.2.77/24", hostIP, hostIP6},
		{"2001:db8::77/64", hostIP6, hostIP},
		{"0.0.0.0/0", hostIP, hostIP6},
		{"::/0", hostIP6, hostIP},
	} {
		t.Run(tc.source, func(t *testing.T) {
			g := grant("ssh", tc.source, time.Minute)
			p.give(g)
			for _, network := range []string{"tcp", "udp"} {
				want(t, p.visitor, network, at(tc.ip, 22), reached)
			}
			want(t, p.visitor, "tcp", at(tc.other, 22), dark)
			want(t, p.visitor, "tcp", at(tc.ip, 23), dark)
			p.revoke(g)
			want(t, p.visitor, "tcp", at(tc.ip, 22), dark)
		})
	}
}

func TestGrantsForOthersDoNotHelp(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp")})
	p.give(grant("ssh", "192.0.2.3", time.Minute), grant("ssh", "192.0.2.4/31", time.Minute),
		grant("ssh", "198.51.100.0/24", time.Minute), grant("ssh", "2001:db8::3", time.Minute))
	want(t, p.visitor, "tcp", at(hostIP, 22), dark)
	want(t, p.visitor, "tcp", at(hostIP6, 22), dark)
}

func TestGrantRunsOutInTheKernel(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp")})
	p.give(grant("ssh", visitorIP, time.Second), grant("ssh", "2001:db8::/64", time.Second))
	session, err := dialFrom(p.visitor, "tcp", "", at(hostIP, 22), silence)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	p.do(p.f.Close()) // it does not need the daemon for that
	for _, ip := range []string{hostIP, hostIP6} {
		eventually(t, "the grant runs out", func() bool { return look(p.visitor, "tcp", at(ip, 22)) == dark })
	}
	if err := echo(session, patience); err != nil {
		t.Errorf("the session opened under the grant: %v", err)
	}
}

func TestGivingAgainSetsTheTime(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp")})
	left := func() time.Duration {
		t.Helper()
		gs, err := p.f.allGrants()
		if err != nil || len(gs) != 1 {
			t.Fatalf("Grants() = %v, %v, want one", gs, err)
		}
		return time.Until(gs[0].Until)
	}
	for _, d := range []time.Duration{time.Minute, time.Hour, time.Minute} {
		p.give(grant("ssh", visitorIP, d))
		if l := left(); l > d || l < d-10*time.Second {
			t.Errorf("given for %v, has %v left", d, l)
		}
	}
	p.do(p.f.Change(Changes{Give: []Grant{grant("ssh", visitorIP, time.Hour)}, Revoke: []Grant{grant("ssh", visitorIP, 0)}}))
	if l := left(); l < 59*time.Minute {
		t.Errorf("revoked and given for an hour in one call, has %v left", l)
	}
	p.give(grant("ssh", visitorIP, 999*time.Microsecond)) // over already
	p.revoke(grant("ssh", visitorIP, 0), grant("ssh", "192.0.2.0/27", 0))
	if gs, err := p.f.allGrants(); err != nil || len(gs) != 0 {
		t.Errorf("Grants() = %v, %v, want none", gs, err)
	}
}

func TestOverlappingGrantsAreIndependent(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp")})
	nested := []Grant{
		grant("ssh", visitorIP, time.Minute), grant("ssh", "192.0.2.0/30", time.Minute),
		grant("ssh", "192.0.2.0/24", time.Minute), grant("ssh", "0.0.0.0/0", time.Minute),
	}
	p.give(nested...)
	for _, g := range nested {
		want(t, p.visitor, "tcp", at(hostIP, 22), reached)
		p.revoke(g)
	}
	want(t, p.visitor, "tcp", at(hostIP, 22), dark)
}

func TestAlways(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp"), Always: prefixes("192.0.2.2/31", "2001:db8::/64")})
	want(t, p.visitor, "tcp", at(hostIP, 22), reached)
	want(t, p.visitor, "tcp", at(hostIP6, 22), reached)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp"), Always: prefixes("192.0.2.3/32")})
	want(t, p.visitor, "tcp", at(hostIP, 22), dark)
	want(t, p.visitor, "tcp", at(hostIP6, 22), dark)
}

func TestReject(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp"), Reject: true})
	for _, ip := range []string{hostIP, hostIP6} {
		for _, network := range []string{"tcp", "udp"} {
			want(t, p.visitor, network, at(ip, 22), rejected)
		}
	}
	p.give(grant("ssh", visitorIP, time.Minute))
	want(t, p.visitor, "tcp", at(hostIP, 22), reached)
}

// Whether strangers are answered is a matter of the port and its protocol.
func TestRejectAtSomePorts(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	doors := []Door{
		{Name: "loud", Ports: ports(t, "22/tcp", "23-24/udp", "65535/tcp"), Reject: true},
		{Name: "silent", Ports: ports(t, "22/udp", "23-24/tcp", "65534/tcp", "65535/udp")},
	}
	answers := map[string]bool{"22/tcp": true, "23/udp": true, "24/udp": true, "65535/tcp": true,
		"22/udp": false, "23/tcp": false, "24/tcp": false, "65534/tcp": false, "65535/udp": false}
	for range 2 {
		p.guard(doors...)
		for at, answer := range answers {
			r := ports(t, at)[0]
			how := map[bool]string{true: rejected, false: dark}[answer == doors[0].Reject]
			for _, ip := range []string{hostIP, hostIP6} {
				want(t, p.visitor, r.Proto.String(), net.JoinHostPort(ip, fmt.Sprint(r.First)), how)
			}
		}
		doors[0].Reject, doors[1].Reject = false, true // which changes nothing that is a door's own
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.guard(
		Door{Name: "low", Ports: ports(t, "1000-1002/tcp")},
		Door{Name: "next", Ports: ports(t, "1003/tcp", "65000-65535/tcp"), Reject: true})
	p.give(grant("low", visitorIP6, time.Minute))
	// Nothing listens on any of these ports, so the host itself refuses what passes the
	// fence.
	for number, how := range map[int]string{
		999: rejected, 1000: dark, 1001: dark, 1002: dark, 1003: rejected, 64999: rejected, 65535: rejected,
	} {
		want(t, p.visitor, "tcp", at(hostIP, number), how)
	}
	want(t, p.visitor, "tcp", at(hostIP6, 1001), rejected)
	refused, err := p.f.Refused()
	if err != nil || refused["low"] == 0 || refused["next"] != 2 {
		t.Errorf("Refused() = %v, %v; want some for low and 2 for next", refused, err)
	}
}

// All of the host's addresses are guarded, whichever way packets reach them.
func TestOtherAddressesOfTheHost(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.host.Run("ip", "addr", "add", "203.0.113.1/32", "dev", "lo")
	p.host.Run("ip", "addr", "add", "2001:db8:1::1/128", "dev", "lo", "nodad")
	p.host.Run("ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo")
	for _, r := range [][]string{{"203.0.113.0/24", hostIP}, {"198.51.100.0/24", hostIP}, {"2001:db8:1::/64", hostIP6}} {
		p.visitor.Run("ip", "route", "add", r[0], "via", r[1])
	}
	listen(t, p.host, 22)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp")})
	addrs := []string{"203.0.113.1", "198.51.100.77", "2001:db8:1::1", linkLocal(t, p.host, p.hostIf) + "%" + p.peerIf()}
	for _, how := range []string{dark, reached} {
		for _, a := range addrs {
			want(t, p.visitor, "tcp", at(a, 22), how)
		}
		p.give(grant("ssh", visitorIP, time.Minute), grant("ssh", visitorIP6, time.Minute), grant("ssh", "fe80::/10", time.Minute))
	}
}

func (p *place) peerIf() string { return strings.TrimSuffix(p.hostIf, "a") + "b" }

// linkLocal waits for the interface's link-local address to be usable.
func linkLocal(t *testing.T, n *nstest.NS, dev string) string {
	t.Helper()
	var addr string
	eventually(t, "a link-local address", func() bool {
		for line := range strings.Lines(n.Run("ip", "-6", "-o", "addr", "show", "dev", dev, "scope", "link")) {
			if f := strings.Fields(line); len(f) > 3 && !strings.Contains(line, "tentative") {
				addr = netip.MustParsePrefix(f[3]).Addr().String()
			}
		}
		return addr != ""
	})
	return addr
}

// Where somebody else can change the table, a door that has lost its rules, or the way to
// them, lets nobody in.
func TestADamagedDoorLetsNobodyIn(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.f = openIn(t, p.host, true)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp")})
	p.give(grant("ssh", visitorIP, time.Hour), grant("ssh", visitorIP6, time.Hour))
	for _, damage := range []string{"flush chain inet doorward door-ssh", "flush map inet doorward doors.tcp; flush map inet doorward doors.udp",
		"flush chain inet doorward granted", "flush chain inet doorward entered"} {
		want(t, p.visitor, "tcp", at(hostIP, 22), reached)
		p.host.Run("nft", damage)
		for _, ip := range []string{hostIP, hostIP6} {
			want(t, p.visitor, "tcp", at(ip, 22), dark)
			if damage != "flush chain inet doorward entered" { // which is for handshakes
				want(t, p.visitor, "udp", at(ip, 22), dark)
			}
		}
		p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp")})
	}
}

// Broadcasts and multicasts to a guarded port are guarded; others are let through.
func TestBroadcastAndMulticast(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.guard(Door{Name: "game", Ports: ports(t, "5000/udp")})
	arrived := func() map[string]bool {
		seen := map[string]bool{}
		for _, number := range []int{5000, 5001} {
			var u net.PacketConn
			// A program that another test is starting may hold a copy of the last
			// socket until it runs.
			eventually(t, "the port is free", func() bool {
				p.host.Do(func() error { u, _ = net.ListenPacket("udp4", fmt.Sprintf(":%d", number)); return nil })
				return u != nil
			})
			defer u.Close()
			for _, addr := range []string{"192.0.2.255", "255.255.255.255", "224.0.0.1", hostIP} {
				c, err := dialFrom(p.visitor, "udp", "", at(addr, number), silence)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(c, "%s", at(addr, number))
				c.Close()
			}
			b := make([]byte, 100)
			for {
				u.SetReadDeadline(time.Now().Add(silence))
				n, _, err := u.ReadFrom(b)
				if err != nil {
					break
				}
				seen[string(b[:n])] = true
			}
		}
		return seen
	}
	p.visitor.Run("ip", "route", "add", "default", "via", hostIP)
	for _, granted := range []bool{false, true} {
		if granted {
			p.give(grant("game", visitorIP, time.Minute))
		}
		seen := arrived()
		for _, addr := range []string{"192.0.2.255", "255.255.255.255", "224.0.0.1", hostIP} {
			if got := seen[at(addr, 5000)]; got != granted {
				t.Errorf("with a grant: %v: a datagram to %s:5000 arrives: %v", granted, addr, got)
			}
			if !seen[at(addr, 5001)] {
				t.Errorf("with a grant: %v: a datagram to %s:5001, which is not guarded, does not arrive", granted, addr)
			}
		}
	}
}

// No port of the sender's is a leave to come in, as those of DNS and DHCP are at many a
// packet filter.
func TestPortsOfTheSenderCountForNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	listen(t, p.host, 80)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp")})
	var all sync.WaitGroup
	for _, from := range []int{20, 22, 53, 67, 68, 123, 443, 546, 547} {
		for ip, own := range map[string]string{hostIP: visitorIP, hostIP6: visitorIP6} {
			for _, network := range []string{"tcp", "udp"} {
				all.Go(func() {
					c, err := dialFrom(p.visitor, network, at(own, from), at(ip, 22), silence)
					if err == nil {
						err = echo(c, silence)
						c.Close()
					}
					if !isTimeout(err) {
						t.Errorf("%s from port %d to %s: %v, want silence", network, from, at(ip, 22), err)
					}
				})
			}
		}
	}
	all.Wait()
	c, err := dialFrom(p.visitor, "udp", at(visitorIP, 53), at(hostIP, 80), patience)
	if err == nil {
		err = echo(c, patience)
		c.Close()
	}
	if err != nil {
		t.Errorf("a port that is not guarded: %v", err)
	}
}

// Neither fragments, of which only the first has ports, nor extension headers hide the
// port from the fence.
func TestFragmentsAndExtensionHeaders(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	listen(t, p.host, 80)
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp", "22/udp")})
	big := func(addr string) string {
		c, err := dialFrom(p.visitor, "udp", "", addr, silence)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(silence))
		if _, err := c.Write(make([]byte, 4000)); err != nil {
			return err.Error()
		}
		if _, err := c.Read(make([]byte, 4000)); err != nil {
			return dark
		}
		return reached
	}
	optioned := func(addr string) string {
		how := ""
		p.visitor.Do(func() error {
			d := net.Dialer{Timeout: silence, Control: func(_, _ string, raw syscall.RawConn) (err error) {
				raw.Control(func(fd uintptr) { // destination options: eight bytes of padding
					err = unix.SetsockoptString(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00")
				})
				return err
			}}
			c, err := d.Dial("tcp", addr)
			switch {
			case err == nil:
				how = reached
				c.Close()
			case isTimeout(err):
				how = dark
			default:
				how = err.Error()
			}
			return nil
		})
		return how
	}
	for _, number := range []int{22, 80, 22} {
		how := dark
		if number == 80 {
			how = reached // the test itself works
		}
		for _, ip := range []string{hostIP, hostIP6} {
			if got := big(at(ip, number)); got != how {
				t.Errorf("a datagram in fragments to %s: %s, want %s", at(ip, number), got, how)
			}
		}
		if got := optioned(at(hostIP6, number)); got != how {
			t.Errorf("a SYN with destination options to port %d: %s, want %s", number, got, how)
		}
	}
	p.give(grant("ssh", visitorIP, time.Minute), grant("ssh", visitorIP6, time.Minute))
	if got := big(at(hostIP, 22)); got != reached {
		t.Errorf("a datagram in fragments, with a grant: %s", got)
	}
	if got := optioned(at(hostIP6, 22)); got != reached {
		t.Errorf("a SYN with destination options, with a grant: %s", got)
	}
}
