// Package clienttest is a gateway for the tests of visitors: the other side of the
// protocol, with the answers that a test wants.
package clienttest

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
)

// Secret is the profile secret of all gateways here.
var Secret = seal.Profile{1, 2, 3}

// Gateway answers visitors. It is safe for concurrent use.
type Gateway struct {
	Identity *seal.Identity

	mu      sync.Mutex // guards the rest
	gateway *seal.Gateway
	ring    *credential.Ring
	busy    bool
	knocks  []Knock
	used    map[string][]seal.Answer
	answer  func(Knock) []seal.Answer
}

// Knock is one that has arrived, repetitions not counted.
type Knock struct {
	Request seal.Request
	Kind    seal.CredentialKind
	Party   *credential.Party // nil: unknown, or the proof is wrong
	Message string            // what the proof is of
	From    netip.Addr
	Stream  bool
	Single  bool
	First   bool // none has arrived before
}

// New returns a gateway that opens to those of a ring for a minute.
func New(t testing.TB, ring *credential.Ring, more ...*seal.Identity) *Gateway {
	t.Helper()
	id := NewIdentity(t, 1)
	g := &Gateway{Identity: id, ring: ring, used: map[string][]seal.Answer{}}
	g.gateway = seal.NewGateway(append(more, id), []seal.Profile{Secret}, true, nil, time.Now())
	g.answer = g.open
	return g
}

// NewIdentity returns the n-th identity.
func NewIdentity(t testing.TB, n byte) *seal.Identity {
	t.Helper()
	id, err := seal.NewIdentity([32]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// open is what a gateway answers unless a test has something else in mind.
func (g *Gateway) open(k Knock) []seal.Answer {
	a := seal.Answer{Status: seal.Opened, Left: time.Minute, Source: k.From, Next: g.gateway.Newest(),
		Ports: []seal.Port{{First: 22, Last: 22}}}
	switch {
	case k.Party == nil:
		return []seal.Answer{{Status: seal.Refused, Reason: seal.NotAccepted, Source: k.From, Next: a.Next}}
	case k.Request.Action == seal.Close:
		a.Status, a.Left, a.Ports = seal.Closed, 0, nil
	case k.Request.OpenFor > 0:
		a.Left = k.Request.OpenFor
	}
	if k.Request.Address.IsValid() {
		a.Source = k.Request.Address
	}
	return []seal.Answer{a}
}

// Answer sets what is answered from now on; each of the answers is a datagram.
func (g *Gateway) Answer(f func(Knock) []seal.Answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = f
}

// Open returns what the gateway answers unless Answer has set something else.
func (g *Gateway) Open(k Knock) []seal.Answer { return g.open(k) }

// Ring sets who may knock.
func (g *Gateway) Ring(r *credential.Ring) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ring = r
}

// Busy has visitors without a cookie sent back for one.
func (g *Gateway) Busy(yes bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy = yes
}

// Restart has the gateway forget all handshakes.
func (g *Gateway) Restart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gateway = seal.NewGateway([]*seal.Identity{g.Identity}, []seal.Profile{Secret}, true, nil, time.Now())
}

// Knocks returns those that have arrived.
func (g *Gateway) Knocks() []Knock {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]Knock(nil), g.knocks...)
}

// Profile is the gateway as a visitor knows it, without its bundle.
func (g *Gateway) Profile(port uint16, hosts ...string) profile.Profile {
	return profile.Profile{Name: "gate", Hosts: hosts, Port: port, Carriers: []string{"udp"}, Suite: seal.X25519,
		Gateway: seal.Peer{Profile: Secret, Fingerprint: g.Identity.Fingerprint()}}
}

// Handle returns what the gateway sends back for a datagram.
func (g *Gateway) Handle(from netip.Addr, d []byte, stream bool) (replies [][]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	answer := make([]byte, 64)
	switch rank, n := g.gateway.Glance(from, d, g.busy && !stream, answer); {
	case n > 0:
		return [][]byte{answer[:n]}
	case rank == seal.Junk:
		return nil
	}
	reply, k := g.gateway.Open(from, time.Now(), d)
	if k == nil {
		if reply == nil {
			return nil
		}
		return [][]byte{reply}
	}
	if k.Single != nil {
		g.knocks = append(g.knocks, Knock{Request: k.Request, From: from, Single: true, Message: string(k.Single.Message)})
		return nil
	}
	answers, again := g.used[string(k.Number[:])]
	if !again {
		knock := Knock{Request: k.Request, Kind: k.Credential.Kind, Party: g.party(k), Message: string(k.Message), From: from, Stream: stream, First: len(g.knocks) == 0}
		g.knocks = append(g.knocks, knock)
		answers = g.answer(knock)
	}
	for _, a := range answers {
		replies = append(replies, k.Answer(a))
	}
	if len(answers) > 1 {
		answers = answers[len(answers)-1:]
	}
	g.used[string(k.Number[:])] = answers
	return replies
}

// party is whose a knock is, nil for nobody's.
func (g *Gateway) party(k *seal.Knock) *credential.Party {
	var p *credential.Party
	var ok bool
	switch c := k.Credential; c.Kind {
	case seal.Key:
		p, ok = g.ring.Key(c.Fingerprint, k.Message, c.Proof)
	case seal.Certificate:
		p, ok = g.ring.Certificate(c.Public, k.Message, c.Proof)
	case seal.Secret:
		p, ok = g.ring.Secret(c.ID, k.Message, [32]byte(c.Proof))
	case seal.Code:
		p, _, ok = g.ring.Rescue(c.Bearer)
	case seal.Invite:
		p, _, _, ok = g.ring.Invite(c.Bearer, c.Public, k.Message, c.Proof)
	}
	if !ok {
		return nil
	}
	return p
}

// Serve listens on a free port of an address of this machine, over UDP, and over TCP if
// tcp says so, until the test ends. It returns the port.
func (g *Gateway) Serve(t testing.TB, address string, udp, tcp bool) uint16 {
	t.Helper()
	l, c := listen(t, address)
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { l.Close(); c.Close() })
	if tcp {
		running.Go(func() { g.serveStreams(l) })
	} else {
		l.Close()
	}
	if udp {
		running.Go(func() { g.serveDatagrams(c) })
	} else {
		c.Close()
	}
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// listen listens on a port that is free over TCP and over UDP.
func listen(t testing.TB, address string) (net.Listener, net.PacketConn) {
	t.Helper()
	for tries := 1; ; tries++ {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, c
		}
		l.Close()
		if tries == 10 { // the port was somebody else's each time
			t.Fatal(err)
		}
	}
}

func (g *Gateway) serveDatagrams(c net.PacketConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		for _, d := range g.Handle(netip.MustParseAddrPort(from.String()).Addr().Unmap(), b[:n], false) {
			c.WriteTo(d, from)
		}
	}
}

func (g *Gateway) serveStreams(l net.Listener) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer c.Close()
			g.ServeStream(c, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap())
		})
	}
}

// ServeStream answers over one connection until it ends.
func (g *Gateway) ServeStream(c net.Conn, from netip.Addr) {
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		d := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, d); err != nil {
			return
		}
		for _, reply := range g.Handle(from, d, true) {
			if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
				return
			}
		}
	}
}
