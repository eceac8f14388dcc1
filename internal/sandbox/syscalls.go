//go:build linux

package sandbox

import (
	"fmt"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
)

// plain are the system calls that a sandboxed process may make with any arguments:
// those that were seen to be used in e2e/campaign, the forms that the same calls have on
// other architectures, and those that Go's runtime uses rarely, or through a C library.
// Calls that create, remove or rename files, or that change another process, a mount, a
// namespace, a user, a module, the clock or the kernel, are not among them. Calls whose
// arguments matter are in rules.go.
var plain = [...]string{
	// Memory and threads.
	"munmap", "madvise", "mincore", "futex", "exit", "exit_group", "gettid", "getpid", "sched_getaffinity",
	"sched_yield", "arch_prctl", "getrandom", "restart_syscall",
	"brk", "mremap", "get_robust_list", "set_robust_list", "set_tid_address", "rseq", "membarrier",
	// Signals and time. Landlock keeps signals inside the sandbox.
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "signalfd4", "sigaltstack", "tgkill", "kill",
	"nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday",
	// Files; Landlock restricts which can be opened.
	"open", "openat", "close", "read", "pread64", "write", "pwrite64", "lseek", "fcntl", "flock", "fsync", "fdatasync", "ftruncate",
	"stat", "lstat", "fstat", "newfstatat", "statfs", "fstatfs", "faccessat", "faccessat2", "readlink", "readlinkat",
	"getdents64", "getcwd", "dup", "dup2", "dup3", "pipe", "pipe2",
	// Sockets; rules.go restricts which kinds can be made.
	"accept", "accept4", "bind", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmsg", "shutdown",
	// Waiting.
	"epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "poll", "ppoll", "eventfd2",
	"wait4", "waitid", "pidfd_open", "pidfd_send_signal",
	// Identity and limits.
	"capget", "getegid", "geteuid", "getgid", "getgroups", "getuid", "getrlimit", "uname",
}

// forPrograms are the additional system calls of a program in C (journalctl). They do
// not include memfd_create: a file in memory could be executed, since it has no path
// that Landlock could restrict.
var forPrograms = [...]string{
	"execve", "vfork", "getcpu", "getppid", "getpgrp", "rt_sigtimedwait", "tkill", "clock_getres", "time",
	"timerfd_create", "timerfd_settime", "timerfd_gettime", "openat2", "close_range", "readv", "preadv", "writev", "pwritev",
	"fadvise64", "statx", "access", "getdents", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
	"getxattr", "lgetxattr", "fgetxattr", "name_to_handle_at", "epoll_pwait2", "select", "pselect6",
	"getresgid", "getresuid", "getrusage", "sysinfo", "times",
}

// absent are system calls that fail as if the kernel did not have them, so that C
// libraries use an older call instead: clone3 has its flags in memory, where no filter
// sees them (seccomp(2)), while clone has them in a register.
var absent = [...]string{"clone3"}

// seccomp loads the allow list into all threads. A call that is not on it fails with
// EPERM rather than killing the process: the daemon should not die of a call that
// nobody thought of, and an intruder gains nothing by that.
func (p Policy) seccomp() error {
	machine, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("this machine: %w", err)
	}
	return load(p.filter(machine))
}

// filter returns the allow list as a program for a machine.
func (p Policy) filter(machine *arch.Info) []bpf.Instruction {
	names := slices.Clone(plain[:])
	if len(p.Programs) > 0 {
		names = append(names, forPrograms[:]...)
	}
	if p.Connect {
		names = append(names, "connect") // with Landlock, only unix sockets can be reached
	}
	rules := p.rules()
	for _, name := range p.Calls {
		if !slices.ContainsFunc(rules, func(r rule) bool { return r.call == name }) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		rules = append(rules, allow(name))
	}
	return compile(machine, absent[:], rules)
}
