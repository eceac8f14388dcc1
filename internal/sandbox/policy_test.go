//go:build linux

package sandbox

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// call is a system call as a filter sees it: struct seccomp_data, seccomp(2).
type call struct {
	name string
	args [6]uint64
}

func (c call) String() string { return fmt.Sprintf("%s%#x", c.name, c.args) }

// filter runs the filter of a policy without a kernel.
type filter struct {
	vm      *bpf.VM
	machine *arch.Info
}

func filterOf(t require, p Policy) filter {
	machine, err := arch.GetInfo("")
	if err != nil {
		t.Fatalf("this machine: %v", err)
	}
	vm, err := bpf.NewVM(p.filter(machine))
	if err != nil {
		t.Fatalf("the filter: %v", err)
	}
	return filter{vm, machine}
}

// answer returns the filter's answer to a call: 0 for allowed, or the error.
func (f filter) answer(t require, c call) unix.Errno {
	number, has := f.machine.SyscallNames[c.name]
	if !has {
		t.Fatalf("this machine has no %s", c.name)
	}
	return f.to(t, uint32(number), uint32(f.machine.ID), c)
}

// to returns the filter's answer to a call, by the call's number on a machine.
func (f filter) to(t require, number, machine uint32, c call) unix.Errno {
	// The interpreter reads a packet in network byte order; the words are where
	// struct seccomp_data of this machine has them.
	data := binary.BigEndian.AppendUint32(nil, number)
	data = binary.BigEndian.AppendUint32(data, machine)
	data = append(data, make([]byte, 8)...) // the instruction pointer
	for _, a := range c.args {
		words := [2]uint32{uint32(a), uint32(a >> 32)}
		if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
			slices.Reverse(words[:])
		}
		data = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(data, words[0]), words[1])
	}
	action, err := f.vm.Run(data)
	if err != nil {
		t.Fatalf("%s: %v", c, err)
	}
	switch uint32(action) &^ unix.SECCOMP_RET_DATA {
	case unix.SECCOMP_RET_ALLOW:
		return 0
	case unix.SECCOMP_RET_ERRNO:
		return unix.Errno(action & unix.SECCOMP_RET_DATA)
	}
	t.Fatalf("%s: action %#x", c, action)
	return 0
}

// require is what *testing.T and *rapid.T have in common.
type require interface {
	Fatalf(format string, args ...any)
}

// Policies for every kind of daemon.
var (
	alone    = Policy{}
	bus      = Policy{Connect: true}
	journal  = Policy{Programs: []string{"/usr/bin/journalctl"}}
	both     = Policy{Programs: []string{"/usr/bin/journalctl"}, Connect: true}
	more     = Policy{Calls: []string{"sendmmsg", "socket"}}
	hears    = Policy{Datagrams: true}
	allWalls = []Policy{alone, bus, journal, both, hears}
)

const (
	goThread    = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
	glibcThread = goThread | unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_CLEARTID
	goChild     = unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PIDFD | uint64(unix.SIGCHLD)
	glibcFork   = unix.CLONE_CHILD_SETTID | unix.CLONE_CHILD_CLEARTID | uint64(unix.SIGCHLD)
	flags       = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	codeOfFile  = unix.PROT_READ | unix.PROT_EXEC
)

