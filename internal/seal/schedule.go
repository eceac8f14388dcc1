package seal

import (
	"crypto/ecdh"
	"slices"
)

// chain is what both sides of a handshake agree on, after the challenge.
type chain struct {
	secret     [32]byte // from HPKE and from both ephemeral keys
	transcript [32]byte // of hello and challenge
}

// exported is the part of the keys that is agreed on with the gateway's static key.
const exported = label + "export"

// helloTranscript stands for a hello.
func helloTranscript(f Fingerprint, k kind, enc, sealed []byte) [32]byte {
	return digest("hello", f[:], []byte{byte(k)}, enc, sealed)
}

// newChain goes on from a hello with the two ephemeral keys, of which shared is the X25519.
// challenge is the challenge's random bytes and the gateway's ephemeral key, which is the
// same in other handshakes: the random bytes are what makes this one another.
func newChain(export, shared []byte, hello [32]byte, challenge []byte) (c chain) {
	copy(c.secret[:], derive(shared, export, "chain", 32))
	c.transcript = digest("challenge", hello[:], challenge)
	return c
}

// keys are those of the three messages that follow. Each but the last seals one message;
// the answer has a nonce of its own, since there can be several.
func (c chain) challengeKey() []byte {
	return derive(c.secret[:], nil, "challenge", 32, c.transcript[:])
}
func (c chain) requestKey() []byte { return derive(c.secret[:], nil, "request", 32, c.transcript[:]) }
func (c chain) answerKey(t Transcript) []byte {
	return derive(c.secret[:], nil, "answer", 32, t[:])
}

// of returns the transcript of a handshake with its request and whose it is.
func (c chain) of(q Request, who Credential) Transcript {
	return Transcript(digest("request", c.transcript[:], appendLong(nil, q.encode()), who.identity()))
}

// ecdhShared is X25519 (RFC 7748) with a peer's key. It fails for a key of low order.
func ecdhShared(own *ecdh.PrivateKey, peer []byte) ([]byte, error) {
	public, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return nil, err
	}
	return own.ECDH(public)
}

// onWire is an HPKE enc as it is sent: its last 32 bytes, an X25519 public key, come first,
// since the first 16 bytes of the body are not masked. Those of a ciphertext of ML-KEM are
// not uniformly random: its numbers are compressed from 3329 values to 1024 (FIPS 203,
// section 4.2.1).
func onWire(enc []byte) []byte { return turned(enc, len(enc)-keySize) }

// encOf is the inverse of onWire.
func encOf(sent []byte) []byte { return turned(sent, keySize) }

// turned has the first n bytes of b after the others.
func turned(b []byte, n int) []byte { return slices.Concat(b[n:], b[:n]) }
