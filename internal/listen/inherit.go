//go:build linux

package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
)

// Inherit takes over a socket that an earlier process put into the descriptor store, and
// returns its port. It is called before the first Set, which decides what becomes of the
// socket. A descriptor that no Listener could have made is an error, and stays the
// caller's.
func (l *Listener) Inherit(fd int) (uint16, error) {
	p, err := inspect(fd)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.wanted != nil {
		return 0, fmt.Errorf("%d/tcp: it comes after the listeners were opened", p)
	}
	if l.sockets[p] != nil {
		return 0, fmt.Errorf("%d/tcp: it is inherited twice", p)
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return 0, fmt.Errorf("%d/tcp: %w", p, err)
	}
	unix.CloseOnExec(fd)
	l.hold(p, fd).listens = listens == 1
	return p, nil
}

// traits are what distinguishes the Listener's sockets from others.
var traits = []struct {
	what               string
	level, name, value int
}{
	{"a stream socket", unix.SOL_SOCKET, unix.SO_TYPE, unix.SOCK_STREAM},
	{"a TCP socket", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
	{"closed to others' sockets", unix.SOL_SOCKET, unix.SO_REUSEADDR, 0},
	{"of every interface", unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, 0},
	{"of both families", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0},
}

// inspect returns the port that a socket holds, if it is as bound makes them.
func inspect(fd int) (uint16, error) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("it is no socket: %w", err)
	}
	number, check := 0, traits
	switch at := local.(type) {
	case *unix.SockaddrInet4:
		number, check = at.Port, traits[:len(traits)-1]
	case *unix.SockaddrInet6:
		number = at.Port
	}
	if a := address(local); number == 0 || !a.IsUnspecified() {
		return 0, fmt.Errorf("it is bound to %v, port %d; want any address and a port", a, number)
	}
	for _, c := range check {
		if got, err := unix.GetsockoptInt(fd, c.level, c.name); err != nil || got != c.value {
			return 0, fmt.Errorf("%d/tcp: it is not %s: option %d of level %d is %d, want %d (%v)",
				number, c.what, c.name, c.level, got, c.value, err)
		}
	}
	if _, err := unix.Getpeername(fd); err == nil {
		return 0, fmt.Errorf("%d/tcp: it is connected", number)
	}
	return uint16(number), nil
}

// blur is the error of the difference between two of the kernel's ages of connections:
// its ticks are up to 10 ms, and both ages are truncated to them.
const blur = 20 * time.Millisecond

// backlogged is connections that were made while no process accepted them.
type backlogged struct {
	all []aged
}

// aged is one of them, and when its handshake was completed, within blur.
type aged struct {
	knock.Heard
	made time.Time
}

// accept accepts what waits at a socket, and ends it at once: clients that have waited so
// long have returned from connect(2). It accepts no more than fit into the socket's
// queue, and leaves later ones to the loop.
func (b *backlogged) accept(s *socket) {
	for range longest + 1 {
		fd, from, err := unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return // EAGAIN: none is left. The loop will meet any other error, too.
		}
		now := time.Now()
		a := aged{knock.Heard{Source: address(from), Place: knock.Place{Medium: knock.Connections, Port: s.port}, Proven: true}, now}
		// Nothing is ever sent, so this is the age of the handshake's end
		// (tcp_create_openreq_child in net/ipv4/tcp_minisocks.c). Without it the
		// connection counts as new.
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			a.made = now.Add(-time.Duration(info.Last_data_sent) * time.Millisecond)
		}
		unix.Close(fd) // with RST, which leaves nothing behind: see configure
		b.all = append(b.all, a)
	}
}

// touches returns what waited, in the order in which it came, as heard now. If the order
// of one source's touches is not known, they are left out, since a knock in the wrong
// order costs a penalty: the visitor must knock again.
func (b *backlogged) touches(log *slog.Logger) (known []knock.Heard) {
	if len(b.all) == 0 {
		return nil
	}
	slices.SortStableFunc(b.all, func(x, y aged) int { return x.made.Compare(y.made) })
	last, unknown := make(map[netip.Prefix]aged), make(map[netip.Prefix]bool)
	for _, a := range b.all {
		s := subscriber(a.Source)
		if before, ok := last[s]; ok && before.Place != a.Place && a.made.Sub(before.made) < blur {
			unknown[s] = true
		}
		last[s] = a
	}
	now := time.Now()
	for _, a := range b.all {
		if !unknown[subscriber(a.Source)] {
			a.Time = now
			known = append(known, a.Heard)
		}
	}
	log.Info("listeners: connections had waited while no daemon ran", "heard", len(known), "order unknown", len(b.all)-len(known))
	return known
}

// subscriber returns the source whose touches may belong to one knock: an IPv4 address,
// or the /64 that one subscriber is given (RFC 6177).
func subscriber(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(a, bits).Masked()
}
