//go:build linux

package listen

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/port"
)

const (
	wakeID = 0 // listeners count from 1

	politeRate = 1000 // closes a second that end with FIN; see the package comment

	// How long accepting rests when the process or the machine has no
	// descriptor or memory left. The connections wait in the kernel.
	firstRest, longestRest = 10 * time.Millisecond, time.Second
)

// loop accepts until it is woken. Each round takes one connection of each ready
// port, so that the oldest of every port come before the second oldest of any.
func (e *Ear) loop(epoll, wake int) {
	events := make([]unix.EpollEvent, 128)
	rest := firstRest
	short := rarely{every: time.Minute}
	var manners manners
	for {
		n, err := unix.EpollWait(epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			// Cannot happen: both descriptors are open until the loop has ended.
			e.log.Error("listeners: wait for connections", "err", err)
			return
		}
		touches, err, stop := e.round(events[:max(n, 0)], &manners)
		e.queue.put(touches)
		if stop {
			return
		}
		if err == nil {
			rest = firstRest
			continue
		}
		if short.now() {
			e.log.Error("listeners: no connection can be accepted for now; knocks wait", "err", err)
		}
		// Readiness stays, so that waiting with epoll would return at once.
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}},
			int(rest.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			time.Sleep(rest)
		}
		rest = min(2*rest, longestRest)
	}
}

// round takes one connection of each ready port. The error says that there is
// no descriptor or memory for it.
func (e *Ear) round(events []unix.EpollEvent, m *manners) (touches []port.Touch, short error, stop bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range events {
		if ev.Fd == wakeID {
			return touches, nil, true
		}
		l := e.byID[ev.Fd]
		if l == nil {
			continue // closed since
		}
		t, err := l.accept(m)
		switch {
		case err == nil:
			touches = append(touches, t)
		case isShortage(err):
			return touches, err, false
		case !l.alive():
			e.log.Warn("a listener was closed by something else", "port", l.port, "err", err)
			e.drop(l)
		}
		// Anything else is of the one connection, which is gone (accept(2)),
		// or there was none.
	}
	return touches, nil, false
}

// accept takes one connection and closes it.
func (l *listener) accept(m *manners) (port.Touch, error) {
	// The visitor may have reset it already: the kernel tells the address of
	// a dead connection to accept4, though not to getpeername.
	fd, from, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return port.Touch{}, err
	}
	now := time.Now()
	if !m.polite(now) {
		// Without this it ends with FIN, no worse than before.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	unix.Close(fd)
	return port.Touch{
		Source: address(from),
		Port:   port.Port{Proto: port.TCP, Number: l.port},
		Time:   now,
		Proven: true,
	}, nil
}

// address is the visitor's address; an IPv4-mapped one is an IPv4 address. The
// zone of a link-local one is left out, because the fence knows none.
func address(from unix.Sockaddr) netip.Addr {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr).Unmap()
	}
	return netip.Addr{}
}

// isShortage says whether accept failed for want of something that may be had
// again later. The connection is still in the kernel's queue.
func isShortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) ||
		errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// manners allows politeRate closes with FIN in each second.
type manners struct {
	since time.Time
	used  int
}

func (m *manners) polite(now time.Time) bool {
	if now.Sub(m.since) >= time.Second {
		m.since, m.used = now, 0
	}
	m.used++
	return m.used <= politeRate
}

// rarely says true at most once in a while, so that a lasting trouble does not
// fill the log.
type rarely struct {
	every time.Duration
	last  time.Time
}

func (r *rarely) now() bool {
	now := time.Now()
	if !r.last.IsZero() && now.Sub(r.last) < r.every {
		return false
	}
	r.last = now
	return true
}
