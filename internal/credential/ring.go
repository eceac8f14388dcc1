package credential

import "crypto/subtle"

// Keys is a set of keys, found by their fingerprints. The nil pointer is the empty set.
type Keys struct {
	list        []Key
	first       map[[8]byte]uint32   // the place in list, by the beginning of the fingerprint
	again       map[[8]byte][]uint32 // of further lines with the same key
	kinds       map[string]bool      // that keys of the set have
	authorities int
}

// NewKeys returns the set of keys, which the caller does not change after that. Lines
// with the same key all count, as with sshd: what one of them permits is permitted.
func NewKeys(list []Key) *Keys {
	k := &Keys{list: list, first: make(map[[8]byte]uint32, len(list)), again: map[[8]byte][]uint32{}, kinds: map[string]bool{}}
	for i := range list {
		k.kinds[list[i].Type()] = true
		if list[i].Authority {
			k.authorities++
		}
		id := [8]byte(list[i].Fingerprint[:])
		if _, ok := k.first[id]; ok {
			k.again[id] = append(k.again[id], uint32(i))
			continue
		}
		k.first[id] = uint32(i)
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

// has says whether a key of the set has a type.
func (k *Keys) has(kind string) bool { return k != nil && k.kinds[kind] }

// signs says whether the set has an authority.
func (k *Keys) signs() bool { return k != nil && k.authorities > 0 }

// at are the places of the keys whose fingerprints begin so.
func (k *Keys) at(id [8]byte) []uint32 {
	if k == nil {
		return nil
	}
	i, ok := k.first[id]
	if !ok {
		return nil
	}
	return append([]uint32{i}, k.again[id]...)
}

// find returns the lines of a key that may knock, or of an authority.
func (k *Keys) find(f Fingerprint, authority bool) (found []*Key) {
	for _, i := range k.at([8]byte(f[:])) {
		if k.list[i].Fingerprint == f && k.list[i].Authority == authority {
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
// A credential that is not known costs what one that is known costs, since it is verified
// with a key of nobody's; so nobody learns from the time that it takes whose keys a ring
// has. What no line at all could accept is not verified: certificates where there is no
// authority, and the two formats that take the longest where no key has them.
type Ring struct {
	o       Origins
	secrets map[[16]byte]*Secret
	rescues map[[32]byte]*Code
	invites map[[32]byte]*Code
	verify  func(s signature, blob, data []byte) bool // signature.verify; tests count its calls
	singles map[[8]byte]*Secret                       // by the beginning of their IDs
}

// NewRing returns the ring of some origins, which are not changed after that.
func NewRing(o Origins) *Ring {
	r := &Ring{o: o, secrets: map[[16]byte]*Secret{}, singles: map[[8]byte]*Secret{}, verify: signature.verify}
	for i := range o.Secrets {
		s := &o.Secrets[i]
		r.secrets[s.ID], r.singles[[8]byte(s.ID[:])] = s, s
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
	if !ok || costly[s.format] && !r.o.File.has(s.format) && !r.o.Enrolled.has(s.format) {
		return nil, false
	}
	lines := r.lines(f)
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
// and sig is its key's signature for a message. Its name is its key ID, and for which of its
// principals it counts: "alice (as ops)", or which it has where it counts for none of them.
func (r *Ring) Certificate(certificate, message, sig []byte) (*Party, bool) {
	s, ok := parseSignature(sig)
	c, ok2 := parseCertificate(certificate)
	if !ok || !ok2 || !r.o.File.signs() {
		return nil, false
	}
	authority := FingerprintOf(c.authority)
	lines := r.o.File.find(authority, true)
	// It takes as long for an authority that is not known.
	if !r.verify(c.signature, c.authority, c.signed) || !r.verify(s, c.key, Signed(message)) || len(lines) == 0 {
		return nil, false
	}
	p := r.party(FingerprintOf(c.key).String(), c.name(lines))
	p.security, p.flags = isSecurityKey(s.format), s.flags
	p.certificate, p.issued = c, issuedBy(c, authority, lines)
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
	want := proofBy(s.mac, message)
	if subtle.ConstantTimeCompare(want[:], proof[:]) != 1 || !known {
		return nil, false
	}
	p := r.party(s.Identity(), s.Name)
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
	// Nobody guesses 128 bits, so that there is nothing to learn from the time it takes.
	c := r.invites[HashCode(code)]
	if c == nil || c.Key != nil && *c.Key != f || !r.verify(s, blob, Signed(message)) {
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

// lines are those of a key that may knock.
func (r *Ring) lines(f Fingerprint) []*Key {
	if lines := r.o.File.find(f, false); lines != nil {
		return lines
	}
	return r.o.Enrolled.find(f, false)
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
