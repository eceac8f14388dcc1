package sealed

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/doorward/doorward/internal/seal"
)

// identity is what an identity file has, the newest of each first.
type identity struct {
	keys     []*seal.Identity
	profiles []seal.Profile
}

// Each key and each profile secret is tried on what comes: more than a few are a mistake.
const (
	mostKeys     = 2
	mostProfiles = 4
)

// parseIdentity reads an identity file: lines of "key" or "profile" and base64.
func parseIdentity(text []byte) (*identity, error) {
	id := new(identity)
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if err := id.line(words); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	switch {
	case len(id.keys) == 0 || len(id.profiles) == 0:
		return nil, fmt.Errorf("%d keys and %d profile secrets: needed is one of each", len(id.keys), len(id.profiles))
	case len(id.keys) > mostKeys || len(id.profiles) > mostProfiles:
		return nil, fmt.Errorf("%d keys and %d profile secrets: allowed are %d and %d; delete the oldest, which are last", len(id.keys), len(id.profiles), mostKeys, mostProfiles)
	}
	return id, nil
}

// sizes are in bytes.
var sizes = map[string]int{GatewayKey: 32, ProfileSecret: 16}

func (id *identity) line(words []string) error {
	size, ok := sizes[words[0]]
	if !ok || len(words) != 2 {
		return errors.New(`allowed are "key" and "profile", each followed by base64`)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(words[1])
	if err != nil || len(b) != size {
		return fmt.Errorf("%s: allowed are %d bytes in base64", words[0], size)
	}
	if words[0] == ProfileSecret {
		id.profiles = append(id.profiles, seal.Profile(b))
		return nil
	}
	key, err := seal.NewIdentity([32]byte(b))
	if err != nil {
		return err
	}
	id.keys = append(id.keys, key)
	return nil
}

// Secrets of an identity file, as its lines begin.
const (
	GatewayKey    = "key"     // by which visitors know the gateway
	ProfileSecret = "profile" // that all of its visitors have
)

// Held is what an identity file has, the newest first.
type Held struct {
	Keys     []seal.Fingerprint
	Profiles int
}

// ReadIdentity reads an identity file.
func ReadIdentity(text []byte) (Held, error) {
	id, err := parseIdentity(text)
	if err != nil {
		return Held{}, err
	}
	h := Held{Profiles: len(id.profiles)}
	for _, k := range id.keys {
		h.Keys = append(h.Keys, k.Fingerprint())
	}
	return h, nil
}

// NewIdentity returns the text of a new identity file.
func NewIdentity(random io.Reader) ([]byte, error) {
	text := []byte(`# The gateway's key, and the profile secret that all of its visitors have: doorward invite
# gives it to them. Whoever reads this file can pass for the gateway. Where there are
# several of one, the first is the newest, and all count.
`)
	for _, what := range []string{GatewayKey, ProfileSecret} {
		line, err := drawn(what, random)
		if err != nil {
			return nil, err
		}
		text = append(text, line...)
	}
	return text, nil
}

// drawn returns a line with a new secret.
func drawn(what string, random io.Reader) ([]byte, error) {
	b := make([]byte, sizes[what])
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, fmt.Errorf("draw a secret: %w", err)
	}
	return fmt.Appendf(nil, "%s %s\n", what, base64.StdEncoding.EncodeToString(b)), nil
}

// Renew returns the text of an identity file with a new GatewayKey or ProfileSecret before
// the others, which still count.
func Renew(text []byte, what string, random io.Reader) ([]byte, error) {
	if _, err := parseIdentity(text); err != nil {
		return nil, err
	}
	line, err := drawn(what, random)
	if err != nil {
		return nil, err
	}
	var next []byte
	for l := range bytes.Lines(text) {
		if line != nil && begins(l, what) {
			next, line = append(next, line...), nil
		}
		next = append(next, l...)
	}
	if _, err := parseIdentity(next); err != nil {
		return nil, err // there are too many
	}
	return next, nil
}

// Retire returns the text of an identity file with the newest GatewayKey or ProfileSecret
// alone, and how many others it had.
func Retire(text []byte, what string) (next []byte, ended int, err error) {
	if _, err := parseIdentity(text); err != nil {
		return nil, 0, err
	}
	n := 0
	for l := range bytes.Lines(text) {
		if begins(l, what) {
			if n++; n > 1 {
				continue
			}
		}
		next = append(next, l...)
	}
	return next, n - 1, nil
}

func begins(line []byte, what string) bool {
	words := bytes.Fields(line)
	return len(words) > 0 && string(words[0]) == what
}
