package credential

import (
	"crypto/elliptic"
	"encoding/hex"
	"math/big"
	"slices"
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

// Stands says whether whoever knocked in a name (Party.By) may still have what that led to
// at a door: neither key nor secret nor certificate nor its authority is locked or revoked,
// all that it depends on is still known, for the door and at this time, which is read in
// now's zone. A rescue code's stands although the code is used up.
func (r *Ring) Stands(now time.Time, door, by string) bool {
	id := ID(by)
	if r.o.Locked[id] {
		return false
	}
	if text, ok := strings.CutPrefix(id, secretPrefix); ok {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != 16 {
			return false
		}
		s := r.secrets[[16]byte(raw)]
		return s != nil && s.Options.stands(now, door)
	}
	f, err := ParseFingerprint(id)
	if err != nil {
		return strings.HasPrefix(id, rescuePrefix)
	}
	if i := issuedIn(by); i != nil {
		return i.counts(r, now, door, f)
	}
	lines := r.lines(f)
	if !slices.ContainsFunc(lines, func(k *Key) bool { return k.Options.stands(now, door) }) {
		return false
	}
	return !r.revoked(func(l *Revocations) bool { return l.key(lines[0].Blob, f) })
}

// stands says whether a line is for a door, at this time.
func (o *Options) stands(now time.Time, door string) bool {
	return o.opens(door) && (o.Expires.IsZero() || now.Before(o.Expires.In(now.Location()))) &&
		(o.Schedule == nil || o.Schedule.Covers(now))
}
