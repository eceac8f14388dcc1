//go:build linux

package sealed

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/seal"
	kind "github.com/doorward/doorward/internal/sealed"
)

// What the router behind which two live is called, inside and outside.
const (
	outside4 = "203.0.113.2"
	gateOut4 = "203.0.113.1"
)

// home has two hosts behind a router that translates their addresses to one.
func (s *site) home() (router, left, right *lab.Host) {
	s.t.Helper()
	var err error
	for name, h := range map[string]**lab.Host{"router": &router, "left": &left, "right": &right} {
		*h, err = s.lab.Host(name)
		s.must(err)
	}
	s.must(s.lab.Link(s.server, []string{gateOut4 + "/24"}, router, []string{outside4 + "/24"}))
	s.must(s.lab.Link(left, []string{"198.51.100.2/24"}, router, []string{"198.51.100.1/24"}))
	s.must(s.lab.Link(right, []string{"198.18.0.2/24"}, router, []string{"198.18.0.1/24"}))
	for _, c := range []struct {
		on   *lab.Host
		what string
	}{
		{left, "ip route add default via 198.51.100.1"},
		{right, "ip route add default via 198.18.0.1"},
		{router, "sysctl -qw net.ipv4.ip_forward=1"},
		{router, "nft add table ip home"},
		{router, "nft add chain ip home out { type nat hook postrouting priority 100 ; }"},
		{router, "nft add rule ip home out ip daddr 203.0.113.0/24 masquerade"},
		{router, "nft add chain ip home pass { type filter hook forward priority 0 ; }"},
	} {
		words := strings.Fields(c.what)
		_, err := c.on.Run(s.t.Context(), words[0], words[1:]...)
		s.must(err)
	}
	return router, left, right
}

// Behind one address, whoever shares it with a visitor comes in while the visitor's grant
// stands, and has nothing of their knock: each ends alone. Where a router drops UDP, the
// knock goes over TCP, to which nobody else gets a word.
func TestBehindOneAddress(t *testing.T) {
	s := newSite(t, `carriers = ["udp", "tcp"]`)
	bob := newKey(t, "bob")
	s.keys(s.alice.line(""), bob.line(""))
	s.start()
	router, left, right := s.home()
	first := s.begin(left, gateOut4, seal.X25519)
	if a := first.ask(web, s.alice); a.Status != seal.Opened || a.Source != parse(outside4) {
		t.Errorf("alice is answered: %+v", a)
	}
	alices := s.comesIn(left, gateOut4, "8080")
	s.admits(right, gateOut4, "8080") // as docs/THREATS.md says
	s.refuses(right, gateOut4, "8443")
	s.refuses(s.stranger, gate4, "8080")

	neighbour := s.dialled(right, "udp", gateOut4, seal.X25519)
	neighbour.send(first.sent[1]) // which they have seen
	b, err := neighbour.read(time.Now().Add(soon))
	s.must(err)
	if e, _ := neighbour.v.Read(b); e != seal.Nothing {
		t.Errorf("the neighbour reads in alice's answer: %v", e)
	}
	if a := s.begin(right, gateOut4, seal.X25519).ask(seal.Request{Action: seal.Close, Door: "web"}, bob); a.Status != seal.Closed {
		t.Errorf("bob, who closes what he has not: %+v", a)
	}
	s.has("web", outside4+" sealed alice")
	s.until("whose the first connection is", func() error { return s.known(1) })

	// Both have a grant; one ends.
	s.opens(right, gateOut4, bob)
	s.has("web", outside4+" sealed alice", outside4+" sealed bob")
	bobs := s.comesIn(right, gateOut4, "8080")
	s.until("whose the second connection is", func() error { return s.known(2) })
	do[kind.Done](s, kind.OrderLock, kind.KeyArgs{Key: "alice", Now: true})
	s.has("web", outside4+" sealed bob")
	s.isOut(alices, "alice")
	s.isIn(bobs, "bob")
	s.admits(right, gateOut4, "8080")
	do[kind.Done](s, kind.OrderLock, kind.KeyArgs{Key: "bob"})
	s.has("web")
	s.refuses(right, gateOut4, "8080")
	do[kind.Done](s, kind.OrderUnlock, kind.KeyArgs{Key: "bob"})

	_, err = router.Run(t.Context(), "nft", "add", "rule", "ip", "home", "pass", "meta", "l4proto", "udp", "drop")
	s.must(err)
	lost := s.dialled(right, "udp", gateOut4, seal.X25519)
	lost.send(lost.v.Hello())
	lost.silent("UDP through a router that drops it")
	k := s.dialled(right, "tcp", gateOut4, seal.Hybrid).hello()
	if a := k.ask(web, bob); a.Status != seal.Opened {
		t.Errorf("bob over TCP is answered: %+v", a)
	}
	s.admits(right, gateOut4, "8080")
	replay := s.dialled(s.stranger, "tcp", gate4, seal.X25519)
	for _, d := range k.sent[1:] {
		replay.send(d)
	}
	replay.silent("bob's request over TCP from another address")
	s.has("web", outside4+" sealed bob")
}

// known says whether what let so many connections in is known.
func (s *site) known(want int) error {
	n := 0
	for _, d := range s.status().Doors {
		for _, l := range d.Live {
			if l.Grant != nil && l.Grant.By != control.CoverAlways {
				n++
			}
		}
	}
	if n < want {
		return fmt.Errorf("%d of %d are", n, want)
	}
	return nil
}
