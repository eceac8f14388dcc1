//go:build linux

package fence

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/conntrack"
	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// talker is a UDP server that sends to the last visitor every 50 ms, whatever happens to
// them, and reports what it receives.
type talker struct {
	heard chan string

	mu sync.Mutex
	to net.Addr
}

func talk(t testing.TB, n *nstest.NS, number int) *talker {
	t.Helper()
	s := &talker{heard: make(chan string, 1000)}
	var u net.PacketConn
	n.Do(func() (err error) { u, err = net.ListenPacket("udp", fmt.Sprintf(":%d", number)); return })
	t.Cleanup(func() { u.Close() })
	go func() { // ends with the socket
		b := make([]byte, 1500)
		for {
			k, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.to = from
			s.mu.Unlock()
			s.heard <- string(b[:k])
		}
	}()
	go func() { // ends with the test
		tick := time.Tick(50 * time.Millisecond)
		for t.Context().Err() == nil {
			s.mu.Lock()
			to := s.to
			s.mu.Unlock()
			if to != nil {
				u.WriteTo([]byte("still here"), to)
			}
			select {
			case <-tick:
			case <-t.Context().Done():
			}
		}
	}()
	return s
}

// hears reports whether the talker receives what is sent over c.
func (s *talker) hears(t testing.TB, c net.Conn, wait time.Duration) bool {
	t.Helper()
	word := fmt.Sprintf("hello at %s", time.Now())
	if _, err := io.WriteString(c, word); err != nil {
		t.Fatal(err)
	}
	for end := time.After(wait); ; {
		select {
		case got := <-s.heard:
			if got == word {
				return true
			}
		case <-end:
			return false
		}
	}
}

// begins waits until connection tracking has an entry whose first packet is one from the
// host to c.
func (p *place) begins(c net.Conn) {
	p.t.Helper()
	visitor := addrPort(c.LocalAddr().String())
	eventually(p.t, "the server speaks first", func() bool {
		out := p.host.Run("conntrack", "-L", "-p", "udp", "-f", map[bool]string{true: "ipv4", false: "ipv6"}[visitor.Addr().Is4()])
		return strings.Contains(out, fmt.Sprintf("dst=%s sport=53 dport=%d ", visitor.Addr(), visitor.Port()))
	})
}

// noted waits until the table remembers that c was let in.
func (p *place) noted(c net.Conn) {
	p.t.Helper()
	eventually(p.t, "the server answers", func() bool { _, ok := p.note(flowsSet, c); return ok })
}

// note returns the element of a set for a flow.
func (p *place) note(set string, c net.Conn) (e nft.Element, ok bool) {
	p.t.Helper()
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	visitor := addrPort(c.LocalAddr().String())
	flow := nft.Member{Set: set + familyOf(visitor.Addr()).name, Key: tuple{visitor, addrPort(c.RemoteAddr().String())}.key()}
	p.do(p.f.conn.Find([]nft.Member{flow}, func(_ int, found nft.Element) { e, ok = found, true }))
	return e, ok
}

// A server that goes on sending after the door was closed makes entries in connection
// tracking for which the visitor's datagrams are answers. They still need a grant to come
// in. A flow that was let in goes on after connection tracking has forgotten it, whoever
// sends first.
func TestAnswersMakeNoFlow(t *testing.T) {
	t.Parallel()
	for _, ips := range [][2]string{{hostIP, visitorIP}, {hostIP6, visitorIP6}} {
		for _, single := range []bool{false, true} {
			for _, forgotten := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, single use %v, forgotten %v", ips[0], single, forgotten), func(t *testing.T) {
					t.Parallel()
					p := newPlace(t)
					s := talk(t, p.host, 53)
					p.guard(Door{Name: "dns", Ports: ports(t, "53/udp"), SingleUse: single})
					c, err := dialFrom(p.visitor, "udp", "", at(ips[0], 53), patience)
					must(t, err)
					defer c.Close()
					for round := range 2 {
						if round > 0 && s.hears(t, c, silence) {
							t.Fatal("the server's own datagrams opened the door")
						}
						p.give(grant("dns", ips[1], time.Minute))
						if !s.hears(t, c, patience) {
							t.Fatalf("round %d: not in under a grant", round)
						}
						p.revoke(grant("dns", ips[1], 0))
						p.noted(c)
						if forgotten {
							for range 2 {
								p.host.Run("conntrack", "-F")
								p.begins(c)
								if !s.hears(t, c, patience) {
									t.Fatalf("round %d: a flow does not go on when the server speaks first", round)
								}
							}
							p.host.Run("conntrack", "-F")
							p.begins(c)
						}
						if round == 0 && !s.hears(t, c, patience) {
							t.Fatalf("round %d: the flow ended by itself", round)
						}
						p.do(p.f.EndFlows([]Grant{grant("dns", ips[1], 0)}))
						p.begins(c)
					}
					if s.hears(t, c, silence) {
						t.Error("the server's own datagrams opened the door")
					}
				})
			}
		}
	}
}

