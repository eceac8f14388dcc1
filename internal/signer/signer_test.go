//go:build unix

package signer

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
)

// A key in a file and one that an agent has make proofs that the gateway accepts.
func TestKeys(t *testing.T) {
	h := newHome(t)
	h.agent()
	for _, tt := range []struct {
		kind   string
		args   []string
		single bool
	}{
		{"ed25519", nil, true}, {"ecdsa", []string{"-b", "256"}, true}, {"ecdsa", []string{"-b", "384"}, false},
		{"ecdsa", []string{"-b", "521"}, false}, {"rsa", []string{"-b", "2048"}, false},
		{"ed25519", []string{"-m", "PKCS8"}, true}, {"rsa", []string{"-b", "2048", "-m", "PEM"}, false},
	} {
		name := strings.Join(append([]string{tt.kind}, tt.args...), "")
		t.Run(name, func(t *testing.T) {
			path := h.key(name, tt.kind, tt.args...)
			public := h.public(path + ".pub")
			f := credential.FingerprintOf(public.Marshal())
			ring := h.ring(h.line(path))
			check := func(k profile.Key, want string) {
				t.Helper()
				s, err := Open(t.Context(), h.machine(), k)
				if err != nil {
					t.Fatal(err)
				}
				c := prove(t, s)
				party, ok := ring.Key(c.Fingerprint, message, c.Proof)
				if c.Kind != seal.Key || !ok || party.ID != f.String() {
					t.Errorf("%+v: %+v, accepted: %v", k, c, ok)
				}
				if s.String() != f.String()+" ("+want+")" || s.Touch() || s.Public() != strings.Join(strings.Fields(h.line(path))[:2], " ") {
					t.Errorf("%q, touch %v, %q", s, s.Touch(), s.Public())
				}
				proof, err := s.ProveSingle(t.Context(), message)
				if !tt.single {
					if !errors.Is(err, ErrNotSingle) {
						t.Errorf("a single packet: %v", err)
					}
					return
				}
				if party, ok := ring.Single([8]byte(f[:8]), message, proof); err != nil || !ok || party.ID != f.String() {
					t.Errorf("the proof of a single packet is not accepted: %v", err)
				}
			}
			check(profile.Key{File: path}, path)
			h.run("ssh-add", "-q", path)
			check(profile.Key{File: path}, "ssh-agent")
			check(profile.Key{Agent: f.String()}, "ssh-agent")
		})
	}
}

// An encrypted key asks once, when it is unlocked or else when it is to sign.
func TestEncrypted(t *testing.T) {
	h := newHome(t)
	path := h.key("locked", "ed25519", "-N", "secret")
	h.asks = []string{"secret"}
	s, err := Open(t.Context(), h.machine(), profile.Key{File: path})
	if err != nil || len(h.asks) != 1 {
		t.Fatalf("%v, asked: %v", err, len(h.asks) == 0)
	}
	for range 2 {
		if err := s.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := prove(t, s)
		if _, ok := h.ring(h.line(path)).Key(c.Fingerprint, message, c.Proof); !ok {
			t.Error("the proof is not accepted")
		}
	}
	other := h.key("other", "ed25519")
	text, err := os.ReadFile(other + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".pub", text, 0o600); err != nil {
		t.Fatal(err)
	}
	h.asks = []string{"secret"}
	if s, err = Open(t.Context(), h.machine(), profile.Key{File: path}); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%q and %[1]q.pub are two different keys: ssh-keygen -y -f %[2]s > %[2]s.pub", path, path)
	if _, err := s.Prove(t.Context(), message); err == nil || err.Error() != want {
		t.Errorf("another's public key beside it: %v\nwant %s", err, want)
	}
}

