package seal

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"
)

// Action is what a visitor asks for.
type Action uint8

// The actions.
const (
	Open   Action = 1 // open the door
	Close  Action = 2 // take back what the same credential has opened for the source
	Extend Action = 3 // open, but only for who has it open
)

// Request is what a visitor asks for.
type Request struct {
	Action  Action
	Door    string        // "" is the gateway's first; at most 64 bytes
	OpenFor time.Duration // whole seconds; 0: as the door says
	Address netip.Addr    // whom to open it to, never IPv4-mapped and without a zone; invalid: the source of the request
}

const longestName = 64 // of a door

// fits says whether a request can be encoded.
func (r Request) fits() bool {
	return r.Action >= Open && r.Action <= Extend && len(r.Door) <= longestName && r.Address.Zone() == "" && !r.Address.Is4In6() &&
		r.OpenFor >= 0 && r.OpenFor%time.Second == 0 && r.OpenFor/time.Second <= math.MaxUint32
}

// encode returns action 1, seconds 4, and the door and the address, each after its length.
func (r Request) encode() []byte {
	b := []byte{byte(r.Action)}
	b = binary.BigEndian.AppendUint32(b, uint32(r.OpenFor/time.Second))
	b = append(append(b, byte(len(r.Door))), r.Door...)
	address := r.Address.AsSlice()
	return append(append(b, byte(len(address))), address...)
}

// request reads what encode writes.
func (r *reader) request() (q Request) {
	q.Action = Action(r.u8())
	q.OpenFor = time.Duration(r.u32()) * time.Second
	q.Door = string(r.bytes(int(r.u8())))
	if n := int(r.u8()); n > 0 {
		a, ok := netip.AddrFromSlice(r.bytes(n))
		r.bad = r.bad || !ok
		q.Address = a
	}
	r.bad = r.bad || !q.fits()
	return q
}

// CredentialKind is how a visitor shows who they are.
type CredentialKind uint8

// The kinds of credentials.
const (
	Key         CredentialKind = 1 // an SSH public key that the gateway has
	Certificate CredentialKind = 2 // an SSH certificate
	Secret      CredentialKind = 3 // a machine's shared secret
	Code        CredentialKind = 4 // a rescue code
	Invite      CredentialKind = 5 // an invite's code, and an SSH public key to be enrolled
)

// Credential says who a visitor is, and proves it. Which fields there are depends on the
// kind.
type Credential struct {
	Kind        CredentialKind
	Fingerprint [32]byte // Key: SHA-256 of the public key in SSH's wire format
	ID          [16]byte // Secret: which
	Bearer      [16]byte // Code, Invite: the code itself
	Public      []byte   // Certificate, Invite: the certificate or public key in SSH's wire format
	// Proof is of Message. Key, Certificate, Invite: a signature in SSH's wire format, made
	// as by ssh-keygen -Y sign. Secret: an HMAC-SHA256.
	Proof []byte
}

// identity is all of a credential but its proof: what is signed besides the request.
func (c Credential) identity() []byte {
	b := []byte{byte(c.Kind)}
	switch c.Kind {
	case Key:
		b = append(b, c.Fingerprint[:]...)
	case Secret:
		b = append(b, c.ID[:]...)
	case Code:
		b = append(b, c.Bearer[:]...)
	case Certificate:
		b = appendLong(b, c.Public)
	case Invite:
		b = appendLong(append(b, c.Bearer[:]...), c.Public)
	}
	return b
}

func (c Credential) encode() []byte {
	b := c.identity()
	switch c.Kind {
	case Key, Certificate, Invite:
		return appendLong(b, c.Proof)
	}
	return append(b, c.Proof...)
}

const macSize = 32

// credential reads what encode writes.
func (r *reader) credential() (c Credential) {
	c.Kind = CredentialKind(r.u8())
	switch c.Kind {
	case Key:
		copy(c.Fingerprint[:], r.bytes(len(c.Fingerprint)))
		c.Proof = r.long()
	case Certificate:
		c.Public = r.long()
		c.Proof = r.long()
	case Secret:
		copy(c.ID[:], r.bytes(len(c.ID)))
		c.Proof = r.bytes(macSize)
	case Code:
		copy(c.Bearer[:], r.bytes(len(c.Bearer)))
	case Invite:
		copy(c.Bearer[:], r.bytes(len(c.Bearer)))
		c.Public = r.long()
		c.Proof = r.long()
	default:
		r.bad = true
	}
	return c
}

// Transcript stands for one handshake, with what is asked in it and by whom.
type Transcript [32]byte

// Message returns what a credential's proof is of: all handshakes that it is for, one or
// two. With two, one signature, and one touch of a security key, opens a door over IPv4
// and IPv6.
func Message(of ...Transcript) []byte {
	parts := [][]byte{{byte(len(of))}}
	for _, t := range of {
		parts = append(parts, t[:])
	}
	sum := digest("signature", parts...)
	return sum[:]
}

// pair is the place of a handshake among those that a proof is for.
type pair struct {
	place uint8 // 0: alone; 1: the first of two; 2: the second
	other Transcript
}

func (p pair) encode() []byte {
	if p.place == 0 {
		return []byte{0}
	}
	return append([]byte{p.place}, p.other[:]...)
}

func (r *reader) pair() (p pair) {
	if p.place = r.u8(); p.place > 0 {
		copy(p.other[:], r.bytes(len(p.other)))
	}
	r.bad = r.bad || p.place > 2
	return p
}

func (p pair) message(own Transcript) []byte {
	switch p.place {
	case 1:
		return Message(own, p.other)
	case 2:
		return Message(p.other, own)
	}
	return Message(own)
}

// appendLong appends something of up to 65535 bytes after its length.
func appendLong(b, x []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(x))), x...)
}

// reader reads a message from its beginning. What does not fit makes it bad, and all that
// is read after that zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) bytes(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) long() []byte { return r.bytes(int(r.u16())) }

// ended says whether all was well and only zeros are left.
func (r *reader) ended() bool { return !r.bad && zeros(r.rest) }
