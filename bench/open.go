//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// interval is between two SYNs. So an opening is seen at most that much too
	// late, and what it takes to send one, the same for all.
	interval = 25 * time.Microsecond
	// atOnce is how many SYNs can still be answered: on this link an answer
	// takes 10 µs, and much longer where a core is busy.
	atOnce = 64
	// attempt is how long a single SYN is given.
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
	c := caller{from: from, to: to}
	defer c.close()
	for range atOnce {
		if err := c.prepare(); err != nil {
			return 0, err
		}
	}
	begun := time.Now()
	if err := last(); err != nil {
		return 0, err
	}
	for time.Since(begun) < openWithin {
		ok, err := c.call()
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
	c := caller{from: from, to: to}
	defer c.close()
	if err := c.send(); err != nil {
		return false, err
	}
	return c.answered(attempt)
}

// caller sends one SYN after the other, each from a socket of its own.
type caller struct {
	from, to [4]byte
	ready    []int         // sockets
	called   []unix.PollFd // those that have sent a SYN
}

// prepare makes a socket, which takes longer than to send from it.
func (c *caller) prepare() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	c.ready = append(c.ready, fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: c.from})
}

// call sends a SYN, and says whether one was answered before the next is due.
func (c *caller) call() (bool, error) {
	if err := c.send(); err != nil {
		return false, err
	}
	return c.answered(interval)
}

// send sends a SYN. The oldest of too many is given up for it.
func (c *caller) send() error {
	if len(c.called) >= atOnce {
		unix.Close(int(c.called[0].Fd))
		c.called = c.called[1:]
	}
	if len(c.ready) == 0 {
		if err := c.prepare(); err != nil {
			return err
		}
	}
	fd := c.ready[0]
	c.ready = c.ready[1:]
	c.called = append(c.called, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})
	err := unix.Connect(fd, &unix.SockaddrInet4{Addr: c.to, Port: port})
	if errors.Is(err, unix.EINPROGRESS) {
		err = nil
	}
	return err
}

// answered waits so long for a connection to be made. It does not sleep: to wake up takes
// a virtual machine's idle core longer than the interval.
func (c *caller) answered(within time.Duration) (bool, error) {
	for begun := time.Now(); ; {
		n, err := unix.Poll(c.called, 0)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return false, err
		case n > 0:
			return c.made()
		case time.Since(begun) >= within:
			return false, nil
		}
	}
}

// made says whether what has ended the calling of one is that the connection was made.
func (c *caller) made() (bool, error) {
	for _, f := range c.called {
		if f.Revents == 0 {
			continue
		}
		if refused, err := unix.GetsockoptInt(int(f.Fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || refused != 0 {
			return false, cmp.Or(err, error(unix.Errno(refused)))
		}
	}
	return true, nil
}

func (c *caller) close() {
	for _, f := range c.called {
		unix.Close(int(f.Fd))
	}
	for _, fd := range c.ready {
		unix.Close(fd)
	}
}

// quantile is the p-quantile of times, 0 ≤ p ≤ 1, by the nearest rank.
func quantile(times []time.Duration, p float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}
