package seal

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/cryptotest"
)

// silent says if anything comes of a datagram at a gateway.
func silent(t *testing.T, g *Gateway, what string, d []byte) {
	t.Helper()
	rank, n := g.Glance(testPlace, d, false, make([]byte, 64))
	reply, k := g.Open(testPlace, testStart, d)
	if n != 0 || reply != nil || k != nil {
		t.Errorf("%s: rank %d, answers of %d and %d bytes, and %+v; want silence", what, rank, n, len(reply), k)
	}
}

// alterations calls f with a datagram cut to each length, and with each of its bits
// flipped: as it is then, and with a tag that is right again, as who has the
// profile secret can make it.
func alterations(p Profile, direction string, d []byte, f func(what string, at int, altered []byte)) {
	e := newEnvelope(p, direction)
	for n := range d {
		f(fmt.Sprintf("cut to %d bytes", n), n, d[:n:n])
	}
	for bit := range 8 * len(d) {
		flipped := bytes.Clone(d)
		flipped[bit/8] ^= 1 << (bit % 8)
		what := fmt.Sprintf("bit %d of byte %d flipped", bit%8, bit/8)
		f(what, bit/8, flipped)
		if bit/8 >= tagSize && bit/8 < tagged {
			retagged := bytes.Clone(flipped)
			sum := e.sum(retagged)
			for i := range tagSize {
				retagged[i] = byte(sum >> (56 - 8*i))
			}
			f(what+", with a right tag", bit/8, retagged)
		}
	}
}

// Of a datagram that was cut anywhere, or has any bit flipped, nothing comes but silence.
func TestAltered(t *testing.T) {
	for _, s := range []Suite{Hybrid, X25519} {
		t.Run(s.String(), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 3)
			g, peer := pairOf(t)
			c := converse(t, g, peer, s)
			names := []string{"hello", "single packet"}
			if s == X25519 {
				names = append(names, "request", "question")
			}
			for _, name := range names {
				alterations(peer.Profile, toGateway, c[name], func(what string, at int, d []byte) {
					if name == "hello" && len(d) == len(c[name]) && at > typeAt && at <= typeAt+cookieSize && newEnvelope(peer.Profile, toGateway).ours(d) {
						return // another cookie
					}
					if name == "question" && at == typeAt+1+saltSize+16 && len(d) == len(c[name]) {
						if reply, _ := g.Open(testPlace, testStart, d); reply != nil {
							return // for the other part
						}
					}
					silent(t, g, name+", "+what, d)
				})
			}
		})
	}
}

// Nor does a visitor take anything from what was altered on its way.
func TestAlteredAnswers(t *testing.T) {
	v := readVectors(t)
	_, peer := v.gateway(t)
	h := v.first(X25519)
	for name, c := range map[string]struct {
		d       []byte
		visitor *Visitor
	}{
		"challenge": {h.Challenge, h.visitor(t, peer)},
		"busy":      {h.Busy, h.visitor(t, peer)},
		"answer":    {h.Answers[1].Datagram, h.asked(t, peer)},
	} {
		before := *c.visitor
		alterations(peer.Profile, toVisitor, c.d, func(what string, at int, d []byte) {
			if name == "busy" && at >= typeAt+1+tagSize && len(d) == len(c.d) {
				if k, b := c.visitor.in.open(d); k == busy && zeros(b[saltSize+tagSize+cookieSize:]) && c.visitor.in.ours(d) {
					return // another cookie
				}
			}
			if e, _ := c.visitor.Read(d); e != Nothing {
				t.Errorf("%s, %s: event %d", name, what, e)
				*c.visitor = before
			}
		})
	}
	part := v.Questions[0].Answer
	alterations(peer.Profile, toVisitor, part, func(what string, _ int, d []byte) {
		n, of, ok := ReadPart(peer, d)
		if ok && n == 0 && bytes.Equal(of, peer.Bundle[:partSize]) {
			t.Errorf("part, %s: it is read as if nothing had happened", what)
		}
		if ok { // what is changed in the bytes shows in the fingerprint
			bundle := bytes.Clone(peer.Bundle)
			copy(bundle[n*partSize:], of)
			if _, err := NewVisitor(Peer{peer.Profile, peer.Fingerprint, bundle}, X25519); err == nil && n == 0 {
				t.Errorf("part, %s: the bundle is accepted", what)
			}
		}
	})
}

