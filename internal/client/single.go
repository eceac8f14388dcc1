package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/visit"
)

// SingleProver is a Prover whose proofs fit into a single packet.
type SingleProver interface {
	Prover
	// ProveSingle returns the proof of a message, in the form of a single packet's. An
	// error says which credentials can.
	ProveSingle(ctx context.Context, message []byte) ([64]byte, error)
}

// Single is what a visitor asks for in single packets.
type Single struct {
	Knock
	Prover  SingleProver
	Counter func() (uint64, error) // returns a higher number each time
	// Source is the address that the gateway will see, where it is another than this
	// machine's. It has one family, over which alone it is knocked then.
	Source netip.Addr
}

// Sent is a single packet that was sent.
type Sent struct {
	Gateway netip.AddrPort
	Source  netip.Addr // what it was proven for; invalid: any
}

const (
	singleTimes = 3 // each is sent, in case some are lost: the gateway takes one
	singlePause = 100 * time.Millisecond
)

// SendSingle knocks with a single packet over each family. Whether it has arrived nobody
// says. Errors are those of Knock, but for a gateway's refusals.
func (c *Client) SendSingle(ctx context.Context, k Single) (sent []Sent, bundle []byte, err error) {
	if !k.Profile.Gateway.Complete() {
		if bundle, err = c.Fetch(ctx, k.Profile); err != nil {
			return nil, nil, err
		}
		k.Profile.Gateway.Bundle = bundle
	}
	if k.Source.IsValid() {
		k.Family = IPv6
		if k.Source.Is4() {
			k.Family = IPv4
		}
	}
	addrs, err := c.firsts(ctx, k.Profile.Hosts, k.Family)
	if err != nil {
		return nil, bundle, err
	}
	var last error
	for _, a := range addrs {
		s, err := c.sendSingle(ctx, k, netip.AddrPortFrom(a, k.Profile.Port))
		if err != nil {
			last = err
			continue
		}
		sent = append(sent, s)
	}
	if len(sent) == 0 {
		return nil, bundle, last
	}
	return sent, bundle, nil
}

// firsts returns the first address of each family. Which of them answers cannot be known.
func (c *Client) firsts(ctx context.Context, hosts []string, f Family) (addrs []netip.Addr, err error) {
	seen := map[bool]bool{}
	for _, host := range hosts {
		of := c.find(ctx, host)
		err = errors.Join(err, of.err)
		for _, a := range of.addrs {
			a = a.Unmap()
			if f == IPv4 && !a.Is4() || f == IPv6 && a.Is4() || seen[a.Is4()] {
				continue
			}
			seen[a.Is4()] = true
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 && err == nil {
		err = &UnreachableError{Hosts: hosts}
	}
	if len(addrs) > 0 {
		err = nil
	}
	return addrs, err
}

func (c *Client) sendSingle(ctx context.Context, k Single, to netip.AddrPort) (Sent, error) {
	conn, err := c.dial(ctx, "udp", to.String())
	if err != nil {
		return Sent{}, &UnreachableError{Hosts: []string{to.Addr().String()}, err: err}
	}
	defer conn.Close()
	source := k.Source
	if !source.IsValid() && !k.Profile.AnySource {
		source = localOf(conn)
	}
	counter, err := k.Counter()
	if err != nil {
		return Sent{}, err
	}
	p, err := seal.NewSinglePacket(k.Profile.Gateway, k.Profile.Suite, k.Request, counter, singleID(k.Prover.Credential()), source)
	if err != nil {
		return Sent{}, err
	}
	proof, err := k.Prover.ProveSingle(ctx, p.Message())
	if err != nil {
		return Sent{}, err
	}
	d, err := p.Datagram(proof)
	if err != nil {
		return Sent{}, err
	}
	for n := range singleTimes {
		if n > 0 && !visit.Pause(ctx, singlePause) {
			return Sent{}, ctx.Err()
		}
		if _, err = conn.Write(d); err != nil && !isRefused(err) {
			return Sent{}, &UnreachableError{Hosts: []string{to.Addr().String()}, err: err}
		}
	}
	return Sent{to, source}, nil
}

// localOf is this machine's address of a connection, as the other end sees it if there is
// no NAT between.
func localOf(conn net.Conn) netip.Addr {
	at, _ := netip.ParseAddrPort(conn.LocalAddr().String())
	return at.Addr().Unmap().WithZone("")
}

// singleID is how a single packet names a credential.
func singleID(c seal.Credential) (id [8]byte) {
	from := slices.Clone(c.Fingerprint[:])
	if c.Kind == seal.Secret {
		from = c.ID[:]
	}
	copy(id[:], from)
	return id
}
