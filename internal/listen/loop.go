//go:build linux

package listen

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/descriptors"
	"github.com/doorward/doorward/internal/knock"
)

const (
	wakeID = 0 // listeners count from 1

	// See the package comment.
	maxFINPerSecond = 200 // connections a second that end with FIN
	closeDelay      = 250 * time.Millisecond

	// maxBurst is how many touches are accepted before they are delivered, as long as
	// they come without a gap.
	maxBurst = 32

	// maxHeld is how many connections there can be at a time: those of two adjacent
	// seconds, and those not yet ended.
	maxHeld = 2*maxFINPerSecond + maxBurst

	// How long accepting rests when the process or the machine has no
	// descriptor or memory left. The connections wait in the kernel.
	minPause, maxPause = 10 * time.Millisecond, time.Second
)

// loop accepts until it is woken.
func (l *Listener) loop(epoll, wake int, came *arrivals) {
	var (
		part    = closer{max: descriptors.Share(maxHeld, descriptors.Listeners)}
		events  = make([]unix.EpollEvent, part.batch()) // epoll begins with the following ones next time
		touches = make([]knock.Heard, 0, part.batch())
		short   = backoff{log: l.log, wake: wake, pause: minPause, logged: logLimit{every: time.Minute}}
	)
	defer part.closeAll()
	for {
		n, err := unix.EpollWait(epoll, events, part.nextDue(time.Now()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			// Cannot happen: both descriptors are open until the loop has ended.
			l.log.Error("listeners: wait for connections", "err", err)
			return
		}
		var stop bool
		touches, err, stop = l.round(events[:max(n, 0)], touches, came, &part)
		// As long as others wait, they are accepted first: the kernel has room
		// for so many connections, and so many signals.
		if n <= 0 || err != nil || part.full() || stop {
			l.queue.put(touches)
			touches = touches[:0]
			part.closeFresh(time.Now())
		}
		if stop {
			return
		}
		part.closeDue(time.Now())
		if err != nil {
			part.closeAll() // frees what it can
		} else {
			l.rounds.Add(1)
		}
		short.wait(err)
	}
}

// backoff pauses accepting when there are no descriptors or memory to accept with.
type backoff struct {
	log    *slog.Logger
	wake   int
	pause  time.Duration
	logged logLimit
}

// wait waits, longer each time, until the loop is woken or it is time to try
// again; it returns at once without an error.
func (s *backoff) wait(err error) {
	if err == nil {
		s.pause = minPause
		return
	}
	if s.logged.allow() {
		s.log.Error("listeners: no connection can be accepted for now; knocks wait", "err", err)
	}
	// The ports stay ready, so that waiting with epoll would return at once.
	fds := []unix.PollFd{{Fd: int32(s.wake), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, int(s.pause.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
		time.Sleep(s.pause) // no memory even for that
	}
	s.pause = min(2*s.pause, maxPause)
}

// round accepts what is ready and adds it to touches. The error says that there
// is no descriptor or memory for it.
func (l *Listener) round(events []unix.EpollEvent, touches []knock.Heard, came *arrivals, part *closer) (
	all []knock.Heard, short error, stop bool,
) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ev := range events {
		if ev.Fd == wakeID {
			return touches, nil, true
		}
	}
	if len(events) == 0 {
		came.lost = false // new connections have their signals
		return touches, nil, false
	}
	if !came.look(l.byFD) {
		known := len(touches)
		touches, short = l.acceptUnordered(events, touches, part)
		if len(touches) > known && !came.lost {
			came.warn("connections come without signals, so their order is not known; " +
				"does something restrict the daemon's signals?")
		}
		return touches, short, false
	}
	for range maxBurst {
		a, ok := came.first()
		if !ok || part.full() {
			break
		}
		if touches, short = l.take(a.socket, a.heard, touches, part); short != nil {
			break // it is still the first
		}
		came.pop()
	}
	return touches, short, false
}

// acceptUnordered accepts one connection at each ready port, in the order in which the
// ports became ready: without signals no more is known. Those for which there is no room
// stay ready.
func (l *Listener) acceptUnordered(events []unix.EpollEvent, touches []knock.Heard, part *closer) ([]knock.Heard, error) {
	for _, ev := range events {
		s := l.byID[ev.Fd]
		if s == nil {
			continue // closed since
		}
		if part.full() {
			break
		}
		var short error
		if touches, short = l.take(s, time.Now(), touches, part); short != nil {
			return touches, short
		}
	}
	return touches, nil
}

// take accepts one connection that was announced at heard and adds it to touches.
func (l *Listener) take(s *socket, heard time.Time, touches []knock.Heard, part *closer) ([]knock.Heard, error) {
	if !s.heard {
		return touches, nil // closed since
	}
	var (
		t   knock.Heard
		err error
	)
	if s.streams {
		err = l.handOver(s)
	} else {
		t, err = s.accept(heard, part)
	}
	switch {
	case err == nil && s.streams:
		return touches, nil
	case err == nil:
		return append(touches, t), nil
	case isShortage(err):
		return touches, err
	case !s.alive():
		l.log.Warn("a listener was closed by something else", "port", s.port, "err", err)
		l.drop(s)
	}
	// Any other error concerns this one connection, which is gone (accept(2)), or there
	// was none.
	return touches, nil
}

// accept accepts one connection and hands it to part.
func (s *socket) accept(heard time.Time, part *closer) (knock.Heard, error) {
	// The visitor may have reset it already: the kernel tells the address of
	// a dead connection to accept4, though not to getpeername.
	fd, from, err := unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return knock.Heard{}, err
	}
	_ = reusePort(fd, 1) // so that it does not keep l from listening again; it cannot fail
	part.fresh = append(part.fresh, fd)
	return knock.Heard{
		Source: address(from),
		Place:  knock.Place{Medium: knock.Connections, Port: s.port},
		Time:   heard,
		Proven: true,
	}, nil
}

// address returns the visitor's address, an IPv4-mapped one as IPv4. The zone of a
// link-local one is left out, because the fence knows none.
func address(from unix.Sockaddr) netip.Addr {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr).Unmap()
	}
	return netip.Addr{}
}

// isShortage says whether accept failed for lack of something that may be had
// again later. The connection is still in the kernel's queue.
func isShortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) ||
		errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// logLimit returns true at most once in a while, so that a persistent problem does not
// fill the log.
type logLimit struct {
	every time.Duration
	last  time.Time
}

func (r *logLimit) allow() bool {
	now := time.Now()
	if !r.last.IsZero() && now.Sub(r.last) < r.every {
		return false
	}
	r.last = now
	return true
}