// A certificate is shown for its key, wherever that is.
func TestCertificate(t *testing.T) {
	h := newHome(t)
	authority, path, other := h.key("ca", "ed25519"), h.key("id", "ed25519"), h.key("other", "ed25519")
	h.run("ssh-keygen", "-q", "-s", authority, "-I", "alice", "-n", "doorward", path+".pub")
	ring := h.ring(`cert-authority,principals="doorward" ` + h.line(authority))
	check := func(k profile.Key) {
		t.Helper()
		s, err := Open(t.Context(), h.machine(), k)
		if err != nil {
			t.Fatal(err)
		}
		c := prove(t, s)
		if _, ok := ring.Certificate(c.Public, message, c.Proof); c.Kind != seal.Certificate || !ok {
			t.Errorf("%+v is not accepted", k)
		}
		if _, err := s.ProveSingle(t.Context(), message); !errors.Is(err, ErrNotSingle) {
			t.Errorf("a single packet: %v", err)
		}
	}
	certificate := path + "-cert.pub"
	check(profile.Key{File: path, Certificate: certificate})
	h.agent()
	h.run("ssh-add", "-q", path)
	f := credential.FingerprintOf(h.public(path + ".pub").Marshal()).String()
	check(profile.Key{Agent: f, Certificate: certificate})
	// An agent that has the certificate alone signs with its key.
	private, err := ssh.ParseRawPrivateKey(read(t, path))
	if err != nil {
		t.Fatal(err)
	}
	h.run("ssh-add", "-q", "-D")
	if err := h.machine().agentWithin(t.Context(), func(a agent.ExtendedAgent) error {
		return a.Add(agent.AddedKey{PrivateKey: private, Certificate: h.public(certificate).(*ssh.Certificate)})
	}); err != nil {
		t.Fatal(err)
	}
	check(profile.Key{Agent: f, Certificate: certificate})
	for bad, want := range map[string]string{
		path + ".none":   fmt.Sprintf("certificate %q cannot be read, or is none: allowed is what ssh-keygen -s writes", path+".none"),
		other + ".pub":   fmt.Sprintf("%q is a public key, and no certificate: allowed is what ssh-keygen -s writes, FILE-cert.pub", other+".pub"),
		"of another key": fmt.Sprintf("certificate %q is for another key, %s", certificate, f),
	} {
		k := profile.Key{File: path, Certificate: bad}
		if bad == "of another key" {
			k = profile.Key{File: other, Certificate: certificate}
		}
		if _, err := Open(t.Context(), h.machine(), k); err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A machine's secret is a line of the gateway's file.
func TestSecret(t *testing.T) {
	h := newHome(t)
	raw := bytes.Repeat([]byte{5}, 32)
	coded := base64.StdEncoding.EncodeToString(raw)
	path := filepath.Join(h.dir, "secret")
	secrets, problems := credential.ParseSecrets([]byte("backup "+coded+"\n"), "secrets")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	ring := credential.NewRing(credential.Origins{Secrets: secrets})
	open := func() (*Signer, error) { return Open(t.Context(), h.machine(), profile.Key{Secret: path}) }
	for _, text := range []string{coded, coded + "\n", "# of backup\n\nbackup " + coded + "\n", "backup " + coded + ` from="192.0.2.0/24"`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := open()
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		c := prove(t, s)
		if party, ok := ring.Secret(c.ID, message, [32]byte(c.Proof)); !ok || party.Name != "backup" {
			t.Errorf("%q is not accepted", text)
		}
		proof, err := s.ProveSingle(t.Context(), message)
		if _, ok := ring.Single([8]byte(c.ID[:8]), message, proof); err != nil || !ok {
			t.Errorf("%q: the proof of a single packet is not accepted: %v", text, err)
		}
		if _, err := s.Enrolling([16]byte{}); err == nil {
			t.Error("an invite enrols a secret")
		}
	}
	for _, text := range []string{"", "backup\n", coded + "\n" + coded + "\n", coded[:40] + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%q has no machine's secret: allowed is one line, NAME and 32 bytes in base64, as it is in the gateway's file", path)
		if _, err := open(); err == nil || err.Error() != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What keeps a key from being used is said, with what to type.
func TestErrors(t *testing.T) {
	h := newHome(t)
	path := h.key("id", "ed25519")
	f := credential.FingerprintOf(h.public(path + ".pub").Marshal()).String()
	open := h.key("open", "ed25519")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	sk := filepath.Join(h.dir, "sk")
	skLine := "sk-ssh-ed25519@openssh.com " + base64.StdEncoding.EncodeToString(ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{"sk-ssh-ed25519@openssh.com", make([]byte, 32), "ssh:"})) + " alice\n"
	for name, text := range map[string]string{"sk": "a handle", "sk.pub": skLine, "junk": "what?\n"} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(k profile.Key, is error, want string) {
		t.Helper()
		_, err := Open(t.Context(), h.machine(), k)
		if err == nil || !strings.HasPrefix(err.Error(), want) || is != nil && !errors.Is(err, is) {
			t.Errorf("%+v: %v\nwant %s", k, err, want)
		}
	}
	check(profile.Key{Agent: f}, ErrNoAgent, "key "+f+": no ssh-agent can be reached: SSH_AUTH_SOCK is not set")
	check(profile.Key{File: path + ".none"}, os.ErrNotExist, "private key: open "+path+".none: ")
	check(profile.Key{File: open}, nil, fmt.Sprintf("private key: %q can be read by others (mode 0644), and is not used: chmod 600 %s", open, open))
	check(profile.Key{File: filepath.Join(h.dir, "junk")}, nil, fmt.Sprintf("%q is no private key that can be used: allowed are Ed25519, ECDSA and RSA keys in OpenSSH's form or PEM: ", filepath.Join(h.dir, "junk")))
	check(profile.Key{File: sk}, ErrNoAgent, fmt.Sprintf("%q is a security key's, and used through ssh-agent (ssh-add %s): ", sk, sk))
	check(profile.Key{Agent: "MD5:00"}, nil, "the profile's key: ")
	check(profile.Key{}, nil, "the profile has no key")
	h.agent()
	check(profile.Key{Agent: f}, ErrNotThere, "ssh-agent does not have the key "+f)
	h.run("ssh-add", "-q", path)
	s, err := Open(t.Context(), h.machine(), profile.Key{Agent: f})
	if err != nil {
		t.Fatal(err)
	}
	h.run("ssh-add", "-q", "-D")
	want := "ssh-agent did not sign with " + f + ": it was not confirmed or touched, or the agent is locked ("
	if _, err := s.Prove(t.Context(), message); !errors.Is(err, ErrNotSigned) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// An agent that waits for somebody is left when the knock is given up.
func TestAgentThatWaits(t *testing.T) {
	h := newHome(t)
	path := h.key("id", "ed25519")
	socket := filepath.Join(h.dir, "slow")
	private, err := ssh.ParseRawPrivateKey(read(t, path))
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	w := waiting{ring, make(chan struct{}), make(chan struct{})}
	defer close(w.end)
	h.serve(socket, w)
	s, err := Open(t.Context(), h.machine(), profile.Key{File: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-w.asked
		cancel()
	}()
	if _, err := s.Prove(ctx, message); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Keys of the agent come first, each once, and certificates are none.
func TestCandidates(t *testing.T) {
	h := newHome(t)
	h.agent()
	one, two := h.key("id_one", "ed25519"), h.key("id_two", "ecdsa")
	h.run("ssh-keygen", "-q", "-s", one, "-I", "alice", "-n", "doorward", two+".pub")
	if err := os.WriteFile(filepath.Join(h.dir, "id_bad.pub"), []byte("what\x1b[2J"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.run("ssh-add", "-q", two)
	fingerprint := func(path string) credential.Fingerprint {
		return credential.FingerprintOf(h.public(path + ".pub").Marshal())
	}
	want := []Candidate{
		{profile.Key{Agent: fingerprint(two).String()}, fingerprint(two), "ecdsa-sha2-nistp256", "alice@id_two", false, true},
		{profile.Key{File: one}, fingerprint(one), "ssh-ed25519", "alice@id_one", false, true},
	}
	if d := cmp.Diff(want, h.machine().Candidates(t.Context(), h.dir)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if want[0].Where() != "ssh-agent" || want[1].Where() != one {
		t.Error(want[0].Where(), want[1].Where())
	}
}
