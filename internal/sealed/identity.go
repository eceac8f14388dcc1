package sealed

import (
	"encoding/base64"
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

func (id *identity) line(words []string) error {
	sizes := map[string]int{"key": 32, "profile": 16}
	size, ok := sizes[words[0]]
	if !ok || len(words) != 2 {
		return fmt.Errorf(`allowed are "key" and "profile", each followed by base64`)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(words[1])
	if err != nil || len(b) != size {
		return fmt.Errorf("%s: allowed are %d bytes in base64", words[0], size)
	}
	if words[0] == "profile" {
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

// NewIdentity returns the text of a new identity file.
func NewIdentity(random io.Reader) ([]byte, error) {
	var b [48]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `# The gateway's key, and the profile secret that all of its visitors have: doorward invite
# gives it to them. Whoever reads this file can pass for the gateway. Where there are
# several of one, the first is the newest, and all count.
key %s
profile %s
`, base64.StdEncoding.EncodeToString(b[:32]), base64.StdEncoding.EncodeToString(b[32:])), nil
}