func TestArguments(t *testing.T) {
	const no = unix.EPERM
	for _, tt := range []struct {
		call  call
		walls []Policy
		want  unix.Errno
	}{
		{call{"clone", [6]uint64{goThread}}, allWalls, 0},
		{call{"clone", [6]uint64{glibcThread}}, allWalls, 0},
		{call{"clone", [6]uint64{glibcThread | cloneDetached}}, allWalls, 0},
		{call{"clone", [6]uint64{goThread | unix.CLONE_NEWNET}}, allWalls, no},
		{call{"clone", [6]uint64{goThread | 1<<32}}, allWalls, no},
		{call{"clone", [6]uint64{goChild}}, []Policy{journal, both}, 0},
		{call{"clone", [6]uint64{unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PIDFD}}, []Policy{journal, both}, 0}, // how Go checks for pidfds
		{call{"clone", [6]uint64{glibcFork}}, []Policy{journal, both}, 0},
		{call{"clone", [6]uint64{goChild}}, []Policy{alone, bus}, no},
		{call{"clone", [6]uint64{goChild | unix.CLONE_NEWUSER}}, allWalls, no},
		{call{"clone3", [6]uint64{}}, allWalls, unix.ENOSYS},
		{call{"execve", [6]uint64{}}, []Policy{journal, both}, 0},
		{call{"execve", [6]uint64{}}, []Policy{alone, bus}, no},
		{call{"memfd_create", [6]uint64{}}, allWalls, no},
		{call{"execveat", [6]uint64{}}, allWalls, no},
		{call{"io_uring_setup", [6]uint64{}}, allWalls, no},
		{call{"unshare", [6]uint64{}}, allWalls, no},
		{call{"setns", [6]uint64{}}, allWalls, no},

		{call{"mmap", [6]uint64{2: unix.PROT_READ | unix.PROT_WRITE, 3: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}}, allWalls, 0},
		{call{"mmap", [6]uint64{2: unix.PROT_READ, 3: unix.MAP_SHARED}}, allWalls, 0},
		{call{"mmap", [6]uint64{2: codeOfFile, 3: unix.MAP_PRIVATE}}, []Policy{journal, both}, 0},
		{call{"mmap", [6]uint64{2: codeOfFile, 3: unix.MAP_PRIVATE}}, []Policy{alone, bus}, no},
		{call{"mmap", [6]uint64{2: codeOfFile, 3: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}}, allWalls, no},
		{call{"mmap", [6]uint64{2: codeOfFile | unix.PROT_WRITE, 3: unix.MAP_PRIVATE}}, allWalls, no},
		{call{"mprotect", [6]uint64{2: unix.PROT_READ}}, allWalls, 0},
		{call{"mprotect", [6]uint64{2: codeOfFile}}, allWalls, no},

		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_STREAM | flags, 0}}, allWalls, 0},
		{call{"socket", [6]uint64{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP}}, allWalls, 0},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_DGRAM, 0}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_DGRAM | flags, unix.IPPROTO_UDP}}, []Policy{hears}, 0},
		{call{"socket", [6]uint64{unix.AF_INET6, unix.SOCK_DGRAM | flags, unix.IPPROTO_UDP}}, []Policy{hears}, 0},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_DGRAM | flags, unix.IPPROTO_UDP}}, []Policy{alone, bus, journal, both}, no},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP}}, allWalls, no},
		{call{"recvmmsg", [6]uint64{3: unix.MSG_DONTWAIT}}, []Policy{hears}, 0},
		{call{"recvmmsg", [6]uint64{3: unix.MSG_DONTWAIT}}, []Policy{alone, bus, journal, both}, no},
		{call{"recvmmsg", [6]uint64{3: unix.MSG_DONTWAIT | unix.MSG_ERRQUEUE}}, allWalls, no},
		{call{"recvmmsg", [6]uint64{3: unix.MSG_DONTWAIT, 4: 1}}, allWalls, no},
		{call{"setsockopt", [6]uint64{1: unix.IPPROTO_IP, 2: unix.IP_PKTINFO}}, []Policy{hears}, 0},
		{call{"setsockopt", [6]uint64{1: unix.IPPROTO_IPV6, 2: unix.IPV6_RECVPKTINFO}}, []Policy{hears}, 0},
		{call{"setsockopt", [6]uint64{1: unix.IPPROTO_IP, 2: unix.IP_PKTINFO}}, []Policy{alone, bus, journal, both}, no},
		{call{"setsockopt", [6]uint64{1: unix.IPPROTO_IPV6, 2: unix.IPV6_TRANSPARENT}}, allWalls, no},
		{call{"setsockopt", [6]uint64{1: unix.SOL_SOCKET, 2: unix.SO_BROADCAST}}, allWalls, no},
		{call{"setsockopt", [6]uint64{1: unix.SOL_SOCKET, 2: unix.SO_ATTACH_FILTER}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_SEQPACKET, 0}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET | 1<<32, unix.SOCK_STREAM, 0}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_STREAM, 1<<32 | unix.IPPROTO_TCP}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_UNIX, unix.SOCK_STREAM | flags, 0}}, []Policy{bus, both}, 0},
		{call{"socket", [6]uint64{unix.AF_UNIX, unix.SOCK_DGRAM | flags, 0}}, []Policy{bus, both}, 0},
		{call{"socket", [6]uint64{unix.AF_UNIX, unix.SOCK_STREAM | flags, 0}}, []Policy{alone, journal}, no},
		{call{"connect", [6]uint64{}}, []Policy{bus, both}, 0},
		{call{"connect", [6]uint64{}}, []Policy{alone, journal}, no},
		{call{"socketpair", [6]uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET | unix.SOCK_CLOEXEC, 0}}, allWalls, 0},
		{call{"socketpair", [6]uint64{unix.AF_UNIX, unix.SOCK_DGRAM, 0}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW | flags, unix.NETLINK_NETFILTER}}, allWalls, 0},
		{call{"socket", [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW | flags, unix.NETLINK_SOCK_DIAG}}, allWalls, 0},
		{call{"socket", [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_PACKET, unix.SOCK_RAW, 0}}, allWalls, no},

		{call{"sendto", [6]uint64{3: unix.MSG_NOSIGNAL}}, allWalls, 0},
		{call{"sendto", [6]uint64{3: unix.MSG_FASTOPEN | unix.MSG_NOSIGNAL}}, allWalls, no},
		{call{"sendmsg", [6]uint64{2: unix.MSG_NOSIGNAL}}, allWalls, 0},
		{call{"sendmsg", [6]uint64{2: unix.MSG_FASTOPEN}}, allWalls, no},
		{call{"sendmmsg", [6]uint64{}}, allWalls, no},
		{call{"sendmmsg", [6]uint64{}}, []Policy{more}, 0},
		{call{"sendmmsg", [6]uint64{3: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL}}, []Policy{hears}, 0},
		{call{"sendmmsg", [6]uint64{3: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL}}, []Policy{alone, bus, journal, both}, no},
		{call{"sendmmsg", [6]uint64{3: unix.MSG_DONTWAIT | unix.MSG_FASTOPEN}}, allWalls, no},
		{call{"socket", [6]uint64{unix.AF_PACKET, unix.SOCK_RAW, 0}}, []Policy{more}, no}, // socket is in Calls, but has rules already
		{call{"socket", [6]uint64{unix.AF_INET, unix.SOCK_STREAM, 0}}, []Policy{more}, 0},
		{call{"setsockopt", [6]uint64{1: unix.SOL_SOCKET, 2: unix.SO_SNDBUFFORCE}}, allWalls, 0},
		{call{"setsockopt", [6]uint64{1: unix.SOL_SOCKET, 2: unix.SO_MARK}}, allWalls, no},
		{call{"setsockopt", [6]uint64{1: unix.SOL_SOCKET, 2: unix.SO_BINDTODEVICE}}, allWalls, no},
		{call{"setsockopt", [6]uint64{1: unix.IPPROTO_TCP, 2: unix.TCP_NODELAY}}, allWalls, 0},
		{call{"setsockopt", [6]uint64{1: unix.IPPROTO_TCP, 2: unix.TCP_FASTOPEN_CONNECT}}, allWalls, no},
		{call{"setsockopt", [6]uint64{1: unix.IPPROTO_IP, 2: unix.IP_TRANSPARENT}}, allWalls, no},
		{call{"prlimit64", [6]uint64{0}}, allWalls, 0},
		{call{"prlimit64", [6]uint64{1}}, allWalls, no},
		{call{"getpriority", [6]uint64{unix.PRIO_PROCESS, 0}}, allWalls, 0},
		{call{"getpriority", [6]uint64{unix.PRIO_PROCESS, 1}}, allWalls, no},
		{call{"setpriority", [6]uint64{unix.PRIO_PROCESS, 0, math.MaxUint - 9}}, allWalls, 0},   // -10
		{call{"setpriority", [6]uint64{unix.PRIO_PROCESS, 0, math.MaxUint - 10}}, allWalls, no}, // -11
		{call{"setpriority", [6]uint64{unix.PRIO_PROCESS, 0, 0}}, allWalls, no},
		{call{"setpriority", [6]uint64{unix.PRIO_PROCESS, 1, math.MaxUint - 9}}, allWalls, no}, // another process
		{call{"setpriority", [6]uint64{unix.PRIO_PGRP, 0, math.MaxUint - 9}}, allWalls, no},    // all of its group
		{call{"setpriority", [6]uint64{unix.PRIO_USER, 0, math.MaxUint - 9}}, allWalls, no},    // all of its user
		{call{"prctl", [6]uint64{unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE}}, allWalls, no},
		{call{"ioctl", [6]uint64{1: unix.TCGETS}}, allWalls, 0},
		{call{"ioctl", [6]uint64{1: unix.SIOCSIFFLAGS}}, allWalls, no},
		{call{"ioctl", [6]uint64{1: unix.TIOCSTI}}, allWalls, no},
	} {
		for _, p := range tt.walls {
			if got := filterOf(t, p).answer(t, tt.call); got != tt.want {
				t.Errorf("%s with %+v: %v, want %v", tt.call, p, got, tt.want)
			}
		}
	}
}

