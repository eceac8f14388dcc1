//go:build linux

package listen

import (
	"errors"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// HandOver makes connections to the ports of Streams, which are not touches, somebody
// else's: take gets the descriptor of each, which closes with RST unless its linger option
// is set otherwise, and who made it. It is called while the Listener is locked, and must
// not wait. HandOver is called before the first Set.
func (l *Listener) HandOver(take func(port uint16, fd int, from netip.AddrPort)) { l.streams = take }

// carries makes what is accepted at a socket from now on streams, or touches.
func (l *Listener) carries(s *socket, streams bool) {
	if streams == s.streams && s.heard {
		return
	}
	s.streams = streams
	size := readNothing
	if streams {
		size = readFrames
	}
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size) // it cannot fail, socket(7)
}

// handOver accepts one connection and hands it over.
func (l *Listener) handOver(s *socket) error {
	fd, from, err := unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	_ = reusePort(fd, 1) // as in accept
	if l.streams == nil {
		return unix.Close(fd)
	}
	l.streams(s.port, fd, sender(from))
	return nil
}

// handOverAll hands over what waits at an inherited socket. It accepts no more than fit
// into the socket's queue, and leaves later ones to the loop.
func (l *Listener) handOverAll(s *socket) {
	for range longest + 1 {
		err := l.handOver(s)
		if err != nil && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.EINTR) {
			return // EAGAIN: none is left. The loop will meet any other error, too.
		}
	}
}

// sender returns the visitor's address and port, with the zone of a link-local address.
func sender(from unix.Sockaddr) netip.AddrPort {
	a := address(from)
	switch at := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(a, uint16(at.Port))
	case *unix.SockaddrInet6:
		if at.ZoneId != 0 {
			a = a.WithZone(strconv.FormatUint(uint64(at.ZoneId), 10))
		}
		return netip.AddrPortFrom(a, uint16(at.Port))
	}
	return netip.AddrPort{}
}
