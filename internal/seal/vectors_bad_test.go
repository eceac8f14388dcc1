package seal

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
)

// lowOrder are X25519 public keys with which the result is all zeros.
var lowOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000080",
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// flipped is a datagram with the lowest bit of a byte flipped. From the salt on, the tag is
// right again.
func (m *maker) flipped(direction string, d []byte, at int) []byte {
	d = bytes.Clone(d)
	d[at] ^= 1
	if at >= tagSize {
		m.tag(direction, d)
	}
	return d
}

func (m *maker) tag(direction string, d []byte) []byte {
	binary.BigEndian.PutUint64(d, newEnvelope(m.peer.Profile, direction).sum(d))
	return d
}

// wrap puts a body into an envelope that need not fit its type.
func (m *maker) wrap(direction string, k kind, body []byte, size int) []byte {
	return newEnvelope(m.peer.Profile, direction).datagram(k, body, size)
}

func (m *maker) toGateway(why string, d []byte) {
	m.out.Bad = append(m.out.Bad, badVector{Why: why, To: toTheGateway, From: "192.0.2.7", Datagram: d})
}

func (m *maker) toVisitor(to, why string, d []byte) {
	m.out.Bad = append(m.out.Bad, badVector{Why: why, To: to, Datagram: d})
}

// lengths adds what a datagram is when its length is changed.
func (m *maker) lengths(add func(why string, d []byte), name, direction string, d []byte) {
	longer := append(bytes.Clone(d), 0)
	add(name+", a byte longer", longer)
	add(name+", a byte shorter", d[:len(d)-1])
	add(name+", shorter than any datagram", d[:tagged-1])
	add(name+", without a body", d[:typeAt])
	add(name+", nothing of it", d[:0])
	for _, size := range []int{64, 160, 192, 256, 512, 768, 1232} {
		if size < len(d) {
			add(fmt.Sprintf("%s, cut to %d bytes", name, size), d[:size])
		} else if size > len(d) {
			add(fmt.Sprintf("%s, with zeros up to %d bytes", name, size), append(bytes.Clone(d), make([]byte, size-len(d))...))
		}
	}
}

// fields adds a datagram with a bit flipped in each of its fields.
func (m *maker) fields(add func(why string, d []byte), name, direction string, d []byte, at map[string]int) {
	for field, at := range sorted(at) {
		add(fmt.Sprintf("%s, a bit flipped in %s", name, field), m.flipped(direction, d, at))
	}
}

