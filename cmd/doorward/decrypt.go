package main

import (
	"errors"
	"fmt"
	"io/fs"
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
	passed []string // paths of those that could not be used, each with the reason
	locked string   // one of them that has a passphrase, "" for none
}

func (e *closedError) Error() string {
	passed := strings.Join(e.passed, "; ")
	text := e.what + ": encrypted, and none of the keys decrypts it: " + strings.Join(e.tried, ", ")
	switch {
	case e.locked != "":
		text = fmt.Sprintf("%s: the key %q has a passphrase, which age asks for", e.what, e.locked)
	case len(e.tried) == 0:
		return e.what + ": encrypted, and no key can be used to decrypt it: " + passed
	}
	if passed != "" {
		text += "; passed over: " + passed
	}
	return text
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
	closed := closedError{what: what}
	var missing []string
	for _, path := range paths {
		more, err := identity(path)
		switch {
		case errors.Is(err, share.ErrPassphrase):
			closed.locked = path
		case err != nil && named:
			return nil, fmt.Errorf("--identity: %w", err)
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, err.Error())
		case err != nil:
			closed.passed = append(closed.passed, err.Error())
		default:
			closed.tried = append(closed.tried, path)
		}
		ids = append(ids, more...)
	}
	if len(closed.tried) == 0 && closed.locked == "" { // else nobody expects all that there could be
		closed.passed = append(closed.passed, missing...)
	}
	clear, err := []byte(nil), share.ErrNotForUs
	if len(ids) > 0 {
		clear, err = share.Decrypt(text, ids)
	}
	switch {
	case errors.Is(err, share.ErrNotForUs):
		return nil, &closed
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return clear, nil
}

// identity reads a private key.
func identity(path string) ([]age.Identity, error) {
	key, err := files.Given(path, maxKey)
	if err != nil {
		return nil, err
	}
	ids, err := share.ParseIdentity(key)
	if err != nil && !errors.Is(err, share.ErrPassphrase) {
		return nil, fmt.Errorf("%q is damaged, or no private key of ssh or age", path)
	}
	return ids, err
}

// ownKeys are the private keys that ssh has by default and age can use.
func ownKeys(e *env) []string {
	dir := sshDirectory(e)
	return []string{filepath.Join(dir, "id_ed25519"), filepath.Join(dir, "id_rsa")}
}
