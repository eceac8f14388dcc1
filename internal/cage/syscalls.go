//go:build linux

package cage

import (
	"fmt"
	"slices"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// allowed are the system calls of a caged process: what Go's runtime, netlink,
// the store, listeners, D-Bus and the logs use, as seen of the daemon at work,
// with the older and newer forms of the same calls. Whatever makes, removes or
// renames a file, or changes another process, a mount, a namespace, a user, a
// module, the clock or the kernel is not among them.
var allowed = [...]string{
	// Memory and threads.
	"brk", "madvise", "mincore", "mmap", "mprotect", "mremap", "munmap", "futex", "get_robust_list",
	"set_robust_list", "set_tid_address", "rseq", "membarrier", "sched_getaffinity", "sched_yield",
	"arch_prctl", "prctl", "getrandom", "exit", "exit_group", "gettid", "getpid", "getppid", "getpgrp",
	"clone", "clone3", "getcpu", "restart_syscall",
	// Signals and time.
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "signalfd4", "sigaltstack", "tgkill", "tkill", "kill",
	"nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time",
	"setitimer", "getitimer", "timer_create", "timer_delete", "timer_settime",
	"timerfd_create", "timerfd_settime", "timerfd_gettime",
	// Files, as far as Landlock lets them be opened.
	"open", "openat", "openat2", "close", "close_range", "read", "pread64", "readv", "preadv", "write",
	"pwrite64", "writev", "pwritev", "lseek", "fcntl", "flock", "fsync", "fdatasync", "sync_file_range", "ftruncate", "fallocate",
	"fadvise64", "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat",
	"faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd", "dup", "dup2", "dup3", "pipe", "pipe2",
	"ioctl", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "getxattr", "lgetxattr", "fgetxattr",
	"name_to_handle_at",
	// Sockets; which families is decided below.
	"accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "setsockopt",
	"listen", "recvfrom", "recvmsg", "recvmmsg", "sendto", "sendmsg", "sendmmsg", "shutdown", "socketpair",
	// Waiting.
	"epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "poll", "ppoll", "select", "pselect6",
	"eventfd2", "wait4", "waitid", "pidfd_open", "pidfd_send_signal",
	// Asking who and how much.
	"capget", "getegid", "geteuid", "getgid", "getgroups", "getresgid", "getresuid", "getuid", "getrlimit",
	"prlimit64", "getrusage", "sysinfo", "times", "uname",
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
		names = append(names, "execve", "vfork")
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
