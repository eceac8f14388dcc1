package seal

import (
	"crypto/rand"
	"slices"
)

const (
	parts    = 2
	partSize = bundleSize / parts
)

// BundleParts is how many questions it takes to get a gateway's bundle.
const BundleParts = parts

// AskPart returns the question for a part of the bundle that has the peer's fingerprint,
// from 0. The answer to it is as long.
func AskPart(g Peer, part int) []byte {
	body := make([]byte, saltSize, saltSize+len(g.Fingerprint)+1)
	rand.Read(body)
	body = append(append(body, g.Fingerprint[:]...), byte(part))
	return newEnvelope(g.Profile, toGateway).datagram(askPart, body, sizes[askPart][0])
}

// ReadPart reads the answer. Whether it is right shows when all parts together have the
// fingerprint: NewVisitor says so.
func ReadPart(g Peer, d []byte) (part int, of []byte, ok bool) {
	in := newEnvelope(g.Profile, toVisitor)
	if !in.ours(d) {
		return 0, nil, false
	}
	k, body := in.open(d)
	if k != givePart || !slices.Contains(sizes[k], len(d)) {
		return 0, nil, false
	}
	b, ok := split(body, saltSize+len(g.Fingerprint)+1+partSize)
	if !ok || Fingerprint(b[saltSize:saltSize+32]) != g.Fingerprint || b[saltSize+32] >= parts {
		return 0, nil, false
	}
	return int(b[saltSize+32]), slices.Clone(b[saltSize+33:]), true
}

// givePart answers a question for a part of a bundle.
func (g *Gateway) givePart(p *door, body []byte) []byte {
	b, ok := split(body, saltSize+32+1)
	if !ok || b[saltSize+32] >= parts {
		return nil
	}
	for _, id := range g.identities {
		if id.fingerprint != Fingerprint(b[saltSize:saltSize+32]) {
			continue
		}
		part := int(b[saltSize+32])
		reply := make([]byte, saltSize)
		rand.Read(reply)
		reply = append(append(reply, b[saltSize:]...), id.bundle[part*partSize:(part+1)*partSize]...)
		return p.out.datagram(givePart, reply, sizes[givePart][0])
	}
	return nil
}
