package credential

import (
	"crypto/elliptic"
	"math/big"
	"sync"

	"golang.org/x/crypto/ssh"
)

// singles finds keys and secrets by the beginnings of their identities, for single
// packets.
type singles struct {
	once    sync.Once
	keys    map[[8]byte]Fingerprint
	secrets map[[8]byte][16]byte
}

// fill is called when the first single packet comes: most gateways take none.
func (s *singles) fill(o *Origins) {
	s.keys, s.secrets = make(map[[8]byte]Fingerprint), make(map[[8]byte][16]byte)
	for _, set := range []*Keys{o.File, o.Enrolled} {
		for _, k := range set.All() {
			s.keys[[8]byte(k.Fingerprint[:])] = k.Fingerprint
		}
	}
	for _, secret := range o.Secrets {
		s.secrets[[8]byte(secret.ID[:])] = secret.ID
	}
}

// Single returns whose key or secret begins with an identity, if proof is its proof for a
// message as single packets have it: an Ed25519 signature, r and s of an ECDSA signature
// with P-256, or a secret's proof and zeros.
func (r *Ring) Single(id [8]byte, message []byte, proof [64]byte) (*Party, bool) {
	r.singles.once.Do(func() { r.singles.fill(&r.o) })
	if secret, ok := r.singles.secrets[id]; ok {
		p, ok := r.Secret(secret, message, [32]byte(proof[:]))
		return p, ok && [32]byte(proof[32:]) == [32]byte{}
	}
	f := r.singles.keys[id] // of nobody, if it is not known: that costs the same
	return r.Key(f, message, r.singleSignature(f, proof))
}

// singleSignature is a proof as it is sent elsewhere, of the form that the key's
// signatures have.
func (r *Ring) singleSignature(f Fingerprint, proof [64]byte) []byte {
	for _, set := range []*Keys{r.o.File, r.o.Enrolled} {
		for _, k := range set.find(f, false) {
			if kindOf(k.Blob) == ssh.KeyAlgoECDSA256 {
				return ecdsaSignature(proof)
			}
		}
	}
	return ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: proof[:]})
}

func ecdsaSignature(proof [64]byte) []byte {
	n := elliptic.P256().Params().N
	rs := struct{ R, S *big.Int }{new(big.Int).SetBytes(proof[:32]), new(big.Int).SetBytes(proof[32:])}
	if rs.R.Sign() == 0 || rs.S.Sign() == 0 || rs.R.Cmp(n) >= 0 || rs.S.Cmp(n) >= 0 {
		rs.R, rs.S = big.NewInt(1), big.NewInt(1) // nobody's
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
		copy(proof[:], s.blob)
		return proof, true
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

// Stands says whether whoever has an identity (Party.ID) may still have what that led to:
// it is neither locked nor revoked, and where it is a key's or a secret's, that is still
// known. Whose certificate it was cannot be known.
func (r *Ring) Stands(id string) bool {
	if r.o.Locked[id] {
		return false
	}
	f, err := ParseFingerprint(id)
	if err != nil {
		return r.secretStands(id)
	}
	var blob []byte
	authorities := false
	for _, set := range []*Keys{r.o.File, r.o.Enrolled} {
		for _, k := range set.find(f, false) {
			blob = k.Blob
		}
		for _, k := range set.All() {
			authorities = authorities || k.Authority
		}
	}
	return (blob != nil || authorities) && !r.revoked(func(l *Revocations) bool { return l.key(blob, f) })
}

func (r *Ring) secretStands(id string) bool {
	for i := range r.o.Secrets {
		if r.o.Secrets[i].identity() == id {
			return true
		}
	}
	return len(id) >= len(rescuePrefix) && id[:len(rescuePrefix)] == rescuePrefix
}

// Identity is what Party.ID is of whoever has the secret.
func (s Secret) Identity() string { return s.identity() }

// Type is the key's type, as "ssh-ed25519".
func (k Key) Type() string { return kindOf(k.Blob) }