// A datagram of each kind is taken in the sizes of docs/PROTOCOL.md, and in no other.
func TestSizes(t *testing.T) {
	v := readVectors(t)
	g, peer := v.gateway(t)
	in, out := newEnvelope(peer.Profile, toGateway), newEnvelope(peer.Profile, toVisitor)
	x, hybrid := v.first(X25519), v.first(Hybrid)
	texts := map[kind][]byte{}
	for _, d := range [][]byte{x.Hello, hybrid.Hello, v.Singles[0].Datagram, v.Singles[2].Datagram, v.Questions[0].Question} {
		k, b := in.open(d)
		texts[k] = bytes.TrimRight(b, "\x00")
	}
	for _, d := range [][]byte{x.Challenge, x.Busy, v.Questions[0].Answer} {
		k, b := out.open(d)
		texts[k] = bytes.TrimRight(b, "\x00")
	}
	asked, visitors := chain{secret: [32]byte(x.Secret), transcript: [32]byte(x.Transcript)}, map[kind]func() *Visitor{
		challenge: func() *Visitor { return x.visitor(t, peer) }, busy: func() *Visitor { return x.visitor(t, peer) },
		answer: func() *Visitor { return x.asked(t, peer) },
	}
	for size := 64; size <= LongestStream+64; size++ {
		for k, want := range map[kind][]int{
			helloHybrid: {1232}, helloX25519: {256}, challenge: {192}, busy: {64}, answer: {192},
			request: {512, 768, 1232, 2048, 4096}, singleHyb: {1232}, singleX: {160}, askPart: {768}, givePart: {768},
		} {
			room, text := size-tagSize-1, texts[k]
			switch k {
			case request:
				room := room - stateSize - sealExtra
				plain := slices.Concat(x.Request, []byte{0}, x.Credential)
				if room < len(plain) {
					continue
				}
				text = aead(asked.requestKey()).Seal(bytes.Clone(x.State), once[:], append(plain, make([]byte, room-len(plain))...), x.State)
			case answer:
				room := room - nonceSize - sealExtra
				if room < len(x.Answers[0].Text) {
					continue
				}
				text = aead(x.AnswerKey).Seal(make([]byte, nonceSize), make([]byte, nonceSize), append(bytes.Clone(x.Answers[0].Text), make([]byte, room-len(x.Answers[0].Text))...), nil)
			}
			if room < len(text) {
				continue
			}
			var taken bool
			if visitor := visitors[k]; visitor != nil {
				e, _ := visitor().Read(out.datagram(k, text, size))
				taken = e != Nothing
			} else if k == givePart {
				_, _, taken = ReadPart(peer, out.datagram(k, text, size))
			} else {
				reply, knock := g.Open(netip.MustParseAddr(x.From), testStart, in.datagram(k, text, size))
				taken = reply != nil || knock != nil
			}
			if taken != slices.Contains(want, size) {
				t.Errorf("type %#x in %d bytes is taken: %t", byte(k), size, taken)
			}
		}
	}
}

// Where a datagram is padded, any bit of the padding that is set makes it nothing.
func TestPadding(t *testing.T) {
	v := readVectors(t)
	g, peer := v.gateway(t)
	x := v.first(X25519)
	refused := 0
	for name, c := range map[string]struct {
		direction string
		d         []byte
		padded    int // what is behind the body
		taken     func([]byte) bool
	}{
		"hello":         {toGateway, x.Hello, 97, nil},
		"single packet": {toGateway, v.Singles[0].Datagram, 144, nil},
		"question":      {toGateway, v.Questions[0].Question, 58, nil},
		"challenge":     {toVisitor, x.Challenge, 185, func(d []byte) bool { e, _ := x.visitor(t, peer).Read(d); return e != Nothing }},
		"busy":          {toVisitor, x.Busy, 41, func(d []byte) bool { e, _ := x.visitor(t, peer).Read(d); return e != Nothing }},
		"part":          {toVisitor, v.Questions[0].Answer, 682, func(d []byte) bool { _, _, ok := ReadPart(peer, d); return ok }},
	} {
		if c.taken == nil {
			c.taken = func(d []byte) bool {
				reply, k := g.Open(netip.MustParseAddr(x.From), testStart, d)
				return reply != nil || k != nil
			}
		}
		if !c.taken(c.d) {
			t.Fatalf("%s: as it is, it is not taken", name)
		}
		e := newEnvelope(peer.Profile, c.direction)
		k, body := e.open(c.d)
		for at := c.padded - tagSize - 1; at < len(body); at++ {
			for bit := range 8 {
				padded := bytes.Clone(body)
				padded[at] ^= 1 << bit
				if refused++; c.taken(e.datagram(k, padded, len(c.d))) {
					t.Errorf("%s: byte %d of the body is %#x and should be padding", name, at, padded[at])
				}
			}
		}
	}
	if refused < 1000 {
		t.Errorf("%d bits of padding: the test sees too little", refused)
	}
}

// Whatever comes, what is answered at once is never longer than that, and never sent
// to a source that asked for nothing of the kind.
func TestNoAmplification(t *testing.T) {
	v := readVectors(t)
	g, _ := v.gateway(t)
	room, answered := make([]byte, 64), 0
	try := func(what string, d []byte) {
		for _, isBusy := range []bool{false, true} {
			_, n := g.Glance(testPlace, d, isBusy, room)
			reply, k := g.Open(testPlace, testStart, d)
			if k != nil {
				reply = append(reply, k.Answer(Answer{Status: Refused, Reason: NotAccepted, Next: g.Newest()})...)
			}
			if n > 0 || len(reply) > 0 {
				answered++
			}
			if n > len(d) || len(reply) > len(d) {
				t.Errorf("%s of %d bytes is answered with %d and %d", what, len(d), n, len(reply))
			}
		}
	}
	for _, h := range v.Handshakes {
		try(h.Name+": hello", h.Hello)
		try(h.Name+": request", h.Asked)
	}
	for _, q := range v.Questions {
		try("question", q.Question)
	}
	for _, s := range v.Singles {
		try("single packet", s.Datagram)
	}
	for _, b := range v.Bad {
		try(b.Why, b.Datagram)
	}
	if answered < 30 {
		t.Errorf("%d answers: the test sees too little", answered)
	}
}

// A gateway takes no datagram of its own, nor a visitor one of a visitor's.
func TestReflected(t *testing.T) {
	g, peer := pairOf(t)
	c := converse(t, g, peer, X25519)
	for _, name := range []string{"busy", "challenge", "answer", "part"} {
		silent(t, g, name, c[name])
	}
	for _, name := range []string{"hello", "request", "single packet", "question"} {
		v := visitor(t, peer, X25519)
		if e, _ := v.Read(c[name]); e != Nothing {
			t.Errorf("%s: event %d", name, e)
		}
	}
}
