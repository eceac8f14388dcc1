//go:build linux

package fence

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// served returns a place with a door, and an attacker in the visitor's namespace with
// ports of its own.
func served(t *testing.T, d Door) (*place, *attacker) {
	p := newPlace(t)
	listen(t, p.host, 22)
	mute(p.visitor, "40000-40999")
	p.guard(d)
	return p, newAttacker(t, p.visitor)
}

func visitorPort(n uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(visitorIP), n)
}

var hostSSH = addrPort(hostIP + ":22")

// Whatever entry connection tracking has of an older connection with the same ports, a
// SYN from these ports needs a grant.
func TestSynOnAnEntryNeedsAGrant(t *testing.T) {
	t.Parallel()
	for _, single := range []bool{false, true} {
		for i, tc := range []struct {
			state string // of the entry
			end   func(p *place, c *connection)
		}{
			{"ESTABLISHED", func(p *place, c *connection) { p.kill(c) }},
			{"ESTABLISHED", func(p *place, c *connection) {}}, // and the socket exists
			{"_WAIT", func(p *place, c *connection) {
				defer p.lose("fin|rst")()
				c.segment(fin|ack, nil)
				eventually(p.t, "the server closes", func() bool { return socketsOf(p.host, visitorIP) == 0 || p.closing() })
				p.kill(c)
			}},
			{"LAST_ACK", func(p *place, c *connection) {
				c.segment(fin|ack, nil)
				if s, ok := c.hear(c.to, c.from, fin|ack, patience); !ok {
					p.t.Errorf("the server did not close the connection: %+v", s)
				}
				p.kill(c)
			}},
			{"TIME_WAIT", func(p *place, c *connection) {
				c.segment(fin|ack, nil)
				c.hear(c.to, c.from, fin|ack, patience)
				c.seq, c.ack = c.seq+1, c.ack+1
				c.segment(ack, nil)
			}},
		} {
			t.Run(fmt.Sprintf("%s, case %d, single use %v", tc.state, i, single), func(t *testing.T) {
				t.Parallel()
				p, a := served(t, Door{Name: "ssh", Ports: ports(t, "22/tcp"), SingleUse: single})
				p.give(grant("ssh", visitorIP, time.Minute))
				from := visitorPort(40000)
				c, ok := a.ask(from, hostSSH, 1000)
				if !ok {
					t.Fatal("no answer under a grant")
				}
				c.complete()
				if !c.lives() {
					t.Fatal("no connection under a grant")
				}
				p.revoke(grant("ssh", visitorIP, 0))
				tc.end(p, c)
				eventually(t, "the entry is "+tc.state, func() bool {
					return strings.Contains(p.host.Run("conntrack", "-L", "-p", "tcp", "--sport", "40000"), tc.state)
				})
				if _, ok := a.ask(from, hostSSH, 90_000_000); ok {
					t.Error("a SYN without a grant was answered")
				}
				p.give(grant("ssh", visitorIP, time.Minute))
				if tc.state == "ESTABLISHED" && i == 1 {
					return // the live connection answers, not the listener
				}
				c, ok = a.ask(from, hostSSH, 180_000_000)
				if !ok {
					t.Fatal("a SYN with a grant was not answered") // the test itself works
				}
				// Its handshake is judged again, although the entry was let in.
				p.revoke(grant("ssh", visitorIP, 0))
				c.complete()
				if c.echoes() {
					t.Error("a handshake was completed after the grant's end")
				}
			})
		}
	}
}

// kill ends the host's socket without connection tracking noticing.
func (p *place) kill(c *connection) {
	p.t.Helper()
	defer p.lose("rst")()
	p.host.Run("ss", "-K", "dst", c.from.Addr().String(), "dport", "=", fmt.Sprint(c.from.Port()))
}

// lose drops the host's segments that have one of the flags, before connection tracking
// sees them, until the returned function is called.
func (p *place) lose(flags string) (found func()) {
	p.t.Helper()
	name := fmt.Sprintf("lose%d", losses.Add(1))
	p.host.Run("nft", "table inet "+name+" { chain o { type filter hook output priority -400; tcp sport 22 tcp flags & ("+flags+") != 0 drop\n}\n}")
	return func() { p.host.Run("nft", "delete table inet "+name) }
}

var losses atomic.Int32

// closing reports whether the host has closed a connection that the visitor still has.
func (p *place) closing() bool {
	return strings.Contains(p.host.Run("ss", "-Htn", "state", "last-ack"), visitorIP)
}

// A visitor whose SYN passed under a grant needs a grant to complete the handshake, too,
// with a SYN cookie or without, at a listener on all addresses or on one.
func TestHandshakeIsJudgedAgain(t *testing.T) {
	t.Parallel()
	for _, cookies := range []string{"1", "2"} {
		for _, at := range []string{"0.0.0.0", hostIP} {
			for _, forget := range []bool{false, true} {
				t.Run(fmt.Sprintf("cookies %s, listener at %s, conntrack forgets %v", cookies, at, forget), func(t *testing.T) {
					t.Parallel()
					p := newPlace(t)
					echoAt(t, p.host, at+":22")
					mute(p.visitor, "40000-40999")
					p.host.Run("sysctl", "-q", "net.ipv4.tcp_syncookies="+cookies)
					p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp")})
					a := newAttacker(t, p.visitor)
					p.give(grant("ssh", visitorIP, time.Minute))
					c, ok := a.ask(visitorPort(40000), hostSSH, 7)
					if !ok {
						t.Fatal("no answer under a grant")
					}
					p.revoke(grant("ssh", visitorIP, 0))
					if forget {
						p.host.Run("conntrack", "-F")
					}
					c.complete()
					if c.echoes() || socketsOf(p.host, visitorIP) > 0 {
						t.Error("a handshake was completed without a grant")
					}
					p.give(grant("ssh", visitorIP, time.Minute))
					c.complete()
					if !c.lives() {
						t.Error("a handshake was not completed with a grant") // the test itself works
					}
				})
			}
		}
	}
}

// A SYN cookie is valid for minutes, but good for one handshake. Sending the segment that
// completed the handshake once more needs a grant, if the host's socket is gone but
// connection tracking does not know that.
func TestCookieIsGoodForOneHandshake(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	echoAt(t, p.host, "0.0.0.0:22")
	mute(p.visitor, "40000-40999")
	p.host.Run("sysctl", "-q", "net.ipv4.tcp_syncookies=2")
	p.guard(Door{Name: "ssh", Ports: ports(t, "22/tcp")})
	a := newAttacker(t, p.visitor)
	p.give(grant("ssh", visitorIP, time.Minute))
	c, ok := a.ask(visitorPort(40000), hostSSH, 7)
	if !ok {
		t.Fatal("no answer under a grant")
	}
	again := *c
	c.complete()
	if !c.lives() {
		t.Fatal("a handshake was not completed with a grant")
	}
	p.kill(c)
	p.revoke(grant("ssh", visitorIP, 0))
	again.complete()
	if again.echoes() || socketsOf(p.host, visitorIP) > 0 {
		t.Error("a cookie was good for a second connection, without a grant")
	}
	p.give(grant("ssh", visitorIP, time.Minute))
	again.complete()
	if !again.lives() {
		t.Error("the cookie is no longer valid under a grant: the test proves nothing")
	}
}
