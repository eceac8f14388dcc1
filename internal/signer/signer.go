// Package signer proves who a visitor is: with an SSH key that an agent has or that is in
// a file, with a certificate for it, with a machine's secret, or with a code. Proofs are
// what internal/credential verifies.
//
// A key is asked of the agent first, as ssh does (ssh_config(5), IdentityFile), so that
// nobody types a passphrase that the agent has been told already. Keys of security keys
// (FIDO2) are always the agent's: it knows how to ask for a touch.
package signer

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
)

// Signer proves who a visitor is. Its methods may be called from several goroutines.
type Signer struct {
	who   seal.Credential
	name  string // for people
	touch bool
	key   ssh.PublicKey // nil for secrets and codes
	prove func(ctx context.Context, message []byte) ([]byte, error)
	// unlock asks for a passphrase; nil where there is none to ask for.
	unlock func(ctx context.Context) error
}

// Machine is what a Signer needs of the machine that it runs on.
type Machine struct {
	Getenv func(string) string
	Ask    Ask
	// Patience is how long the agent may take to say which keys it has, for which it may
	// ask somebody; 0: 30s.
	Patience time.Duration
}

// Ask asks a person for something, which is shown while they type it or not. The error Is
// ErrNobody where there is nobody to ask.
type Ask func(ctx context.Context, prompt string, shown bool) ([]byte, error)

// Open returns the Signer for a profile's key. A file's passphrase is asked for when it is
// first needed.
func Open(ctx context.Context, m Machine, k profile.Key) (*Signer, error) {
	var s *Signer
	var err error
	switch {
	case k.Secret != "":
		return fromSecret(k.Secret)
	case k.Agent != "":
		var f credential.Fingerprint
		if f, err = credential.ParseFingerprint(k.Agent); err != nil {
			return nil, fmt.Errorf("the profile's key: %w", err)
		}
		s, err = m.fromAgent(ctx, f)
	case k.File != "":
		s, err = m.fromFile(ctx, k.File)
	default:
		return nil, errors.New("the profile has no key")
	}
	if err == nil && k.Certificate != "" {
		return s.certified(k.Certificate)
	}
	return s, err
}

// Credential says who the visitor is; its Proof is not set.
func (s *Signer) Credential() seal.Credential { return s.who }

// Prove returns the proof of a message.
func (s *Signer) Prove(ctx context.Context, message []byte) ([]byte, error) {
	return s.prove(ctx, message)
}

// Unlock asks for the key's passphrase, if it has one that is still to be asked for. Prove
// would do that too, while a gateway waits, which it does not for long.
func (s *Signer) Unlock(ctx context.Context) error {
	if s.unlock == nil {
		return nil
	}
	return s.unlock(ctx)
}

// Touch says whether a proof takes the touch of a security key.
func (s *Signer) Touch() bool { return s.touch }

// String names the key for people: its fingerprint and where it is.
func (s *Signer) String() string { return s.name }

// Fingerprint returns the key's fingerprint; false where there is no key.
func (s *Signer) Fingerprint() (f credential.Fingerprint, ok bool) {
	if s.key == nil {
		return f, false
	}
	return credential.FingerprintOf(s.key.Marshal()), true
}

// Public returns the key as a line of authorized_keys, without a comment; "" where there
// is no key.
func (s *Signer) Public() string {
	if s.key == nil {
		return ""
	}
	line := ssh.MarshalAuthorizedKey(s.key)
	return string(line[:len(line)-1])
}

// forKey returns the Signer of a key, whose signatures of data are made by sign.
func forKey(key ssh.PublicKey, name string, sign func(ctx context.Context, data []byte) (*ssh.Signature, error)) *Signer {
	f := credential.FingerprintOf(key.Marshal())
	return &Signer{
		who:   seal.Credential{Kind: seal.Key, Fingerprint: f},
		name:  f.String() + " (" + name + ")",
		touch: isSecurityKey(key),
		key:   key,
		prove: func(ctx context.Context, message []byte) ([]byte, error) {
			signature, err := sign(ctx, credential.Signed(message))
			if err != nil {
				return nil, err
			}
			return ssh.Marshal(signature), nil
		},
	}
}

