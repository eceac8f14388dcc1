//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

// sealedPort is where doorward hears sealed knocks.
const sealedPort = 41641

const sealedConfig = `[gateway]
state = %%q
control = %%q
metrics = "` + metrics + `"

[door.bench]
ports = ["%%d/tcp"]
open_for = "1h"

[door.bench.presence]
idle = "never"
logins = "off"
connections = false

[[door.bench.knock]]
kind = "sealed"
port = %d
identity = %q
keys = %q
secrets = %q
one_way = true
`

// sealed opens for a sealed knock.
type sealed struct {
	doorward
	suite  seal.Suite
	single bool
	keys   int           // in the file besides those of people
	delay  time.Duration // of each datagram of the knock, either way

	peer   seal.Peer
	people [64]ed25519.PrivateKey // of one there is a bounded number of knocks a minute
}

func (g *sealed) start(ctx context.Context, b *bench) (int, error) {
	seed, profile := [32]byte{1}, seal.Profile{1}
	id, err := seal.NewIdentity(seed)
	if err != nil {
		return 0, err
	}
	g.peer = seal.Peer{Profile: profile, Fingerprint: id.Fingerprint(), Bundle: id.Bundle()}
	coded := base64.StdEncoding.EncodeToString
	var keys, secrets strings.Builder
	for n := range g.people {
		g.people[n] = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(n)}, ed25519.SeedSize))
		secret := machine(n)
		fmt.Fprintf(&secrets, "machine%d %s\n", n, coded(secret[:]))
		fmt.Fprintf(&keys, "ssh-ed25519 %s\n", coded(blob(g.people[n])))
	}
	for range g.keys {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(&keys, "ssh-ed25519 %s\n", coded(blob(key)))
	}
	for name, text := range map[string]string{
		"sealed.key":      fmt.Sprintf("key %s\nprofile %s\n", coded(seed[:]), coded(profile[:])),
		"authorized_keys": keys.String(),
		"secrets":         secrets.String(),
	} {
		if err := os.WriteFile(b.Path(name), []byte(text), 0o600); err != nil {
			return 0, err
		}
	}
	g.config = fmt.Sprintf(sealedConfig, sealedPort, b.Path("sealed.key"), b.Path("authorized_keys"), b.Path("secrets"))
	return g.doorward.start(ctx, b)
}

// knock prepares the first datagram; what is left is to send it, and in a handshake to
// read the challenge, sign, and send the request.
func (g *sealed) knock(source string) (func() error, error) {
	if g.single {
		return g.singlePacket(source)
	}
	v, err := seal.NewVisitor(g.peer, g.suite)
	if err != nil {
		return nil, err
	}
	c, err := g.dial(source)
	if err != nil {
		return nil, err
	}
	return func() error {
		request, err := g.shake(c, v, g.byKey(0))
		if err != nil {
			c.Close()
			return err
		}
		go func() { // ends with the answer, or when it is given up: the opening does not wait for that
			defer c.Close()
			_, _ = g.answer(c, v, request)
		}()
		return nil
	}, nil
}

func (g *sealed) dial(source string) (*net.UDPConn, error) {
	return net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(source)}, &net.UDPAddr{IP: net.ParseIP(serverAddr), Port: sealedPort})
}

// again is after what time a visitor sends a datagram again that was not answered.
const again = 200 * time.Millisecond

// shake is a handshake up to the request, which it sends and returns.
func (g *sealed) shake(c net.Conn, v *seal.Visitor, by prover) ([]byte, error) {
	e, err := seal.Nothing, g.send(c, v.Hello())
	for begun := time.Now(); err == nil && e != seal.Challenged; {
		if e, _, err = g.read(c, v); e == seal.Busy || errors.Is(err, os.ErrDeadlineExceeded) && time.Since(begun) < openWithin {
			err = g.send(c, v.Hello())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOpen, err)
	}
	q := seal.Request{Action: seal.Open}
	who := by(func(c seal.Credential) []byte { return seal.Message(v.Transcript(q, c)) })
	own := v.Transcript(q, who)
	d, err := v.Request(q, who, own, own, false)
	if err != nil {
		return nil, err
	}
	return d, g.send(c, d)
}

// answer waits for the answer to a request that was sent.
func (g *sealed) answer(c net.Conn, v *seal.Visitor, request []byte) (seal.Answer, error) {
	for begun := time.Now(); ; {
		e, a, err := g.read(c, v)
		switch {
		case e == seal.Answered:
			return a, nil
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(begun) < openWithin:
			err = g.send(c, request)
		}
		if err != nil {
			return a, err
		}
	}
}

func (g *sealed) send(c net.Conn, d []byte) error {
	time.Sleep(g.delay)
	_, err := c.Write(d)
	return err
}

func (g *sealed) read(c net.Conn, v *seal.Visitor) (seal.Event, seal.Answer, error) {
	var b [seal.Longest]byte
	if err := c.SetReadDeadline(time.Now().Add(again)); err != nil {
		return 0, seal.Answer{}, err
	}
	n, err := c.Read(b[:])
	if err != nil {
		return 0, seal.Answer{}, err
	}
	time.Sleep(g.delay)
	e, a := v.Read(b[:n])
	return e, a, nil
}

// prover shows a credential for a message that depends on it.
type prover = func(message func(seal.Credential) []byte) seal.Credential

// blob is a key's public half in SSH's wire format.
func blob(key ed25519.PrivateKey) []byte {
	public, _ := key.Public().(ed25519.PublicKey)
	return ssh.Marshal(struct {
		Kind string
		Key  []byte
	}{ssh.KeyAlgoED25519, public})
}

// machine is a machine's secret.
func machine(n int) (secret [32]byte) {
	secret[0], secret[1] = byte(n), 1
	return secret
}

func sign(key ed25519.PrivateKey, message []byte) []byte {
	return ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: ed25519.Sign(key, credential.Signed(message))})
}

// byKey shows somebody's key.
func (g *sealed) byKey(n int) prover {
	return func(message func(seal.Credential) []byte) seal.Credential {
		c := seal.Credential{Kind: seal.Key, Fingerprint: credential.FingerprintOf(blob(g.people[n]))}
		c.Proof = sign(g.people[n], message(c))
		return c
	}
}

// bySecret shows a machine's secret.
func (g *sealed) bySecret(n int) prover {
	return func(message func(seal.Credential) []byte) seal.Credential {
		c := seal.Credential{Kind: seal.Secret, ID: credential.SecretID(machine(n))}
		proof := credential.SecretProof(machine(n), message(c))
		c.Proof = proof[:]
		return c
	}
}

// singlePacket prepares all of a single packet.
func (g *sealed) singlePacket(source string) (func() error, error) {
	id := credential.FingerprintOf(blob(g.people[0]))
	from, err := netip.ParseAddr(source)
	if err != nil {
		return nil, err
	}
	p, err := seal.NewSinglePacket(g.peer, g.suite, seal.Request{Action: seal.Open}, uint64(time.Now().UnixMicro()), [8]byte(id[:]), from)
	if err != nil {
		return nil, err
	}
	proof, _ := credential.SingleProof(sign(g.people[0], p.Message()))
	d, err := p.Datagram(proof)
	if err != nil {
		return nil, err
	}
	c, err := g.dial(source)
	if err != nil {
		return nil, err
	}
	return func() error {
		defer c.Close()
		return g.send(c, d)
	}, nil
}
