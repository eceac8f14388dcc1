package seal

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

const aboutVectors = "Examples of docs/PROTOCOL.md, whose names they use; all bytes are in hexadecimal. " +
	"The certificate is no certificate. Written by go test ./internal/seal -run TestMakeVectors -update."

// maker makes vectors.
type maker struct {
	t    *testing.T
	seed uint64
	g    *Gateway
	peer Peer
	out  vectors
}

// TestMakeVectors writes the vectors, with -update. They need not be made by the same random
// numbers as before: what reads them computes all from what they say.
func TestMakeVectors(t *testing.T) {
	if !*update {
		t.Skip("only with -update")
	}
	m := &maker{t: t}
	m.gateway()
	for _, c := range []struct {
		name  string
		suite Suite
		from  string
		q     Request
		who   Credential
	}{
		{"key", X25519, "192.0.2.7", Request{Action: Open, Door: "ssh"}, m.key()},
		{"key over IPv6", X25519, "2001:db8::7", Request{Action: Open, OpenFor: time.Hour}, m.key()},
		{"key, hybrid suite", Hybrid, "192.0.2.7", Request{Action: Open, Door: "ssh"}, m.key()},
		{"extend for an IPv6 address", X25519, "192.0.2.7", Request{Action: Extend, Door: "ssh", Address: netip.MustParseAddr("2001:db8::9")}, m.key()},
		{"close for an IPv4 address", X25519, "192.0.2.7", Request{Action: Close, Door: "ssh", Address: netip.MustParseAddr("198.51.100.9")}, m.key()},
		{"certificate", X25519, "192.0.2.7", Request{Action: Open, Door: "ssh"}, Credential{Kind: Certificate, Public: bytes.Repeat([]byte("certificate "), 40)}},
		{"machine's secret", X25519, "192.0.2.7", Request{Action: Open, Door: strings.Repeat("d", 64), OpenFor: (1<<32 - 1) * time.Second}, m.secret()},
		{"rescue code", X25519, "192.0.2.7", Request{Action: Open}, Credential{Kind: Code, Bearer: [16]byte(m.random(16))}},
		{"invite", Hybrid, "192.0.2.7", Request{Action: Open, Door: "ssh"}, Credential{Kind: Invite, Bearer: [16]byte(m.random(16)), Public: m.public()}},
	} {
		m.handshake(c.name, c.suite, c.from, c.q, c.who).finish(nil)
	}
	q := Request{Action: Open, Door: "ssh"}
	a, b := m.handshake("first of two", X25519, "192.0.2.7", q, m.key()), m.handshake("second of two", X25519, "2001:db8::7", q, m.key())
	a.finish(b)
	b.finish(a)
	for _, s := range []Suite{X25519, Hybrid} {
		m.single(s, "192.0.2.7", "ssh", 3600, false)
		m.single(s, "2001:db8::7", "", 0, true)
	}
	m.questions()
	m.bad()
	text, err := json.MarshalIndent(m.out, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(vectorFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// again begins another stretch of deterministic random bytes, and returns what it begins with.
func (m *maker) again() []byte {
	m.seed++
	cryptotest.SetGlobalRandom(m.t, m.seed)
	b := make([]byte, 256)
	rand.Read(b)
	cryptotest.SetGlobalRandom(m.t, m.seed)
	return b
}

func (m *maker) random(n int) []byte { return m.again()[:n] }

func (m *maker) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *maker) gateway() {
	w := &m.out.Gateway
	m.out.About = aboutVectors
	w.Seed, w.Profile, w.StateKey, w.CookieKey, w.Ephemeral = m.random(32), m.random(16), m.random(32), m.random(16), m.random(32)
	m.g, m.peer = m.out.gateway(m.t)
	w.Bundle, w.Fingerprint = m.peer.Bundle, m.peer.Fingerprint.String()
	w.TagToGateway, w.MaskToGateway = derive(w.Profile, nil, "tag to gateway", 16), derive(w.Profile, nil, "mask to gateway", 32)
	w.TagToVisitor, w.MaskToVisitor = derive(w.Profile, nil, "tag to visitor", 16), derive(w.Profile, nil, "mask to visitor", 32)
	w.InfoHello, w.InfoSingle = hpkeInfo("hello", m.peer.Profile, m.peer.Fingerprint), hpkeInfo("single", m.peer.Profile, m.peer.Fingerprint)
}

var (
	signingSeed   = bytes.Repeat([]byte{0x5e}, 32)
	machineSecret = bytes.Repeat([]byte{0x3c}, 32)
)

// sshString is a string as SSH writes it.
func sshString(s string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

func (m *maker) public() []byte {
	key := ed25519.NewKeyFromSeed(signingSeed).Public().(ed25519.PublicKey)
	return slices.Concat(sshString("ssh-ed25519"), sshString(string(key)))
}

func (m *maker) key() Credential {
	return Credential{Kind: Key, Fingerprint: sha256.Sum256(m.public())}
}

func (m *maker) secret() Credential {
	return Credential{Kind: Secret, ID: [16]byte(derive(machineSecret, nil, "secret id", 16))}
}

// made is a handshake that is being made.
type made struct {
	*maker
	v   *Visitor
	q   Request
	who Credential
	h   handshakeVector
}

// hpkeEphemeral finds the private key behind an enc among the random bytes.
func (m *maker) hpkeEphemeral(random, enc []byte) hexBytes {
	m.t.Helper()
	for at := range len(random) - 32 {
		key, err := ecdh.X25519().NewPrivateKey(random[at : at+32])
		if err == nil && bytes.Equal(key.PublicKey().Bytes(), enc) {
			return random[at : at+32]
		}
	}
	m.t.Fatal("HPKE's ephemeral key is not among the random bytes")
	return nil
}

// handshake makes a handshake up to its challenge.
func (m *maker) handshake(name string, s Suite, from string, q Request, who Credential) *made {
	m.t.Helper()
	random := m.again()
	v := visitor(m.t, m.peer, s)
	d := &made{maker: m, v: v, q: q, who: who}
	h := &d.h
	h.Name, h.Suite, h.From, h.Private, h.Public = name, s.String(), from, v.ephemeral.Bytes(), v.ephemeral.PublicKey().Bytes()
	h.Export, h.H, h.Hello, h.Cookie = v.export, v.heard[:], v.hello, make([]byte, cookieSize)
	_, b := newEnvelope(m.peer.Profile, toGateway).open(v.hello)
	n := map[Suite]int{Hybrid: encHybrid, X25519: encX25519}[s]
	h.Enc = encOf(slices.Concat(b[:saltSize], b[saltSize+cookieSize:n+cookieSize]))
	h.HelloSealed = b[n+cookieSize : n+cookieSize+keySize+sealExtra]
	if s == X25519 {
		h.HPKEEphemeral = m.hpkeEphemeral(random, h.Enc)
	}
	h.Busy = make([]byte, 64)
	if _, n := m.g.Glance(netip.MustParseAddr(from), v.hello, true, h.Busy); n != 64 {
		m.t.Fatalf("%s: the gateway is not busy", name)
	}
	h.Challenge, _ = m.g.Open(netip.MustParseAddr(from), testStart, v.hello)
	_, b = newEnvelope(m.peer.Profile, toVisitor).open(h.Challenge)
	h.Random, h.R = b[:saltSize], b[saltSize:saltSize+keySize]
	var err error
	h.Shared, err = ecdhShared(v.ephemeral, h.R)
	m.must(err)
	if e, _ := v.Read(h.Challenge); e != Challenged {
		m.t.Fatalf("%s: the challenge is event %d", name, e)
	}
	h.Transcript, h.Secret, h.State = v.chain.transcript[:], v.chain.secret[:], v.state
	h.ChallengeKey, h.RequestKey = v.chain.challengeKey(), v.chain.requestKey()
	h.Request, h.Identity = q.encode(), who.identity()
	own := v.Transcript(q, who)
	h.T = own[:]
	return d
}

// finish makes the rest of it. It has the second place if the other was begun before.
func (d *made) finish(other *made) {
	d.t.Helper()
	h := &d.h
	first, second := Transcript(h.T), Transcript(h.T)
	h.Message = Message(first)
	if other != nil {
		h.Other, h.Place = other.h.T, 1
		second = Transcript(other.h.T)
		if other.h.Asked != nil {
			first, second, h.Place = second, first, 2
		}
		h.Message = Message(first, second)
	}
	d.prove()
	h.Credential = d.who.encode()
	var err error
	h.Asked, err = d.v.Request(d.q, d.who, first, second, false)
	d.must(err)
	h.AnswerKey = d.v.answers
	_, k := d.g.Open(netip.MustParseAddr(h.From), testStart, h.Asked)
	if k == nil {
		d.t.Fatalf("%s: the request is not opened", h.Name)
	}
	from := netip.MustParseAddr(h.From)
	for _, a := range []Answer{
		{Status: Starting, Source: from, Next: d.g.Newest(), Ports: []Port{{First: 22, Last: 22}}},
		{Status: Opened, Left: 90 * time.Second, Source: from, Next: d.g.Newest(), Ports: []Port{{First: 22, Last: 22}, {UDP: true, First: 60000, Last: 61000}}},
		{Status: Closed, Source: from, Next: d.g.Newest()},
		{Status: Refused, Reason: NotAccepted, Source: from, Next: Fingerprint{0xff}},
	} {
		d.again()
		v := answerVector{Text: a.encode(), Datagram: k.Answer(a)}
		v.Nonce = v.Datagram[tagSize : tagSize+nonceSize]
		h.Answers = append(h.Answers, v)
	}
	d.out.Handshakes = append(d.out.Handshakes, *h)
}

// prove proves the credential for the message.
func (d *made) prove() {
	h := &d.h
	switch d.who.Kind {
	case Key, Certificate, Invite:
		h.SigningKey, h.Signed = signingSeed, sshsig(h.Message)
		sig := ed25519.Sign(ed25519.NewKeyFromSeed(signingSeed), h.Signed)
		d.who.Proof = slices.Concat(sshString("ssh-ed25519"), sshString(string(sig)))
	case Secret:
		h.SecretS = machineSecret
		mac := hmac.New(sha256.New, derive(machineSecret, nil, "secret mac", 32))
		mac.Write(h.Message)
		d.who.Proof = mac.Sum(nil)
	}
}

func (m *maker) single(s Suite, from, door string, seconds uint16, anywhere bool) {
	m.t.Helper()
	v := singleVector{Suite: s.String(), From: from, Any: anywhere, Door: door, Counter: uint64(testStart.UnixMicro()), Seconds: seconds, SigningKey: signingSeed}
	source := netip.MustParseAddr(from)
	if anywhere {
		source = netip.Addr{}
	}
	random := m.again()
	q := Request{Action: Open, Door: door, OpenFor: time.Duration(seconds) * time.Second}
	id := sha256.Sum256(m.public())
	p, err := NewSinglePacket(m.peer, s, q, v.Counter, [8]byte(id[:]), source)
	m.must(err)
	v.Enc, v.What, v.Message = p.enc, p.text, p.Message()
	if s == X25519 {
		v.HPKEEphemeral = m.hpkeEphemeral(random, v.Enc)
	}
	v.Proof = ed25519.Sign(ed25519.NewKeyFromSeed(signingSeed), sshsig(v.Message))
	v.Datagram, err = p.Datagram([64]byte(v.Proof))
	m.must(err)
	m.out.Singles = append(m.out.Singles, v)
}

func (m *maker) questions() {
	for part := range BundleParts {
		m.again()
		d := AskPart(m.peer, part)
		reply, _ := m.g.Open(testPlace, testStart, d)
		m.out.Questions = append(m.out.Questions, questionVector{byte(part), d[tagSize : tagSize+saltSize], d, reply})
	}
}
