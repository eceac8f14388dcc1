package seal

import (
	"crypto/hpke"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Gateway is the gateway's side of all handshakes. Its methods may be called from several
// goroutines at once. What it remembers does not grow.
type Gateway struct {
	profiles   []door // newest first
	identities []*Identity
	single     bool

	began time.Time
	keys  *atomic.Pointer[epoch]
	turn  *sync.Mutex // held by who makes a new epoch
	pool  sync.Pool   // *scratch
}

// door is the envelopes of one profile secret, and HPKE's infos with each identity.
type door struct {
	in, out       *envelope
	hello, single [][]byte
}

// NewGateway returns the side of a gateway that has the identities and profile secrets,
// the newest of each first. single says whether single packets are accepted. A gateway
// that takes over from another has its handshakes that are under way; nil for none.
func NewGateway(identities []*Identity, profiles []Profile, single bool, from *Gateway, now time.Time) *Gateway {
	g := &Gateway{identities: identities, single: single, began: now, keys: new(atomic.Pointer[epoch]), turn: new(sync.Mutex)}
	g.pool.New = func() any { return new(scratch) }
	for _, p := range profiles {
		d := door{in: newEnvelope(p, toGateway), out: newEnvelope(p, toVisitor)}
		for _, id := range identities {
			d.hello = append(d.hello, hpkeInfo("hello", p, id.fingerprint))
			d.single = append(d.single, hpkeInfo("single", p, id.fingerprint))
		}
		g.profiles = append(g.profiles, d)
	}
	if from != nil {
		g.began, g.keys, g.turn = from.began, from.keys, from.turn
	} else {
		g.keys.Store(newEpoch(now, nil))
	}
	return g
}

// Newest is the fingerprint of the newest identity, which answers tell.
func (g *Gateway) Newest() Fingerprint { return g.identities[0].fingerprint }

// Rank says what a glance at a datagram has found.
type Rank uint8

// The ranks.
const (
	Junk    Rank = iota // nothing that Open is to see
	Claimed             // its source may be forged
	Shown               // its source has received something of this gateway's
)

// Glance looks at a datagram, without public-key work and without
// taking memory. While busy, a hello from a source that is not shown is answered with a
// cookie instead of being Claimed: n bytes, which are not more than the datagram has, are
// then in answer, if that has room for 64.
func (g *Gateway) Glance(from netip.Addr, d []byte, isBusy bool, answer []byte) (rank Rank, n int) {
	p := g.profileOf(d)
	if p == nil {
		return Junk, 0
	}
	s, _ := g.pool.Get().(*scratch)
	defer g.pool.Put(s)
	s.from = from.As16()
	copy(s.nonce[:], d[tagSize:typeAt])
	p.in.xor(s.body[:16], d[typeAt:typeAt+16], s.nonce[:], &s.blocks)
	k := kind(s.body[0])
	if !slices.Contains(sizes[k], len(d)) {
		return Junk, 0
	}
	switch k {
	case helloHybrid, helloX25519:
		e := g.keys.Load()
		switch {
		case e.hasCookie(&s.from, binary.BigEndian.Uint64(s.body[1:])):
			return Shown, 0
		case !isBusy:
			return Claimed, 0
		case len(answer) < sizes[busy][0]:
			return Junk, 0
		}
		return Junk, p.busy(e, s, d, answer)
	case request:
		return g.glanceRequest(p, s, d), 0
	case singleHyb, singleX:
		if g.single {
			return Claimed, 0
		}
	case askPart:
		return Claimed, 0
	}
	return Junk, 0
}

// profileOf returns whose tag a datagram has, nil for nobody's.
func (g *Gateway) profileOf(d []byte) *door {
	for i := range g.profiles {
		if g.profiles[i].in.ours(d) {
			return &g.profiles[i]
		}
	}
	return nil
}

// busy writes the answer with a cookie.
func (p *door) busy(e *epoch, s *scratch, d, answer []byte) int {
	body := s.body[:saltSize+tagSize+cookieSize]
	rand.Read(body[:saltSize])
	copy(body[saltSize:], d[:tagSize])
	binary.BigEndian.PutUint64(body[saltSize+tagSize:], e.cookieFor(&s.from))
	out := answer[:sizes[busy][0]]
	clear(out)
	p.out.fill(out, busy, body, &s.blocks)
	return len(out)
}

// glanceRequest says whether a request has a state of ours that was sent to its source.
func (g *Gateway) glanceRequest(p *door, s *scratch, d []byte) Rank {
	copy(s.body[:saltSize], s.nonce[:])
	p.in.xor(s.text[:1+stateSize-saltSize], d[typeAt:typeAt+1+stateSize-saltSize], s.nonce[:], &s.blocks)
	copy(s.body[saltSize:], s.text[1:1+stateSize-saltSize])
	st, ok := g.keys.Load().open(s.body[:stateSize], &s.text)
	if !ok || st.from != s.from {
		return Junk
	}
	return Shown
}

// Rotate forgets keys whose time is over, and makes new ones; Open does so, too. Who calls
// it now and then sees to it that keys are forgotten while no datagrams come.
func (g *Gateway) Rotate(now time.Time) {
	if now.Sub(g.keys.Load().since) < HandshakeLife || !g.turn.TryLock() {
		return
	}
	defer g.turn.Unlock()
	e := g.keys.Load()
	switch age := now.Sub(e.since); {
	case age >= 2*HandshakeLife:
		g.keys.Store(newEpoch(now, nil)) // all its states have ended
	case age >= HandshakeLife:
		g.keys.Store(newEpoch(now, e))
	}
}

// seconds is the age of the gateway.
func (g *Gateway) seconds(now time.Time) uint32 { return uint32(now.Sub(g.began) / time.Second) }

// Open opens a datagram that came from an address at a time. Of a hello or a question it makes an answer, which is sent at once and is
// not longer than the datagram. Of a request or a single packet it makes a Knock, whose
// proof is still to be checked. It is both nil for anything else.
func (g *Gateway) Open(from netip.Addr, now time.Time, d []byte) (reply []byte, knock *Knock) {
	g.Rotate(now)
	p := g.profileOf(d)
	if p == nil {
		return nil, nil
	}
	k, body := p.in.open(d)
	if !slices.Contains(sizes[k], len(d)) {
		return nil, nil
	}
	switch k {
	case helloHybrid:
		return g.challenge(p, k, Hybrid, body, from, now), nil
	case helloX25519:
		return g.challenge(p, k, X25519, body, from, now), nil
	case request:
		return nil, g.request(p, body, from, now)
	case singleHyb, singleX:
		return nil, g.singlePacket(p, k, body, from)
	case askPart:
		return g.givePart(p, body), nil
	}
	return nil, nil
}

// challenge answers a hello.
func (g *Gateway) challenge(p *door, k kind, s Suite, body []byte, from netip.Addr, now time.Time) []byte {
	n := encX25519
	if s == Hybrid {
		n = encHybrid
	}
	b, ok := split(body, n+cookieSize+keySize+sealExtra)
	if !ok {
		return nil
	}
	// As encOf, but with the cookie within the point.
	enc := slices.Concat(b[keySize+cookieSize:n+cookieSize], b[:saltSize], b[saltSize+cookieSize:keySize+cookieSize])
	sealed := b[n+cookieSize:]
	id, r, visitors := g.openHPKE(p.hello, s, k, enc, sealed)
	if id == nil || len(visitors) != keySize {
		return nil
	}
	e := g.keys.Load()
	shared, err := ecdhShared(e.ephemeral, visitors)
	if err != nil {
		return nil
	}
	export, err := r.Export(exported, 32)
	if err != nil {
		return nil
	}
	random := make([]byte, saltSize)
	rand.Read(random)
	random = append(random, e.ephemeral.PublicKey().Bytes()...)
	c := newChain(export, shared, helloTranscript(id.fingerprint, k, enc, sealed), random)
	text := aead(c.challengeKey()).Seal(random, once[:], e.seal(c, from, g.seconds(now)), nil)
	return p.out.datagram(challenge, text, sizes[challenge][0])
}

// openHPKE opens what was sealed to one of the identities, of which each has its info, and
// says to which; nil for none.
func (g *Gateway) openHPKE(infos [][]byte, s Suite, k kind, enc, sealed []byte) (*Identity, *hpke.Recipient, []byte) {
	for i, id := range g.identities {
		r, err := hpke.NewRecipient(enc, id.keys[s], kdf, gcm, infos[i])
		if err != nil {
			continue
		}
		if text, err := r.Open([]byte{byte(k)}, sealed); err == nil {
			return id, r, text
		}
	}
	return nil, nil, nil
}

// Knock is a request or a single packet, as it was opened. It does not change.
type Knock struct {
	Request    Request
	Credential Credential
	Message    []byte // what the credential's proof is to be of

	// Number is of the handshake: a request that comes with one that was used before is a
	// repetition. They are all different for HandshakeLife.
	Number [nonceSize]byte
	Issued time.Time // when the challenge was sent, to the second

	Single *Single // of a single packet; nil for a handshake, whose source is shown

	reply *envelope
	key   []byte
}

// request opens a request.
func (g *Gateway) request(p *door, body []byte, from netip.Addr, now time.Time) *Knock {
	st, ok := g.keys.Load().open(body, new([stateSize]byte))
	if !ok || st.from != from.As16() {
		return nil
	}
	issued := g.began.Add(time.Duration(st.seconds) * time.Second)
	if now.Sub(issued) > HandshakeLife {
		return nil
	}
	text, err := aead(st.chain.requestKey()).Open(nil, once[:], body[stateSize:], body[:stateSize])
	if err != nil {
		return nil
	}
	r := reader{rest: text}
	q, pair, who := r.request(), r.pair(), r.credential()
	if !r.ended() {
		return nil
	}
	own := st.chain.of(q, who)
	k := &Knock{Request: q, Credential: who, Message: pair.message(own), Issued: issued, reply: p.out, key: st.chain.answerKey(own)}
	copy(k.Number[:], body)
	return k
}

// Answer returns the datagram that answers a request; nil for a single packet, which is
// not answered. Each call makes another one. It may be called from any goroutine.
func (k *Knock) Answer(a Answer) []byte {
	if k.key == nil {
		return nil
	}
	seals := aead(k.key)
	nonce := make([]byte, seals.NonceSize())
	rand.Read(nonce)
	size := sizes[answer][0]
	text := a.encode()
	text = append(text, make([]byte, size-tagSize-1-nonceSize-sealExtra-len(text))...)
	return k.reply.datagram(answer, seals.Seal(nonce, nonce, text, nil), size)
}
