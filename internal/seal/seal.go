// Package seal is the protocol of the sealed knock, for both sides: datagrams in,
// datagrams out. docs/PROTOCOL.md is its specification. It has no sockets, files or clock,
// decides nothing about who may knock, and checks no signature.
//
// # The handshake
//
//	visitor                                   gateway
//	  hello      ephemeral key, encrypted  ──►          to the gateway's static key (HPKE)
//	             ◄──  challenge            ephemeral key, and the gateway's state, sealed
//	  request    the state, who and what   ──►          signed over all of the above
//	             ◄──  answer               open for how long, or why not
//
// The gateway remembers nothing between challenge and request: its state travels with the
// visitor. Whoever sends a request has received the challenge, so its source is shown.
//
// # Layout
//
// Every datagram, in both directions (offsets and sizes in bytes; integers are big-endian):
//
//	0   8   tag   SipHash-2-4 of bytes 8 to 64
//	8   16  salt  the first 16 bytes of the body
//	24  1   type, and then the rest of the body, padded with zeros; all of this XORed with
//	        AES-256-CTR, whose initial counter block is the salt
//
// The keys of tag and mask come from the profile secret, which all visitors of a gateway
// have, and differ by direction. To whoever lacks it a datagram is random bytes.
//
//	type   what                         body                                          size
//	0x11   hello, hybrid suite          point 16, cookie 8, point 16, rest 1088, sealed (key 32) 1232
//	0x12   hello, X25519 suite          point 16, cookie 8, point 16, sealed (key 32) 256
//	0x20   challenge                    random 16, key 32, sealed (state 112)         192
//	0x21   busy                         random 16, tag of the hello 8, cookie 8       64
//	0x30   request                      state 112, sealed (request, credential, zeros) 512, 768,
//	                                    1232; 2048 and 4096 over TCP alone
//	0x40   answer                       nonce 12, sealed (answer, zeros)              192
//	0x51   single packet, hybrid suite  point 32, rest 1088, sealed (knock 87)        1232
//	0x52   single packet, X25519 suite  point 32, sealed (knock 87)                   160
//	0x60   question for the bundle      random 16, fingerprint 32, part 1             768
//	0x61   part of the bundle           random 16, fingerprint 32, part 1, bytes 624  768
//
// Rest and point are the two parts of HPKE's enc, the point its last 32 bytes. Sealed is
// AES-256-GCM with a tag of 16 bytes. A datagram of any other length, with
// anything but zeros as padding, or with anything after what its length says, is nothing.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// Sizes of datagrams in bytes.
const (
	Longest       = 1232 // over UDP: fits into any IPv6 packet (RFC 8200, section 5)
	LongestStream = 4096 // over TCP

	tagSize  = 8
	saltSize = 16
	typeAt   = tagSize + saltSize
	tagged   = 64 // the tag covers what is before this, but itself

	keySize   = 32 // of X25519
	sealExtra = 16 // the tag of AES-256-GCM
)

type kind uint8

const (
	helloHybrid kind = 0x11
	helloX25519 kind = 0x12
	challenge   kind = 0x20
	busy        kind = 0x21
	request     kind = 0x30
	answer      kind = 0x40
	singleHyb   kind = 0x51
	singleX     kind = 0x52
	askPart     kind = 0x60
	givePart    kind = 0x61
)

// sizes are the lengths that a datagram of each kind can have.
var sizes = map[kind][]int{
	helloHybrid: {1232}, helloX25519: {256}, challenge: {192}, busy: {64}, answer: {192},
	request:   {512, 768, 1232, 2048, 4096},
	singleHyb: {1232}, singleX: {160}, askPart: {768}, givePart: {768},
}

// Suite is how a visitor agrees on keys with the gateway.
type Suite uint8

// The suites, both with HKDF-SHA256 and AES-256-GCM (RFC 9180).
const (
	Hybrid Suite = 1 // MLKEM768-X25519: also against whoever records now and has a quantum computer later
	X25519 Suite = 2 // DHKEM(X25519, HKDF-SHA256): less work and shorter datagrams
)