// On a 64-bit machine, 32-bit system calls have other numbers.
func TestNoArgumentsAsAnotherMachine(t *testing.T) {
	f := filterOf(t, both)
	for number := range uint32(600) {
		for _, other := range []*arch.Info{arch.I386, arch.ARM} {
			if got := f.to(t, number, uint32(other.ID), call{}); got == 0 {
				t.Errorf("call %d as on %s is allowed", number, other.Name)
			}
		}
		if got := f.to(t, number|uint32(arch.X32.SeccompMask), uint32(f.machine.ID), call{}); got == 0 {
			t.Errorf("call %d of x32 is allowed", number)
		}
	}
}

// Whatever the bits of the flags, a new process or thread shares the namespaces of the
// daemon, and a new socket is of a kind that the daemon uses.
func TestNoArgumentsGetOut(t *testing.T) {
	filters := make([]filter, len(allWalls))
	for i, p := range allWalls {
		filters[i] = filterOf(t, p)
	}
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	word := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 300), rapid.Map(rapid.Uint64Range(0, 63), func(n uint64) uint64 { return 1 << n }))
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, len(filters)-1).Draw(t, "walls")
		f := filters[i]
		base := rapid.SampledFrom([]uint64{0, goThread, glibcThread, goChild, glibcFork}).Draw(t, "base")
		c := call{"clone", [6]uint64{base ^ word.Draw(t, "bits")}}
		if f.answer(t, c) == 0 && c.args[0]&namespaces != 0 {
			t.Fatalf("%s is allowed", c)
		}
		c = call{"socket", [6]uint64{word.Draw(t, "family"), word.Draw(t, "type"), word.Draw(t, "protocol")}}
		if f.answer(t, c) == 0 && !allWalls[i].use(c.args) {
			t.Fatalf("%s is allowed", c)
		}
	})
}

