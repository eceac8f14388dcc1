package signer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/doorward/doorward/internal/credential"
)

// Errors of an agent. Those of Open and Prove have them within.
var (
	// ErrNoAgent says that there is no agent to ask.
	ErrNoAgent = errors.New("no ssh-agent can be reached")
	// ErrNotThere says that the agent does not have the key.
	ErrNotThere = errors.New("ssh-agent does not have the key")
	// ErrNotSigned says that the agent has the key and did not sign.
	ErrNotSigned = errors.New("ssh-agent did not sign")
)

// agentWithin asks the agent something. The connection ends with ctx, since an agent that
// waits for a touch or a confirmation can only be left.
func (m Machine) agentWithin(ctx context.Context, ask func(agent.ExtendedAgent) error) error {
	conn, err := dialAgent(ctx, m.Getenv)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	err = ask(agent.NewClient(conn))
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// agentKeys lists what the agent has.
func (m Machine) agentKeys(ctx context.Context) (keys []*agent.Key, err error) {
	patience := cmp.Or(m.Patience, 30*time.Second)
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = m.agentWithin(within, func(a agent.ExtendedAgent) error {
		if keys, err = a.List(); err != nil {
			return fmt.Errorf("%w: %w", ErrNoAgent, err)
		}
		return nil
	})
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: it has not answered within %v", ErrNoAgent, patience)
	}
	return keys, err
}

// fromAgent returns the Signer of a key that the agent has.
func (m Machine) fromAgent(ctx context.Context, f credential.Fingerprint) (*Signer, error) {
	keys, err := m.agentKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", f, err)
	}
	for _, k := range keys {
		parsed, err := ssh.ParsePublicKey(k.Blob)
		if err != nil {
			continue // of a kind that is none of ours
		}
		plain := parsed
		if c, ok := parsed.(*ssh.Certificate); ok {
			plain = c.Key // the agent signs with the key whose certificate it has been given
		}
		if credential.FingerprintOf(plain.Marshal()) == f {
			return forKey(plain, "ssh-agent", m.agentSigns(parsed, plain)), nil
		}
	}
	return nil, fmt.Errorf("%w %s", ErrNotThere, f)
}

// agentSigns has the agent sign with a key that it calls named.
func (m Machine) agentSigns(named, key ssh.PublicKey) func(context.Context, []byte) (*ssh.Signature, error) {
	return func(ctx context.Context, data []byte) (signature *ssh.Signature, err error) {
		var flags agent.SignatureFlags
		if key.Type() == ssh.KeyAlgoRSA {
			flags = agent.SignatureFlagRsaSha512
		}
		err = m.agentWithin(ctx, func(a agent.ExtendedAgent) error {
			if signature, err = a.SignWithFlags(named, data, flags); err != nil {
				return fmt.Errorf("%w with %s: it was not confirmed or touched, or the agent is locked (%w)",
					ErrNotSigned, credential.FingerprintOf(key.Marshal()), err)
			}
			return nil
		})
		return signature, err
	}
}

type connection = io.ReadWriteCloser
