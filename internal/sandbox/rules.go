//go:build linux

package sandbox

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/priority"
)

// Constants of linux/sched.h and linux/prctl.h that golang.org/x/sys/unix does not have.
const (
	cloneDetached = 0x00400000 // CLONE_DETACHED has no effect since Linux 2.6, but musl still sets it
	prSetVMA      = 0x53564d41 // PR_SET_VMA
)

func allow(call string, when ...condition) rule { return rule{call, when} }

// is requires argument n to be v.
func is(n uint32, v uint64) condition { return condition{n, equals, v} }

// only requires argument n to have no other bits than these.
func only(n uint32, bits uint64) condition { return none(n, ^bits) }

// none requires argument n to have none of these bits.
func none(n uint32, bits uint64) condition { return condition{n, hasNone, bits} }

// some requires argument n to have at least one of these bits.
func some(n uint32, bits uint64) condition { return condition{n, hasSome, bits} }

// rules returns the rules for the system calls of which some uses are allowed.
func (p Policy) rules() []rule {
	all := slices.Concat(threads[:], memory[:], process[:], inet(), netlink(), options())
	if len(p.Programs) > 0 {
		all = append(all, children[:]...)
	}
	if p.Connect {
		all = append(all, unixSockets[:]...)
	}
	if p.Datagrams {
		all = append(all, datagrams()...)
	}
	return all
}

// threads allows threads to be made. Go's runtime (runtime/os_linux.go), glibc and musl
// use these flags and no others; none of them makes a namespace, clone(2).
var threads = [...]rule{
	allow("clone", some(0, unix.CLONE_THREAD), only(0, unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_FILES|unix.CLONE_SIGHAND|
		unix.CLONE_SYSVSEM|unix.CLONE_THREAD|unix.CLONE_SETTLS|unix.CLONE_PARENT_SETTID|unix.CLONE_CHILD_CLEARTID|cloneDetached)),
}

// children allows programs to be started, by Go (syscall/exec_linux.go), which asks for
// a pidfd, or by a C library's fork and posix_spawn; and code to be mapped from files,
// as ld.so(8) does.
var children = [...]rule{
	allow("clone", none(0, unix.CLONE_THREAD), only(0, unix.CLONE_VM|unix.CLONE_VFORK|unix.CLONE_PIDFD|
		unix.CLONE_CHILD_SETTID|unix.CLONE_CHILD_CLEARTID|unix.CSIGNAL)),
	allow("mmap", some(2, unix.PROT_EXEC), none(2, unix.PROT_WRITE), none(3, unix.MAP_ANONYMOUS)),
}

// memory allows memory to be mapped, but no code to be added.
var memory = [...]rule{
	allow("mmap", none(2, unix.PROT_EXEC)),
	allow("mprotect", none(2, unix.PROT_EXEC)),
}

// process allows questions about the process itself, and names for its memory. The
// process cannot change its own name, which is in the journal's entries.
var process = [...]rule{
	allow("prlimit64", is(0, 0)),
	// A thread's own priority. Go extends the sign of the nice value to a register's width.
	allow("getpriority", is(0, unix.PRIO_PROCESS), is(1, 0)),
	allow("setpriority", is(0, unix.PRIO_PROCESS), is(1, 0), is(2, uint64(priority.Nice&math.MaxUint))),
	allow("prctl", is(0, prSetVMA)),
	allow("prctl", is(0, unix.PR_GET_NAME)),
	allow("prctl", is(0, unix.PR_GET_DUMPABLE)),
	allow("prctl", is(0, unix.PR_SET_PDEATHSIG)),
	allow("prctl", is(0, unix.PR_GET_SECUREBITS)),
	allow("prctl", is(0, unix.PR_CAPBSET_READ)),
	allow("prctl", is(0, unix.PR_GET_NO_NEW_PRIVS)),
	allow("prctl", is(0, unix.PR_CAP_AMBIENT), is(1, unix.PR_CAP_AMBIENT_IS_SET)),
	// Whether this is a terminal, its size, and how much there is to read.
	allow("ioctl", is(1, unix.TCGETS)),
	allow("ioctl", is(1, unix.TIOCGWINSZ)),
	allow("ioctl", is(1, unix.TIOCINQ)),
}

