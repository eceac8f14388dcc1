//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// attempt is how long one SYN is given: on this link an answer takes a
	// tenth of it. So an opening is seen at most that much too late, the same
	// for all.
	attempt = 100 * time.Microsecond
	// openWithin is when an opening is given up.
	openWithin = 3 * time.Second
	// rest is between two openings, so that what one leaves to do is not
	// measured with the next.
	rest = 20 * time.Millisecond
)

// errNotOpen is wrapped by the error of an opening that was given up.
var errNotOpen = errors.New("not open")

// times measures openings, each from a source of its own, until there are as
// many as wanted or the time is up. One that was given up is an error, unless
// shutOut is there to count it; then it counts as long as it was waited for.
func (b *bench) times(ctx context.Context, g gate, runs int, shutOut *int) (all []time.Duration, err error) {
	err = b.visitor.Do(func() error {
		// Short sleeps of this thread end when asked, not 50 µs later.
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
			return err
		}
		deadline := time.Now().Add(b.limit)
		for len(all) < runs && time.Now().Before(deadline) && ctx.Err() == nil {
			t, err := b.open(g)
			if shutOut != nil && errors.Is(err, errNotOpen) {
				*shutOut++
			} else if err != nil {
				return fmt.Errorf("opening %d: %w", len(all)+1, err)
			}
			all = append(all, t)
			time.Sleep(rest)
		}
		return ctx.Err()
	})
	return all, err
}

// open measures one opening: from the moment before the last packet of the
// knock is sent until a connection to the port is made.
func (b *bench) open(g gate) (time.Duration, error) {
	source, err := b.source()
	if err != nil {
		return 0, err
	}
	from, to := netip.MustParseAddr(source).As4(), netip.MustParseAddr(serverAddr).As4()
	if ok, err := connects(from, to); err != nil || ok {
		return 0, fmt.Errorf("before the knock of %s: connected %v, %v", source, ok, err)
	}
	last, err := g.knock(source)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := last(); err != nil {
		return 0, err
	}
	for time.Since(begun) < openWithin {
		ok, err := connects(from, to)
		if err != nil {
			return 0, err
		}
		if ok {
			return time.Since(begun), nil
		}
	}
	return openWithin, fmt.Errorf("%w for %s %s after the knock", errNotOpen, source, openWithin)
}

// connects sends one SYN from a fresh socket and says whether the connection
// was made within an attempt's time.
func connects(from, to [4]byte) (bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from}); err != nil {
		return false, err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to, Port: port})
	if !errors.Is(err, unix.EINPROGRESS) {
		return err == nil, err
	}
	wait := unix.NsecToTimespec(attempt.Nanoseconds())
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Ppoll(fds, &wait, nil)
	if errors.Is(err, unix.EINTR) || n == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	refused, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && refused != 0 {
		err = unix.Errno(refused)
	}
	return err == nil, err
}

// quantile is the p-quantile of times, 0 ≤ p ≤ 1, by the nearest rank.
func quantile(times []time.Duration, p float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}
