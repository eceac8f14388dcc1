package credential

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
)

// issued is what has to be known of a certificate to tell later whether what it led to may
// stand, also after a restart: its serial number, who has signed it, its key ID, its key, and
// for which principals it counted. It is a word of By, in front of the identity, so that
// whatever remembers whose a grant is has it without another record: "cert:", the serial
// number, ":", and the rest in base64 (RFC 4648, section 5).
//
// The rest are beginnings of hashes, long enough that nobody finds two with the same.
type issued struct {
	serial     uint64
	authority  [8]byte // of its fingerprint, as a set of keys finds it; authorities are the operator's choice
	id         idHash
	key        sha1Hash
	principals []principalHash // those that a line of the authority had; the first of them, if they are very many
}

const (
	issuedPrefix = "cert:"
	issuedFixed  = 8 + 12 + 12 // bytes before the principals

	// mostPrincipals is how many principals of a certificate are remembered. Should a line
	// name another of its principals later, what the certificate led to ends all the same.
	mostPrincipals = 8
)

// idHash is the beginning of the SHA-256 of a certificate's key ID.
type idHash [12]byte

func idHashOf(id string) idHash {
	h := sha256.Sum256([]byte(id))
	return idHash(h[:])
}

// sha1Hash is the beginning of the SHA-1 of a key as it is sent: a KRL may have no more of
// it. Whoever makes another key with the same is revoked with it, and gains nothing.
type sha1Hash [12]byte

func sha1HashOf(blob []byte) sha1Hash {
	h := sha1.Sum(blob)
	return sha1Hash(h[:])
}

// principalHash is the beginning of the SHA-256 of a principal. It tells apart those that
// the operator has written down.
type principalHash [4]byte

func principalHashOf(principal string) principalHash {
	h := sha256.Sum256([]byte(principal))
	return principalHash(h[:])
}

// issuedBy returns what has to be known of a certificate that these lines of its authority
// admit.
func issuedBy(c *certificate, authority Fingerprint, lines []*Key) *issued {
	i := &issued{serial: c.serial, authority: [8]byte(authority[:]), id: idHashOf(c.id), key: sha1HashOf(c.key)}
	for _, l := range lines {
		for _, p := range l.Options.Principals {
			hash := principalHashOf(p)
			if slices.Contains(c.principals, p) && !slices.Contains(i.principals, hash) && len(i.principals) < mostPrincipals {
				i.principals = append(i.principals, hash)
			}
		}
	}
	return i
}

// String is the word of it.
func (i *issued) String() string {
	b := slices.Concat(i.authority[:], i.id[:], i.key[:])
	for _, p := range i.principals {
		b = append(b, p[:]...)
	}
	return issuedPrefix + strconv.FormatUint(i.serial, 10) + ":" + base64.RawURLEncoding.EncodeToString(b)
}

// issuedIn returns what By told of a certificate; nil where there was none. One that cannot
// be read counts as one that nobody has signed.
func issuedIn(by string) *issued {
	words := strings.Fields(by)
	if len(words) < 2 {
		return nil
	}
	rest, ok := strings.CutPrefix(words[len(words)-2], issuedPrefix)
	if !ok {
		return nil
	}
	number, coded, _ := strings.Cut(rest, ":")
	serial, err := strconv.ParseUint(number, 10, 64)
	b, err2 := base64.RawURLEncoding.Strict().DecodeString(coded)
	if err != nil || err2 != nil || len(b) < issuedFixed || (len(b)-issuedFixed)%len(principalHash{}) != 0 {
		return &issued{}
	}
	i := &issued{serial: serial, authority: [8]byte(b), id: idHash(b[8:]), key: sha1Hash(b[8+12:])}
	for p := range slices.Chunk(b[issuedFixed:], len(principalHash{})) {
		i.principals = append(i.principals, principalHash(p))
	}
	return i
}

// DependsOn says whether what was done in a name (Party.By) depends on an identity: that of
// the party itself, or of the authority of the certificate that it had.
func DependsOn(by, id string) bool {
	if ID(by) == id {
		return true
	}
	i, f := issuedIn(by), Fingerprint{}
	if i != nil {
		f, _ = ParseFingerprint(id)
	}
	return i != nil && f != Fingerprint{} && i.authority == [8]byte(f[:])
}

// counts says what may stand of the certificate of a key at a door: its authority is one, for
// one of its principals and for the door, and nothing of it is locked or revoked.
func (i *issued) counts(r *Ring, now time.Time, door string, key Fingerprint) (s Standing) {
	for _, n := range r.o.File.at(i.authority) {
		l := &r.o.File.list[n]
		if !l.Authority {
			continue
		}
		if r.o.Locked[l.Fingerprint.String()] || r.revoked(func(list *Revocations) bool { return list.issued(i, key, l) }) {
			return nil
		}
		admits := slices.ContainsFunc(l.Options.Principals, func(p string) bool { return slices.Contains(i.principals, principalHashOf(p)) })
		if admits {
			s = l.Options.stands(s, now, door)
		}
	}
	return s
}

// issued is Revocations.certificate of what is remembered of a certificate of an authority.
func (r *Revocations) issued(i *issued, key Fingerprint, authority *Key) bool {
	if r == nil {
		return false
	}
	return r.has(key, i.key) || r.key(authority.Blob, authority.Fingerprint) || r.number(authority.Fingerprint, i.serial, i.id)
}
