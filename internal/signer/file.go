package signer

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/seal"
)

const (
	largestKey        = 1 << 20 // as ssh has it (authfile.c)
	certificateSuffix = "-cert.pub"
	publicSuffix      = ".pub"
)

// ModeError says that a file with a secret is not used, since others can read it.
type ModeError struct {
	Path string
	Mode fs.FileMode
}

// Error says so, and the command that mends it.
func (e *ModeError) Error() string {
	return fmt.Sprintf("%q can be read by others (mode %#o), and is not used: chmod 600 %s", e.Path, e.Mode, files.Quoted(e.Path))
}

// readSecret reads a file that only its owner may read.
func readSecret(path string) ([]byte, error) {
	text, err := files.Given(path, largestKey)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return nil, &ModeError{path, mode}
	}
	return text, nil
}

// fromFile returns the Signer of a private key in a file.
func (m Machine) fromFile(ctx context.Context, path string) (*Signer, error) {
	public := readPublic(path + publicSuffix)
	if public != nil {
		s, err := m.fromAgent(ctx, credential.FingerprintOf(public.Marshal()))
		if err == nil {
			return s, nil
		}
		if isSecurityKey(public) {
			return nil, fmt.Errorf("%q is a security key's, and used through ssh-agent (ssh-add %s): %w", path, files.Quoted(path), err)
		}
	}
	text, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	key, err := ssh.ParseRawPrivateKey(text)
	missing, isLocked := errors.AsType[*ssh.PassphraseMissingError](err)
	if isLocked && public == nil {
		public = missing.PublicKey
	}
	switch {
	case isLocked && public == nil:
		return nil, fmt.Errorf("%q is encrypted, and its public key is not beside it: ssh-keygen -y -f %s > %[2]s.pub", path, files.Quoted(path))
	case isLocked:
		l := &locked{m: m, path: path, text: text, public: public}
		s := forKey(public, path, l.sign)
		s.unlock = func(ctx context.Context) error { _, err := l.open(ctx); return err }
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("%q is no private key that can be used: allowed are Ed25519, ECDSA and RSA keys in OpenSSH's form or PEM: %w", path, err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return forKey(signer.PublicKey(), path, func(_ context.Context, data []byte) (*ssh.Signature, error) { return sign(signer, data) }), nil
}

// readPublic reads a public key, nil where there is none.
func readPublic(path string) ssh.PublicKey {
	text, err := files.Given(path, largestKey)
	if err != nil {
		return nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil
	}
	return key
}

// sign signs with SHA-2 where there is a choice (RFC 8332).
func sign(s ssh.Signer, data []byte) (*ssh.Signature, error) {
	if a, ok := s.(ssh.AlgorithmSigner); ok && s.PublicKey().Type() == ssh.KeyAlgoRSA {
		return a.SignWithAlgorithm(rand.Reader, data, ssh.KeyAlgoRSASHA512)
	}
	return s.Sign(rand.Reader, data)
}

// mostTries is how often a passphrase is asked for, as by ssh (NumberOfPasswordPrompts).
const mostTries = 3

// locked is an encrypted key, whose passphrase is asked for once.
type locked struct {
	m      Machine
	path   string
	text   []byte
	public ssh.PublicKey

	mu     sync.Mutex // guards opened
	opened ssh.Signer // nil before
}

func (l *locked) sign(ctx context.Context, data []byte) (*ssh.Signature, error) {
	s, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return sign(s, data)
}

func (l *locked) open(ctx context.Context) (ssh.Signer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened != nil {
		return l.opened, nil
	}
	s, err := l.m.unlock(ctx, l.path, l.text)
	if err != nil {
		return nil, err
	}
	if string(s.PublicKey().Marshal()) != string(l.public.Marshal()) {
		return nil, fmt.Errorf("%q and %[1]q.pub are two different keys: ssh-keygen -y -f %s > %[2]s.pub", l.path, files.Quoted(l.path))
	}
	l.opened = s
	return s, nil
}

func (m Machine) unlock(ctx context.Context, path string, text []byte) (ssh.Signer, error) {
	prompt := fmt.Sprintf("Passphrase of %s: ", path)
	for range mostTries {
		passphrase, err := m.Ask(ctx, prompt, false)
		if err != nil {
			return nil, fmt.Errorf("%q is encrypted: %w; or give it to ssh-agent: ssh-add %s", path, err, files.Quoted(path))
		}
		key, err := ssh.ParseRawPrivateKeyWithPassphrase(text, passphrase)
		clear(passphrase)
		if err == nil {
			return ssh.NewSignerFromKey(key)
		}
		prompt = fmt.Sprintf("That was not it. Passphrase of %s: ", path)
	}
	return nil, fmt.Errorf("%q is encrypted, and none of %d passphrases was right", path, mostTries)
}

// certified returns the Signer that shows a certificate for its key.
func (s *Signer) certified(path string) (*Signer, error) {
	key := readPublic(path)
	c, ok := key.(*ssh.Certificate)
	switch {
	case key == nil:
		return nil, fmt.Errorf("certificate %q cannot be read, or is none: allowed is what ssh-keygen -s writes", path)
	case !ok:
		return nil, fmt.Errorf("%q is a public key, and no certificate: allowed is what ssh-keygen -s writes, FILE%s", path, certificateSuffix)
	case string(c.Key.Marshal()) != string(s.key.Marshal()):
		return nil, fmt.Errorf("certificate %q is for another key, %s", path, credential.FingerprintOf(c.Key.Marshal()))
	}
	with := *s
	with.who = seal.Credential{Kind: seal.Certificate, Public: c.Marshal()}
	with.name += " with " + path
	return &with, nil
}

// fromSecret returns the Signer of a machine's secret: a file with one line as the gateway's
// has it, a name and base64, or base64 alone.
func fromSecret(path string) (*Signer, error) {
	text, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("machine's secret: %w", err)
	}
	words := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		line = strings.TrimSpace(line)
		return line == "" || strings.HasPrefix(line, "#")
	})
	var raw []byte
	if len(words) == 1 {
		f := strings.Fields(words[0])
		if len(f) > 2 {
			f = f[:2] // options are the gateway's
		}
		raw, err = base64.StdEncoding.DecodeString(f[len(f)-1])
	}
	if err != nil || len(raw) != 32 {
		return nil, fmt.Errorf("%q has no machine's secret: allowed is one line, NAME and 32 bytes in base64, as it is in the gateway's file", path)
	}
	secret := [32]byte(raw)
	return &Signer{
		who:  seal.Credential{Kind: seal.Secret, ID: credential.SecretID(secret)},
		name: path,
		prove: func(_ context.Context, message []byte) ([]byte, error) {
			p := credential.SecretProof(secret, message)
			return p[:], nil
		},
	}, nil
}
