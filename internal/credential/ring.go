package credential

import "crypto/subtle"

// Keys is a set of keys, found by their fingerprints. The nil pointer is the empty set.
type Keys struct {
	list  []Key
	first map[Fingerprint]uint32   // the place in list
	again map[Fingerprint][]uint32 // of further lines with the same key
}

// NewKeys returns the set of keys, which the caller does not change after that. Lines
// with the same key all count, as with sshd: what one of them permits is permitted.
func NewKeys(list []Key) *Keys {
	k := &Keys{list, make(map[Fingerprint]uint32, len(list)), map[Fingerprint][]uint32{}}
	for i := range list {
		f := list[i].Fingerprint
		if _, ok := k.first[f]; ok {
			k.again[f] = append(k.again[f], uint32(i))
			continue
		}
		k.first[f] = uint32(i)
	}
	return k
}

// All are the keys of the set, in their order. They are not to be changed.
func (k *Keys) All() []Key {
	if k == nil {
		return nil
	}
	return k.list
}

// find returns the lines of a key that may knock, or of an authority.
func (k *Keys) find(f Fingerprint, authority bool) (found []*Key) {
	if k == nil {
		return nil
	}
	i, ok := k.first[f]
	if !ok {
		return nil
	}
	for _, i := range append([]uint32{i}, k.again[f]...) {
		if k.list[i].Authority == authority {
			found = append(found, &k.list[i])
		}
	}
	return found
}

// Origins are what a ring is made of. Each of them may be nil.
type Origins struct {
	File     *Keys // the operator's file: keys and authorities
	Enrolled *Keys // by invites: keys that count where File has no line for them
	Secrets  []Secret
	Rescues  []Code
	Invites  []Code
	Revoked  []*Revocations
	Locked   map[string]bool // identities (ID), those of authorities too
}

// Ring finds credentials and verifies what visitors show. It does not change: a ring
// that is made of other origins takes its place. To make one costs nothing for the keys,
// whose sets are made before.
//
// Whatever a visitor shows, it costs what its form costs: a credential that is not
// known is verified against a key of nobody's.
type Ring struct {
	o       Origins
	secrets map[[16]byte]*Secret
	rescues map[[32]byte]*Code
	invites map[[32]byte]*Code
	verify  func(s signature, blob, data []byte) bool // signature.verify; tests count its calls
	singles singles
}

// NewRing returns the ring of some origins, which are not changed after that.
func NewRing(o Origins) *Ring {
	r := &Ring{o: o, secrets: map[[16]byte]*Secret{}, verify: signature.verify}
	for i := range o.Secrets {
		r.secrets[o.Secrets[i].ID] = &o.Secrets[i]
	}
	r.rescues, r.invites = byHash(o.Rescues), byHash(o.Invites)
	return r
}

func byHash(list []Code) map[[32]byte]*Code {
	m := make(map[[32]byte]*Code, len(list))
	for i := range list {
		m[list[i].Hash] = &list[i]
	}
	return m
}

// Key returns whose key a fingerprint is of, if sig is its signature for a message.
func (r *Ring) Key(f Fingerprint, message, sig []byte) (*Party, bool) {
	s, ok := parseSignature(sig)
	if !ok {
		return nil, false
	}
	lines := r.o.File.find(f, false)
	if lines == nil {
		lines = r.o.Enrolled.find(f, false)
	}
	blob, name := s.nobody(), ""
	if len(lines) > 0 {
		blob, name = lines[0].Blob, lines[0].Name
	}
	if !r.verify(s, blob, Signed(message)) || len(lines) == 0 {
		return nil, false
	}
	p := r.party(f.String(), name)
	p.security, p.flags = isSecurityKey(s.format), s.flags
	p.revoked = r.revoked(func(l *Revocations) bool { return l.key(blob, f) })
	for _, l := range lines {
		p.options = append(p.options, l.Options)
	}
	return p, true
}

// Certificate returns whose certificate it is, if an authority of the ring has signed it
// and sig is its key's signature for a message. Its name is its key ID.
func (r *Ring) Certificate(certificate, message, sig []byte) (*Party, bool) {
	s, ok := parseSignature(sig)
	c, ok2 := parseCertificate(certificate)
	if !ok || !ok2 {
		return nil, false
	}
	authority := FingerprintOf(c.authority)
	lines := r.o.File.find(authority, true)
	// Both in any case: neither tells by its time that the authority is known.
	issued, shown := r.verify(c.signature, c.authority, c.signed), r.verify(s, c.key, Signed(message))
	if !issued || !shown || len(lines) == 0 {
		return nil, false
	}
	p := r.party(FingerprintOf(c.key).String(), Name(c.id))
	p.security, p.flags = isSecurityKey(s.format), s.flags
	p.certificate = c
	p.locked = p.locked || r.o.Locked[authority.String()]
	p.revoked = r.revoked(func(l *Revocations) bool { return l.certificate(c) })
	for _, l := range lines {
		if c.certifies(l.Options.Principals) {
			p.options = append(p.options, l.Options)
		}
	}
	return p, true
}

// Secret returns which machine has the secret that an identity is of, if proof is its
// proof for a message.
func (r *Ring) Secret(id [16]byte, message []byte, proof [32]byte) (*Party, bool) {
	s := r.secrets[id]
	known := s != nil
	if !known {
		s = &Secret{}
	}
	want := SecretProof(s.secret, message)
	if subtle.ConstantTimeCompare(want[:], proof[:]) != 1 || !known {
		return nil, false
	}
	p := r.party(s.identity(), s.Name)
	p.options = []*Options{s.Options}
	return p, true
}

// Rescue returns what a rescue code lets in, and the code, which is the caller's to
// strike out.
func (r *Ring) Rescue(code [16]byte) (*Party, Code, bool) {
	// The place of a hash tells nothing of a code, so that the map may be quick.
	c := r.rescues[HashCode(code)]
	if c == nil {
		return nil, Code{}, false
	}
	p := r.party(c.identity(), c.Name)
	p.options, p.ends = []*Options{c.options()}, c.Expires
	return p, *c, true
}

// Invite returns an invite and the key that it may enrol, if sig is the key's signature
// for a message. The key's name is the invite's. That the invite counts once, and
// is not over (Permits of the party), is the caller's to see to.
func (r *Ring) Invite(code [16]byte, blob, message, sig []byte) (*Party, Code, Key, bool) {
	s, ok := parseSignature(sig)
	if _, err := parseBlob(blob); err != nil || !ok {
		return nil, Code{}, Key{}, false
	}
	f := FingerprintOf(blob)
	c := r.invites[HashCode(code)]
	if !r.verify(s, blob, Signed(message)) || c == nil || c.Key != nil && *c.Key != f {
		return nil, Code{}, Key{}, false
	}
	p := r.party(f.String(), c.Name)
	p.security, p.flags = isSecurityKey(s.format), s.flags
	p.revoked = r.revoked(func(l *Revocations) bool { return l.key(blob, f) })
	p.options, p.ends = []*Options{c.options()}, c.Expires
	return p, *c, Key{Blob: blob, Fingerprint: f, Name: c.Name, Options: c.options()}, true
}

func (c *Code) options() *Options {
	if c.Options == nil {
		return &none
	}
	return c.Options
}

func (r *Ring) party(id, name string) *Party {
	return &Party{ID: id, Name: name, locked: r.o.Locked[id]}
}

func (r *Ring) revoked(by func(*Revocations) bool) bool {
	for _, l := range r.o.Revoked {
		if by(l) {
			return true
		}
	}
	return false
}
