package seal

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	testPlace = netip.MustParseAddr("192.0.2.7")
	testStart = time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC)
	testDoor  = Profile{1, 2, 3}
)

func identity(t testing.TB, n byte) *Identity {
	t.Helper()
	id, err := NewIdentity([32]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func pairOf(t testing.TB) (*Gateway, Peer) {
	t.Helper()
	id := identity(t, 1)
	return NewGateway([]*Identity{id}, []Profile{testDoor}, true, nil, testStart), Peer{testDoor, id.Fingerprint(), id.Bundle()}
}

func visitor(t testing.TB, p Peer, s Suite) *Visitor {
	t.Helper()
	v, err := NewVisitor(p, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// challenged goes as far as the challenge.
func challenged(t testing.TB, g *Gateway, v *Visitor) {
	t.Helper()
	reply, k := g.Open(testPlace, testStart, v.Hello())
	if k != nil || reply == nil || len(reply) > len(v.Hello()) {
		t.Fatalf("a hello of %d bytes: an answer of %d, and %+v", len(v.Hello()), len(reply), k)
	}
	if e, _ := v.Read(reply); e != Challenged {
		t.Fatalf("the challenge: event %d", e)
	}
}

func TestHandshake(t *testing.T) {
	for _, s := range []Suite{Hybrid, X25519} {
		for name, who := range map[string]Credential{
			"key":         {Kind: Key, Fingerprint: [32]byte{9}, Proof: bytes.Repeat([]byte{8}, 83)},
			"rsa":         {Kind: Key, Fingerprint: [32]byte{9}, Proof: bytes.Repeat([]byte{8}, 532)},
			"certificate": {Kind: Certificate, Public: bytes.Repeat([]byte{7}, 600), Proof: bytes.Repeat([]byte{8}, 83)},
			"secret":      {Kind: Secret, ID: [16]byte{6}, Proof: bytes.Repeat([]byte{5}, 32)},
			"code":        {Kind: Code, Bearer: [16]byte{4}},
			"invite":      {Kind: Invite, Bearer: [16]byte{4}, Public: bytes.Repeat([]byte{7}, 51), Proof: bytes.Repeat([]byte{8}, 83)},
		} {
			t.Run(s.String()+" "+name, func(t *testing.T) {
				g, peer := pairOf(t)
				v := visitor(t, peer, s)
				challenged(t, g, v)
				q := Request{Action: Open, Door: "ssh", OpenFor: 90 * time.Second, Address: netip.MustParseAddr("2001:db8::1")}
				own := v.Transcript(q, who)
				d, err := v.Request(q, who, own, own, false)
				if err != nil {
					t.Fatal(err)
				}
				if rank, n := g.Glance(testPlace, d, true, make([]byte, 64)); rank != Shown || n != 0 {
					t.Errorf("the glance at the request: rank %d, an answer of %d bytes", rank, n)
				}
				reply, k := g.Open(testPlace, testStart.Add(HandshakeLife), d)
				if k == nil || reply != nil {
					t.Fatalf("the request: %v, %v", reply, k)
				}
				if diff := cmp.Diff(q, k.Request, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(who, k.Credential, cmpopts.EquateEmpty()); diff != "" {
					t.Error(diff)
				}
				if !bytes.Equal(k.Message, Message(own)) {
					t.Error("the two sides have another message to be signed")
				}
				want := Answer{Status: Opened, Left: 30 * time.Second, Source: testPlace, Next: g.Newest(),
					Ports: []Port{{First: 22, Last: 22}, {UDP: true, First: 60000, Last: 61000}}}
				e, got := v.Read(k.Answer(want))
				if e != Answered {
					t.Fatalf("the answer: event %d", e)
				}
				if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// One proof is for two handshakes, whichever comes first.
func TestOneProofForTwo(t *testing.T) {
	g, peer := pairOf(t)
	v4, v6 := visitor(t, peer, Hybrid), visitor(t, peer, Hybrid)
	challenged(t, g, v4)
	challenged(t, g, v6)
	q, who := Request{Action: Open}, Credential{Kind: Key, Proof: []byte("signature")}
	a, b := v4.Transcript(q, who), v6.Transcript(q, who)
	for _, v := range []*Visitor{v6, v4} {
		d, err := v.Request(q, who, a, b, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, k := g.Open(testPlace, testStart, d); k == nil || !bytes.Equal(k.Message, Message(a, b)) {
			t.Errorf("the proof of the two is not of the message of both: %+v", k)
		}
	}
}

func TestSinglePacket(t *testing.T) {
	for s, size := range map[Suite]int{Hybrid: 1232, X25519: 160} {
		g, peer := pairOf(t)
		q := Request{Action: Open, Door: "ssh", OpenFor: time.Minute}
		p, err := NewSinglePacket(peer, s, q, 1<<60+7, [8]byte{3}, testPlace)
		if err != nil {
			t.Fatal(err)
		}
		d, err := p.Datagram([64]byte{5})
		if err != nil {
			t.Fatal(err)
		}
		if len(d) != size {
			t.Errorf("%s: %d bytes, want %d", s, len(d), size)
		}
		if rank, _ := g.Glance(testPlace, d, true, make([]byte, 64)); rank != Claimed {
			t.Errorf("%s: rank %d", s, rank)
		}
		reply, k := g.Open(testPlace, testStart, d)
		if reply != nil || k == nil || k.Single == nil {
			t.Fatalf("%s: %v %+v", s, reply, k)
		}
		if !bytes.Equal(k.Single.Message, p.Message()) || k.Single.Counter != 1<<60+7 || k.Single.ID != [8]byte{3} ||
			k.Single.Door != DoorID("ssh") || k.Single.Proof != [64]byte{5} || k.Request.OpenFor != time.Minute {
			t.Errorf("%s: %+v", s, k.Single)
		}
		if _, other := g.Open(netip.MustParseAddr("192.0.2.8"), testStart, d); bytes.Equal(other.Single.Message, p.Message()) {
			t.Errorf("%s: the proof is for every source", s)
		}
	}
}

// A hello that comes while the gateway is busy opens nothing until it has the cookie of its
// source.
func TestBusy(t *testing.T) {
	g, peer := pairOf(t)
	v := visitor(t, peer, Hybrid)
	room := make([]byte, 64)
	first := v.Hello()
	if rank, n := g.Glance(testPlace, first, false, room); rank != Claimed || n != 0 {
		t.Errorf("not busy: rank %d, an answer of %d bytes", rank, n)
	}
	rank, n := g.Glance(testPlace, first, true, room)
	if rank != Junk || n != 64 {
		t.Fatalf("busy: rank %d, an answer of %d bytes", rank, n)
	}
	if e, _ := v.Read(room[:n]); e != Busy || bytes.Equal(first, v.Hello()) {
		t.Fatalf("event %d", e)
	}
	if rank, _ := g.Glance(testPlace, v.Hello(), true, room); rank != Shown {
		t.Errorf("with a cookie: rank %d", rank)
	}
	if rank, _ := g.Glance(netip.MustParseAddr("192.0.2.8"), v.Hello(), true, room); rank != Junk {
		t.Errorf("with another's cookie: rank %d", rank)
	}
	challenged(t, g, v)
}

func TestBundle(t *testing.T) {
	g, peer := pairOf(t)
	var bundle []byte
	for part := range BundleParts {
		d := AskPart(peer, part)
		reply, _ := g.Open(testPlace, testStart, d)
		if len(reply) != len(d) {
			t.Fatalf("a question of %d bytes, an answer of %d", len(d), len(reply))
		}
		n, of, ok := ReadPart(peer, reply)
		if !ok || n != part {
			t.Fatalf("part %d: %d, %v", part, n, ok)
		}
		bundle = append(bundle, of...)
	}
	if !bytes.Equal(bundle, peer.Bundle) {
		t.Error("not the bundle")
	}
}

// A glance takes no memory, whatever it looks at.
func TestGlanceTakesNoMemory(t *testing.T) {
	g, peer := pairOf(t)
	v := visitor(t, peer, X25519)
	hello := bytes.Clone(v.Hello())
	challenged(t, g, v)
	q, who := Request{Action: Open}, Credential{Kind: Key}
	own := v.Transcript(q, who)
	d, err := v.Request(q, who, own, own, false)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(d)
	forged[70] ^= 1 // beyond the tag, within the state
	room := make([]byte, 64)
	for name, d := range map[string][]byte{"junk": make([]byte, 256), "hello": hello, "request": d, "forged": forged} {
		if n := testing.AllocsPerRun(200, func() { g.Glance(testPlace, d, true, room) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// What a knock costs beyond its public-key work is memory that is to be collected again, so
// what can be derived once is not derived for each, and a hello is copied once.
func TestOpenTakesLittleMemory(t *testing.T) {
	g, peer := pairOf(t)
	v := visitor(t, peer, X25519)
	hello := v.Hello()
	challenged(t, g, v)
	q, who := Request{Action: Open}, Credential{Kind: Key, Proof: make([]byte, 83)}
	own := v.Transcript(q, who)
	d, err := v.Request(q, who, own, own, false)
	if err != nil {
		t.Fatal(err)
	}
	ours := func(d []byte) float64 { return testing.AllocsPerRun(100, func() { g.Open(testPlace, testStart, d) }) }
	hpkes := testing.AllocsPerRun(100, func() {
		_, b := g.profiles[0].in.open(hello)
		n := encX25519 + cookieSize
		g.openHPKE(g.profiles[0].hello, X25519, helloX25519, slices.Concat(b[:saltSize], b[saltSize+cookieSize:n]), b[n:n+keySize+sealExtra])
	})
	const most = 70
	if n := ours(hello) - hpkes; n > most {
		t.Errorf("a hello takes memory %v times beside HPKE's, want %d at most", n, most)
	}
	if n := ours(d); n > most {
		t.Errorf("a request takes memory %v times, want %d at most", n, most)
	}
}
