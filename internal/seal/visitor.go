package seal

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Peer is a gateway as its visitors know it.
type Peer struct {
	Profile     Profile
	Fingerprint Fingerprint
	Bundle      []byte // has the fingerprint; AskPart fetches it
}

// Complete says whether the bundle is there and has the fingerprint.
func (p Peer) Complete() bool {
	return len(p.Bundle) == bundleSize && sha256.Sum256(p.Bundle) == p.Fingerprint
}

// Visitor is the visitor's side of one handshake. It is not safe for concurrent use.
type Visitor struct {
	peer      Peer
	suite     Suite
	out, in   *envelope
	ephemeral *ecdh.PrivateKey
	hello     []byte // as sent
	heard     [32]byte
	export    []byte

	challenged bool
	chain      chain
	state      []byte
	own        Transcript
	answers    []byte // the key
}

// NewVisitor begins a handshake. An error says that the bundle is not the gateway's.
func NewVisitor(g Peer, s Suite) (*Visitor, error) {
	v := &Visitor{peer: g, suite: s, out: newEnvelope(g.Profile, toGateway), in: newEnvelope(g.Profile, toVisitor)}
	return v, v.begin(0)
}

// begin makes a hello, with a cookie if the gateway gave one.
func (v *Visitor) begin(cookie uint64) error {
	public, err := gatewayKey(v.peer.Bundle, v.peer.Fingerprint, v.suite)
	if err != nil {
		return err
	}
	enc, sender, err := hpke.NewSender(public, kdf, gcm, hpkeInfo("hello", v.peer.Profile, v.peer.Fingerprint))
	if err != nil {
		return fmt.Errorf("begin a handshake: %w", err)
	}
	if v.ephemeral, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		return fmt.Errorf("begin a handshake: %w", err)
	}
	k := map[Suite]kind{Hybrid: helloHybrid, X25519: helloX25519}[v.suite]
	sealed, err := sender.Seal([]byte{byte(k)}, v.ephemeral.PublicKey().Bytes())
	if err != nil {
		return fmt.Errorf("begin a handshake: %w", err)
	}
	if v.export, err = sender.Export(exported, 32); err != nil {
		return fmt.Errorf("begin a handshake: %w", err)
	}
	v.heard = helloTranscript(v.peer.Fingerprint, k, enc, sealed)
	enc = onWire(enc)
	body := slices.Clone(enc[:saltSize])
	body = binary.BigEndian.AppendUint64(body, cookie)
	body = append(append(body, enc[saltSize:]...), sealed...)
	v.hello = v.out.datagram(k, body, sizes[k][0])
	return nil
}

// Hello returns the datagram to send first, and again while nothing comes.
func (v *Visitor) Hello() []byte { return v.hello }

// Event is what a datagram from the gateway's address was.
type Event uint8

// The events.
const (
	Nothing    Event = iota // it is none of this handshake's, and is to be ignored
	Busy                    // Hello has another datagram to send now
	Challenged              // Transcript and Request can be called
	Answered                // there is an Answer
)

// Read reads a datagram that came.
func (v *Visitor) Read(d []byte) (Event, Answer) {
	if !v.in.ours(d) {
		return Nothing, Answer{}
	}
	k, body := v.in.open(d)
	if !slices.Contains(sizes[k], len(d)) {
		return Nothing, Answer{}
	}
	switch {
	case k == busy && !v.challenged:
		return v.readBusy(body), Answer{}
	case k == challenge && !v.challenged:
		return v.readChallenge(body), Answer{}
	case k == answer && v.answers != nil:
		return v.readAnswer(body)
	}
	return Nothing, Answer{}
}

func (v *Visitor) readBusy(body []byte) Event {
	b, ok := split(body, saltSize+tagSize+cookieSize)
	if !ok || !bytes.Equal(b[saltSize:saltSize+tagSize], v.hello[:tagSize]) {
		return Nothing
	}
	if v.begin(binary.BigEndian.Uint64(b[saltSize+tagSize:])) != nil {
		return Nothing
	}
	return Busy
}

func (v *Visitor) readChallenge(body []byte) Event {
	const own = saltSize + keySize
	b, ok := split(body, own+stateSize+sealExtra)
	if !ok {
		return Nothing
	}
	shared, err := ecdhShared(v.ephemeral, b[saltSize:own])
	if err != nil {
		return Nothing
	}
	c := newChain(v.export, shared, v.heard, b[:own])
	state, err := aead(c.challengeKey()).Open(nil, once[:], b[own:], nil)
	if err != nil {
		return Nothing
	}
	v.challenged, v.chain, v.state = true, c, state
	return Challenged
}

func (v *Visitor) readAnswer(body []byte) (Event, Answer) {
	n := aead(v.answers).NonceSize()
	text, err := aead(v.answers).Open(nil, body[:n], body[n:], nil)
	if err != nil {
		return Nothing, Answer{}
	}
	r := reader{rest: text}
	a := r.answer()
	if !r.ended() {
		return Nothing, Answer{}
	}
	return Answered, a
}

// Transcript returns what stands for this handshake in a Message. The credential needs no
// proof yet. It panics before Challenged.
func (v *Visitor) Transcript(q Request, who Credential) Transcript {
	if !v.challenged {
		panic("seal: Transcript before a challenge")
	}
	return v.chain.of(q, who)
}

// ErrTooLong says that a credential does not fit into a datagram.
var ErrTooLong = errors.New("the credential is too long for a datagram")

// Request returns the datagram that asks for something, with the proof of Message(own,
// other) or Message(other, own): whichever has the other handshake of two that the proof
// is for. For a proof of Message(own) alone, first and second are both the own
// transcript. It is the one request of this handshake: what is sent again is the same
// datagram. stream is for a datagram that goes over TCP. The error Is ErrTooLong, or says
// that the request has what cannot be asked.
func (v *Visitor) Request(q Request, who Credential, first, second Transcript, stream bool) ([]byte, error) {
	if v.answers != nil {
		return nil, errors.New("a handshake is for one request")
	}
	if !q.fits() {
		return nil, fmt.Errorf("a request that cannot be sent: %+v", q)
	}
	own := v.Transcript(q, who)
	p := pair{}
	switch {
	case first == own && second == own:
	case first == own:
		p = pair{1, second}
	case second == own:
		p = pair{2, first}
	default:
		return nil, errors.New("the proof is for other handshakes")
	}
	text := append(q.encode(), append(p.encode(), who.encode()...)...)
	for _, size := range sizes[request] {
		room := size - tagSize - 1 - stateSize - sealExtra
		if room < len(text) || size > Longest && !stream {
			continue
		}
		sealed := aead(v.chain.requestKey()).Seal(slices.Clone(v.state), once[:], append(text, make([]byte, room-len(text))...), v.state)
		v.own, v.answers = own, v.chain.answerKey(own)
		return v.out.datagram(request, sealed, size), nil
	}
	return nil, fmt.Errorf("%w: %d bytes", ErrTooLong, len(text))
}
