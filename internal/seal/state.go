package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"
)

// The state that travels with a visitor: nonce 12, sealed (transcript 32, secret 32, source
// 16, seconds 4).
const (
	nonceSize  = 12
	stateSize  = nonceSize + 32 + 32 + 16 + 4 + sealExtra
	cookieSize = 8
)

// HandshakeLife is how long after the challenge a request is accepted. It is time for a
// person to touch a security key.
const HandshakeLife = time.Minute

// epoch is the gateway's own keys for a while. They are in memory alone, so nothing from
// before a restart is accepted.
type epoch struct {
	state     cipher.AEAD
	cookie    [16]byte
	ephemeral *ecdh.PrivateKey // of all challenges: a key for each would cost a third more
	since     time.Time
	before    *epoch // its states and cookies are accepted, too; its own before is nil
}

func newEpoch(now time.Time, before *epoch) *epoch {
	var key [32]byte
	rand.Read(key[:])
	e := &epoch{state: aead(key[:]), since: now}
	var err error
	if e.ephemeral, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		panic("seal: internal error: " + err.Error())
	}
	rand.Read(e.cookie[:])
	if before != nil {
		last := *before
		last.before, last.ephemeral = nil, nil
		e.before = &last
	}
	return e
}

// cookieFor is what shows that an address can receive.
func (e *epoch) cookieFor(from *[16]byte) uint64 { return sip(&e.cookie, from[:]) }

// hasCookie says whether a cookie is one for the address.
func (e *epoch) hasCookie(from *[16]byte, cookie uint64) bool {
	return cookie == e.cookieFor(from) || e.before != nil && cookie == e.before.cookieFor(from)
}

// seal returns the state after a challenge to an address.
func (e *epoch) seal(c chain, from netip.Addr, seconds uint32) []byte {
	b := make([]byte, nonceSize, stateSize)
	rand.Read(b)
	text := append(c.transcript[:], c.secret[:]...)
	address := from.As16()
	text = binary.BigEndian.AppendUint32(append(text, address[:]...), seconds)
	return e.state.Seal(b, b[:nonceSize], text, nil)
}

// state is an opened state.
type state struct {
	chain   chain
	from    [16]byte
	seconds uint32
}

// open opens a state into memory that the caller has.
func (e *epoch) open(sealed []byte, memory *[stateSize]byte) (s state, ok bool) {
	for ; e != nil; e = e.before {
		text, err := e.state.Open(memory[:0], sealed[:nonceSize], sealed[nonceSize:stateSize], nil)
		if err != nil {
			continue
		}
		copy(s.chain.transcript[:], text)
		copy(s.chain.secret[:], text[32:])
		copy(s.from[:], text[64:])
		s.seconds = binary.BigEndian.Uint32(text[80:])
		return s, true
	}
	return s, false
}

// scratch is the memory that a glance needs.
type scratch struct {
	blocks [2 * aes.BlockSize]byte
	body   [saltSize + stateSize]byte
	text   [stateSize]byte
	from   [16]byte
	nonce  [saltSize]byte
}
