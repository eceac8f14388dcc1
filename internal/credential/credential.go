// Package credential knows who may knock: public keys in the form of
// authorized_keys (sshd(8), AUTHORIZED_KEYS FILE FORMAT), certificates of
// authorities, secrets of machines, and codes that count once. Parse reads keys, a
// Ring finds them and verifies what a visitor shows, which makes a Party, and the
// Party says what it may (Permits).
//
// Signatures are OpenSSH's (PROTOCOL.sshsig) in the namespace of Namespace. Only
// the signature itself is sent; all else that it covers both sides know.
//
// The package is pure: it opens no file, has no clock and starts no goroutine.
// Whatever it returns does not change, and goroutines may share it.
package credential

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode"

	"github.com/doorward/doorward/internal/legible"
)

// Namespace is the namespace of SSHSIG signatures that are for doorward, so that one
// that was made for anything else is none here, and none of ours is one there.
const Namespace = "doorward-knock-v1"

// Fingerprint is the SHA-256 of a public key as it is sent (RFC 4253, section 6.6).
type Fingerprint [sha256.Size]byte

// FingerprintOf returns the fingerprint of a public key as it is sent.
func FingerprintOf(blob []byte) Fingerprint { return sha256.Sum256(blob) }

const fingerprintPrefix = "SHA256:"

// String is the fingerprint as ssh-keygen -l prints it: "SHA256:" and 43 characters.
func (f Fingerprint) String() string {
	return fingerprintPrefix + base64.RawStdEncoding.EncodeToString(f[:])
}

// ParseFingerprint reads what String writes.
func ParseFingerprint(text string) (f Fingerprint, err error) {
	rest, ok := strings.CutPrefix(text, fingerprintPrefix)
	raw, err := base64.RawStdEncoding.Strict().DecodeString(rest)
	if !ok || err != nil || len(raw) != len(f) {
		return f, fmt.Errorf("%s is no fingerprint: allowed is what ssh-keygen -l prints, %q and 43 characters",
			shown(text), fingerprintPrefix)
	}
	return Fingerprint(raw), nil
}

// Problem is what is wrong with one line of a file, or with all of it. It never tells
// a secret.
type Problem struct {
	Where string // the file, as the caller named it
	Line  int    // from 1; 0 for the file as a whole
	Text  string // what is wrong, what is allowed, and what to do about it
}

// String is the problem in one line: where, and what.
func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.Where, p.Text)
	}
	return fmt.Sprintf("%s:%d: %s", p.Where, p.Line, p.Text)
}

// mostProblems is how many problems one text has at most: whoever hands over the
// wrong file gets no page for each of its lines.
const mostProblems = 50

// problems gathers those of one text.
type problems struct {
	where string
	list  []Problem
	more  int // lines that were left out
}

func (p *problems) add(line int, format string, args ...any) {
	if len(p.list) >= mostProblems {
		p.more++
		return
	}
	p.list = append(p.list, Problem{p.where, line, fmt.Sprintf(format, args...)})
}

func (p *problems) all() []Problem {
	if p.more > 0 {
		p.list = append(p.list, Problem{p.where, 0, fmt.Sprintf("%d more lines are refused", p.more)})
		p.more = 0
	}
	return p.list
}

const (
	mostName  = 64 // bytes of a name
	mostShown = 48 // bytes of a value in a message
)

// shown is a value as messages quote it.
func shown(s string) string { return fmt.Sprintf("%q", legible.Clip(legible.Text(s), mostShown)) }

// Name makes a name for people of a key's comment or a label: legible, 64 bytes at the
// most, and with nothing in it that could be taken for an identity.
func Name(comment string) string {
	words := strings.FieldsFunc(legible.Text(comment), unicode.IsSpace)
	kept := words[:0]
	for _, w := range words {
		if !isIdentity(w) {
			kept = append(kept, w)
		}
	}
	// A copy: the line that it is from is not to be kept in memory for it.
	return strings.Clone(legible.Clip(strings.Join(kept, " "), mostName))
}

// isIdentity says whether a word looks like one that By adds to a name.
func isIdentity(word string) bool {
	word = strings.ToLower(word)
	return strings.HasPrefix(word, "sha256:") || strings.HasPrefix(word, secretPrefix) || strings.HasPrefix(word, rescuePrefix) ||
		strings.HasPrefix(word, issuedPrefix)
}

// by joins a name and an identity to what people read of a party.
func by(name, id string) string {
	if name == "" {
		return id
	}
	return name + " " + id
}

// ID is the identity in what By returned: its last word, which stays the same
// whatever name a line gives. What belongs to a party is compared by it.
func ID(by string) string { return by[strings.LastIndexByte(by, ' ')+1:] }
