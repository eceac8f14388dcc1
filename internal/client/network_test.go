package client

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/visit"
)

const (
	v4 = "192.0.2.1"
	v6 = "2001:db8::1"
)

// prover is a key, and counts its signatures.
type prover struct {
	signer ssh.Signer
	mu     sync.Mutex // guards count
	count  int
	wait   time.Duration // as for a touch
	err    error
	who    seal.Credential
}

func newProver(t testing.TB) *prover {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &prover{signer: s, who: seal.Credential{Kind: seal.Key, Fingerprint: credential.FingerprintOf(s.PublicKey().Marshal())}}
}

func (p *prover) ring(t testing.TB) *credential.Ring {
	t.Helper()
	keys, problems := credential.Parse(ssh.MarshalAuthorizedKey(p.signer.PublicKey()), "keys")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return credential.NewRing(credential.Origins{File: credential.NewKeys(keys)})
}

func (p *prover) Credential() seal.Credential { return p.who }

func (p *prover) Prove(ctx context.Context, message []byte) ([]byte, error) {
	if !visit.Pause(ctx, p.wait) && p.wait > 0 {
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	if p.err != nil || p.who.Kind == seal.Code {
		return nil, p.err
	}
	s, err := p.signer.Sign(rand.Reader, credential.Signed(message))
	return ssh.Marshal(s), err
}

// network is one in which a test decides what becomes of each datagram.
type network struct {
	gateways map[string]*clienttest.Gateway // by address
	hosts    map[string][]string
	delay    time.Duration // one way
	// fate says how often a datagram arrives, and how much later than others; nil: once.
	fate func(d trip) (times int, later time.Duration)
	// tcp says what a connection to an address meets; nil: nobody answers.
	tcp func(address string) error
	// udp says what dialling UDP meets; nil: no error.
	udp func(address string) error

	mu    sync.Mutex // guards the rest
	trips []trip
}

// trip is one datagram's.
type trip struct {
	address string // of the gateway
	down    bool   // to the visitor
	n       int    // of those in this direction, to or from this address
	size    int
}

func (n *network) client() *Client { return &Client{Dial: n.dial, Lookup: n.look} }

func (n *network) look(ctx context.Context, _, host string) (addrs []netip.Addr, err error) {
	list, ok := n.hosts[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if list == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, a := range list {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, nil
}

// source is where a gateway sees the visitor.
func source(gateway string) netip.Addr {
	if netip.MustParseAddr(gateway).Is4() {
		return netip.MustParseAddr("198.51.100.7")
	}
	return netip.MustParseAddr("2001:db8:7::7")
}

func (n *network) dial(ctx context.Context, carrier, address string) (net.Conn, error) {
	at := netip.MustParseAddrPort(address).Addr().String()
	if carrier == "udp" {
		if n.udp != nil {
			if err := n.udp(at); err != nil {
				return nil, err
			}
		}
		return &socket{n: n, at: at, in: make(chan any, 64), closed: make(chan struct{})}, nil
	}
	if n.tcp == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := n.tcp(at); err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	go func() { // ends when the visitor closes
		defer theirs.Close()
		n.gateways[at].ServeStream(theirs, source(at))
	}()
	return ours, nil
}

// take notes a datagram and returns what becomes of it.
func (n *network) take(at string, down bool, size int) (times int, later time.Duration) {
	n.mu.Lock()
	d := trip{address: at, down: down, size: size}
	for _, before := range n.trips {
		if before.address == at && before.down == down {
			d.n++
		}
	}
	n.trips = append(n.trips, d)
	n.mu.Unlock()
	if n.fate == nil {
		return 1, n.delay
	}
	times, later = n.fate(d)
	return times, later + n.delay
}

// set has a gateway at an address from now on; nil for none.
func (n *network) set(at string, g *clienttest.Gateway) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gateways[at] = g
}

func (n *network) sent(at string, down bool) (all []trip) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.trips {
		if d.address == at && d.down == down {
			all = append(all, d)
		}
	}
	return all
}

// socket is a connected one of UDP.
type socket struct {
	n      *network
	at     string
	in     chan any // []byte or error
	closed chan struct{}
	once   sync.Once
}

func (s *socket) Write(d []byte) (int, error) {
	times, later := s.n.take(s.at, false, len(d))
	d = append([]byte(nil), d...)
	for range times {
		time.AfterFunc(later, func() { s.arrive(d) })
	}
	return len(d), nil
}

// arrive has the gateway answer.
func (s *socket) arrive(d []byte) {
	s.n.mu.Lock()
	g := s.n.gateways[s.at]
	s.n.mu.Unlock()
	if g == nil {
		return
	}
	for _, reply := range g.Handle(source(s.at), d, false) {
		times, later := s.n.take(s.at, true, len(reply))
		for range times {
			time.AfterFunc(later, func() { s.deliver(reply) })
		}
	}
}

func (s *socket) deliver(what any) {
	select {
	case s.in <- what:
	case <-s.closed:
	}
}

func (s *socket) Read(b []byte) (int, error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	case what := <-s.in:
		if err, ok := what.(error); ok {
			return 0, err
		}
		return copy(b, what.([]byte)), nil
	}
}

func (s *socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *socket) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(source(s.at), 40000))
}
func (s *socket) RemoteAddr() net.Addr             { return nil }
func (s *socket) SetDeadline(time.Time) error      { return nil }
func (s *socket) SetReadDeadline(time.Time) error  { return nil }
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

// errRefused is what the network reports where nothing listens.
var errRefused = &net.OpError{Op: "read", Net: "udp", Err: os.NewSyscallError("read", syscall.ECONNREFUSED)}

// lab is a gateway with both families, in a network.
type lab struct {
	*network
	gateway *clienttest.Gateway
	prover  *prover
	knock   Knock
	told    []Progress
}

func newLab(t testing.TB) *lab {
	t.Helper()
	p := newProver(t)
	g := clienttest.New(t, p.ring(t))
	l := &lab{gateway: g, prover: p}
	l.network = &network{delay: 10 * time.Millisecond, gateways: map[string]*clienttest.Gateway{v4: g, v6: g},
		hosts: map[string][]string{"gate.example.org": {v6, v4}}}
	profile := g.Profile(41641, "gate.example.org")
	profile.Gateway.Bundle = g.Identity.Bundle()
	l.knock = Knock{Profile: profile, Prover: p, Request: seal.Request{Action: seal.Open, Door: "ssh"},
		Tell: func(p Progress) { l.told = append(l.told, p) }}
	return l
}

// run knocks, and says how long it took.
func (l *lab) run(t testing.TB) (Result, time.Duration, error) {
	t.Helper()
	start := time.Now()
	r, err := l.client().Knock(t.Context(), l.knock)
	return r, time.Since(start), err
}

// summary is what a result says, in words.
func summary(r Result) (all []string) {
	for _, a := range r.Answers {
		word := map[seal.Status]string{seal.Opened: "open", seal.Closed: "closed", seal.Starting: "starting", seal.Refused: "refused"}[a.Status]
		all = append(all, fmt.Sprintf("%s %s/%s for %s", word, a.Gateway.Addr(), carrier(a.Stream), a.Source))
	}
	return all
}

var errBroken = errors.New("broken")

func code16(n byte) (c [16]byte) { c[0] = n; return c }