// ofType returns the conditions for argument 1 of socket and socketpair to be a type of
// socket, perhaps with flags.
func ofType(t uint64) []condition {
	conditions := []condition{only(1, t|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)}
	for bit := uint64(1); bit <= t; bit <<= 1 {
		if t&bit != 0 {
			conditions = append(conditions, some(1, bit))
		}
	}
	return conditions
}

// inet allows TCP sockets, and sending on established connections. Landlock keeps TCP
// sockets from connecting out (landlock(7)), but not those of MPTCP, SMC and SCTP, which
// are of type SOCK_STREAM, too. Nor does it restrict data that is sent along with the
// SYN, tcp(7).
func inet() (all []rule) {
	for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []uint64{0, unix.IPPROTO_TCP} {
			all = append(all, allow("socket", append(ofType(unix.SOCK_STREAM), is(0, family), is(2, protocol))...))
		}
	}
	return append(all,
		allow("sendto", none(3, unix.MSG_FASTOPEN)),
		allow("sendmsg", none(2, unix.MSG_FASTOPEN)),
		// The daemon and its launcher talk over pairs. Those of type SOCK_DGRAM could
		// be used to send to other sockets.
		allow("socketpair", append(ofType(unix.SOCK_SEQPACKET), is(0, unix.AF_UNIX))...),
	)
}

// datagrams allows the listener on UDP ports. It names the protocol, since sockets of
// ICMP and UDP-Lite are of the same type.
func datagrams() (all []rule) {
	for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
		all = append(all, allow("socket", append(ofType(unix.SOCK_DGRAM), is(0, family), is(2, unix.IPPROTO_UDP))...))
	}
	return append(all,
		allow("recvmmsg", is(3, unix.MSG_DONTWAIT), is(4, 0)),
		allow("sendmmsg", is(3, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)),
		allow("setsockopt", is(1, unix.IPPROTO_IP), is(2, unix.IP_PKTINFO)),
		allow("setsockopt", is(1, unix.IPPROTO_IPV6), is(2, unix.IPV6_RECVPKTINFO)),
	)
}

// netlink allows netlink(7) sockets for nftables, connection tracking and the list of
// sockets. Its other protocols, above all that for routes, addresses and interfaces, are
// not needed.
func netlink() (all []rule) {
	for _, protocol := range []uint64{unix.NETLINK_NETFILTER, unix.NETLINK_SOCK_DIAG} {
		all = append(all, allow("socket", append(ofType(unix.SOCK_RAW), is(0, unix.AF_NETLINK), is(2, protocol))...))
	}
	return all
}

// unixSockets allows the sockets for D-Bus and sd_notify(3).
var unixSockets = [...]rule{
	allow("socket", append(ofType(unix.SOCK_STREAM), is(0, unix.AF_UNIX), is(2, 0))...),
	allow("socket", append(ofType(unix.SOCK_DGRAM), is(0, unix.AF_UNIX), is(2, 0))...),
}

// options allows the socket options that the daemon and Go's package net set. With
// CAP_NET_ADMIN, others could replace the rules of the legacy iptables, accept
// connections to other machines' addresses (IP_TRANSPARENT), or choose routes (SO_MARK).
func options() (all []rule) {
	for _, o := range []struct {
		level uint64
		names []uint64
	}{
		{unix.SOL_SOCKET, []uint64{unix.SO_REUSEADDR, unix.SO_REUSEPORT, unix.SO_SNDTIMEO, unix.SO_RCVBUF,
			unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE, unix.SO_LINGER, unix.SO_KEEPALIVE}},
		{unix.IPPROTO_IPV6, []uint64{unix.IPV6_V6ONLY}},
		{unix.IPPROTO_TCP, []uint64{unix.TCP_NODELAY, unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT}},
		{unix.SOL_NETLINK, []uint64{unix.NETLINK_ADD_MEMBERSHIP, unix.NETLINK_DROP_MEMBERSHIP, unix.NETLINK_NO_ENOBUFS,
			unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK}},
	} {
		for _, name := range o.names {
			all = append(all, allow("setsockopt", is(1, o.level), is(2, name)))
		}
	}
	return all
}
