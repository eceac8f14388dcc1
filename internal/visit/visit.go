// Package visit is the visitor's side of a touch knock: complete a TCP
// handshake with each port in turn, then wait until the door's own port
// accepts. It uses nothing but package net, so it works on every platform that
// Go supports, and it knows nothing of configurations or of the daemon.
//
// A gateway gives its grant to the source that knocked, and a visitor's IPv4
// and IPv6 addresses are two sources. The program that follows may use either,
// so if a name has addresses of both families the visitor knocks over both, one
// after the other; it is enough if one of them succeeds.
package visit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Family says over which IP versions to knock.
type Family uint8

// Both stands for every family in which the name has an address.
const (
	Both Family = iota
	IPv4
	IPv6
)

// Visitor knocks. The zero value uses the machine's resolver and network. A
// Visitor is not changed by its methods, so goroutines may share it.
type Visitor struct {
	// Dial opens a TCP connection to a literal address and port; nil stands for
	// net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Lookup finds a name's addresses, the preferred ones first; nil stands for
	// net.DefaultResolver's LookupNetIP.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Interfaces returns the machine's own addresses; nil stands for
	// net.InterfaceAddrs.
	Interfaces func() ([]net.Addr, error)
}

// Knock is what to touch, and how.
type Knock struct {
	Touch []uint16      // TCP ports, in the order in which they are touched
	Delay time.Duration // between one touch and the next
	Each  time.Duration // the longest that one touch may take, more than 0
}

// Touch is one port that was touched, and the result.
type Touch struct {
	Port uint16
	Took time.Duration // until the handshake was complete, or failed
	Err  error         // nil if the handshake was completed; otherwise a *TouchError
}

// Attempt is a knock at one address.
type Attempt struct {
	Address netip.Addr
	Touches []Touch // as many as were tried
	Err     error   // nil if the whole knock was completed; otherwise the last touch's, or the context's
}

// TouchError is a touch that did not complete.
type TouchError struct {
	Address netip.Addr
	Port    uint16
	Each    time.Duration // how long the visitor waited for an answer
	Done    []uint16      // the ports that were touched before it
	err     error
}

// Error says what the network answered, with the port and the address.
func (e *TouchError) Error() string {
	what := fmt.Sprintf("%d/tcp on %s ", e.Port, e.Address)
	switch {
	case e.Refused():
		what += "refuses connections"
	case isTimeout(e.err):
		what += fmt.Sprintf("did not answer within %v", e.Each)
	default:
		what += "cannot be reached: " + reason(e.err)
	}
	if len(e.Done) > 0 {
		what += ", after " + Ports(e.Done) + " had been touched"
	}
	return what
}

// Unwrap returns the network's error.
func (e *TouchError) Unwrap() error { return e.err }

// Refused reports whether the other end answered that nothing listens there.
func (e *TouchError) Refused() bool { return isRefused(e.err) }

// Resolve finds the addresses of host, a name or a literal address, that are
// of family f. There is one list for each family that has any, in the order in
// which the resolver prefers them.
func (v *Visitor) Resolve(ctx context.Context, host string, f Family) ([][]netip.Addr, error) {
	addrs, err := v.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var families [][]netip.Addr
	for _, a := range addrs {
		a = a.Unmap() // an IPv4-mapped address is reached over IPv4
		if f == IPv4 && !a.Is4() || f == IPv6 && a.Is4() {
			continue
		}
		switch {
		case len(families) > 0 && families[0][0].Is4() == a.Is4():
			families[0] = append(families[0], a)
		case len(families) > 1:
			families[1] = append(families[1], a)
		default:
			families = append(families, []netip.Addr{a})
		}
	}
	if len(families) == 0 {
		return nil, fmt.Errorf("%q has no %s address", host, f)
	}
	return families, nil
}

// String returns "IPv4", "IPv6", or "IP" for Both.
func (f Family) String() string { return [...]string{"IP", "IPv4", "IPv6"}[f] }

