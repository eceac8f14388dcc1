//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/campaign/judge"
)

// patience is how long an answer is waited for. The kernel sends a second SYN
// after a second, so that within it there is only one.
const patience = 300 * time.Millisecond

// connect makes a TCP connection from a source and says what became of it. The
// descriptor is the caller's to close if the result is In. It runs on a thread
// in the source's network.
func connect(from, to netip.AddrPort) (fd int, r judge.Result) {
	fd, err := socket(from, unix.SOCK_STREAM)
	if err != nil {
		return -1, judge.Failed
	}
	err = unix.Connect(fd, sockaddr(to))
	if errors.Is(err, unix.EINPROGRESS) {
		err = outcome(fd, unix.POLLOUT)
	}
	r = result(err)
	if r != judge.In {
		unix.Close(fd)
		return -1, r
	}
	return fd, r
}

// hangUp ends a connection with a reset, which leaves nothing behind.
func hangUp(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(fd)
}

// newFile makes a connection of a descriptor, which is the connection's from then
// on.
func newFile(fd int) net.Conn {
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		panic("campaign: internal error: a connected socket is not a connection: " + err.Error())
	}
	return c
}

// ask sends a datagram and waits for its echo.
func ask(from, to netip.AddrPort) judge.Result {
	fd, err := conversation(from, to)
	if err != nil {
		return judge.Failed
	}
	defer unix.Close(fd)
	return say(fd)
}

func socket(from netip.AddrPort, kind int) (int, error) {
	family := unix.AF_INET
	if from.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, sockaddr(from)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// outcome waits for an event and returns the socket's error.
func outcome(fd int, event int16) error {
	deadline := time.Now().Add(patience)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		ts := unix.NsecToTimespec(left.Nanoseconds())
		n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: event}}, &ts, nil)
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return err
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || code == 0 {
			return err
		}
		return unix.Errno(code)
	}
}

func result(err error) judge.Result {
	switch {
	case err == nil, errors.Is(err, unix.ECONNRESET): // made, and ended at once
		return judge.In
	case errors.Is(err, unix.ECONNREFUSED):
		return judge.Answered
	case errors.Is(err, unix.ETIMEDOUT):
		return judge.Silent
	}
	return judge.Failed
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// Flags of a TCP header (RFC 9293, section 3.1).
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// segment is a TCP segment that bears somebody else's address. It proves nothing,
// so nobody must be punished for it.
type segment struct {
	from, to netip.AddrPort
	flags    byte
	seq, ack uint32
	data     []byte // of even length
}

// send sends it through a raw socket of its family, which takes whole packets.
func (g segment) send(raw int) error {
	tcp := make([]byte, 20, 20+len(g.data))
	binary.BigEndian.PutUint16(tcp[0:], g.from.Port())
	binary.BigEndian.PutUint16(tcp[2:], g.to.Port())
	binary.BigEndian.PutUint32(tcp[4:], g.seq)
	binary.BigEndian.PutUint32(tcp[8:], g.ack)
	tcp[12], tcp[13] = 5<<4, g.flags // five words
	binary.BigEndian.PutUint16(tcp[14:], 64240)
	tcp = append(tcp, g.data...)
	src, dst := g.from.Addr().AsSlice(), g.to.Addr().AsSlice()
	pseudo := slices.Concat(src, dst, []byte{0, unix.IPPROTO_TCP, 0, byte(len(tcp))}, tcp)
	binary.BigEndian.PutUint16(tcp[16:], checksum(pseudo))
	if g.to.Addr().Is4() {
		ip := make([]byte, 12, 60)
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
		return unix.Sendto(raw, slices.Concat(ip, src, dst, tcp), 0, &unix.SockaddrInet4{Addr: g.to.Addr().As4()})
	}
	ip := []byte{0x60, 0, 0, 0, 0, byte(len(tcp)), unix.IPPROTO_TCP, 64}
	return unix.Sendto(raw, slices.Concat(ip, src, dst, tcp), 0, &unix.SockaddrInet6{Addr: g.to.Addr().As16()})
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
