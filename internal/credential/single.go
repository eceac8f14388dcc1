package credential

import (
	"crypto/elliptic"
	"encoding/hex"
	"math/big"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Single returns whose key or secret begins with an identity, if proof is its proof for a
// message as single packets have it: an Ed25519 signature, r and s of an ECDSA signature
// with P-256, or a secret's proof and zeros.
func (r *Ring) Single(id [8]byte, message []byte, proof [64]byte) (*Party, bool) {
	if secret := r.singles[id]; secret != nil {
		p, ok := r.Secret(secret.ID, message, [32]byte(proof[:]))
		return p, ok && [32]byte(proof[32:]) == [32]byte{}
	}
	k := r.o.File.begins(id)
	if k == nil {
		k = r.o.Enrolled.begins(id)
	}
	if k == nil {
		k = &Key{} // nobody's: that costs the same
	}
	return r.Key(k.Fingerprint, message, k.singleSignature(proof))
}

// begins returns a key whose fingerprint begins with an identity; nil: there is none. Two
// keys with the same 64 bits nobody finds: it would take 2^64 tries to get in another's way.
func (k *Keys) begins(id [8]byte) *Key {
	if at := k.at(id); len(at) > 0 {
		return &k.list[at[0]]
	}
	return nil
}

// singleSignature is a proof as it is sent elsewhere, in the form that the key's
// signatures have.
func (k *Key) singleSignature(proof [64]byte) []byte {
	if kindOf(k.Blob) != ssh.KeyAlgoECDSA256 {
		return ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: proof[:]})
	}
	rs := struct{ R, S *big.Int }{new(big.Int).SetBytes(proof[:32]), new(big.Int).SetBytes(proof[32:])}
	if n := elliptic.P256().Params().N; rs.R.Sign() == 0 || rs.S.Sign() == 0 || rs.R.Cmp(n) >= 0 || rs.S.Cmp(n) >= 0 {
		rs.R, rs.S = big.NewInt(1), big.NewInt(1) // as wrong, and it takes its time
	}
	return ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoECDSA256, Blob: ssh.Marshal(rs)})
}

// SingleProof returns a signature, as it is sent elsewhere, in the form of single packets;
// false: it has none, as RSA's and those of security keys.
func SingleProof(sig []byte) (proof [64]byte, ok bool) {
	s, ok := parseSignature(sig)
	if !ok {
		return proof, false
	}
	switch s.format {
	case ssh.KeyAlgoED25519:
		return [64]byte(s.blob), true
	case ssh.KeyAlgoECDSA256:
		var n struct{ R, S *big.Int }
		if ssh.Unmarshal(s.blob, &n) != nil || n.R.BitLen() > 256 || n.S.BitLen() > 256 {
			return proof, false
		}
		n.R.FillBytes(proof[:32])
		n.S.FillBytes(proof[32:])
		return proof, true
	}
	return proof, false
}

// Standing is what of somebody's grants at a door may stand: those to sources that one of
// these admits. nil: none.
type Standing []standing

// standing is that of one line.
type standing struct {
	from  *Addresses
	until time.Time // zero: for ever
}

// At says whether a grant to a source may stand, and until when at the latest; the zero
// Time: that is not bounded.
func (s Standing) At(source netip.Addr) (until time.Time, stands bool) {
	for _, l := range s {
		switch {
		case l.from != nil && !l.from.Admit(source):
		case l.until.IsZero():
			return l.until, true
		case l.until.After(until):
			until, stands = l.until, true
		}
	}
	return until, stands
}

// Stands says what whoever knocked in a name (Party.By) may still have of what that led to
// at a door: neither key nor secret nor certificate nor its authority is locked or revoked,
// and all that it depends on is still known, for the door, the source, and at this time,
// which is read in now's zone. A rescue code's stands although the code is used up.
func (r *Ring) Stands(now time.Time, door, by string) Standing {
	id := ID(by)
	if r.o.Locked[id] {
		return nil
	}
	if text, ok := strings.CutPrefix(id, secretPrefix); ok {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != 16 || r.secrets[[16]byte(raw)] == nil {
			return nil
		}
		return r.secrets[[16]byte(raw)].Options.stands(nil, now, door)
	}
	f, err := ParseFingerprint(id)
	if err != nil && strings.HasPrefix(id, rescuePrefix) {
		return Standing{{}}
	} else if err != nil {
		return nil
	}
	if i := issuedIn(by); i != nil {
		return i.counts(r, now, door, f)
	}
	lines := r.lines(f)
	if len(lines) == 0 || r.revoked(func(l *Revocations) bool { return l.key(lines[0].Blob, f) }) {
		return nil
	}
	var s Standing
	for _, l := range lines {
		s = l.Options.stands(s, now, door)
	}
	return s
}

// stands adds what may stand by a line that is for a door, at this time.
func (o *Options) stands(s Standing, now time.Time, door string) Standing {
	ends, lasts := o.ends(now, now.Location())
	if !o.opens(door) || !lasts {
		return s
	}
	return append(s, standing{o.From, ends})
}

// ends is when a line's time, or its hours, end; zero: never. False: it does not count now.
func (o *Options) ends(now time.Time, zone *time.Location) (at time.Time, counts bool) {
	most := limit{now: now}
	if !o.Expires.IsZero() && !most.until(o.Expires.In(zone)) {
		return at, false
	}
	if s := o.Schedule; s != nil {
		turn, turns := s.Turns(now.In(zone))
		if !s.Covers(now.In(zone)) {
			return at, false
		}
		if turns {
			most.until(turn)
		}
	}
	if most.most > 0 {
		at = now.Add(most.most)
	}
	return at, true
}