func (v *Visitor) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	literal := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if a, err := netip.ParseAddr(literal); err == nil {
		return []netip.Addr{a}, nil
	}
	lookup := v.Lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupNetIP
	}
	addrs, err := lookup(ctx, "ip", host)
	var d *net.DNSError
	switch {
	case errors.As(err, &d) && d.IsNotFound:
		return nil, fmt.Errorf("host %q is not known", host)
	case d != nil && d.IsTimeout:
		return nil, fmt.Errorf("look up host %q: no name server has answered", host)
	case d != nil:
		return nil, fmt.Errorf("look up host %q: %s", host, d.Err)
	case err != nil:
		return nil, fmt.Errorf("look up host %q: %w", host, err)
	}
	return addrs, nil
}

// OnItself reports whether all of the addresses belong to the visitor's own
// machine. A gateway lets nobody in who knocks from its own machine: any of its
// users could do that, and find out the knock.
func (v *Visitor) OnItself(families [][]netip.Addr) bool {
	interfaces := v.Interfaces
	if interfaces == nil {
		interfaces = net.InterfaceAddrs
	}
	own := map[netip.Addr]bool{}
	addrs, _ := interfaces() // if they cannot be listed, loopback addresses are still recognised
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own[p.Addr().Unmap()] = true
		}
	}
	for _, a := range slices.Concat(families...) {
		if !a.IsLoopback() && !own[a.WithZone("")] {
			return false
		}
	}
	return true
}

// Knock knocks at the first of addrs, all of one family, that answers the first
// touch. It never continues with the next address after a completed touch: the
// addresses may be one gateway's, and to begin twice there is a wrong knock.
func (v *Visitor) Knock(ctx context.Context, addrs []netip.Addr, k Knock) Attempt {
	var at Attempt
	for _, a := range addrs {
		at = v.knock(ctx, a, k)
		if at.Err == nil || len(at.Touches) > 1 || ctx.Err() != nil {
			break
		}
	}
	return at
}

func (v *Visitor) knock(ctx context.Context, a netip.Addr, k Knock) Attempt {
	at := Attempt{Address: a}
	for i, p := range k.Touch {
		if i > 0 && !Pause(ctx, k.Delay) {
			at.Err = ctx.Err()
			return at
		}
		start := time.Now()
		err := v.touch(ctx, a, p, k.Each)
		if err != nil {
			err = &TouchError{a, p, k.Each, k.Touch[:i], err}
		}
		at.Touches = append(at.Touches, Touch{p, time.Since(start), err})
		if err != nil {
			at.Err = err
			return at
		}
	}
	return at
}

// touch completes one handshake and closes at once: a one-shot listener says
// nothing and reads nothing.
func (v *Visitor) touch(ctx context.Context, a netip.Addr, p uint16, each time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	c, err := v.dial(ctx, a, p)
	if isReset(err) {
		return nil // the handshake was completed: otherwise the SYN would be refused, not reset
	}
	if err != nil {
		return err
	}
	return c.Close()
}

func (v *Visitor) dial(ctx context.Context, a netip.Addr, p uint16) (net.Conn, error) {
	dial := v.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return dial(ctx, "tcp", netip.AddrPortFrom(a, p).String())
}

// Ports returns port numbers as people list them: "59000, 59002".
func Ports(ports []uint16) string {
	var s []string
	for _, p := range ports {
		s = append(s, strconv.Itoa(int(p)))
	}
	return strings.Join(s, ", ")
}

// Pause waits for d, and returns false if ctx ends first.
func Pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// WSAECONNRESET and WSAECONNREFUSED of winsock2.h, which package syscall does
// not map to ECONNRESET and ECONNREFUSED.
const (
	wsaConnReset   = syscall.Errno(10054)
	wsaConnRefused = syscall.Errno(10061)
)

// isReset reports whether a connection was made and then reset at once, as a
// listener does in a flood.
func isReset(err error) bool {
	n, ok := errors.AsType[syscall.Errno](err)
	return ok && (n == syscall.ECONNRESET || n == syscall.EPIPE ||
		runtime.GOOS == "windows" && n == wsaConnReset)
}

func isRefused(err error) bool {
	n, ok := errors.AsType[syscall.Errno](err)
	return ok &&
		(n == syscall.ECONNREFUSED || runtime.GOOS == "windows" && n == wsaConnRefused)
}

// reason returns the operating system's own message, without the addresses that
// package net puts before it.
func reason(err error) string {
	if n, ok := errors.AsType[syscall.Errno](err); ok {
		return n.Error()
	}
	return err.Error()
}
