//go:build linux

package listen

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// longest is more than net.core.somaxconn, to which the kernel cuts a queue: when a
	// queue is full, the kernel ignores the visitor's handshake.
	longest = 1 << 16
	// shortest is used when the limit of signals is not sensible.
	shortest = 128

	// The receive buffers that connections are asked to have. The minimum: nothing is read
	// of a touch, so what a visitor sends while their connection waits to be accepted would
	// only hold memory. And enough for what is carried at a time.
	readNothing, readFrames = 1, 8 << 10
)

// backlog is how many connections may wait for each of n ports, so that there is room for
// all their signals: one for which there is none is lost, and the order with it. An
// eighth is left to whatever else runs as the same user.
func backlog(n int) int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_SIGPENDING, &limit); err != nil {
		return shortest
	}
	room := min(limit.Cur, longest*uint64(n))
	return min(longest, max(shortest, int(room-room/8)/max(n, 1)-1)) // the kernel queues one more
}

// bound makes a socket for both families, or for IPv4 alone on a machine without
// IPv6, that has the port and does not listen yet.
func bound(p uint16) (int, error) {
	if p == 0 {
		return -1, errors.New("allowed are 1 to 65535")
	}
	fd, err := bind(unix.AF_INET6, &unix.SockaddrInet6{Port: int(p)})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return bind(unix.AF_INET, &unix.SockaddrInet4{Port: int(p)})
	}
	return fd, err
}

func bind(family int, at unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	if err = configure(fd, family); err == nil {
		err = unix.Bind(fd, at)
	}
	// The ended connections of an earlier socket may be in the way. Other sockets of the
	// same user that listen with SO_REUSEPORT are to be found, not joined.
	if errors.Is(err, unix.EADDRINUSE) && !listenedOn(at) {
		err = besideOwn(fd, func() error { return unix.Bind(fd, at) })
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// besideOwn does something with a socket that its port's ended connections would
// otherwise forbid.
func besideOwn(fd int, do func() error) error {
	if err := reusePort(fd, 1); err != nil {
		return err
	}
	return errors.Join(do(), reusePort(fd, 0))
}

func reusePort(fd, value int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, value); err != nil {
		return fmt.Errorf("set socket option SO_REUSEPORT to %d: %w", value, err)
	}
	return nil
}

// configure sets what the accepted connections inherit, too. TCP_DEFER_ACCEPT
// stays off: the handshake alone is the touch.
func configure(fd, family int) error {
	options := []struct {
		level, name, value int
	}{
		{unix.SOL_SOCKET, unix.SO_RCVBUF, readNothing},
		{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0},
	}
	if family != unix.AF_INET6 {
		options = options[:len(options)-1]
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %d of level %d: %w", o.name, o.level, err)
		}
	}
	// Closing a connection sends RST: without it, FIN.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("set socket option linger: %w", err)
	}
	return nil
}

// alive says whether the socket still does what it should: another process can
// end its listening (sock_diag's SOCK_DESTROY, `ss -K`).
func (s *socket) alive() bool {
	v, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && (v == 1) == s.listens
}
