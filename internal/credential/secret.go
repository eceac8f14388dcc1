package credential

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Identities other than keys' begin with these.
const (
	secretPrefix = "secret:"
	rescuePrefix = "rescue:"
)

// Secret is what a machine without an SSH key knocks with: 256 random bits that both
// sides have. It never prints.
type Secret struct {
	Name    string
	ID      [16]byte // by which it is found; it tells nothing of the secret
	Where   string   // the text that it was read from
	Line    int      // from 1
	Options *Options

	mac [32]byte // the key of its proofs
}

// Format prints a secret's name and identity, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, by(s.Name, s.Identity())) }

// Identity is what Party.ID is of whoever has the secret.
func (s Secret) Identity() string { return secretPrefix + hex.EncodeToString(s.ID[:]) }

// Both sides derive what they send from the secret, so that the identity, which is told
// before anything is proven, and the proof have nothing to do with each other.
const (
	infoID    = "doorward sealed v1 secret id" // docs/PROTOCOL.md
	infoProof = "doorward sealed v1 secret mac"
)

// SecretID returns the identity that a machine's secret is found by.
func SecretID(secret [32]byte) [16]byte { return [16]byte(derived(secret, infoID, 16)) }

// SecretProof returns what shows, for a message, that its sender has a machine's secret.
func SecretProof(secret [32]byte, message []byte) [32]byte {
	return proofBy([32]byte(derived(secret, infoProof, 32)), message)
}

func proofBy(key [32]byte, message []byte) [32]byte {
	m := hmac.New(sha256.New, key[:])
	m.Write(message)
	return [32]byte(m.Sum(nil))
}

func derived(secret [32]byte, info string, n int) []byte {
	key, err := hkdf.Key(sha256.New, secret[:], nil, info, n)
	if err != nil { // only for lengths beyond 8160
		panic("credential: internal error: " + err.Error())
	}
	return key
}

// ParseSecrets reads machines' secrets: a line each, with a name, 32 bytes in base64 and
// options as a key's. Where names the text in messages. As with Parse, a bad line is
// refused alone. No problem repeats a secret. Options are last, so a line without an end,
// which may have lost some of them, is a bad one.
func ParseSecrets(text []byte, where string) ([]Secret, []Problem) {
	var list []Secret
	found, names, ids := problems{where: where}, map[string]int{}, map[[16]byte]int{}
	for n, line := range lines(text) {
		whole := bytes.HasSuffix(line, []byte("\n"))
		line = trim(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		s, err := parseSecret(string(line))
		switch {
		case !whole:
			found.add(n, "the line has no end, so the file may be cut short: add a line break, if the options are all there")
			continue
		case err != nil:
			found.add(n, "%v", err)
			continue
		case names[s.Name] != 0:
			found.add(n, "the name %s is that of line %d: give each machine a name of its own", s.Name, names[s.Name])
			continue
		case ids[s.ID] != 0:
			found.add(n, "the secret is that of line %d: give each machine a secret of its own (openssl rand -base64 32)", ids[s.ID])
			continue
		}
		s.Where, s.Line, names[s.Name], ids[s.ID] = where, n, n, n
		list = append(list, s)
	}
	return list, found.all()
}

func parseSecret(line string) (s Secret, err error) {
	if len(line) > mostLine {
		return s, fmt.Errorf("%d characters: a line has at most %d", len(line), mostLine)
	}
	name, rest := field(line)
	coded, rest := field(rest)
	raw, err := base64.StdEncoding.Strict().DecodeString(coded)
	if err != nil || len(raw) != len(s.mac) {
		return s, errors.New(`no machine's secret: allowed is NAME SECRET [OPTIONS], the secret being 32 bytes in base64 (openssl rand -base64 32)`)
	}
	if len(name) > mostName || strings.ContainsFunc(name, notOfName) {
		return s, fmt.Errorf("the line's first word is no machine's name: allowed are letters, digits, . _ @ and -, %d characters at most", mostName)
	}
	s.Name, s.Options = name, &none
	secret := [32]byte(raw)
	if secret == [32]byte{} {
		return s, fmt.Errorf("the secret of %s is all zeros: draw another (openssl rand -base64 32)", name)
	}
	s.ID, s.mac = SecretID(secret), [32]byte(derived(secret, infoProof, 32))
	if s.Options, err = ParseOptions(rest); err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	if s.Options.NoTouch || s.Options.Verify {
		return s, fmt.Errorf("%s: no-touch-required and verify-required are options of security keys: remove them here", name)
	}
	return s, nil
}

func notOfName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._@-", r))
}

// Code is something that counts once, whoever has it: a rescue code or an invite. Only
// its hash is known.
type Code struct {
	Hash    [32]byte     // see HashCode
	Name    string       // for people: of whom it was made for
	Expires time.Time    // until when it may be used; zero: for ever
	Options *Options     // of what it lets in, or of the key that it enrols; nil: none
	Key     *Fingerprint // of an invite: the one key that it may enrol; nil: any
}

// HashCode returns what is kept of a code of 128 random bits. The bits are too many
// to guess, so that the hash need not be slow.
func HashCode(code [16]byte) [32]byte {
	return sha256.Sum256(append([]byte("doorward code v1"), code[:]...))
}

func (c Code) identity() string { return rescuePrefix + hex.EncodeToString(c.Hash[:8]) }