// Enrolling returns the Signer that enrols the key of s with an invite's code.
func (s *Signer) Enrolling(code [16]byte) (*Signer, error) {
	if s.key == nil {
		return nil, errors.New("an invite enrols an SSH key; a machine's secret is put into the gateway's file of secrets by its operator")
	}
	enrolling := *s
	enrolling.who = seal.Credential{Kind: seal.Invite, Bearer: code, Public: s.key.Marshal()}
	return &enrolling, nil
}

// Rescue returns the Signer of a rescue code, which counts once.
func Rescue(code [16]byte) *Signer {
	return &Signer{
		who:   seal.Credential{Kind: seal.Code, Bearer: code},
		name:  "a rescue code",
		prove: func(context.Context, []byte) ([]byte, error) { return nil, nil },
	}
}

// ErrNotSingle says that a credential's proof does not fit into a single packet.
var ErrNotSingle = errors.New("a single packet has room for Ed25519 keys, ECDSA keys of P-256 and machines' secrets alone")

// CanSingle returns nil if ProveSingle has room for the proofs of s, and else an error that
// names the key and Is ErrNotSingle. Nothing is signed.
func (s *Signer) CanSingle() error {
	switch {
	case s.who.Kind == seal.Secret, s.who.Kind == seal.Key && FitsSingle(s.key.Type()):
		return nil
	case s.who.Kind == seal.Certificate:
		return fmt.Errorf("%s knocks with a certificate, and %w", s, ErrNotSingle)
	case s.key == nil:
		return ErrNotSingle
	}
	return fmt.Errorf("the key %s is of type %s, and %w", s, s.key.Type(), ErrNotSingle)
}

// FitsSingle says whether the signatures of a type of key fit into a single packet. Those of
// security keys do not: a counter and flags are part of them (OpenSSH's PROTOCOL.u2f).
func FitsSingle(keyType string) bool {
	return keyType == ssh.KeyAlgoED25519 || keyType == ssh.KeyAlgoECDSA256
}

// ProveSingle returns the proof of a message in the form of a single packet's. The error
// Is ErrNotSingle where it has no room for it.
func (s *Signer) ProveSingle(ctx context.Context, message []byte) (proof [64]byte, err error) {
	if err := s.CanSingle(); err != nil {
		return proof, err
	}
	b, err := s.Prove(ctx, message)
	if err != nil {
		return proof, err
	}
	if s.who.Kind == seal.Secret {
		copy(proof[:], b)
		return proof, nil
	}
	var signature ssh.Signature
	if err := ssh.Unmarshal(b, &signature); err != nil {
		return proof, fmt.Errorf("the signature that was made cannot be read: %w", err)
	}
	if signature.Format == ssh.KeyAlgoED25519 && len(signature.Blob) == len(proof) {
		return [64]byte(signature.Blob), nil
	}
	var n struct{ R, S *big.Int } // RFC 5656, section 3.1.2
	const half = len(proof) / 2
	if err := ssh.Unmarshal(signature.Blob, &n); err != nil || n.R.Sign() < 0 || n.S.Sign() < 0 ||
		n.R.BitLen() > half*8 || n.S.BitLen() > half*8 {
		return proof, errors.New("the signature that was made is not one of P-256")
	}
	n.R.FillBytes(proof[:half])
	n.S.FillBytes(proof[half:])
	return proof, nil
}

// isSecurityKey says whether a key is in hardware that is touched.
func isSecurityKey(k ssh.PublicKey) bool {
	return k.Type() == ssh.KeyAlgoSKED25519 || k.Type() == ssh.KeyAlgoSKECDSA256
}
