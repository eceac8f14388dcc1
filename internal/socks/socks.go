// Package socks is the beginning of a connection to a SOCKS proxy, version 5 (RFC 1928),
// on the proxy's side: CONNECT alone, without authentication. It reads what the RFC says
// and no more, at most 519 bytes.
package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// Request is where a client wants to.
type Request struct {
	Host string // a name or an address
	Port uint16
}

// Reply is what a client is told (RFC 1928, section 6).
type Reply byte

// The replies.
const (
	Succeeded   Reply = 0
	Failed      Reply = 1
	NotAllowed  Reply = 2
	Unreachable Reply = 4
	Refused     Reply = 5

	noCommand Reply = 7
	noAddress Reply = 8
)

// The numbers of RFC 1928.
const (
	version    = 5
	noAuth     = 0
	noMethod   = 0xff
	connect    = 1
	ipv4       = 1
	domainName = 3
	ipv6       = 4
)

// Accept reads what a client wants. A client that wants what there is not is told, and is an
// error.
func Accept(rw io.ReadWriter) (q Request, err error) {
	var head [2]byte // version, number of methods
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return q, err
	}
	if head[0] != version {
		return q, fmt.Errorf("this is no SOCKS5: it begins with %#x", head[0])
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(rw, methods); err != nil {
		return q, err
	}
	if !slices.Contains(methods, noAuth) {
		_, err := rw.Write([]byte{version, noMethod})
		return q, errors.Join(errors.New("the client wants to log in, and this proxy knows nobody"), err)
	}
	if _, err := rw.Write([]byte{version, noAuth}); err != nil {
		return q, err
	}
	return request(rw)
}

// request reads the request itself.
func request(rw io.ReadWriter) (q Request, err error) {
	var head [4]byte // version, command, reserved, type of address
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return q, err
	}
	if head[0] != version {
		return q, fmt.Errorf("this is no SOCKS5: the request has version %d", head[0])
	}
	long := 0
	switch head[3] {
	case ipv4:
		long = 4
	case ipv6:
		long = 16
	case domainName:
		var n [1]byte
		if _, err := io.ReadFull(rw, n[:]); err != nil {
			return q, err
		}
		long = int(n[0])
	default:
		return q, errors.Join(fmt.Errorf("there is no type of address %d", head[3]), Answer(rw, noAddress))
	}
	rest := make([]byte, long+2)
	if _, err := io.ReadFull(rw, rest); err != nil {
		return q, err
	}
	q.Port = binary.BigEndian.Uint16(rest[long:])
	if q.Host = string(rest[:long]); head[3] != domainName {
		a, _ := netip.AddrFromSlice(rest[:long]) // its length is right
		q.Host = a.Unmap().String()
	}
	if head[1] != connect {
		return q, errors.Join(fmt.Errorf("command %d: this proxy connects, and no more", head[1]), Answer(rw, noCommand))
	}
	return q, nil
}

// Answer tells a client what came of its request. The address in it is 0.0.0.0:0: nobody
// needs to know from where the proxy connects.
func Answer(w io.Writer, r Reply) error {
	_, err := w.Write([]byte{version, byte(r), 0, ipv4, 0, 0, 0, 0, 0, 0})
	return err
}
