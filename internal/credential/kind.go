package credential

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// kinds are the types of keys that may knock, each with what signs for it: the formats
// of its signatures. SHA-1 is not among them (RFC 8332, section 5).
var kinds = []struct {
	name    string
	formats []string
}{
	{ssh.KeyAlgoED25519, []string{ssh.KeyAlgoED25519}},
	{ssh.KeyAlgoSKED25519, []string{ssh.KeyAlgoSKED25519}},
	{ssh.KeyAlgoECDSA256, []string{ssh.KeyAlgoECDSA256}},
	{ssh.KeyAlgoECDSA384, []string{ssh.KeyAlgoECDSA384}},
	{ssh.KeyAlgoECDSA521, []string{ssh.KeyAlgoECDSA521}},
	{ssh.KeyAlgoSKECDSA256, []string{ssh.KeyAlgoSKECDSA256}},
	{ssh.KeyAlgoRSA, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}},
}

// refusedKinds are types that people have, with what to do instead.
var refusedKinds = map[string]string{
	"ssh-dss":            "DSA is too short to be safe; make another key with: ssh-keygen -t ed25519",
	ssh.KeyAlgoRSASHA256: "this names a signature; the key's type is ssh-rsa",
	ssh.KeyAlgoRSASHA512: "this names a signature; the key's type is ssh-rsa",
	ssh.CertAlgoRSAv01:   isCertificate, ssh.CertAlgoED25519v01: isCertificate, ssh.CertAlgoSKED25519v01: isCertificate,
	ssh.CertAlgoECDSA256v01: isCertificate, ssh.CertAlgoECDSA384v01: isCertificate, ssh.CertAlgoECDSA521v01: isCertificate,
	ssh.CertAlgoSKECDSA256v01: isCertificate,
}

const isCertificate = `this is a certificate, which its owner shows; what stands here is its authority: cert-authority,principals="..." and the authority's public key`

func isKind(name string) bool {
	for _, k := range kinds {
		if k.name == name {
			return true
		}
	}
	return false
}

func kindList() string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// Bits of RSA keys: fewer can be broken, and with more a signature would take longer
// to verify than all else that a knock costs.
const (
	leastRSA = 2048
	mostRSA  = 8192
)

// checkBlob says what is wrong with a public key for one that is said to be of a type.
func checkBlob(kind string, blob []byte) error {
	if kindOf(blob) != kind {
		return fmt.Errorf("the key after %s is of another type, or damaged: copy the whole line of the .pub file", shown(kind))
	}
	// An Ed25519 key is any 32 bytes. Most keys are of this type, and files of them can be
	// long, so that they are not taken apart by reflection.
	if kind == ssh.KeyAlgoED25519 && string(blob) == string(fields(kind, string(blob[len(blob)-min(len(blob), 32):]))) {
		return nil
	}
	_, err := parseBlob(blob)
	return err
}

// parseBlob reads a public key that may knock: one of the kinds, long enough, and sent
// as it would be sent back.
func parseBlob(blob []byte) (ssh.PublicKey, error) {
	kind := kindOf(blob)
	if !isKind(kind) {
		return nil, fmt.Errorf("a key of type %s: allowed are %s", shown(kind), kindList())
	}
	k, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, fmt.Errorf("the %s key is damaged: copy the whole line of the .pub file", kind)
	}
	return k, checkKey(k, blob)
}

// checkKey says what is wrong with a key that could be read.
func checkKey(k ssh.PublicKey, blob []byte) error {
	// One key has one fingerprint: leading zeros and the like would make more of them.
	if string(k.Marshal()) != string(blob) {
		return fmt.Errorf("the %s key is not written as OpenSSH writes it: make its .pub file anew with ssh-keygen -y", k.Type())
	}
	if isSecurityKey(k.Type()) && !strings.HasPrefix(application(blob), "ssh:") {
		return fmt.Errorf(`the key is for the application %s: allowed are those that begin with "ssh:", which ssh-keygen makes`,
			shown(application(blob)))
	}
	c, ok := k.(ssh.CryptoPublicKey)
	if !ok {
		return fmt.Errorf("no %s keys here", k.Type())
	}
	rsaKey, ok := c.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return nil
	}
	switch bits := rsaKey.N.BitLen(); {
	case bits < leastRSA:
		return fmt.Errorf("an RSA key of %d bits is too short to be safe: allowed are %d to %d; better: ssh-keygen -t ed25519",
			bits, leastRSA, mostRSA)
	case bits > mostRSA:
		return fmt.Errorf("an RSA key of %d bits takes too long to verify: allowed are %d to %d; better: ssh-keygen -t ed25519",
			bits, leastRSA, mostRSA)
	}
	if rsaKey.N.Bit(0) == 0 {
		return errors.New("the RSA key is damaged: copy the whole line of the .pub file")
	}
	return nil
}

// kindOf is the type that a key or a certificate names; "" if it names none.
func kindOf(blob []byte) string {
	r := reader(blob)
	kind, _ := r.str()
	return string(kind)
}

func isSecurityKey(kind string) bool { return strings.HasPrefix(kind, "sk-") }

// application is what a security key is for: the last of its fields (PROTOCOL.u2f).
func application(blob []byte) string {
	last, r := []byte(nil), reader(blob)
	for len(r) > 0 {
		s, ok := r.str()
		if !ok {
			return ""
		}
		last = s
	}
	return string(last)
}