// The same holds for a published port, whose server is another machine.
func TestPublishedAnswersMakeNoFlow(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := talk(t, p.behind(), 53)
	p.host.Run("nft", `table ip containers {
		chain pre { type nat hook prerouting priority dstnat; fib daddr type local udp dport 53 dnat to 198.51.100.2
		}
		chain post { type nat hook postrouting priority srcnat; ip saddr 198.51.100.2 masquerade
		}
	}`)
	p.guard(Door{Name: "dns", Ports: ports(t, "53/udp")})
	c, err := dialFrom(p.visitor, "udp", "", at(hostIP, 53), patience)
	must(t, err)
	defer c.Close()
	for round := range 2 {
		p.give(grant("dns", visitorIP, time.Minute))
		for range 2 { // the second time, connection tracking has seen an answer
			if !s.hears(t, c, patience) {
				t.Fatalf("round %d: not in under a grant", round)
			}
			c.SetReadDeadline(time.Now().Add(patience))
			if _, err := c.Read(make([]byte, 100)); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		p.revoke(grant("dns", visitorIP, 0))
		p.do(p.f.EndFlows([]Grant{grant("dns", visitorIP, 0)}))
		p.begins(c)
		if s.hears(t, c, silence) {
			t.Fatalf("round %d: the server's own datagrams opened the door", round)
		}
	}
}

// A flow that was ended stays so for a day after either side has sent something.
func TestEndedFlowsStayEnded(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := talk(t, p.host, 53)
	p.guard(Door{Name: "dns", Ports: ports(t, "53/udp")})
	p.give(grant("dns", visitorIP, time.Minute))
	c, err := dialFrom(p.visitor, "udp", "", at(hostIP, 53), patience)
	must(t, err)
	defer c.Close()
	if !s.hears(t, c, patience) {
		t.Fatal("not in under a grant")
	}
	p.revoke(grant("dns", visitorIP, 0))
	p.do(p.f.EndFlows([]Grant{grant("dns", visitorIP, 0)}))
	soon := func() {
		t.Helper()
		e, _ := p.note(endedSet, c)
		b := p.f.conn.Batch()
		b.SetElements(endedSet+"v4", []nft.Element{{Key: e.Key, Left: time.Minute}})
		p.f.mu.Lock()
		defer p.f.mu.Unlock()
		p.do(p.f.conn.Commit(b))
	}
	renewed := func(by string) {
		t.Helper()
		eventually(t, "it is ended for a day, because of "+by, func() bool {
			e, ok := p.note(endedSet, c)
			return ok && e.Left > flowFor-time.Minute
		})
	}
	soon()
	renewed("the server")
	s.mu.Lock()
	s.to = nil
	s.mu.Unlock()
	soon()
	if s.hears(t, c, silence) {
		t.Error("the visitor is heard")
	}
	renewed("the visitor")
	// That also holds in a table that replaces another.
	p.do(p.f.Close())
	p.f = openIn(t, p.host, true)
	p.guard(Door{Name: "dns", Ports: ports(t, "53/udp")})
	renewed("what the previous table knew")
}

// The host's own clients receive their answers, whatever ports they have and whosever
// flows are ended.
func TestOwnClientsAreAnswered(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.visitor, 53)
	listen(t, p.host, 60001)
	p.guard(Door{Name: "mosh", Ports: ports(t, "60000-61000/udp")})
	var c net.Conn
	p.host.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.UDPAddr{Port: 60999}}
		c, err = d.Dial("udp", at(visitorIP, 53))
		return err
	})
	defer c.Close()
	p.do(echo(c, patience))
	everybody := []Grant{grant("mosh", "0.0.0.0/0", 0), grant("mosh", "::/0", 0)}
	for _, ends := range [][]Grant{{grant("mosh", "192.0.2.99", 0)}, {grant("mosh", visitorIP, 0)}, everybody} {
		p.give(grant("mosh", visitorIP, time.Minute))
		want(t, p.visitor, "udp", at(hostIP, 60001), reached)
		p.revoke(grant("mosh", visitorIP, 0))
		p.do(p.f.EndFlows(ends))
		if err := echo(c, patience); err != nil {
			t.Errorf("the host's own client, after the end of %s: %v", ends[0].Source, err)
		}
	}
	want(t, p.visitor, "udp", at(hostIP, 60999), dark) // from another port
}

