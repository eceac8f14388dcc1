//go:build unix

package signer

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

var message = bytes.Repeat([]byte("m"), 32)

// home is a directory with keys, and perhaps an agent.
type home struct {
	t    *testing.T
	dir  string
	vars map[string]string
	asks []string // answers to what is asked
}

func newHome(t *testing.T) *home {
	t.Helper()
	for _, program := range []string{"ssh-keygen", "ssh-agent", "ssh-add"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("the tests need OpenSSH's %s: %v", program, err)
		}
	}
	return &home{t: t, dir: t.TempDir(), vars: map[string]string{}}
}

func (h *home) machine() Machine {
	return Machine{Getenv: func(name string) string { return h.vars[name] },
		Ask: func(context.Context, string, bool) ([]byte, error) {
			if len(h.asks) == 0 {
				return nil, ErrNobody
			}
			answer := h.asks[0]
			h.asks = h.asks[1:]
			return []byte(answer), nil
		}}
}

// run runs a program of OpenSSH's.
func (h *home) run(program string, args ...string) string {
	h.t.Helper()
	c := exec.Command(program, args...)
	c.Env = append(os.Environ(), "SSH_AUTH_SOCK="+h.vars["SSH_AUTH_SOCK"])
	out, err := c.CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// key makes a key and returns the path of its file.
func (h *home) key(name, kind string, args ...string) string {
	path := filepath.Join(h.dir, name)
	h.run("ssh-keygen", append([]string{"-q", "-t", kind, "-N", "", "-a", "1", "-C", "alice@" + name, "-f", path}, args...)...)
	return path
}

// agent starts ssh-agent for the test.
func (h *home) agent() {
	h.t.Helper()
	socket := filepath.Join(h.dir, "agent")
	c := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	h.vars["SSH_AUTH_SOCK"] = socket
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatal(err)
		}
	}
}

func (h *home) public(path string) ssh.PublicKey {
	h.t.Helper()
	key := readPublic(path)
	if key == nil {
		h.t.Fatalf("%s is no public key", path)
	}
	return key
}

// ring is one that knows the public keys of files, and what is in others.
func (h *home) ring(lines ...string) *credential.Ring {
	h.t.Helper()
	keys, problems := credential.Parse([]byte(strings.Join(lines, "\n")), "keys")
	if len(problems) > 0 {
		h.t.Fatal(problems)
	}
	return credential.NewRing(credential.Origins{File: credential.NewKeys(keys)})
}

func (h *home) line(path string) string {
	h.t.Helper()
	text, err := os.ReadFile(path + ".pub")
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// prove has a signer prove the message.
func prove(t *testing.T, s *Signer) seal.Credential {
	t.Helper()
	proof, err := s.Prove(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	c := s.Credential()
	c.Proof = proof
	return c
}

// serve has an agent of the test's answer at a socket.
func (h *home) serve(socket string, a agent.Agent) {
	h.t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	go func() { // ends with l
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(a, c) // ends with the visitor
		}
	}()
	h.vars["SSH_AUTH_SOCK"] = socket
}
