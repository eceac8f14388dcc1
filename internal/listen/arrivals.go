//go:build linux

package listen

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// arrived is the signal that a listener sends for each connection: one of
	// the real-time signals, which queue (signal(7)). Nothing else uses it, and
	// only the loop's thread is sent it.
	arrived = unix.Signal(40)

	// signalSize and signalFD are of struct signalfd_siginfo (signalfd(2)).
	signalSize, signalFD = 128, 20

	// The kernel makes a port ready an instant before it sends the signal. What
	// has none after this while has lost it.
	lateAfter = time.Millisecond
)

// arrivals says in which order connections came to the listeners. It is the
// loop's own, and of the thread that made it.
type arrivals struct {
	log    *slog.Logger
	fd     int // a signalfd
	thread int // who gets the signals
	buf    [64 * signalSize]byte

	waiting []arrival // not yet accepted, oldest first
	next    int       // the first of them

	lost   bool // signals were lost: nothing is known until no port is ready
	logged logLimit
}

// arrival is one connection in the listener's queue.
type arrival struct {
	socket *socket
	heard  time.Time
}

// newArrivals blocks the signals for the calling thread, which the caller has
// locked.
func newArrivals(log *slog.Logger) (*arrivals, error) {
	var set unix.Sigset_t
	for _, s := range []unix.Signal{arrived, unix.SIGIO} {
		bits := 8 * int(unsafe.Sizeof(set.Val[0]))
		set.Val[int(s-1)/bits] |= 1 << (int(s-1) % bits)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
		return nil, fmt.Errorf("block signals %d and %d: %w", arrived, unix.SIGIO, err)
	}
	fd, err := unix.Signalfd(-1, &set, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make signal descriptor: %w", err)
	}
	return &arrivals{log: log, fd: fd, thread: unix.Gettid(), logged: logLimit{every: time.Minute}}, nil
}

// announce makes the socket send thread a signal for each connection.
func announce(fd, thread int) error {
	owner := struct{ kind, id int32 }{0 /* F_OWNER_TID */, int32(thread)}
	_, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETOWN_EX, uintptr(unsafe.Pointer(&owner)))
	if errno != 0 {
		return fmt.Errorf("send signals to thread %d: %w", thread, errno)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETSIG, int(arrived)); err != nil {
		return fmt.Errorf("choose signal %d: %w", arrived, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK|unix.O_ASYNC); err != nil {
		return fmt.Errorf("switch signals on: %w", err)
	}
	return nil
}

// look reads signals and says whether an arrival is known. It is for when a port
// is ready.
func (a *arrivals) look(listeners map[int]*socket) bool {
	a.read(listeners)
	if _, ok := a.first(); ok || a.lost {
		return ok
	}
	fds := []unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLIN}}
	if n, _ := unix.Poll(fds, int(lateAfter.Milliseconds())); n > 0 {
		a.read(listeners)
	}
	_, ok := a.first()
	return ok
}

// read takes what was signalled. A descriptor may have been another listener's
// when the signal was sent: then the new one has none waiting, or one that came
// within that same moment.
func (a *arrivals) read(listeners map[int]*socket) {
	if a.next > len(a.waiting)/2 {
		a.waiting = append(a.waiting[:0], a.waiting[a.next:]...)
		a.next = 0
	}
	for full := true; full; {
		n, err := unix.Read(a.fd, a.buf[:])
		if err != nil {
			return // EAGAIN: no more
		}
		full = n == len(a.buf)
		a.add(a.buf[:n], listeners, time.Now())
	}
}

// add takes the signals in b, heard at now.
func (a *arrivals) add(b []byte, listeners map[int]*socket, now time.Time) {
	for ; len(b) >= signalSize; b = b[signalSize:] {
		if binary.NativeEndian.Uint32(b) == uint32(unix.SIGIO) {
			a.overflow()
		}
		fd := int(binary.NativeEndian.Uint32(b[signalFD:]))
		if s := listeners[fd]; s != nil && !a.lost {
			a.waiting = append(a.waiting, arrival{s, now})
		}
	}
}

// overflow is for a plain SIGIO, which the kernel sends when it has no room for
// another queued signal (F_SETSIG in fcntl(2)).
func (a *arrivals) overflow() {
	a.lost = true
	a.waiting, a.next = a.waiting[:0], 0
	a.warn("connections came faster than the kernel can report their order; " +
		"raise the limit of pending signals (LimitSIGPENDING= in the unit)")
}

func (a *arrivals) warn(what string) {
	if a.logged.allow() {
		a.log.Warn("listeners: " + what)
	}
}

// first is the oldest arrival, if one is known.
func (a *arrivals) first() (arrival, bool) {
	if a.next == len(a.waiting) {
		return arrival{}, false
	}
	return a.waiting[a.next], true
}

// pop forgets the first.
func (a *arrivals) pop() { a.next++ }

func (a *arrivals) close() error { return unix.Close(a.fd) }