// sorted goes through a map in the order of its values.
func sorted(m map[string]int) func(func(string, int) bool) {
	return func(yield func(string, int) bool) {
		keys := make([]string, 0, len(m))
		for k := range m {
			keys = append(keys, k)
		}
		slices.SortFunc(keys, func(a, b string) int { return m[a] - m[b] })
		for _, k := range keys {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

func (m *maker) bad() {
	x, h := m.out.first(X25519), m.out.first(Hybrid)
	m.badOutside(x)
	m.badHellos(x, h)
	m.badRequests(x)
	m.badSingles()
	m.badQuestions()
	m.badToVisitor(x)
}

// badOutside is what is wrong with the envelope.
func (m *maker) badOutside(x *handshakeVector) {
	for _, k := range []kind{0x00, 0x10, 0x13, 0x22, 0x31, 0x50, 0x62, 0xff} {
		m.toGateway(fmt.Sprintf("type %#02x is unknown", byte(k)), m.wrap(toGateway, k, m.random(64), 256))
	}
	for _, k := range []kind{challenge, busy, answer, givePart} {
		m.toGateway(fmt.Sprintf("type %#02x is for visitors", byte(k)), m.wrap(toGateway, k, m.random(32), sizes[k][0]))
	}
	m.toGateway("a challenge comes back", x.Challenge)
	m.toGateway("the hello has the tag and mask of the other direction", m.wrap(toVisitor, helloX25519, m.helloBody(x), 256))
	m.toGateway("the hello has the tag of another profile secret", newEnvelope(Profile(m.random(16)), toGateway).datagram(helloX25519, m.helloBody(x), 256))
	m.lengths(m.toGateway, "hello", toGateway, x.Hello)
	m.lengths(m.toGateway, "request", toGateway, x.Asked)
	m.lengths(m.toGateway, "single packet", toGateway, m.out.Singles[0].Datagram)
	m.toGateway("a hello of the X25519 suite in the size of the other suite's", m.wrap(toGateway, helloX25519, m.helloBody(x), 1232))
	m.toGateway("a request in the size of a hello", m.wrap(toGateway, request, x.State, 256))
	m.fields(m.toGateway, "hello", toGateway, x.Hello, map[string]int{"the tag": 0, "enc": 8, "the type": 24, "the rest of enc": 33, "what is sealed": 49, "the tag of what is sealed": 96, "the padding": 97, "the padding's end": 255})
	m.fields(m.toGateway, "request", toGateway, x.Asked, map[string]int{"the tag": 7, "the state": 8, "the type": 24, "the rest of the state": 25, "the state's end": 120, "what is sealed": 121, "its end": len(x.Asked) - 1})
	m.fields(m.toGateway, "single packet", toGateway, m.out.Singles[0].Datagram, map[string]int{"the tag": 3, "enc": 8, "the type": 24, "the rest of enc": 25, "what is sealed": 41, "the padding": 159})
	m.fields(m.toGateway, "question", toGateway, m.out.Questions[0].Question, map[string]int{"the tag": 1, "the random bytes": 8, "the type": 24, "the fingerprint": 25, "the padding": 58})
}

// helloBody is the body of a hello.
func (m *maker) helloBody(h *handshakeVector) []byte {
	wire := onWire(h.Enc)
	return slices.Concat(wire[:saltSize], h.Cookie, wire[saltSize:], h.HelloSealed)
}

// hello is one with a public key and keys that its maker chooses.
func (m *maker) hello(info, aad, public []byte) []byte {
	m.again()
	key, err := gatewayKey(m.peer.Bundle, m.peer.Fingerprint, X25519)
	m.must(err)
	enc, sender, err := hpke.NewSender(key, kdf, gcm, info)
	m.must(err)
	sealed, err := sender.Seal(aad, public)
	m.must(err)
	return m.wrap(toGateway, helloX25519, m.helloBody(&handshakeVector{Enc: enc, Cookie: make([]byte, 8), HelloSealed: sealed}), 256)
}

func (m *maker) badHellos(x, h *handshakeVector) {
	info, aad := m.out.Gateway.InfoHello, []byte{byte(helloX25519)}
	for i, point := range lowOrder {
		m.toGateway(fmt.Sprintf("F is of low order (%d)", i), m.hello(info, aad, unhex(point)))
		m.toGateway(fmt.Sprintf("enc is of low order (%d)", i), m.wrap(toGateway, helloX25519,
			m.helloBody(&handshakeVector{Enc: unhex(point), Cookie: x.Cookie, HelloSealed: x.HelloSealed}), 256))
	}
	enc := slices.Concat(h.Enc[:encHybrid-keySize], unhex(lowOrder[0]))
	m.toGateway("the X25519 part of the hybrid's enc is of low order", m.wrap(toGateway, helloHybrid,
		m.helloBody(&handshakeVector{Enc: enc, Cookie: h.Cookie, HelloSealed: h.HelloSealed}), 1232))
	enc = bytes.Clone(h.Enc)
	enc[100] ^= 1
	m.toGateway("the ML-KEM part of the hybrid's enc is another", m.wrap(toGateway, helloHybrid,
		m.helloBody(&handshakeVector{Enc: enc, Cookie: h.Cookie, HelloSealed: h.HelloSealed}), 1232))
	m.toGateway("the hybrid's enc has its parts in the order of HPKE", m.wrap(toGateway, helloHybrid,
		slices.Concat(h.Enc[:saltSize], h.Cookie, h.Enc[saltSize:], h.HelloSealed), 1232))
	m.toGateway("the info has another profile secret", m.hello(hpkeInfo("hello", Profile(m.random(16)), m.peer.Fingerprint), aad, x.Public))
	m.toGateway("the info has another fingerprint", m.hello(hpkeInfo("hello", m.peer.Profile, Fingerprint{1}), aad, x.Public))
	m.toGateway("the info is that of single packets", m.hello(m.out.Gateway.InfoSingle, aad, x.Public))
	m.toGateway("sealed for another type", m.hello(info, []byte{byte(helloHybrid)}, x.Public))
	m.toGateway("sealed for no type", m.hello(info, nil, x.Public))
	m.again()
	other := identity(m.t, 77)
	m.toGateway("sealed to another gateway", visitor(m.t, Peer{m.peer.Profile, other.Fingerprint(), other.Bundle()}, X25519).Hello())
	m.again()
	m.toGateway("sealed to another gateway, hybrid suite", visitor(m.t, Peer{m.peer.Profile, other.Fingerprint(), other.Bundle()}, Hybrid).Hello())

	busy := badVector{Why: "a hello without a cookie, while the gateway is busy", To: toTheGateway, From: x.From, Busy: true, Datagram: x.Hello}
	m.out.Bad = append(m.out.Bad, busy)
	v := x.visitor(m.t, m.peer)
	if e, _ := v.Read(x.Busy); e != Busy {
		m.t.Fatalf("event %d", e)
	}
	busy.Why, busy.From, busy.Datagram = "a hello with the cookie of another source, while the gateway is busy", "192.0.2.8", v.Hello()
	m.out.Bad = append(m.out.Bad, busy)
}

// ask is a request with a text that its maker chooses.
func (m *maker) ask(state []byte, c chain, text []byte) []byte {
	text = append(bytes.Clone(text), make([]byte, 512-tagSize-1-stateSize-sealExtra-len(text))...)
	return m.wrap(toGateway, request, aead(c.requestKey()).Seal(bytes.Clone(state), once[:], text, state), 512)
}

func (m *maker) badRequests(x *handshakeVector) {
	c := chain{secret: [32]byte(x.Secret), transcript: [32]byte(x.Transcript)}
	head, door := []byte{1, 0, 0, 0, 0}, []byte("\x03ssh")
	tail := slices.Concat([]byte{0}, x.Credential)
	mapped := netip.MustParseAddr("::ffff:192.0.2.9").As16()
	key := x.Identity
	for _, b := range []struct {
		why  string
		text []byte
	}{
		{"action 0", slices.Concat([]byte{0, 0, 0, 0, 0}, door, []byte{0}, tail)},
		{"action 4", slices.Concat([]byte{4, 0, 0, 0, 0}, door, []byte{0}, tail)},
		{"a door's name of 65 bytes", slices.Concat(head, []byte{65}, bytes.Repeat([]byte("d"), 65), []byte{0}, tail)},
		{"a door's name that goes on beyond the end", slices.Concat(head, []byte{255}, bytes.Repeat([]byte("d"), 64))},
		{"a door's name of no bytes, which has some", slices.Concat(head, []byte("\x00ssh"), []byte{0}, tail)},
		{"a door's name that is a byte longer than it says", slices.Concat(head, []byte("\x02ssh"), []byte{0}, tail)},
		{"an address of 5 bytes", slices.Concat(head, door, []byte{5, 192, 0, 2, 9, 1}, tail)},
		{"an address of 255 bytes", slices.Concat(head, door, []byte{255}, tail)},
		{"an IPv4-mapped address", slices.Concat(head, door, []byte{16}, mapped[:], tail)},
		{"pair 3", slices.Concat(head, door, []byte{0, 3}, make([]byte, 32), x.Credential)},
		{"pair 1 without the other", slices.Concat(head, door, []byte{0, 1}, x.Credential)},
		{"no credential", slices.Concat(head, door, []byte{0, 0})},
		{"a credential of kind 6", slices.Concat(head, door, []byte{0, 0, 6}, x.Credential[1:])},
		{"a signature that goes on beyond the end", slices.Concat(head, door, []byte{0, 0}, key, []byte{0xff, 0xff}, x.Credential[len(key)+2:])},
		{"a signature that is a byte longer than it says", slices.Concat(head, door, []byte{0, 0}, key, []byte{0, 82}, x.Credential[len(key)+2:])},
		{"a byte after the credential", slices.Concat(head, door, []byte{0}, tail, []byte{1})},
		{"a byte at the end of the padding", slices.Concat(head, door, []byte{0}, tail, make([]byte, 374-len(head)-len(door)-1-len(tail)), []byte{1})},
		{"nothing but zeros", nil},
	} {
		m.toGateway("request with "+b.why, m.ask(x.State, c, b.text))
	}
	good := slices.Concat(head, door, []byte{0}, tail)
	m.out.Bad = append(m.out.Bad,
		badVector{Why: "the state was sent to another source", To: toTheGateway, From: "192.0.2.8", Datagram: x.Asked},
		badVector{Why: "the state was sent to an IPv4 source", To: toTheGateway, From: "2001:db8::7", Datagram: x.Asked},
		badVector{Why: "the state is older than a minute", To: toTheGateway, From: x.From, Seconds: 61, Datagram: x.Asked},
		badVector{Why: "the state is a day old", To: toTheGateway, From: x.From, Seconds: 86400, Datagram: x.Asked})
	m.again()
	before := newEpoch(testStart, nil).seal(c, netip.MustParseAddr(x.From), 0)
	m.toGateway("the state is from before a restart", m.ask(before, c, good))
	m.toGateway("the state is of another handshake", m.ask(m.out.Handshakes[3].State, c, good))
	m.toGateway("a state without anything", m.wrap(toGateway, request, x.State, 512))
	answer := aead(c.answerKey(Transcript(x.T))).Seal(bytes.Clone(x.State), once[:], append(bytes.Clone(good), make([]byte, 375-len(good))...), x.State)
	m.toGateway("sealed with the key of answers", m.wrap(toGateway, request, answer, 512))
}

// once seals a single packet that its maker chooses.
func (m *maker) singleOf(info, aad, text []byte) []byte {
	m.again()
	key, err := gatewayKey(m.peer.Bundle, m.peer.Fingerprint, X25519)
	m.must(err)
	enc, sender, err := hpke.NewSender(key, kdf, gcm, info)
	m.must(err)
	sealed, err := sender.Seal(aad, text)
	m.must(err)
	return m.wrap(toGateway, singleX, slices.Concat(enc, sealed), 160)
}

func (m *maker) badSingles() {
	s := m.out.Singles[0]
	text := slices.Concat(s.What, s.Proof)
	info, aad := m.out.Gateway.InfoSingle, []byte{byte(singleX)}
	for _, action := range []byte{0, 4} {
		bad := bytes.Clone(text)
		bad[8] = action
		m.toGateway(fmt.Sprintf("single packet with action %d", action), m.singleOf(info, aad, bad))
	}
	m.toGateway("single packet with a byte less", m.singleOf(info, aad, text[1:]))
	m.toGateway("single packet with a byte more", m.singleOf(info, aad, append(bytes.Clone(text), 0)))
	m.toGateway("single packet with the info of a hello", m.singleOf(m.out.Gateway.InfoHello, aad, text))
	m.toGateway("single packet sealed for another type", m.singleOf(info, []byte{byte(singleHyb)}, text))
	m.toGateway("single packet with the info of another profile secret", m.singleOf(hpkeInfo("single", Profile(m.random(16)), m.peer.Fingerprint), aad, text))
	m.toGateway("single packet in a hello", m.wrap(toGateway, helloX25519, s.Datagram[tagSize:64], 256))
}

func (m *maker) badQuestions() {
	f := m.peer.Fingerprint
	question := func(why string, fingerprint []byte, part byte) {
		m.toGateway(why, m.wrap(toGateway, askPart, slices.Concat(m.random(16), fingerprint, []byte{part}), 768))
	}
	question("question for part 2", f[:], 2)
	question("question for part 255", f[:], 255)
	question("question for the bundle of another gateway", bytes.Repeat([]byte{1}, 32), 0)
	asking := func(why string, d []byte) { m.toVisitor(toVisitorAsking, why, d) }
	part := func(why string, fingerprint []byte, part byte) {
		asking(why, m.wrap(toVisitor, givePart, slices.Concat(m.random(16), fingerprint, []byte{part}, m.peer.Bundle[:partSize]), 768))
	}
	part("part 2", f[:], 2)
	part("a part of another gateway's bundle", bytes.Repeat([]byte{1}, 32), 0)
	m.lengths(asking, "part", toVisitor, m.out.Questions[0].Answer)
	m.fields(asking, "part", toVisitor, m.out.Questions[0].Answer, map[string]int{"the tag": 1, "the random bytes": 8, "the type": 24, "the fingerprint": 25, "the padding": 700})
	asking("the question comes back", m.out.Questions[0].Question)
}

func (m *maker) badToVisitor(x *handshakeVector) {
	before := func(why string, d []byte) { m.toVisitor(toVisitorBefore, why, d) }
	after := func(why string, d []byte) { m.toVisitor(toVisitorAfter, why, d) }
	m.lengths(before, "challenge", toVisitor, x.Challenge)
	m.fields(before, "challenge", toVisitor, x.Challenge, map[string]int{"the tag": 0, "the random bytes": 8, "the type": 24, "R": 25, "R's highest byte": 56, "what is sealed": 57, "the padding": 185})
	for i, point := range lowOrder {
		random := m.random(16)
		c := newChain(x.Export, make([]byte, 32), [32]byte(x.H), slices.Concat(random, unhex(point)))
		sealed := aead(c.challengeKey()).Seal(slices.Concat(random, unhex(point)), once[:], x.State, nil)
		before(fmt.Sprintf("R is of low order (%d), and all else follows from it", i), m.wrap(toVisitor, challenge, sealed, 192))
	}
	before("the challenge of another handshake", m.out.Handshakes[3].Challenge)
	before("the hello comes back", x.Hello)
	before("a challenge with tag and mask of the other direction", m.otherWay(x.Challenge))
	before("an answer before there was a request", x.Answers[0].Datagram)
	before("busy for another hello", m.out.Handshakes[3].Busy)
	m.fields(before, "busy", toVisitor, x.Busy, map[string]int{"the tag": 0, "the random bytes": 8, "the type": 24, "the hello's tag": 25, "the padding": 63})
	after("busy after the challenge", x.Busy)
	after("a second challenge", x.Challenge)
	m.lengths(after, "answer", toVisitor, x.Answers[1].Datagram)
	m.fields(after, "answer", toVisitor, x.Answers[1].Datagram, map[string]int{"the tag": 0, "the nonce": 8, "what is sealed": 20, "the type": 24, "the rest of what is sealed": 25, "its end": 191})
	after("the answer to another handshake", m.out.Handshakes[3].Answers[0].Datagram)
	after("the request comes back", x.Asked)
	m.badAnswers(x, after)
}

// otherWay is a datagram to the visitor in the envelope of the other direction.
func (m *maker) otherWay(d []byte) []byte {
	k, body := newEnvelope(m.peer.Profile, toVisitor).open(d)
	return m.wrap(toGateway, k, body, len(d))
}

func (m *maker) badAnswers(x *handshakeVector, add func(string, []byte)) {
	good := x.Answers[1].Text
	change := func(at int, b byte) []byte {
		text := bytes.Clone(good)
		text[at] = b
		return text
	}
	ports := 1 + 1 + 4 + 16 + 32
	for _, b := range []struct {
		why  string
		text []byte
	}{
		{"status 0", change(0, 0)},
		{"status 5", change(0, 5)},
		{"a reason, though it is no refusal", change(1, 128)},
		{"a refusal without a reason", change(0, 4)},
		{"9 ports", append(change(ports, 9), bytes.Repeat([]byte{6, 0, 1, 0, 1}, 7)...)},
		{"255 ports", change(ports, 255)},
		{"a port less than it says", change(ports, 1)},
		{"a port more than it says", change(ports, 3)},
		{"the ports of ICMP", change(ports+1, 1)},
		{"a range of ports that ends before it begins", change(ports+2, 1)},
		{"a byte after the ports", append(bytes.Clone(good), 1)},
		{"a byte at its end", append(append(bytes.Clone(good), make([]byte, 154-len(good))...), 1)},
	} {
		text := append(bytes.Clone(b.text), make([]byte, 155-len(b.text))...)
		nonce := m.random(12)
		add("answer with "+b.why, m.wrap(toVisitor, answer, aead(x.AnswerKey).Seal(bytes.Clone(nonce), nonce, text, nil), 192))
	}
	text := append(bytes.Clone(good), make([]byte, 155-len(good))...)
	nonce := m.random(12)
	add("answer sealed with the key of the request", m.wrap(toVisitor, answer, aead(x.RequestKey).Seal(bytes.Clone(nonce), nonce, text, nil), 192))
	key, err := ecdh.X25519().NewPrivateKey(m.random(32))
	m.must(err)
	add("answer sealed with somebody's key", m.wrap(toVisitor, answer, aead(key.Bytes()).Seal(bytes.Clone(nonce), nonce, text, nil), 192))
}