// If no more ended flows can be remembered, that is an error, but the flows are ended
// all the same.
func TestEndedFlowsAreFull(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 53)
	p.guard(Door{Name: "dns", Ports: ports(t, "53/udp")})
	var full []nft.Element
	for i := range endedMost {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i >> 16)}), uint16(i))
		full = append(full, nft.Element{Key: tuple{from, addrPort(hostIP + ":53")}.key(), Left: time.Hour})
	}
	b := p.f.conn.Batch()
	b.AddElements(endedSet+"v4", full)
	p.do(p.f.conn.Commit(b))
	p.give(grant("dns", visitorIP, time.Minute))
	c, err := dialFrom(p.visitor, "udp", "", at(hostIP, 53), patience)
	must(t, err)
	defer c.Close()
	p.do(echo(c, patience))
	p.revoke(grant("dns", visitorIP, 0))
	err = p.f.EndFlows([]Grant{grant("dns", visitorIP, 0)})
	if !errors.Is(err, unix.ENFILE) || !strings.Contains(err.Error(), "no more than 262,144 ended flows") {
		t.Errorf("one ended flow too many: %v", err)
	}
	if echo(c, silence) == nil {
		t.Error("the flow goes on")
	}
}

// Ending a flow uses the tuples that match its packets in either direction, before and
// after any translation.
func TestTuplesOfAFlow(t *testing.T) {
	t.Parallel()
	a := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	visitor, front, back := a("192.0.2.2:40000"), a("192.0.2.1:5353"), a("192.0.2.1:53")
	from := func(number uint16, source string) flowSources {
		s := flowSources{map[netip.Prefix][]port.Range{}, map[int]bool{}}
		s.add(netip.MustParsePrefix("198.51.100.0/24"), nil)
		s.add(netip.MustParsePrefix(source), []port.Range{{Proto: port.UDP, First: number, Last: number}})
		return s
	}
	dns, behind := from(5353, "192.0.2.2/32"), from(53, "192.0.2.2/32")
	// entry returns a flow that was let in.
	entry := func(from, to, backFrom, backTo netip.AddrPort) conntrack.Entry {
		return conntrack.Entry{Proto: unix.IPPROTO_UDP, LetIn: true,
			Original: conntrack.Tuple{From: from, To: to}, Reply: conntrack.Tuple{From: backFrom, To: backTo}}
	}
	stray, tcp, other := entry(back, visitor, visitor, back), entry(visitor, back, back, visitor), a("192.0.2.3:40000")
	stray.LetIn, tcp.Proto = false, unix.IPPROTO_TCP
	for name, tc := range map[string]struct {
		e    conntrack.Entry
		s    flowSources
		want []tuple
	}{
		"the visitor's":       {entry(visitor, front, back, visitor), dns, []tuple{{visitor, front}, {visitor, back}}},
		"guarded behind":      {entry(visitor, front, back, visitor), behind, []tuple{{visitor, front}, {visitor, back}}},
		"without translation": {entry(visitor, back, back, visitor), behind, []tuple{{visitor, back}}},
		"the server's":        {entry(back, visitor, visitor, back), behind, []tuple{{visitor, back}}},
		"not let in":          {stray, behind, nil},
		"of TCP":              {tcp, behind, nil},
		"another door's":      {entry(visitor, back, back, visitor), dns, nil},
		"somebody else's":     {entry(other, back, back, other), behind, nil},
	} {
		if got := tuplesOf(tc.e, tc.s); fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
