//go:build linux

package sandbox

import (
	"slices"

	"golang.org/x/sys/unix"
)

// What golang.org/x/sys/unix has no name for, from linux/sched.h and linux/prctl.h.
const (
	cloneDetached = 0x00400000 // means nothing since Linux 2.6; musl still says it
	prSetVMA      = 0x53564d41 // PR_SET_VMA
)

func allow(call string, when ...condition) rule { return rule{call, when} }

// is wants argument n to be v.
func is(n uint32, v uint64) condition { return condition{n, equals, v} }

// only wants argument n to have no bits but those.
func only(n uint32, bits uint64) condition { return none(n, ^bits) }

// none wants argument n to have none of those bits.
func none(n uint32, bits uint64) condition { return condition{n, hasNone, bits} }

// some wants argument n to have one of those bits at least.
func some(n uint32, bits uint64) condition { return condition{n, hasSome, bits} }

// rules are the system calls of which some uses are allowed.
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

// threads are made with these flags by Go's runtime (runtime/os_linux.go), glibc
// and musl, and with no others: none of them makes a namespace, clone(2).
var threads = [...]rule{
	allow("clone", some(0, unix.CLONE_THREAD), only(0, unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_FILES|unix.CLONE_SIGHAND|
		unix.CLONE_SYSVSEM|unix.CLONE_THREAD|unix.CLONE_SETTLS|unix.CLONE_PARENT_SETTID|unix.CLONE_CHILD_CLEARTID|cloneDetached)),
}

// children are programs that are started: by Go (syscall/exec_linux.go), which
// asks for a pidfd, or by fork and posix_spawn of a C library. Code is mapped from
// files, by ld.so(8).
var children = [...]rule{
	allow("clone", none(0, unix.CLONE_THREAD), only(0, unix.CLONE_VM|unix.CLONE_VFORK|unix.CLONE_PIDFD|
		unix.CLONE_CHILD_SETTID|unix.CLONE_CHILD_CLEARTID|unix.CSIGNAL)),
	allow("mmap", some(2, unix.PROT_EXEC), none(2, unix.PROT_WRITE), none(3, unix.MAP_ANONYMOUS)),
}

// memory holds no code but what was there.
var memory = [...]rule{
	allow("mmap", none(2, unix.PROT_EXEC)),
	allow("mprotect", none(2, unix.PROT_EXEC)),
}

// process are questions about the process itself, and names for its memory. Its
// own name stays: the journal's entries have it.
var process = [...]rule{
	allow("prlimit64", is(0, 0)),
	allow("prctl", is(0, prSetVMA)),
	allow("prctl", is(0, unix.PR_GET_NAME)),
	allow("prctl", is(0, unix.PR_GET_DUMPABLE)),
	allow("prctl", is(0, unix.PR_SET_PDEATHSIG)),
	allow("prctl", is(0, unix.PR_GET_SECUREBITS)),
	allow("prctl", is(0, unix.PR_CAPBSET_READ)),
	allow("prctl", is(0, unix.PR_GET_NO_NEW_PRIVS)),
	allow("prctl", is(0, unix.PR_CAP_AMBIENT), is(1, unix.PR_CAP_AMBIENT_IS_SET)),
	// Is this a terminal, and how much is there to read?
	allow("ioctl", is(1, unix.TCGETS)),
	allow("ioctl", is(1, unix.TIOCGWINSZ)),
	allow("ioctl", is(1, unix.TIOCINQ)),
}

// ofType are the conditions for argument 1 of socket and socketpair to be a type
// of socket, with the flags that may be with it.
func ofType(t uint64) []condition {
	conditions := []condition{only(1, t|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)}
	for bit := uint64(1); bit <= t; bit <<= 1 {
		if t&bit != 0 {
			conditions = append(conditions, some(1, bit))
		}
	}
	return conditions
}

// inet are listeners, and what is sent to those who have come in. Landlock keeps
// TCP from connecting out (landlock(7)), but not the other protocols: MPTCP, SMC
// and SCTP have sockets of type SOCK_STREAM, too. Nor does it know of data that
// is sent along with the SYN, tcp(7).
func inet() (all []rule) {
	for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []uint64{0, unix.IPPROTO_TCP} {
			all = append(all, allow("socket", append(ofType(unix.SOCK_STREAM), is(0, family), is(2, protocol))...))
		}
	}
	return append(all,
		allow("sendto", none(3, unix.MSG_FASTOPEN)),
		allow("sendmsg", none(2, unix.MSG_FASTOPEN)),
		// The daemon and its launcher talk over pairs. Ends of pairs of datagram
		// sockets could send to others.
		allow("socketpair", append(ofType(unix.SOCK_SEQPACKET), is(0, unix.AF_UNIX))...),
	)
}

// datagrams is the listener on UDP ports. Sockets of ICMP and UDP-Lite are of the same
// type.
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

// netlink is nftables and the machine's connections. Whatever else can be asked
// over netlink(7), above all routes, addresses and interfaces, is not needed.
func netlink() (all []rule) {
	for _, protocol := range []uint64{unix.NETLINK_NETFILTER, unix.NETLINK_SOCK_DIAG} {
		all = append(all, allow("socket", append(ofType(unix.SOCK_RAW), is(0, unix.AF_NETLINK), is(2, protocol))...))
	}
	return all
}

// unixSockets are D-Bus and systemd's messages, sd_notify(3).
var unixSockets = [...]rule{
	allow("socket", append(ofType(unix.SOCK_STREAM), is(0, unix.AF_UNIX), is(2, 0))...),
	allow("socket", append(ofType(unix.SOCK_DGRAM), is(0, unix.AF_UNIX), is(2, 0))...),
}

// options are those of sockets that the daemon and Go's package net set. With
// CAP_NET_ADMIN others would replace the packet filter of old (iptables), take
// connections to addresses of others (IP_TRANSPARENT), or choose routes (SO_MARK).
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
