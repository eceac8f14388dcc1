package seal

import (
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Single is what only a single packet says.
type Single struct {
	Counter uint64  // microseconds since 1970 by the visitor's clock, never the same twice
	ID      [8]byte // the beginning of the key's fingerprint or of the secret's ID
	Door    [4]byte // of the door's name; see DoorID
	// Message and Anywhere are what the proof is to be of: with the source that the
	// datagram came from, and with none.
	Message, Anywhere []byte
	Proof             [64]byte // Ed25519's or ECDSA's (r, s) signature, or an HMAC-SHA256 and zeros
}

// DoorID is how a single packet names a door; "" is the gateway's first.
func DoorID(name string) (id [4]byte) {
	if name == "" {
		return id
	}
	sum := digest("door", []byte(name))
	copy(id[:], sum[:])
	return id
}

// SinglePacket is a single packet that lacks its proof.
type SinglePacket struct {
	kind   kind
	out    *envelope
	enc    []byte
	sender *hpke.Sender
	text   []byte
	sums   [2][]byte
}

// NewSinglePacket begins a single packet. id is of the key or the secret; source is the
// address that the gateway will see, invalid where its door takes any.
func NewSinglePacket(g Peer, s Suite, q Request, counter uint64, id [8]byte, source netip.Addr) (*SinglePacket, error) {
	if !q.fits() || q.Address.IsValid() || q.OpenFor/time.Second > math.MaxUint16 {
		return nil, errors.New("a single packet asks for the source of it alone, and for 18 hours at most")
	}
	public, err := gatewayKey(g.Bundle, g.Fingerprint, s)
	if err != nil {
		return nil, err
	}
	p := &SinglePacket{kind: map[Suite]kind{Hybrid: singleHyb, X25519: singleX}[s], out: newEnvelope(g.Profile, toGateway)}
	p.enc, p.sender, err = hpke.NewSender(public, kdf, gcm, hpkeInfo("single", g.Profile, g.Fingerprint))
	if err != nil {
		return nil, fmt.Errorf("begin a single packet: %w", err)
	}
	p.text = binary.BigEndian.AppendUint64(nil, counter)
	p.text = append(p.text, byte(q.Action))
	p.text = binary.BigEndian.AppendUint16(p.text, uint16(q.OpenFor/time.Second))
	door := DoorID(q.Door)
	p.text = append(append(p.text, id[:]...), door[:]...)
	p.sums[0] = singleMessage(g.Fingerprint, p.kind, p.enc, p.text, source)
	return p, nil
}

// singleMessage is what the proof of a single packet is of.
func singleMessage(f Fingerprint, k kind, enc, text []byte, source netip.Addr) []byte {
	var from [16]byte
	if source.IsValid() {
		from = source.As16()
	}
	sum := digest("single", f[:], []byte{byte(k)}, enc, text, from[:])
	return sum[:]
}

// Message returns what the proof is to be of.
func (p *SinglePacket) Message() []byte { return p.sums[0] }

// Datagram returns the datagram, with the proof.
func (p *SinglePacket) Datagram(proof [64]byte) ([]byte, error) {
	sealed, err := p.sender.Seal([]byte{byte(p.kind)}, append(slices.Clone(p.text), proof[:]...))
	if err != nil {
		return nil, fmt.Errorf("seal a single packet: %w", err)
	}
	return p.out.datagram(p.kind, append(onWire(p.enc), sealed...), sizes[p.kind][0]), nil
}

const (
	singleText = 8 + 1 + 2 + 8 + 4
	proofSize  = 64
)

// singlePacket opens a single packet.
func (g *Gateway) singlePacket(p *door, k kind, body []byte, from netip.Addr) *Knock {
	s, n := Hybrid, encHybrid
	if k == singleX {
		s, n = X25519, encX25519
	}
	b, ok := split(body, n+singleText+proofSize+sealExtra)
	if !g.single || !ok {
		return nil
	}
	enc := encOf(b[:n])
	id, _, text := g.openHPKE(p.single, s, k, enc, b[n:])
	if id == nil || len(text) != singleText+proofSize {
		return nil
	}
	said := text[:singleText]
	one := &Single{Message: singleMessage(id.fingerprint, k, enc, said, from), Anywhere: singleMessage(id.fingerprint, k, enc, said, netip.Addr{})}
	copy(one.Proof[:], text[singleText:])
	r := reader{rest: said}
	one.Counter = uint64(r.u32())<<32 | uint64(r.u32())
	q := Request{Action: Action(r.u8()), OpenFor: time.Duration(r.u16()) * time.Second}
	copy(one.ID[:], r.bytes(len(one.ID)))
	copy(one.Door[:], r.bytes(len(one.Door)))
	if !r.ended() || !q.fits() {
		return nil
	}
	return &Knock{Request: q, Single: one}
}
