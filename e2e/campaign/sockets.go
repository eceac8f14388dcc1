//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
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

// ask sends a datagram and waits for its echo.
func ask(from, to netip.AddrPort) judge.Result {
	fd, err := socket(from, unix.SOCK_DGRAM)
	if err != nil {
		return judge.Failed
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return judge.Failed
	}
	if _, err := unix.Write(fd, []byte("knock?")); err != nil {
		return judge.Failed
	}
	return result(outcome(fd, unix.POLLIN))
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

// forge sends a SYN that somebody else's address stands on (IPv4). It proves
// nothing, so nobody must be punished for it.
func forge(raw int, from, to netip.AddrPort) error {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp[0:], from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], 0x0d00f00d)
	tcp[12], tcp[13] = 5<<4, 0x02 // five words, SYN
	binary.BigEndian.PutUint16(tcp[14:], 64240)
	src, dst := from.Addr().As4(), to.Addr().As4()
	pseudo := append(append(append([]byte{}, src[:]...), dst[:]...), 0, unix.IPPROTO_TCP, 0, 20)
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	ip := make([]byte, 20, 40)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	return unix.Sendto(raw, append(ip, tcp...), 0, &unix.SockaddrInet4{Addr: dst})
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
