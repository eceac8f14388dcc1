//go:build linux

// Package sockdiag lists the sockets of a network namespace by their local ports,
// as the kernel reports them over sock_diag(7), and ends connections.
//
// Sockets that anybody can create from a forged address, and those that only the kernel
// still holds, to tidy up, are not listed.
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/mdlayher/netlink"

	"github.com/doorward/doorward/internal/port"
)

// From linux/sock_diag.h, linux/inet_diag.h and linux/netlink.h.
const (
	netlinkSockDiag  = 4  // NETLINK_SOCK_DIAG
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	diagReqBytecode  = 1  // INET_DIAG_REQ_BYTECODE
	reqLen           = 56 // struct inet_diag_req_v2
	msgLen           = 72 // struct inet_diag_msg

	opJump          = 1 // INET_DIAG_BC_JMP
	opSourceAtLeast = 2 // INET_DIAG_BC_S_GE
	opSourceAtMost  = 3 // INET_DIAG_BC_S_LE
)

// State numbers from net/tcp_states.h. UDP sockets borrow two of them:
// connected ones are "established", merely bound ones are "close".
const (
	stateEstablished = 1
	stateFinWait1    = 4
	stateFinWait2    = 5
	stateClose       = 7
	stateCloseWait   = 8
	stateListen      = 10
)

// maxFilterRanges bounds the kernel's filter program, whose jumps are 16 bits
// wide. With more ranges, the kernel sends everything and only parseDump filters.
const maxFilterRanges = 1000

// dumpTries is how often a dump is asked for until one is consistent.
const dumpTries = 5

// Socket is one socket of TCP or UDP.
type Socket struct {
	Proto         port.Proto
	Local, Remote netip.AddrPort // IPv4-mapped addresses as IPv4
	UID           uint32         // of the user who made it
	Inode         uint32         // by which /proc/PID/fd names it; 0 if no process holds it

	state uint8
}

// Live returns the live sockets whose local port is one of ports, in the caller's
// network namespace, in no particular order.
//
// A TCP connection is live while established, or half closed (FIN_WAIT1,
// FIN_WAIT2, CLOSE_WAIT) while a process still holds it: one side has finished
// sending, but the other may be in the middle of a long answer. SYN_RECV is not
// live, since anybody can cause it from a forged address; in TIME_WAIT, LAST_ACK
// and CLOSING, and in connections that no process holds, only the kernel is still
// tidying up. A UDP socket is live if it is connected to a peer.
func Live(ports []port.Range) ([]Socket, error) {
	half := uint32(1<<stateFinWait1 | 1<<stateFinWait2 | 1<<stateCloseWait)
	all, err := list(ports, 1<<stateEstablished|half, 1<<stateEstablished)
	return slices.DeleteFunc(all, func(s Socket) bool {
		return s.Proto == port.TCP && s.state != stateEstablished && s.Inode == 0
	}), err
}

// Listening returns the TCP listeners and the bound, unconnected UDP sockets on
// ports, in the caller's network namespace. A socket bound to all addresses has
// 0.0.0.0 or [::], whichever it was bound to, as its local address.
func Listening(ports []port.Range) ([]Socket, error) {
	return list(ports, 1<<stateListen, 1<<stateClose)
}

// list returns the sockets on ports that are in one of the states, of which tcp and
// udp have a bit each.
func list(ports []port.Range, tcp, udp uint32) ([]Socket, error) {
	all, err := dump(ports, port.TCP, tcp)
	if err != nil {
		return nil, err
	}
	more, err := dump(ports, port.UDP, udp)
	if err != nil {
		return nil, err
	}
	return append(all, more...), nil
}

// dump returns all sockets of proto, IPv4 and IPv6, that are in one of states and
// whose local port is in ports.
func dump(ports []port.Range, proto port.Proto, states uint32) ([]Socket, error) {
	var mine []port.Range
	for _, r := range ports {
		if r.Proto == proto {
			mine = append(mine, r)
		}
	}
	if len(mine) == 0 {
		return nil, nil
	}
	conn, err := netlink.Dial(netlinkSockDiag, nil)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	defer conn.Close()
	var all []Socket
	for _, family := range []uint8{syscall.AF_INET, syscall.AF_INET6} {
		sockets, err := dumpFamily(conn, family, proto, states, mine)
		if err != nil {
			return nil, fmt.Errorf("list %s sockets over sock_diag: %w", proto, err)
		}
		all = append(all, sockets...)
	}
	return all, nil
}