// use reports whether a daemon with the policy uses sockets of a kind.
func (p Policy) use(args [6]uint64) bool {
	family, kind, protocol := args[0], args[1]&^flags, args[2]
	switch family {
	case unix.AF_INET, unix.AF_INET6:
		return kind == unix.SOCK_STREAM && (protocol == 0 || protocol == unix.IPPROTO_TCP) ||
			p.Datagrams && kind == unix.SOCK_DGRAM && protocol == unix.IPPROTO_UDP
	case unix.AF_UNIX:
		return (kind == unix.SOCK_STREAM || kind == unix.SOCK_DGRAM) && protocol == 0
	case unix.AF_NETLINK:
		return kind == unix.SOCK_RAW && (protocol == unix.NETLINK_NETFILTER || protocol == unix.NETLINK_SOCK_DIAG)
	}
	return false
}

// holds reports whether a condition holds, independently of compile.
func (c condition) holds(args [6]uint64) bool {
	a := args[c.argument]
	switch c.test {
	case equals:
		return a == c.value
	case hasNone:
		return a&c.value == 0
	}
	return a&c.value != 0
}

// The program does what the rules say, whatever the arguments: every bit counts.
func TestNoArgumentsMakeTheFilterErr(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(allWalls).Draw(t, "walls")
		rules := p.rules()
		r := rapid.SampledFrom(rules).Draw(t, "rule")
		c := call{name: r.call}
		for _, cond := range r.when { // make the arguments similar to allowed ones
			c.args[cond.argument] |= cond.value & rapid.SampledFrom([]uint64{0, 0xff, 1<<32 - 1, ^uint64(0)}).Draw(t, "of it")
		}
		n := rapid.IntRange(0, 5).Draw(t, "argument")
		c.args[n] ^= rapid.SampledFrom([]uint64{0, 1 << rapid.IntRange(0, 63).Draw(t, "bit")}).Draw(t, "flip")
		want := slices.ContainsFunc(rules, func(r rule) bool {
			return r.call == c.name && !slices.ContainsFunc(r.when, func(cond condition) bool { return !cond.holds(c.args) })
		})
		if got := filterOf(t, p).answer(t, c); (got == 0) != want {
			t.Fatalf("%s: %v; the rules allow it: %v", c, got, want)
		}
	})
}
