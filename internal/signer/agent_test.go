//go:build unix

package signer

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/profile"
)

// A security key's proof, which an agent makes, is accepted with its touch.
func TestSecurityKey(t *testing.T) {
	h := newHome(t)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, public, "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	h.serve(filepath.Join(h.dir, "agent"), hardware{private: private, key: key})
	f := credential.FingerprintOf(key.Marshal())
	s, err := Open(t.Context(), h.machine(), profile.Key{Agent: f.String()})
	if err != nil || !s.Touch() {
		t.Fatalf("%v, or no touch", err)
	}
	c := prove(t, s)
	party, ok := h.ring(string(ssh.MarshalAuthorizedKey(key))).Key(f, message, c.Proof)
	if !ok {
		t.Fatal("the proof is not accepted")
	}
	if _, refusal := party.Permits(credential.Ask{Now: time.Now(), Zone: time.UTC, Source: netip.MustParseAddr("192.0.2.7")}); refusal != nil {
		t.Error(refusal.Text())
	}
	if list := h.machine().Candidates(t.Context(), h.dir); len(list) != 1 || !list[0].Touch {
		t.Errorf("candidates: %+v", list)
	}
	if _, err := s.ProveSingle(t.Context(), message); !errors.Is(err, ErrNotSingle) {
		t.Errorf("a single packet: %v", err)
	}
}

// hardware is an agent with a security key that is touched at once (PROTOCOL.u2f).
type hardware struct {
	agent.ExtendedAgent
	private ed25519.PrivateKey
	key     ssh.PublicKey
}

func (w hardware) List() ([]*agent.Key, error) {
	return []*agent.Key{{Format: w.key.Type(), Blob: w.key.Marshal(), Comment: "key on the ring"}}, nil
}

func (w hardware) SignWithFlags(_ ssh.PublicKey, data []byte, _ agent.SignatureFlags) (*ssh.Signature, error) {
	rest := []byte{1, 0, 0, 0, 9} // present; a counter
	app, hash := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	return &ssh.Signature{Format: w.key.Type(), Blob: ed25519.Sign(w.private, slices.Concat(app[:], rest, hash[:])), Rest: rest}, nil
}

func (w hardware) Sign(k ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return w.SignWithFlags(k, data, 0)
}

// waiting is an agent that does not sign before the visitor has gone.
type waiting struct {
	agent.Agent
	asked, end chan struct{}
}

func (w waiting) Sign(ssh.PublicKey, []byte) (*ssh.Signature, error) {
	close(w.asked)
	<-w.end
	return nil, errors.New("too late")
}

func (w waiting) SignWithFlags(k ssh.PublicKey, data []byte, _ agent.SignatureFlags) (*ssh.Signature, error) {
	return w.Sign(k, data)
}

func (w waiting) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }

// An agent that takes a connection and says nothing is not waited for for ever: there are
// the files.
func TestAgentThatHangs(t *testing.T) {
	h := newHome(t)
	path := h.key("id_ed25519", "ed25519")
	l, err := net.Listen("unix", filepath.Join(h.dir, "hangs"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // and so what waits to be accepted
	m := h.machine()
	m.Getenv = func(string) string { return l.Addr().String() }
	m.Patience = 20 * time.Millisecond
	if s, err := Open(t.Context(), m, profile.Key{File: path}); err != nil || s == nil {
		t.Errorf("a key of a file: %v", err)
	}
	if all := m.Candidates(t.Context(), h.dir); len(all) != 1 || all[0].Key.File != path {
		t.Errorf("candidates: %+v", all)
	}
	const want = "no ssh-agent can be reached: it has not answered within 20ms"
	if _, err := m.agentKeys(t.Context()); !errors.Is(err, ErrNoAgent) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
