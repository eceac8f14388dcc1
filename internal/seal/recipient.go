package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/sha3"
	"encoding/binary"
	"fmt"
	"slices"
)

// recipient is the gateway's side of HPKE in base mode (RFC 9180) for what is sealed for
// one purpose, with one of its keys. It is what hpke.NewRecipient is, but for the memory
// that takes and for what is the same for all: a fifth of a hello's work beside its
// multiplications. Visitors use crypto/hpke.
type recipient struct {
	key *staticKey
	// What all labels begin with (section 4): of the suite, and of its KEM.
	label, kem []byte
	schedule   []byte // mode, psk_id_hash and info_hash (section 5.1)
}

// staticKey is the key pair of a suite.
type staticKey struct {
	suite  Suite
	point  *ecdh.PrivateKey
	public []byte                     // of point
	module *mlkem.DecapsulationKey768 // nil: X25519 alone
}

// newStaticKey takes a key of HPKE's apart (RFC 9180, section 7.1.2, and
// draft-ietf-hpke-pq, section 4).
func newStaticKey(s Suite, key hpke.PrivateKey) (*staticKey, error) {
	secret, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	k := &staticKey{suite: s}
	if s == Hybrid {
		both := sha3.SumSHAKE256(secret, mlkem.SeedSize+keySize)
		if k.module, err = mlkem.NewDecapsulationKey768(both[:mlkem.SeedSize]); err != nil {
			return nil, err
		}
		secret = both[mlkem.SeedSize:]
	}
	if k.point, err = ecdh.X25519().NewPrivateKey(secret); err != nil {
		return nil, err
	}
	k.public = k.point.PublicKey().Bytes()
	public := k.public
	if k.module != nil {
		public = append(k.module.EncapsulationKey().Bytes(), k.public...)
	}
	if !slices.Equal(public, key.PublicKey().Bytes()) {
		return nil, fmt.Errorf("internal error: the parts of the key are not its own")
	}
	return k, nil
}

func newRecipient(key *staticKey, info []byte) *recipient {
	suite := binary.BigEndian.AppendUint16([]byte("HPKE-v1HPKE"), kems[key.suite].ID())
	suite = binary.BigEndian.AppendUint16(suite, kdf.ID())
	r := &recipient{key: key, label: binary.BigEndian.AppendUint16(suite, gcm.ID())}
	r.kem = binary.BigEndian.AppendUint16([]byte("HPKE-v1KEM"), kems[key.suite].ID())
	id, of := mac(nil, r.label, []byte("psk_id_hash")), mac(nil, r.label, []byte("info_hash"), info)
	r.schedule = slices.Concat([]byte{0}, id[:], of[:])
	return r
}

// labelled is LabeledExpand (section 4).
func labelled(key, suite []byte, label string, info []byte, n int) []byte {
	sum := mac(key, []byte{0, byte(n)}, suite, []byte(label), info, onlyBlock)
	return sum[:n]
}

// open opens what was sealed first, with its kind authenticated, and returns the secret
// that others are exported by; nil for what was not sealed for it.
func (r *recipient) open(k kind, enc, sealed []byte) (text, exporter []byte) {
	shared := r.key.shared(r.kem, enc)
	if shared == nil {
		return nil, nil
	}
	secret := mac(shared, r.label, []byte("secret"))
	key := labelled(secret[:], r.label, "key", r.schedule, 32)
	nonce := labelled(secret[:], r.label, "base_nonce", r.schedule, nonceSize)
	text, err := aead(key).Open(nil, nonce, sealed, []byte{byte(k)})
	if err != nil {
		return nil, nil
	}
	return text, labelled(secret[:], r.label, "exp", r.schedule, 32)
}

// export is Export (section 5.3).
func (r *recipient) export(exporter []byte, context string) []byte {
	return labelled(exporter, r.label, "sec", []byte(context), 32)
}

// shared is Decap; nil for a public key of low order.
func (k *staticKey) shared(label, enc []byte) []byte {
	point := enc[len(enc)-keySize:]
	dh, err := ecdhShared(k.point, point)
	if err != nil {
		return nil
	}
	if k.module == nil { // section 4.1
		of := mac(nil, label, []byte("eae_prk"), dh)
		sum := mac(of[:], []byte{0, 32}, label, []byte("shared_secret"), enc, k.public, onlyBlock)
		return sum[:]
	}
	module, err := k.module.Decapsulate(enc[:len(enc)-keySize])
	if err != nil {
		return nil
	}
	// The combiner of MLKEM768-X25519 (draft-ietf-hpke-pq, section 4).
	sum := sha3.Sum256(slices.Concat(module, dh, point, k.public, []byte(`\./`+`/^\`)))
	return sum[:]
}
