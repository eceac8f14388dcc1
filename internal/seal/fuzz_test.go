package seal

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
)

// How a fuzzer's bytes become a datagram.
const (
	asItIs    = iota // all of it
	enveloped        // with a right tag: a type, and a body, up to the next size
	sealed           // with right keys, too: the text of a request, or of an answer
	ways
)

// enveloped makes a datagram of a type and a body, of the smallest size that holds it.
func (e *envelope) enveloped(d []byte) []byte {
	body := make([]byte, saltSize)
	var k kind
	if len(d) > 0 {
		k = kind(d[0])
		body = append(d[1:len(d):len(d)], make([]byte, max(0, saltSize+1-len(d)))...)
	}
	for _, size := range append(slices.Clone(sizes[k]), 64, 512, 1232, LongestStream) {
		if tagSize+1+len(body) <= size {
			return e.datagram(k, body, size)
		}
	}
	return nil
}

// padded is a text with zeros up to n bytes, or cut to them.
func padded(text []byte, n int) []byte {
	return append(bytes.Clone(text[:min(len(text), n)]), make([]byte, max(0, n-len(text)))...)
}

// FuzzOpen has a gateway open anything: it does not panic, what it answers is no longer
// than what came, a glance is right about junk, and a request is the one text for what
// it says.
func FuzzOpen(f *testing.F) {
	v := readVectors(f)
	g, peer := v.gateway(f)
	keys := g.keys.Load()
	in := newEnvelope(peer.Profile, toGateway)
	x := v.first(X25519)
	c := chain{secret: [32]byte(x.Secret), transcript: [32]byte(x.Transcript)}
	add := func(d []byte) {
		f.Add(d, byte(asItIs), false)
		if in.ours(d) {
			k, body := in.open(d)
			f.Add(append([]byte{byte(k)}, body...), byte(enveloped), true)
		}
	}
	for _, h := range v.Handshakes {
		add(h.Hello)
		add(h.Asked)
		f.Add([]byte(slices.Concat(h.Request, []byte{h.Place}, h.Other, h.Credential)), byte(sealed), false)
	}
	for _, s := range v.Singles {
		add(s.Datagram)
	}
	for _, q := range v.Questions {
		add(q.Question)
	}
	for _, b := range v.Bad {
		add(b.Datagram)
	}
	room := make([]byte, 64)
	f.Fuzz(func(t *testing.T, d []byte, how byte, late bool) {
		var text []byte
		switch how % ways {
		case enveloped:
			d = in.enveloped(d)
		case sealed:
			text = padded(d, 512-tagSize-1-stateSize-sealExtra)
			d = in.datagram(request, aead(c.requestKey()).Seal(bytes.Clone(x.State), once[:], text, x.State), 512)
		}
		before, now := bytes.Clone(d), testStart
		if late {
			now = now.Add(HandshakeLife / 2)
		}
		for _, from := range []netip.Addr{testPlace, netip.MustParseAddr("2001:db8::7")} {
			rank, n := g.Glance(from, d, false, room)
			busyRank, m := g.Glance(from, d, true, room)
			reply, k := g.Open(from, now, d)
			if n != 0 || m > len(d) || len(reply) > len(d) {
				t.Errorf("%d bytes are answered with %d, with %d while busy, and with %d", len(d), n, m, len(reply))
			}
			if rank == Junk && (busyRank != Junk || m != 0 || reply != nil || k != nil) {
				t.Errorf("the glance says junk, while busy %d with an answer of %d bytes; an answer of %d bytes, and %+v", busyRank, m, len(reply), k)
			}
			if k == nil {
				continue
			}
			if reply != nil || (k.Single == nil) != (k.Answer(Answer{Status: Opened}) != nil) {
				t.Errorf("an answer of %d bytes besides %+v", len(reply), k)
			}
			if how%ways == sealed {
				r := reader{rest: text}
				q, p, who := r.request(), r.pair(), r.credential()
				if again := slices.Concat(q.encode(), p.encode(), who.encode()); !bytes.Equal(padded(again, len(text)), text) {
					t.Errorf("%x is taken, and would be written as %x", text, again)
				}
			}
		}
		if !bytes.Equal(before, d) || g.keys.Load() != keys {
			t.Error("it changed the datagram, or the gateway's keys")
		}
	})
}

// FuzzRead has a visitor read anything, before the challenge and after the request: what
// is none of this handshake's changes nothing, and an answer is the one text for what
// it says.
func FuzzRead(f *testing.F) {
	v := readVectors(f)
	_, peer := v.gateway(f)
	in := newEnvelope(peer.Profile, toVisitor)
	x := v.first(X25519)
	add := func(d []byte) {
		f.Add(d, byte(asItIs))
		if in.ours(d) {
			k, body := in.open(d)
			f.Add(append([]byte{byte(k)}, body...), byte(enveloped))
		}
	}
	for _, h := range v.Handshakes {
		add(h.Busy)
		add(h.Challenge)
		for _, a := range h.Answers {
			add(a.Datagram)
			f.Add([]byte(a.Text), byte(sealed))
		}
	}
	for _, q := range v.Questions {
		add(q.Answer)
	}
	for _, b := range v.Bad {
		add(b.Datagram)
	}
	f.Fuzz(func(t *testing.T, d []byte, how byte) {
		var text []byte
		switch how % ways {
		case enveloped:
			d = in.enveloped(d)
		case sealed:
			text = padded(d, 192-tagSize-1-nonceSize-sealExtra)
			nonce := make([]byte, nonceSize)
			d = in.datagram(answer, aead(x.AnswerKey).Seal(bytes.Clone(nonce), nonce, text, nil), 192)
		}
		if part, of, ok := ReadPart(peer, d); ok && (part < 0 || part >= BundleParts || len(of) != partSize) {
			t.Errorf("part %d with %d bytes", part, len(of))
		}
		for _, visitor := range []*Visitor{x.visitor(t, peer), x.asked(t, peer)} {
			before := *visitor
			e, a := visitor.Read(d)
			asked := before.answers != nil
			switch {
			case e == Nothing:
				if visitor.challenged != before.challenged || !bytes.Equal(visitor.hello, before.hello) || visitor.chain != before.chain {
					t.Error("nothing of ours has changed the visitor")
				}
			case (e == Answered) != asked, e == Busy && bytes.Equal(visitor.hello, before.hello), e == Challenged && !visitor.challenged:
				t.Errorf("event %d of a visitor who has asked: %t", e, asked)
			case how%ways == sealed:
				if again := a.encode(); !bytes.Equal(padded(again, len(text)), text) {
					t.Errorf("%x is taken, and would be written as %x", text, again)
				}
			}
		}
	})
}
