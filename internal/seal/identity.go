package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

// Fingerprint is the SHA-256 of a gateway's bundle. A visitor who has it from an invite
// knows the gateway by it.
type Fingerprint [32]byte

const fingerprintPrefix = "SHA256:"

// String returns the fingerprint as OpenSSH writes those of its keys: "SHA256:" and
// base64 without padding.
func (f Fingerprint) String() string {
	return fingerprintPrefix + base64.RawStdEncoding.EncodeToString(f[:])
}

// ParseFingerprint is the inverse of String.
func ParseFingerprint(s string) (f Fingerprint, err error) {
	const allowed = `"SHA256:" and 43 characters of base64`
	text, ok := strings.CutPrefix(s, fingerprintPrefix)
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != len(f) {
		return f, fmt.Errorf("%q is no fingerprint: allowed is %s", s, allowed)
	}
	copy(f[:], b)
	return f, nil
}

// The bundle is the gateway's public keys: of X25519, and of the hybrid.
const (
	hybridSize = 1216
	bundleSize = keySize + hybridSize

	encHybrid = 1120
	encX25519 = 32
)

var (
	kdf  = hpke.HKDFSHA256()
	gcm  = hpke.AES256GCM()
	kems = map[Suite]hpke.KEM{Hybrid: hpke.MLKEM768X25519(), X25519: hpke.DHKEM(ecdh.X25519())}
)

// Identity is a gateway's static key, with a key pair for each suite. It does not change.
type Identity struct {
	keys        map[Suite]hpke.PrivateKey
	bundle      []byte
	fingerprint Fingerprint
}

// NewIdentity derives the key pairs from a secret seed (RFC 9180, DeriveKeyPair).
func NewIdentity(seed [32]byte) (*Identity, error) {
	id := &Identity{keys: make(map[Suite]hpke.PrivateKey)}
	for suite, kem := range kems {
		key, err := kem.DeriveKeyPair(seed[:])
		if err != nil {
			return nil, fmt.Errorf("derive the gateway's key of %s: %w", suite, err)
		}
		id.keys[suite] = key
	}
	id.bundle = append(id.keys[X25519].PublicKey().Bytes(), id.keys[Hybrid].PublicKey().Bytes()...)
	id.fingerprint = sha256.Sum256(id.bundle)
	return id, nil
}

// Fingerprint is by what visitors know the gateway.
func (id *Identity) Fingerprint() Fingerprint { return id.fingerprint }

// Bundle is the gateway's public keys, 1248 bytes, which the caller must not change.
func (id *Identity) Bundle() []byte { return id.bundle }

// gatewayKey returns the key of a suite in a bundle that has the fingerprint.
func gatewayKey(bundle []byte, f Fingerprint, s Suite) (hpke.PublicKey, error) {
	if len(bundle) != bundleSize || sha256.Sum256(bundle) != f {
		return nil, fmt.Errorf("the gateway's keys do not have the fingerprint %s", f)
	}
	public := bundle[:keySize]
	if s == Hybrid {
		public = bundle[keySize:]
	}
	key, err := kems[s].NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("the gateway's key of %s: %w", s, err)
	}
	return key, nil
}

// hpkeInfo is the info of RFC 9180's key schedule: the purpose, the gateway, and a secret
// of the profile's, so that the keys are not for whoever has the gateway's key alone.
func hpkeInfo(purpose string, p Profile, f Fingerprint) []byte {
	return append([]byte(label+purpose), derive(p[:], f[:], "info", 32)...)
}
