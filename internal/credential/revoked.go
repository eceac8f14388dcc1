package credential

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
)

// Revocations are keys and certificates that count no more. The nil pointer is none.
type Revocations struct {
	keys  map[Fingerprint]struct{}
	sha1s map[sha1Hash]struct{}
	certs map[Fingerprint]*revokedCertificates // by authority; anyAuthority for all
}

// anyAuthority stands for all authorities: it is no key's fingerprint.
var anyAuthority Fingerprint

// revokedCertificates are those of one authority.
type revokedCertificates struct {
	serials serials
	ids     map[idHash]struct{}
}

func newRevocations() *Revocations {
	return &Revocations{map[Fingerprint]struct{}{}, map[sha1Hash]struct{}{}, map[Fingerprint]*revokedCertificates{}}
}

// Revoke returns the revocations of keys, by their fingerprints.
func Revoke(keys ...Fingerprint) *Revocations {
	r := newRevocations()
	for _, k := range keys {
		r.keys[k] = struct{}{}
	}
	return r
}

// ParseRevocations reads a list of keys that are revoked: one that ssh-keygen -k has
// made (PROTOCOL.krl), or lines with a public key or its fingerprint. It is read as a
// whole or not at all, and a text with nothing in it is an error: whoever leaves a list out
// would let in whom it keeps out, so an error must not be taken for an empty list. Time
// and memory are bounded by the length of the text.
func ParseRevocations(text []byte) (*Revocations, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("the list of revoked keys is empty, as a file is that was cut short: if nothing is revoked, write the one line # none, or make it with ssh-keygen -k -f FILE")
	}
	r := newRevocations()
	if bytes.HasPrefix(text, []byte(krlMagic)) {
		if err := r.readKRL(text); err != nil {
			return nil, err // half a list would revoke half of what it should
		}
		return r, nil
	}
	for n, line := range lines(text) {
		line = trim(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		f, err := revokedLine(string(line))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		r.keys[f] = struct{}{}
	}
	return r, nil
}

// revokedLine reads a line of a plain list. Keys of kinds that may not knock can be
// revoked, too.
func revokedLine(line string) (Fingerprint, error) {
	kind, rest := field(line)
	if rest == "" {
		return ParseFingerprint(kind)
	}
	coded, _ := field(rest)
	blob, err := base64.StdEncoding.Strict().DecodeString(coded)
	if err != nil || kindOf(blob) != kind || refusedKinds[kind] == isCertificate || !whole(blob) {
		return Fingerprint{}, errors.New(`no revoked key: allowed are a line of a .pub file, a fingerprint ("SHA256:..."), and for certificates a list that ssh-keygen -k has made`)
	}
	return FingerprintOf(blob), nil
}

// whole says whether a key of any kind is as long as it says: one that was cut short
// would revoke nobody.
func whole(blob reader) bool {
	n := 0
	err := blob.each(func([]byte) bool { n++; return true })
	return err == nil && n > 1
}

// key says whether a public key is revoked.
func (r *Revocations) key(blob []byte, f Fingerprint) bool {
	if r == nil {
		return false
	}
	if len(r.sha1s) == 0 {
		return r.has(f, sha1Hash{})
	}
	return r.has(f, sha1HashOf(blob))
}

// has is key by both hashes of a key.
func (r *Revocations) has(f Fingerprint, hash sha1Hash) bool {
	_, ok := r.keys[f]
	_, ok2 := r.sha1s[hash]
	return ok || ok2
}

// certificate says whether a certificate is revoked, as ssh_krl_check_key (krl.c) does:
// itself, its key, or its authority.
func (r *Revocations) certificate(c *certificate) bool {
	if r == nil {
		return false
	}
	authority := FingerprintOf(c.authority)
	if r.key(c.key, FingerprintOf(c.key)) || r.key(c.authority, authority) {
		return true
	}
	return r.number(authority, c.serial, idHashOf(c.id))
}

// number says whether an authority's certificate of a serial number and a key ID is
// revoked.
func (r *Revocations) number(authority Fingerprint, serial uint64, id idHash) bool {
	for _, of := range []Fingerprint{authority, anyAuthority} {
		revoked := r.certs[of]
		if revoked == nil {
			continue
		}
		if _, ok := revoked.ids[id]; ok {
			return true
		}
		// 0 is the number of certificates that were given none.
		if serial != 0 && revoked.serials.has(serial) {
			return true
		}
	}
	return false
}
