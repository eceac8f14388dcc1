//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

// safe is a door with a sealed knock, and who knocks there rightly.
type safe struct {
	door    string
	knocked uint16 // UDP port
	seed    [32]byte
	profile seal.Profile
	key     ed25519.PrivateKey
}

// The safe and the attic are doors of one gateway, which hears both at one port, and the
// cellar is one of another gateway's, as far as keys go. Who knocks there and must not get
// in has seen all that others have sent and were sent, anywhere. They have the profile
// secrets and the gateways' public keys, a key that nobody knows, and those of the other
// gateway; a thief has the gateways' own keys.
var (
	safes = map[string]*safe{
		"safe":   {"safe", 41641, [32]byte{7}, seal.Profile{7}, keyOf(1)},
		"attic":  {"attic", 41641, [32]byte{7}, seal.Profile{7}, keyOf(1)},
		"cellar": {"cellar", 41642, [32]byte{8}, seal.Profile{8}, keyOf(3)},
	}
	strangersKey = keyOf(2)
)

func keyOf(n byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32)) }

// safeFiles are those that the knocks go by.
func safeFiles() map[string]string {
	files := map[string]string{}
	for name, prefix := range map[string]string{"safe": "", "cellar": "cellar-"} {
		s, coded := safes[name], base64.StdEncoding.EncodeToString
		files["/etc/doorward/"+prefix+"sealed.key"] = fmt.Sprintf("key %s\nprofile %s\n", coded(s.seed[:]), coded(s.profile[:]))
		files["/etc/doorward/"+prefix+"authorized_keys"] = "ssh-ed25519 " + coded(public(s.key)) + " visitor\n"
	}
	return files
}

// public is a key's public half in SSH's wire format.
func public(key ed25519.PrivateKey) []byte {
	half, _ := key.Public().(ed25519.PublicKey)
	return ssh.Marshal(struct {
		Kind string
		Key  []byte
	}{ssh.KeyAlgoED25519, half})
}

// visitor begins a handshake of somebody who knows the gateway.
func (s *safe) visitor() (*seal.Visitor, error) {
	id, err := seal.NewIdentity(s.seed)
	if err != nil {
		return nil, err
	}
	return seal.NewVisitor(seal.Peer{Profile: s.profile, Fingerprint: id.Fingerprint(), Bundle: id.Bundle()}, seal.X25519)
}

// claim is who somebody says that they are, and what they show for it.
type claim struct {
	key   []byte // public, in SSH's wire format
	proof func(message []byte) []byte
}

// owns is the claim of whoever has a key.
func owns(key ed25519.PrivateKey) claim {
	return claim{public(key), func(message []byte) []byte {
		return ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: ed25519.Sign(key, credential.Signed(message))})
	}}
}

// stolen is the claim of a thief of the gateway's key, to whom a visitor has come.
func (s *safe) stolen(from netip.Addr) (claim, error) {
	id, err := seal.NewIdentity(s.seed)
	if err != nil {
		return claim{}, err
	}
	now := time.Now()
	thief := seal.NewGateway([]*seal.Identity{id}, []seal.Profile{s.profile}, false, nil, now)
	v, err := s.visitor()
	if err != nil {
		return claim{}, err
	}
	challenge, _ := thief.Open(from, now, v.Hello())
	if e, _ := v.Read(challenge); e != seal.Challenged {
		return claim{}, fmt.Errorf("a visitor is answered by the thief: %v", e)
	}
	d, err := s.asks(v, owns(s.key))
	if err != nil {
		return claim{}, err
	}
	_, shown := thief.Open(from, now, d)
	if shown == nil {
		return claim{}, errors.New("the thief cannot read what a visitor has sent to them")
	}
	return claim{public(s.key), func([]byte) []byte { return shown.Credential.Proof }}, nil
}

// answerWithin is how long a visitor waits for an answer before sending the same again,
// and sealedTries how often they send it.
const answerWithin, sealedTries = 150 * time.Millisecond, 4

