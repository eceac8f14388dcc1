//go:build linux

package listen

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// longest is more than net.core.somaxconn, which the kernel cuts a queue
	// to: one that is full makes the kernel ignore the visitor's handshake.
	longest = 1 << 16
	// shortest is for when the limit of signals says nothing sensible.
	shortest = 128
)

// backlog is how many connections may wait for each of n ports, so that the
// signals of all find room: one that does not is lost, and the order with it.
// An eighth is left to whatever else runs as the same user.
func backlog(n int) int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_SIGPENDING, &limit); err != nil {
		return shortest
	}
	room := min(limit.Cur, longest*uint64(n))
	return min(longest, max(shortest, int(room-room/8)/max(n, 1)-1)) // the kernel queues one more
}

// open makes a socket for both families, or for IPv4 alone on a machine without
// IPv6, that announces its connections to thread. It does not listen yet.
func open(p uint16, thread int) (int, error) {
	if p == 0 {
		return -1, errors.New("allowed are 1 to 65535")
	}
	fd, err := bind(unix.AF_INET6, &unix.SockaddrInet6{Port: int(p)}, thread)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return bind(unix.AF_INET, &unix.SockaddrInet4{Port: int(p)}, thread)
	}
	return fd, err
}

func bind(family int, at unix.Sockaddr, thread int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	if err := configure(fd, family); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if err = unix.Bind(fd, at); err == nil {
		err = announce(fd, thread) // before the first connection can come
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// configure sets what the accepted connections inherit, too. TCP_DEFER_ACCEPT
// stays off: the handshake alone is the touch.
func configure(fd, family int) error {
	options := []struct {
		level, name, value int
	}{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		// The least there is: nothing is ever read, so what a visitor sends
		// while their connection waits to be accepted would only hold memory.
		{unix.SOL_SOCKET, unix.SO_RCVBUF, 1},
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
