package credential

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

const (
	krlMagic   = "SSHKRL\n\x00"
	krlVersion = 1
)

// The sections of a KRL, and those of its section of certificates (PROTOCOL.krl).
const (
	krlCertificates = 1
	krlKeys         = 2
	krlSHA1         = 3
	krlSignature    = 4
	krlSHA256       = 5
	krlExtension    = 255

	krlSerials       = 0x20
	krlSerialRange   = 0x21
	krlSerialBitmap  = 0x22
	krlKeyIDs        = 0x23
	krlCertExtension = 0x39
)

var errKRL = errors.New("the list of revoked keys is damaged or cut short: make it anew with ssh-keygen -k")

// readKRL takes a whole KRL in. A section that is not known is an error: it revokes
// somebody.
func (r *Revocations) readKRL(text []byte) error {
	in := reader(text[len(krlMagic):])
	version, ok := in.u32()
	if !ok {
		return errKRL
	}
	if version != krlVersion {
		return fmt.Errorf("the list of revoked keys is of version %d: allowed is %d, which ssh-keygen -k makes", version, krlVersion)
	}
	_, ok = in.take(8 + 8 + 8) // its number, its date, flags
	_, ok2 := in.str()         // reserved
	_, ok3 := in.str()         // comment
	if !ok || !ok2 || !ok3 {
		return errKRL
	}
	for len(in) > 0 {
		kind, _ := in.u8()
		data, ok := in.str()
		if !ok {
			return errKRL
		}
		if err := r.section(kind, data, &in); err != nil {
			return err
		}
	}
	for _, c := range r.certs {
		c.serials.sort()
	}
	return nil
}

// section takes in one section; what comes after it is in rest.
func (r *Revocations) section(kind byte, data reader, rest *reader) error {
	switch kind {
	case krlCertificates:
		return r.certificates(data)
	case krlKeys:
		return data.each(func(blob []byte) bool {
			r.keys[FingerprintOf(blob)] = struct{}{}
			return true
		})
	case krlSHA256:
		return data.each(func(hash []byte) bool {
			if len(hash) != sha256.Size {
				return false
			}
			r.keys[Fingerprint(hash)] = struct{}{}
			return true
		})
	case krlSHA1:
		return data.each(func(hash []byte) bool {
			if len(hash) != sha1.Size {
				return false
			}
			r.sha1s[sha1Hash(hash)] = struct{}{}
			return true
		})
	case krlSignature:
		// Nobody verifies them: the file is root's. They have a second string.
		if _, ok := rest.str(); !ok {
			return errKRL
		}
		return nil
	case krlExtension:
		return extension(data)
	}
	return fmt.Errorf("the list of revoked keys has a section of type %d, which is not known: allowed are those of PROTOCOL.krl, version 1", kind)
}

// each calls f for all strings that a message is made of.
func (r *reader) each(f func([]byte) bool) error {
	for len(*r) > 0 {
		s, ok := r.str()
		if !ok || !f(s) {
			return errKRL
		}
	}
	return nil
}

// extension reads an extension, of which none is known.
func extension(data reader) error {
	name, ok := data.str()
	critical, ok2 := data.u8()
	_, ok3 := data.str()
	if !ok || !ok2 || !ok3 || len(data) > 0 {
		return errKRL
	}
	if critical != 0 {
		return fmt.Errorf("the list of revoked keys has the extension %s, which is not known and must not be ignored: make the list without it", shown(string(name)))
	}
	return nil
}

// certificates takes in the section of one authority's certificates.
func (r *Revocations) certificates(data reader) error {
	authority, ok := data.str()
	_, ok2 := data.str() // reserved
	if !ok || !ok2 {
		return errKRL
	}
	of := anyAuthority
	if len(authority) > 0 {
		of = FingerprintOf(authority)
	}
	c := r.certs[of]
	if c == nil {
		c = &revokedCertificates{serials{words: map[uint64]uint64{}}, map[idHash]struct{}{}}
		r.certs[of] = c
	}
	for len(data) > 0 {
		kind, _ := data.u8()
		part, ok := data.str()
		if !ok {
			return errKRL
		}
		if err := c.section(kind, part); err != nil {
			return err
		}
	}
	return nil
}

func (c *revokedCertificates) section(kind byte, data reader) error {
	switch kind {
	case krlSerials:
		for len(data) > 0 {
			n, ok := data.u64()
			if !ok {
				return errKRL
			}
			c.serials.add(n)
		}
		return nil
	case krlSerialRange:
		from, _ := data.u64()
		to, ok := data.u64()
		if !ok || len(data) > 0 || from > to {
			return errKRL
		}
		c.serials.ranges = append(c.serials.ranges, serialRange{from, to})
		return nil
	case krlSerialBitmap:
		offset, _ := data.u64()
		bitmap, ok := data.str()
		if !ok || len(data) > 0 || !c.serials.addBitmap(offset, bitmap) {
			return errKRL
		}
		return nil
	case krlKeyIDs:
		return data.each(func(id []byte) bool {
			c.ids[idHashOf(string(id))] = struct{}{}
			return true
		})
	case krlCertExtension:
		return extension(data)
	}
	return fmt.Errorf("the list of revoked keys has a section of certificates of type %d, which is not known: allowed are those of PROTOCOL.krl, version 1", kind)
}

// serials is a set of serial numbers. Its memory is in proportion to the list that it
// was read from, whatever that says: single ones are bits of 64-bit words.
type serials struct {
	words  map[uint64]uint64 // by the number divided by 64
	ranges []serialRange
}

// serialRange has both its ends within.
type serialRange struct{ from, to uint64 }

func (s *serials) add(n uint64) { s.words[n/64] |= 1 << (n % 64) }

// addBitmap adds an offset and the bits of a number that are set; false: they go
// beyond 64 bits, or the number is negative.
func (s *serials) addBitmap(offset uint64, mpint []byte) bool {
	if len(mpint) > 0 && mpint[0]&0x80 != 0 {
		return false
	}
	for i, b := range mpint {
		first := uint64(len(mpint)-1-i) * 8
		for ; b != 0; b &= b - 1 {
			n := first + uint64(bits.TrailingZeros8(b))
			if offset+n < offset {
				return false
			}
			s.add(offset + n)
		}
	}
	return true
}

// sort puts the ranges in order and joins those that overlap, for has.
func (s *serials) sort() {
	slices.SortFunc(s.ranges, func(a, b serialRange) int { return cmp.Compare(a.from, b.from) })
	joined := s.ranges[:0]
	for _, r := range s.ranges {
		if n := len(joined); n > 0 && r.from <= joined[n-1].to {
			joined[n-1].to = max(joined[n-1].to, r.to)
			continue
		}
		joined = append(joined, r)
	}
	s.ranges = joined
}

func (s *serials) has(n uint64) bool {
	if s.words[n/64]&(1<<(n%64)) != 0 {
		return true
	}
	_, found := slices.BinarySearchFunc(s.ranges, n, func(r serialRange, n uint64) int {
		switch {
		case r.to < n:
			return -1
		case r.from > n:
			return 1
		}
		return 0
	})
	return found
}
