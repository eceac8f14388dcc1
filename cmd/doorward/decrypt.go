package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/share"
)

// closedError says that a text is encrypted, and none of the keys opens it.
type closedError struct {
	what   string   // it is
	tried  []string // paths of private keys
	locked string   // one of them that has a passphrase, "" for none
}

func (e *closedError) Error() string {
	if e.locked != "" {
		return fmt.Sprintf("%s: the key %q has a passphrase, which age asks for", e.what, e.locked)
	}
	return e.what + ": encrypted, and none of the keys decrypts it: " + strings.Join(e.tried, ", ")
}

// decrypt decrypts a text that is encrypted, with the private keys in files, or, if none are
// named, with those that the user has. The error, which says what the text is, can be a
// *closedError. decrypt never asks for a passphrase: standard input and the terminal may be
// somebody else's.
func decrypt(e *env, what string, text []byte, paths []string) ([]byte, error) {
	if !share.Encrypted(text) {
		return text, nil
	}
	named := len(paths) > 0
	if !named {
		paths = ownKeys(e)
	}
	var ids []age.Identity
	var locked string
	for _, path := range paths {
		key, err := files.Given(path, maxKey)
		if err != nil && named {
			return nil, fmt.Errorf("--identity: %w", err)
		}
		more, err := share.ParseIdentity(key)
		switch {
		case errors.Is(err, share.ErrPassphrase):
			locked = path
		case err != nil && named:
			return nil, fmt.Errorf("--identity %q: not a private key of ssh or age", path)
		}
		ids = append(ids, more...)
	}
	clear, err := []byte(nil), share.ErrNotForUs
	if len(ids) > 0 {
		clear, err = share.Decrypt(text, ids)
	}
	switch {
	case errors.Is(err, share.ErrNotForUs):
		return nil, &closedError{what, paths, locked}
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return clear, nil
}

// ownKeys are the private keys that ssh has by default and age can use.
func ownKeys(e *env) []string {
	dir := sshDirectory(e)
	return []string{filepath.Join(dir, "id_ed25519"), filepath.Join(dir, "id_rsa")}
}
