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
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

// The door "safe" has a sealed knock. Who knocks at it rightly has safeKey; who knocks
// otherwise has seen all that others have sent, and has the profile secret and the
// gateway's public keys.
const (
	safePort   = 7272
	sealedPort = 41641
)

var (
	safeSeed, safeProfile = [32]byte{7}, seal.Profile{7}
	safeKey, strangersKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
)

// safeFiles are those that the knock goes by.
func safeFiles() map[string]string {
	coded := base64.StdEncoding.EncodeToString
	return map[string]string{
		"/etc/doorward/sealed.key":      fmt.Sprintf("key %s\nprofile %s\n", coded(safeSeed[:]), coded(safeProfile[:])),
		"/etc/doorward/authorized_keys": "ssh-ed25519 " + coded(public(safeKey)) + " visitor\n",
	}
}

// public is a key's public half in SSH's wire format.
func public(key ed25519.PrivateKey) []byte {
	half, _ := key.Public().(ed25519.PublicKey)
	return ssh.Marshal(struct {
		Kind string
		Key  []byte
	}{ssh.KeyAlgoED25519, half})
}

// overheard is what was sent to the safe, the latest of it.
type overheard struct {
	mu  sync.Mutex // guards all
	all [][]byte
}

func (o *overheard) add(d []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all = append(o.all, d); len(o.all) > 200 {
		o.all = slices.Delete(o.all, 0, 100)
	}
}

func (o *overheard) any(dice *rand.Rand) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) == 0 {
		return nil
	}
	return bytes.Clone(o.all[dice.IntN(len(o.all))])
}

// answerWithin is how long a visitor waits for an answer before sending the same again,
// and sealedTries how often they send it.
const answerWithin, sealedTries = 150 * time.Millisecond, 4

// knockSealed is a knock at the safe. One that is not right is no knock at all to the
// judge: it must open nothing, and it costs nobody a penalty.
func (e *episode) knockSealed(ctx context.Context, c *campaign, kind judge.Kind, dice *rand.Rand) {
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(e.from()), net.UDPAddrFromAddrPort(netip.AddrPortFrom(e.door.target(e.source).Addr(), sealedPort)))
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
	a, err := shake(ctx, conn, safeKey, &c.heard)
	k.End, k.Whole = c.now(), err == nil && (a.Status == seal.Opened || a.Status == seal.Starting)
	if err == nil && !k.Whole && len(c.events.During(k.Span)) == 0 {
		c.broken("P4: a right sealed knock of %s, %.3f to %.3f, was refused for reason %d", e.source, k.Begin.Seconds(), k.End.Seconds(), a.Reason)
	}
	e.mu.Lock()
	e.knocks = append(e.knocks, k)
	e.mu.Unlock()
	c.count("sealed knocks, right")
}

// attack tries what an eavesdropper can, and somebody with the profile secret.
func (e *episode) attack(ctx context.Context, c *campaign, conn *net.UDPConn, dice *rand.Rand) {
	for range 1 + dice.IntN(8) {
		one, other := c.heard.any(dice), c.heard.any(dice)
		switch n := min(len(one), len(other)); dice.IntN(3) {
		case 0:
			if n > 0 {
				one[dice.IntN(n)] ^= 1 << dice.IntN(8)
			}
		case 1:
			at := dice.IntN(n + 1)
			one = append(one[:at:at], other[at:]...)
		}
		_, _ = conn.Write(one)
	}
	c.count("sealed knocks, replayed and mixed")
	a, err := shake(ctx, conn, strangersKey, nil)
	if err == nil && a.Status != seal.Refused {
		c.broken("P1: a key that nobody knows was answered %+v", a)
	}
	c.count("sealed knocks without a key that counts")
}

var errNoAnswer = errors.New("no answer")

// shake is a whole handshake, up to the answer.
func shake(ctx context.Context, conn *net.UDPConn, key ed25519.PrivateKey, heard *overheard) (seal.Answer, error) {
	id, err := seal.NewIdentity(safeSeed)
	if err != nil {
		return seal.Answer{}, err
	}
	v, err := seal.NewVisitor(seal.Peer{Profile: safeProfile, Fingerprint: id.Fingerprint(), Bundle: id.Bundle()}, seal.X25519)
	if err != nil {
		return seal.Answer{}, err
	}
	now := v.Hello()
	for range sealedTries {
		if heard != nil {
			heard.add(now)
		}
		_, _ = conn.Write(now) // a daemon that is dead refuses
		e, a := next(ctx, conn, v)
		switch e {
		case seal.Answered:
			return a, nil
		case seal.Busy:
			now = v.Hello()
		case seal.Challenged:
			if now, err = asks(v, key); err != nil {
				return a, err
			}
		}
	}
	return seal.Answer{}, errNoAnswer
}

// next reads until something of the handshake comes, for a moment.
func next(ctx context.Context, conn *net.UDPConn, v *seal.Visitor) (seal.Event, seal.Answer) {
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
		if e, a := v.Read(b[:n]); e != seal.Nothing {
			return e, a
		}
	}
	return seal.Nothing, seal.Answer{}
}

// asks is the request for the safe, with a key's proof.
func asks(v *seal.Visitor, key ed25519.PrivateKey) ([]byte, error) {
	q, who := seal.Request{Action: seal.Open, Door: "safe"}, seal.Credential{Kind: seal.Key, Fingerprint: credential.FingerprintOf(public(key))}
	own := v.Transcript(q, who)
	who.Proof = ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: ed25519.Sign(key, credential.Signed(seal.Message(own)))})
	return v.Request(q, who, own, own, false)
}