// knockSealed is a knock at the safe. One that is not right is no knock at all to the
// judge: it must open nothing, and it costs nobody a penalty.
func (e *episode) knockSealed(ctx context.Context, c *campaign, kind judge.Kind, dice *rand.Rand) {
	s := e.door.sealed
	at := netip.AddrPortFrom(e.door.target(e.source).Addr(), s.knocked)
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(e.from()), net.UDPAddrFromAddrPort(at))
	if err != nil {
		c.count("sealed knocks that could not be sent")
		return
	}
	defer conn.Close()
	if kind != judge.Right {
		e.attack(ctx, c, conn, dice)
		return
	}
	k := judge.Knock{Span: judge.Span{Begin: c.now()}, Kind: kind}
	a, err := s.shake(ctx, conn, owns(s.key), func(d []byte) {
		c.heard.See(d)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.said = append(e.said, bytes.Clone(d))
	})
	k.End, k.Whole = c.now(), err == nil && (a.Status == seal.Opened || a.Status == seal.Starting)
	if err == nil && !k.Whole && len(c.events.During(k.Span)) == 0 {
		c.broken("P4: a right sealed knock of %s, %.3f to %.3f, was refused for reason %d", e.source, k.Begin.Seconds(), k.End.Seconds(), a.Reason)
	}
	e.mu.Lock()
	e.knocks = append(e.knocks, k)
	e.mu.Unlock()
	c.count("sealed knocks, right")
}

// attack tries what an eavesdropper can, a neighbour behind the visitor's address, somebody
// with the profile secret, a visitor of another gateway, and a thief of the gateway's key.
func (e *episode) attack(ctx context.Context, c *campaign, conn *net.UDPConn, dice *rand.Rand) {
	e.mu.Lock()
	again := slices.Clone(e.said)
	e.mu.Unlock()
	for range 1 + dice.IntN(8) {
		again = append(again, c.heard.Forge(dice))
	}
	for _, d := range again {
		_, _ = conn.Write(d)
	}
	c.count("sealed knocks, replayed and mixed")

	s := e.door.sealed
	stolen, err := s.stolen(e.source)
	if err != nil {
		c.broken("the campaign itself: %v", err)
		return
	}
	foreign := safes["cellar"].key
	if s == safes["cellar"] {
		foreign = safes["safe"].key
	}
	forger := owns(strangersKey)
	forger.key = public(s.key)
	all := []struct {
		who string
		claim
	}{
		{"a key that nobody knows", owns(strangersKey)},
		{"a signature by another key", forger},
		{"a key of another gateway's", owns(foreign)},
		{"what was shown to a thief of the gateway's key", stolen},
	}
	by := all[dice.IntN(len(all))]
	a, err := s.shake(ctx, conn, by.claim, func([]byte) {})
	if err == nil && (a.Status != seal.Refused || a.Reason != seal.NotAccepted) {
		c.broken("P1: %s at door %s is answered %+v", by.who, s.door, a)
	}
	if err == nil {
		c.count("sealed knocks that are refused: " + by.who)
	}
}

var errNoAnswer = errors.New("no answer")

// shake is a whole handshake, up to the answer. All that is sent and received is heard.
func (s *safe) shake(ctx context.Context, conn *net.UDPConn, who claim, heard func([]byte)) (seal.Answer, error) {
	v, err := s.visitor()
	if err != nil {
		return seal.Answer{}, err
	}
	now := v.Hello()
	for range sealedTries {
		heard(now)
		_, _ = conn.Write(now) // a daemon that is dead refuses
		e, a := next(ctx, conn, v, heard)
		switch e {
		case seal.Answered:
			return a, nil
		case seal.Busy:
			now = v.Hello()
		case seal.Challenged:
			if now, err = s.asks(v, who); err != nil {
				return a, err
			}
		}
	}
	return seal.Answer{}, errNoAnswer
}

// next reads until something of the handshake comes, for a moment.
func next(ctx context.Context, conn *net.UDPConn, v *seal.Visitor, heard func([]byte)) (seal.Event, seal.Answer) {
	var b [seal.Longest]byte
	if conn.SetReadDeadline(time.Now().Add(answerWithin)) != nil {
		return seal.Nothing, seal.Answer{}
	}
	for ctx.Err() == nil {
		n, err := conn.Read(b[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			time.Sleep(answerWithin / 10) // refused, for as long as no daemon runs
			continue
		}
		heard(b[:n])
		if e, a := v.Read(b[:n]); e != seal.Nothing {
			return e, a
		}
	}
	return seal.Nothing, seal.Answer{}
}

// asks is the request to open, with what somebody shows for who they are.
func (s *safe) asks(v *seal.Visitor, who claim) ([]byte, error) {
	q, c := seal.Request{Action: seal.Open, Door: s.door}, seal.Credential{Kind: seal.Key, Fingerprint: credential.FingerprintOf(who.key)}
	own := v.Transcript(q, c)
	c.Proof = who.proof(seal.Message(own))
	return v.Request(q, c, own, own, false)
}
