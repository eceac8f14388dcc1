package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"filippo.io/age"

	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/share"
)

// maxKey is the longest that a file with a private key may be, in bytes.
const maxKey = 1 << 20

// load reads the knock of --from: which host and which ports, and no more.
func (o *knockOptions) load(e *env) error {
	text, err := o.fromText(e)
	if err != nil {
		return err
	}
	k, err := share.ParseKnock(o.from, text)
	if err != nil {
		return err
	}
	o.host, o.touchPorts, o.then = k.Host, k.Touch, k.Then
	if o.wait == "" && k.Wait != 0 {
		o.wait = strconv.Itoa(int(k.Wait))
	}
	return nil
}

// fromText returns the text of --from, decrypted if it is not in clear. One in
// clear must be the user's own: others could send their knock elsewhere.
func (o *knockOptions) fromText(e *env) ([]byte, error) {
	if o.from == "-" {
		text, err := readAll(e.stdin, share.MaxKnock)
		if err != nil {
			return nil, fmt.Errorf("--from: %w", err)
		}
		return o.decrypt(e, text)
	}
	text, err := files.Given(o.from, share.MaxKnock)
	if err == nil && !share.Encrypted(text) {
		text, err = files.Read(o.from, share.MaxKnock)
	}
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	return o.decrypt(e, text)
}

// decrypt decrypts what is encrypted. It never asks for a passphrase: standard
// input and the terminal may be somebody else's.
func (o *knockOptions) decrypt(e *env, text []byte) ([]byte, error) {
	if !share.Encrypted(text) {
		return text, nil
	}
	var ids []age.Identity
	var locked string
	paths := o.identities
	if len(paths) == 0 {
		paths = ownKeys(e)
	}
	for _, path := range paths {
		key, err := files.Given(path, maxKey)
		if errors.Is(err, fs.ErrNotExist) && len(o.identities) == 0 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("--identity: %w", err)
		}
		more, err := share.ParseIdentity(key)
		switch {
		case errors.Is(err, share.ErrPassphrase):
			locked = path
		case err != nil:
			return nil, fmt.Errorf("--identity %q: not a private key of ssh or age", path)
		}
		ids = append(ids, more...)
	}
	clear, err := []byte(nil), share.ErrNotForUs
	if len(ids) > 0 {
		clear, err = share.Decrypt(text, ids)
	}
	switch {
	case errors.Is(err, share.ErrNotForUs) && locked != "":
		return nil, withHint(fmt.Errorf("--from %q: the key %q has a passphrase, which age asks for", o.from, locked),
			"age -d -i %s %s | doorward knock --from -", files.Quoted(locked), files.Quoted(o.from))
	case errors.Is(err, share.ErrNotForUs):
		return nil, withHint(fmt.Errorf("--from %q: encrypted, and none of the keys decrypts it: %s", o.from, strings.Join(paths, ", ")),
			"--identity FILE names your private key")
	case err != nil:
		return nil, fmt.Errorf("--from %q: %w", o.from, err)
	}
	return clear, nil
}

// ownKeys are the private keys that ssh has by default and age can use.
func ownKeys(e *env) []string {
	home := e.getenv("HOME")
	if home == "" {
		home, _ = os.UserHomeDir() // Windows has it elsewhere
	}
	return []string{filepath.Join(home, ".ssh", "id_ed25519"), filepath.Join(home, ".ssh", "id_rsa")}
}
