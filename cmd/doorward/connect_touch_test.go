//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/doorward/doorward/internal/profile"
)

// securityKey is an agent with a key that takes a touch, of which it counts how often it is
// asked for.
type securityKey struct {
	agent.Agent
	key   ssh.PublicKey
	asked atomic.Int32
}

func (s *securityKey) List() ([]*agent.Key, error) {
	return []*agent.Key{{Format: s.key.Type(), Blob: s.key.Marshal(), Comment: "key on the ring"}}, nil
}

func (s *securityKey) Sign(ssh.PublicKey, []byte) (*ssh.Signature, error) {
	s.asked.Add(1)
	return nil, errors.New("not touched")
}

// Match exec never asks for the touch of a security key, and does not even knock; the first
// form does.
func TestQuietMatchAsksForNoTouch(t *testing.T) {
	v, s := enrolled(t)
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct{ Type, Key, Application string }{ssh.KeyAlgoSKED25519, strings.Repeat("k", 32), "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	a := &securityKey{key: key}
	v.vars["SSH_AUTH_SOCK"] = filepath.Join(v.home, "agent")
	l, err := net.Listen("unix", v.vars["SSH_AUTH_SOCK"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(a, c) // ends with the visitor
		}
	}()
	in := profile.Directory(filepath.Join(v.home, "profiles"))
	p, err := in.Load("gate")
	if err != nil {
		t.Fatal(err)
	}
	p.Key = profile.Key{Agent: ssh.FingerprintSHA256(key)}
	if err := in.Save(p, true); err != nil {
		t.Fatal(err)
	}
	v.now = v.now.Add(time.Hour)
	before := v.knocks()
	v.want(1, "", "doorward: error: the profile's key takes a touch, which Match exec never asks for\n"+
		"doorward: hint: doorward ssh-config PROFILE --install, without --match\n", "knock", "gate", "--quiet-match")
	v.want(1, "", "", "knock", "gate", "--quiet-match") // it was said
	if n := v.knocks() - before; n != 0 || a.asked.Load() != 0 {
		t.Errorf("%d knocks, and the key was asked %d times; want neither", n, a.asked.Load())
	}
	v.now = v.now.Add(time.Hour)
	if code, _, errs := v.connect("", nil, "gate", fmt.Sprint(s.port)); code == 0 || a.asked.Load() == 0 {
		t.Errorf("connect: status %d, asked %d times: %s", code, a.asked.Load(), errs)
	}
}