// dumpFamily asks for a dump until the kernel says that nothing changed meanwhile.
func dumpFamily(conn *netlink.Conn, family uint8, proto port.Proto, states uint32, ports []port.Range) ([]Socket, error) {
	req := netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   diagRequest(family, proto, states, ports),
	}
	for range dumpTries {
		replies, err := conn.Execute(req)
		if err != nil {
			return nil, err
		}
		sockets, whole, err := parseDump(replies, proto, ports)
		if err != nil {
			return nil, err
		}
		if whole {
			return sockets, nil
		}
	}
	return nil, fmt.Errorf("the list changed while it was read, %d times in a row", dumpTries)
}

// parseDump reads a dump's messages. It returns false if the kernel marked the dump
// as inconsistent (NLM_F_DUMP_INTR).
func parseDump(replies []netlink.Message, proto port.Proto, ports []port.Range) ([]Socket, bool, error) {
	sockets := make([]Socket, 0, len(replies))
	for _, m := range replies {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, false, nil
		}
		s, err := parseSocket(proto, m.Data)
		if err != nil {
			return nil, false, err
		}
		if port.Within(ports, port.Port{Proto: proto, Number: s.Local.Port()}) {
			sockets = append(sockets, s)
		}
	}
	return sockets, true, nil
}

// diagRequest returns struct inet_diag_req_v2, followed by the filter as an attribute.
func diagRequest(family uint8, proto port.Proto, states uint32, ports []port.Range) []byte {
	b := make([]byte, reqLen)
	b[0] = family
	b[1] = uint8(proto)
	binary.NativeEndian.PutUint32(b[4:8], states)
	if len(ports) > maxFilterRanges {
		return b
	}
	code := portFilter(ports)
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(code)))
	b = binary.NativeEndian.AppendUint16(b, diagReqBytecode)
	return append(b, code...)
}

// portFilter returns the program of struct inet_diag_bc_op that accepts a socket
// whose local port is in one of ports. For each range:
//
//	S_GE first, else go to the next range
//	S_LE last, else go to the next range
//	JMP end (accept)
//
// A comparison takes two ops, the second of which holds the port in its "no".
// Jumps are in bytes from the op itself. A run that stops exactly at the end accepts;
// one that stops four bytes past it, where the last range jumps, refuses.
func portFilter(ports []port.Range) []byte {
	const compare, jump = 8, 4
	const each = 2*compare + jump
	var code []byte
	op := func(code []byte, kind, yes uint8, no uint16) []byte {
		return binary.NativeEndian.AppendUint16(append(code, kind, yes), no)
	}
	for i, r := range ports {
		left := uint16((len(ports) - i) * each)
		next := uint16(each)
		if i == len(ports)-1 {
			next = each + 4
		}
		code = op(code, opSourceAtLeast, compare, next)
		code = op(code, 0, 0, r.First)
		code = op(code, opSourceAtMost, compare, next-compare)
		code = op(code, 0, 0, r.Last)
		code = op(code, opJump, jump, left-2*compare)
	}
	return code
}

// parseSocket reads struct inet_diag_msg: family, state, timer and retrans (one
// byte each), then ports and addresses in network byte order, and the user ID and
// inode at the end.
func parseSocket(proto port.Proto, b []byte) (Socket, error) {
	if len(b) < msgLen {
		return Socket{}, fmt.Errorf("the entry of a socket has %d bytes, want at least %d", len(b), msgLen)
	}
	s := Socket{Proto: proto, state: b[1], UID: binary.NativeEndian.Uint32(b[64:68]), Inode: binary.NativeEndian.Uint32(b[68:72])}
	sport, dport := binary.BigEndian.Uint16(b[4:6]), binary.BigEndian.Uint16(b[6:8])
	switch b[0] {
	case syscall.AF_INET:
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), sport)
		s.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[24:28])), dport)
	case syscall.AF_INET6:
		s.Local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), sport)
		s.Remote = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])).Unmap(), dport)
	default:
		return Socket{}, errors.New("the entry of a socket is neither for IPv4 nor for IPv6")
	}
	return s, nil
}
