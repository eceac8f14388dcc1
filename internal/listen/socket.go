//go:build linux

package listen

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// backlog is more than net.core.somaxconn, which the kernel cuts it to: a queue
// that is full makes the kernel ignore the visitor's handshake.
const backlog = 1 << 16

// open makes a listening socket for both families, or for IPv4 alone on a
// machine without IPv6.
func open(p uint16) (int, error) {
	if p == 0 {
		return -1, errors.New("allowed are 1 to 65535")
	}
	fd, err := listen(unix.AF_INET6, &unix.SockaddrInet6{Port: int(p)})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return listen(unix.AF_INET, &unix.SockaddrInet4{Port: int(p)})
	}
	return fd, err
}

func listen(family int, at unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	if err := configure(fd, family); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if err = unix.Bind(fd, at); err == nil {
		err = unix.Listen(fd, backlog)
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
	return nil
}
