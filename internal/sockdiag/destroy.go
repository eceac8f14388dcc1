//go:build linux

package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"syscall"

	"github.com/mdlayher/netlink"

	"github.com/doorward/doorward/internal/port"
)

const (
	sockDestroy = 21 // SOCK_DESTROY of linux/sock_diag.h
	idAt, idEnd = 4, 52
)

// Ends are the two ends of a TCP connection, IPv4-mapped addresses as IPv4.
type Ends struct{ Local, Remote netip.AddrPort }

// Destroy ends TCP connections of the caller's network namespace: both sides get a reset.
// Those that have no socket here, or none any more, are left out. It needs CAP_NET_ADMIN,
// and a kernel with CONFIG_INET_DIAG_DESTROY, as distributions' have. After an error some
// may go on.
func Destroy(all []Ends) error {
	if len(all) == 0 {
		return nil
	}
	wanted := make(map[Ends]bool, len(all))
	local := make(map[uint16]bool)
	var ports []port.Range
	for _, e := range all {
		n := e.Local.Port()
		if wanted[e] = true; !local[n] {
			local[n] = true
			ports = append(ports, port.Range{Proto: port.TCP, First: n, Last: n})
		}
	}
	conn, err := netlink.Dial(netlinkSockDiag, nil)
	if err != nil {
		return fmt.Errorf("open sock_diag: %w", err)
	}
	defer conn.Close()
	for _, family := range []uint8{syscall.AF_INET, syscall.AF_INET6} {
		// A list that has changed meanwhile will do: nobody comes in, and who is in stays on it.
		found, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   diagRequest(family, port.TCP, math.MaxUint32, ports),
		})
		if err != nil {
			return fmt.Errorf("list sockets over sock_diag: %w", err)
		}
		for _, m := range found {
			s, parseErr := parseSocket(port.TCP, m.Data)
			if parseErr != nil || !wanted[Ends{s.Local, s.Remote}] {
				err = errors.Join(err, parseErr)
				continue
			}
			err = errors.Join(err, destroy(conn, m.Data))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// destroy ends the connection of a socket that was listed, which its whole identity tells
// apart from a later one with the same ends.
func destroy(conn *netlink.Conn, listed []byte) error {
	req := make([]byte, reqLen)
	req[0], req[1] = listed[0], uint8(port.TCP)
	binary.NativeEndian.PutUint32(req[4:8], math.MaxUint32)
	copy(req[8:], listed[idAt:idEnd])
	_, err := conn.Execute(netlink.Message{Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge}, Data: req})
	if err == nil || errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return fmt.Errorf("end a connection over sock_diag: %w", err)
}