// String returns the suite's name in the configuration of a visitor.
func (s Suite) String() string {
	switch s {
	case Hybrid:
		return "MLKEM768-X25519"
	case X25519:
		return "X25519"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// Profile is a profile secret: all visitors of a gateway have it, and nobody else. Who has
// it can see that there is a gateway, and no more.
type Profile [16]byte

// envelope makes and opens the outside of the datagrams of one direction.
type envelope struct {
	tag  [16]byte
	mask cipher.Block
}

const (
	toGateway = "to gateway"
	toVisitor = "to visitor"
)

func newEnvelope(p Profile, direction string) *envelope {
	e := new(envelope)
	copy(e.tag[:], derive(p[:], nil, "tag "+direction, 16))
	e.mask = block(derive(p[:], nil, "mask "+direction, 32))
	return e
}

// label begins everything that is hashed or derived, so that nothing made for another
// purpose or version is ever taken for it.
const label = "doorward sealed v1 "

// derive is HKDF-SHA256 (RFC 5869) for a purpose. Its info is the purpose and context,
// which is of fixed length for each purpose.
func derive(secret, salt []byte, purpose string, n int, context ...[]byte) []byte {
	info := label + purpose
	for _, c := range context {
		info += string(c)
	}
	key, err := hkdf.Key(sha256.New, secret, salt, info, n)
	if err != nil {
		panic("seal: internal error: " + err.Error()) // only for an n above 8160
	}
	return key
}

// digest is SHA-256 for a purpose, of parts whose lengths are fixed or stated within.
func digest(purpose string, parts ...[]byte) (sum [32]byte) {
	h := sha256.New()
	h.Write([]byte(label + purpose))
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// block is AES for a key of 32 bytes.
func block(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: internal error: " + err.Error())
	}
	return b
}

// aead is AES-256-GCM for a key of 32 bytes.
func aead(key []byte) cipher.AEAD {
	a, err := cipher.NewGCM(block(key))
	if err != nil {
		panic("seal: internal error: " + err.Error())
	}
	return a
}

// once is the nonce of a key that seals one message only.
var once [12]byte

// datagram returns a body in its envelope, with a total size.
func (e *envelope) datagram(k kind, body []byte, size int) []byte {
	if typeAt+1+len(body)-saltSize > size {
		panic(fmt.Sprintf("seal: internal error: a body of %d bytes in a datagram of %d", len(body), size))
	}
	d := make([]byte, size)
	e.fill(d, k, body, new([2 * aes.BlockSize]byte))
	return d
}

// fill puts a body into a datagram, whose bytes are zero. It needs some scratch memory.
func (e *envelope) fill(d []byte, k kind, body []byte, scratch *[2 * aes.BlockSize]byte) {
	copy(d[tagSize:], body[:saltSize])
	d[typeAt] = byte(k)
	copy(d[typeAt+1:], body[saltSize:])
	e.xor(d[typeAt:], d[typeAt:], d[tagSize:typeAt], scratch)
	binary.BigEndian.PutUint64(d, e.sum(d))
}

// sum is a datagram's tag.
func (e *envelope) sum(d []byte) uint64 { return sip(&e.tag, d[tagSize:tagged]) }

// ours says whether a datagram has our tag.
func (e *envelope) ours(d []byte) bool {
	return len(d) >= tagged && binary.BigEndian.Uint64(d) == e.sum(d)
}

// xor masks or unmasks: AES-256-CTR (NIST SP 800-38A) from the salt on, without the
// allocations of cipher.NewCTR.
func (e *envelope) xor(dst, src, salt []byte, scratch *[2 * aes.BlockSize]byte) {
	counter, stream := scratch[:aes.BlockSize], scratch[aes.BlockSize:]
	copy(counter, salt)
	for at := 0; at < len(src); at += aes.BlockSize {
		e.mask.Encrypt(stream, counter)
		subtle.XORBytes(dst[at:], src[at:], stream)
		for i := len(counter) - 1; i >= 0; i-- {
			if counter[i]++; counter[i] != 0 {
				break
			}
		}
	}
}

// open returns the kind and the body of a datagram that has our tag, padding included.
func (e *envelope) open(d []byte) (kind, []byte) {
	body := make([]byte, len(d)-tagSize)
	copy(body, d[tagSize:])
	e.xor(body[saltSize:], body[saltSize:], d[tagSize:typeAt], new([2 * aes.BlockSize]byte))
	k := kind(body[saltSize])
	copy(body[saltSize:], body[saltSize+1:])
	return k, body[:len(body)-1]
}

// split returns the first n bytes, and whether only zeros follow.
func split(body []byte, n int) ([]byte, bool) {
	if len(body) < n {
		return nil, false
	}
	return body[:n], zeros(body[n:])
}

func zeros(b []byte) bool {
	var any byte
	for _, x := range b {
		any |= x
	}
	return any == 0
}
