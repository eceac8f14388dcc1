package credential

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"math/big"
	"slices"

	"golang.org/x/crypto/ssh"
)

// sshsigHash is the one hash of a message under a signature. The name of the hash is
// part of what is signed and is not sent, so that to accept sha256 too would mean
// to verify twice; ssh-keygen -Y sign and agents' clients use sha512 unless told otherwise.
const sshsigHash = "sha512"

// Signed returns what a key signs for a message: the data of PROTOCOL.sshsig, section 3.
// An agent is asked to sign it; ssh-keygen -Y sign makes the same of the message.
func Signed(message []byte) []byte {
	hash := sha512.Sum512(message)
	b := append(make([]byte, 0, 128), "SSHSIG"...)
	b = appendString(b, Namespace)
	b = appendString(b, "") // reserved
	b = appendString(b, sshsigHash)
	return appendString(b, hash[:])
}

// The flags of a security key's signature (PROTOCOL.u2f, CTAP2's authenticator data).
const (
	flagPresent  = 0x01 // somebody touched it
	flagVerified = 0x04 // it has verified its user
)

// signature is one as it is sent (RFC 4253, section 6.6, and PROTOCOL.u2f), taken apart.
type signature struct {
	format string
	blob   []byte
	rest   []byte // of a security key: flags and counter
	flags  byte
}

// Lengths in bytes.
const (
	restLength    = 1 + 4 // flags and counter
	mostSignature = mostRSA / 8
)

// parseSignature reads a signature, exactly: nothing may follow it, and there is one way
// to write it.
func parseSignature(b []byte) (s signature, ok bool) {
	r := reader(b)
	format, ok := r.str()
	blob, ok2 := r.str()
	s = signature{format: string(format), blob: blob}
	if isSecurityKey(s.format) {
		s.rest, _ = r.take(restLength)
		if s.rest == nil {
			return s, false
		}
		s.flags = s.rest[0]
	}
	return s, ok && ok2 && len(r) == 0 && s.formed()
}

// formed says whether the inner blob is one of its format, as it is written.
func (s signature) formed() bool {
	switch s.format {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519:
		return len(s.blob) == ed25519.SignatureSize
	case ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512:
		// OpenSSH pads to the modulus, as RFC 8332, section 3, demands.
		return len(s.blob) >= leastRSA/8 && len(s.blob) <= mostSignature
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
		var n struct{ R, S *big.Int }
		return len(s.blob) <= 2*(4+67) && ssh.Unmarshal(s.blob, &n) == nil &&
			n.R.Sign() > 0 && n.S.Sign() > 0 && string(ssh.Marshal(n)) == string(s.blob)
	}
	return false
}

// costly are formats whose verification takes many times that of the others, since Go
// has no assembly for their curves. A key's format is its kind for both.
var costly = map[string]bool{ssh.KeyAlgoECDSA384: true, ssh.KeyAlgoECDSA521: true}

// formatOf says whether a key of a type signs in a format.
func formatOf(kind, format string) bool {
	for _, k := range kinds {
		if k.name == kind {
			return slices.Contains(k.formats, format)
		}
	}
	return false
}

// fits says whether a signature could be a key's, so that to verify it takes as long as
// its format and its length say.
func (s signature) fits(k ssh.PublicKey) bool {
	n, ok := k.(ssh.CryptoPublicKey).CryptoPublicKey().(*rsa.PublicKey)
	return !ok || n.Size() == len(s.blob) && new(big.Int).SetBytes(s.blob).Cmp(n.N) < 0
}

// verify says whether s is the signature for data of a key, blob as it is sent. Where s
// does not fit the key, what is verified is as good as it would have been, and is nobody's.
func (s signature) verify(blob, data []byte) bool {
	var k ssh.PublicKey
	var err error
	fits := formatOf(kindOf(blob), s.format)
	if fits {
		k, err = parseBlob(blob)
		fits = err == nil && s.fits(k)
	}
	if !fits {
		blob = s.nobody()
		if k, err = parseBlob(blob); err != nil {
			return false
		}
	}
	format := s.format
	if isSecurityKey(format) {
		data = assertion(application(blob), s.rest, data)
		if k, err = ssh.NewPublicKey(k.(ssh.CryptoPublicKey).CryptoPublicKey()); err != nil {
			return false
		}
		format = k.Type()
	}
	return k.Verify(data, &ssh.Signature{Format: format, Blob: s.blob}) == nil && fits
}

// assertion is what a security key signs for data (PROTOCOL.u2f, "SSH U2F signatures").
// The counter is within, and nobody looks at it: OpenSSH does not either.
func assertion(application string, rest, data []byte) []byte {
	app, hash := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	return slices.Concat(app[:], rest, hash[:])
}

// nobody is a public key, as it is sent, that signatures of the format fit and that no
// ring has. Who has its private key does not matter.
func (s signature) nobody() []byte {
	if blob := nobodies[s.format]; blob != nil {
		return blob
	}
	modulus := bytes.Repeat([]byte{0xff}, len(s.blob))
	blob := appendString(nil, ssh.KeyAlgoRSA)
	blob = appendString(blob, []byte{1, 0, 1}) // the exponent
	return appendString(blob, append([]byte{0}, modulus...))
}

// nobodies are nobody's keys for each format but RSA's: multiples by one of the curves'
// base points.
var nobodies = map[string][]byte{
	ssh.KeyAlgoED25519:    fields(ssh.KeyAlgoED25519, base25519),
	ssh.KeyAlgoSKED25519:  fields(ssh.KeyAlgoSKED25519, base25519, "ssh:"),
	ssh.KeyAlgoECDSA256:   fields(ssh.KeyAlgoECDSA256, "nistp256", basePoint(ecdh.P256(), 32)),
	ssh.KeyAlgoECDSA384:   fields(ssh.KeyAlgoECDSA384, "nistp384", basePoint(ecdh.P384(), 48)),
	ssh.KeyAlgoECDSA521:   fields(ssh.KeyAlgoECDSA521, "nistp521", basePoint(ecdh.P521(), 66)),
	ssh.KeyAlgoSKECDSA256: fields(ssh.KeyAlgoSKECDSA256, "nistp256", basePoint(ecdh.P256(), 32), "ssh:"),
}

// base25519 is the base point as RFC 8032, section 5.1, encodes it: y = 4/5.
const base25519 = "\x58" + "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66" +
	"\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66"

// basePoint is a curve's, uncompressed; its scalars have so many bytes.
func basePoint(c ecdh.Curve, scalar int) string {
	one := make([]byte, scalar)
	one[scalar-1] = 1
	k, err := c.NewPrivateKey(one)
	if err != nil {
		panic("credential: internal error: " + err.Error())
	}
	return string(k.PublicKey().Bytes())
}

func fields(list ...string) (b []byte) {
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}
