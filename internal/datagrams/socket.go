//go:build linux

package datagrams

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/sockdiag"
)

// socket is one port that is held.
type socket struct {
	port uint16
	four bool     // IPv4 alone, on a machine without IPv6
	file *os.File // of the runtime's poller, and never read as a file
	raw  syscall.RawConn

	opener atomic.Pointer[glance] // nil: nothing is to be heard
	rounds atomic.Uint64          // how often something was read
	dead   atomic.Bool            // it cannot be read any more
	closed atomic.Bool            // or about to be

	queue   queue   // the pool's
	replies replies // to sources that may be forged
	toShown replies // to others

	waited  bool   // datagrams waited when Behind was last asked; the listener's
	asked   uint64 // rounds at that time
	dropped uint32 // the kernel's counter at the last overrun
}

// glance is an opener in use.
type glance struct {
	knock.Opener
	brief bool // it is a knock.Brief
}

func newGlance(by knock.Opener) *glance {
	_, brief := by.(knock.Brief)
	return &glance{by, brief}
}

// use makes later datagrams go to by, or nowhere if that is nil.
func (s *socket) use(by knock.Opener) {
	if by == nil {
		s.opener.Store(nil)
		return
	}
	s.opener.Store(newGlance(by))
}

// opened has nothing to do: UDP waits for nobody.
func (s *socket) opened(bool) {}

// open makes a socket that has the port for both families, or for IPv4 alone on a
// machine without IPv6.
func open(p uint16) (*socket, error) {
	if p == 0 {
		return nil, errors.New("allowed are 1 to 65535")
	}
	s, err := openFor(unix.AF_INET6, p)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return openFor(unix.AF_INET, p)
	}
	return s, err
}

func openFor(family int, p uint16) (*socket, error) {
	var any unix.Sockaddr = &unix.SockaddrInet6{Port: int(p)}
	if family == unix.AF_INET {
		any = &unix.SockaddrInet4{Port: int(p)}
	}
	fd, err := bind(family, any)
	if err != nil {
		return nil, err
	}
	s := &socket{port: p, four: family == unix.AF_INET, file: os.NewFile(uintptr(fd), strconv.Itoa(int(p))+"/udp")}
	s.queue.place = knock.Place{Medium: knock.Datagrams, Port: p}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

func bind(family int, at unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	if err = configure(fd, family); err == nil {
		err = unix.Bind(fd, at)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// configure is called before the first datagram can arrive, so that each has its
// destination. An IPv4 datagram at an IPv6 socket has it in both forms; only in_pktinfo
// shows a broadcast.
func configure(fd, family int) error {
	options := []struct {
		level, name, value int
	}{
		{unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
	}
	if family != unix.AF_INET6 {
		options = options[:1]
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %d of level %d: %w", o.name, o.level, err)
		}
	}
	return nil
}

// keep sets how many bytes the kernel queues for the socket. It allows twice that, for
// its own overhead, and without CAP_NET_ADMIN at most net.core.rmem_max (SO_RCVBUF and
// SO_RCVBUFFORCE in socket(7)), which then has to do.
func (s *socket) keep(size int) {
	_ = s.raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		}
	})
}

func (s *socket) mayAnswer(source netip.Addr, rank knock.Rank, now time.Time) bool {
	if rank == knock.Shown {
		return s.toShown.may(source, now)
	}
	return s.replies.may(source, now)
}

// send sends a datagram the way back, from the address that was asked. The routes decide
// on the interface, except where addresses mean nothing without one. The datagram may be
// lost: it is not sent again.
func (s *socket) send(path knock.Path, payload []byte) {
	from, to := path.To.Addr(), path.From.Addr()
	link := 0
	if from.IsLinkLocalUnicast() || to.IsLinkLocalUnicast() {
		link = path.If
	}
	var control []byte
	var at unix.Sockaddr
	if to.Is4() {
		control = unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(link), Spec_dst: from.As4()})
	} else {
		control = unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: uint32(link), Addr: from.As16()})
	}
	if s.four {
		at = &unix.SockaddrInet4{Port: int(path.From.Port()), Addr: to.As4()}
	} else {
		at = &unix.SockaddrInet6{Port: int(path.From.Port()), Addr: to.As16(), ZoneId: uint32(link)}
	}
	_ = s.raw.Control(func(fd uintptr) {
		_ = unix.Sendmsg(int(fd), payload, control, at, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
}

// ready says whether a datagram waits.
func (s *socket) ready() (waits bool) {
	_ = s.raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		waits = err == nil && n > 0
	})
	return waits
}

// overrun returns how many datagrams the kernel has thrown away since the last call,
// which must not be 2^32 datagrams ago.
func (s *socket) overrun() uint64 {
	var info [9]uint32 // SK_MEMINFO_VARS of linux/sock_diag.h
	size := uint32(unsafe.Sizeof(info))
	_ = s.raw.Control(func(fd uintptr) {
		// Without an answer (before Linux 4.12) there is nothing to count.
		_, _, _ = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	dropped := info[8] // SK_MEMINFO_DROPS
	since := dropped - s.dropped
	s.dropped = dropped
	return uint64(since)
}

// explain returns the error for the operator.
func (f openError) explain() error {
	switch {
	case errors.Is(f.err, unix.EADDRINUSE):
		return fmt.Errorf("%d/udp: %w: held by %s; choose another port for the knock, or stop it",
			f.port, f.err, sockdiag.Holder(port.Range{Proto: port.UDP, First: f.port, Last: f.port}))
	case errors.Is(f.err, unix.EACCES):
		return fmt.Errorf("%d/udp: %w: ports below 1024 need the capability CAP_NET_BIND_SERVICE; "+
			"choose another port for the knock, or give it to the daemon", f.port, f.err)
	}
	return fmt.Errorf("%d/udp: %w", f.port, f.err)
}
