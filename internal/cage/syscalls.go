//go:build linux

package cage

import (
	"fmt"
	"slices"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// allowed are the system calls of a caged process: what e2e/campaign was seen to
// use, with the forms that the same calls have on other machines, and what Go's
// runtime uses beyond that in rare moments, or through a C library. Whatever makes, removes or renames a
// file, or changes another process, a mount, a namespace, a user, a module, the
// clock or the kernel is not among them.
var allowed = [...]string{
	// Memory and threads.
	"mmap", "munmap", "madvise", "mincore", "futex", "clone", "exit", "exit_group", "gettid", "getpid", "sched_getaffinity",
	"sched_yield", "arch_prctl", "prctl", "getrandom", "restart_syscall",
	"clone3", "brk", "mprotect", "mremap", "get_robust_list", "set_robust_list", "set_tid_address", "rseq", "membarrier",
	// Signals and time.
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "signalfd4", "sigaltstack", "tgkill", "kill",
	"nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday",
	// Files, as far as Landlock lets them be opened.
	"open", "openat", "close", "read", "pread64", "write", "pwrite64", "lseek", "fcntl", "flock", "fsync", "fdatasync", "ftruncate",
	"stat", "lstat", "fstat", "newfstatat", "statfs", "fstatfs", "faccessat", "faccessat2", "readlink", "readlinkat",
	"getdents64", "getcwd", "dup", "dup2", "dup3", "pipe", "pipe2", "ioctl",
	// Sockets; which families is decided below.
	"accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "setsockopt",
	"listen", "recvfrom", "recvmsg", "sendto", "sendmsg", "shutdown", "socketpair",
	// Waiting.
	"epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "poll", "ppoll", "eventfd2",
	"wait4", "waitid", "pidfd_open", "pidfd_send_signal",
	// Asking who and how much.
	"capget", "getegid", "geteuid", "getgid", "getgroups", "getuid", "getrlimit", "prlimit64", "uname",
}

// forPrograms are what a program in C (journalctl) uses beyond that.
var forPrograms = [...]string{
	"execve", "vfork", "getcpu", "getppid", "getpgrp", "rt_sigtimedwait", "tkill", "clock_getres", "time",
	"timerfd_create", "timerfd_settime", "timerfd_gettime", "openat2", "close_range", "readv", "preadv", "writev", "pwritev",
	"fadvise64", "statx", "access", "getdents", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
	"getxattr", "lgetxattr", "fgetxattr", "name_to_handle_at", "recvmmsg", "sendmmsg", "epoll_pwait2", "select", "pselect6",
	"getresgid", "getresuid", "getrusage", "sysinfo", "times", "memfd_create",
}

// families are the kinds of sockets that the daemon opens: D-Bus, the control
// socket and systemd; listeners; nftables and sock_diag.
var families = [...]uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// seccomp loads the allow list, into all threads. A call that is not on it
// fails with EPERM: the daemon is not to die of a call that nobody thought of,
// and an intruder gains nothing by it.
func (w Walls) seccomp() error {
	names := slices.Clone(allowed[:])
	if len(w.Programs) > 0 {
		names = append(names, forPrograms[:]...)
	}
	// Not every machine has the old forms: arm64 has no open(2), only openat(2).
	machine, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("this machine: %w", err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, has := machine.SyscallNames[name]
		return !has
	})
	var sockets []seccomp.NameWithConditions
	for _, f := range families {
		sockets = append(sockets, seccomp.NameWithConditions{Name: "socket",
			Conditions: []seccomp.Condition{{Argument: 0, Operation: seccomp.Equal, Value: f}}})
	}
	return seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno,
			Syscalls: []seccomp.SyscallGroup{
				{Action: seccomp.ActionAllow, Names: names, NamesWithCondtions: sockets},
			},
		},
	})
}
