//go:build linux

package sandbox

import (
	"fmt"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
)

// plain are the system calls of a sandboxed process whose arguments do not matter:
// what e2e/campaign was seen to use, with the forms that the same calls have on
// other machines, and what Go's runtime uses beyond that in rare moments, or
// through a C library. Whatever makes, removes or renames a file, or changes
// another process, a mount, a namespace, a user, a module, the clock or the kernel
// is not among them. Those whose arguments do matter are in rules.go.
var plain = [...]string{
	// Memory and threads.
	"munmap", "madvise", "mincore", "futex", "exit", "exit_group", "gettid", "getpid", "sched_getaffinity",
	"sched_yield", "arch_prctl", "getrandom", "restart_syscall",
	"brk", "mremap", "get_robust_list", "set_robust_list", "set_tid_address", "rseq", "membarrier",
	// Signals and time. Landlock sees to it that signals stay inside.
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "signalfd4", "sigaltstack", "tgkill", "kill",
	"nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday",
	// Files, as far as Landlock lets them be opened.
	"open", "openat", "close", "read", "pread64", "write", "pwrite64", "lseek", "fcntl", "flock", "fsync", "fdatasync", "ftruncate",
	"stat", "lstat", "fstat", "newfstatat", "statfs", "fstatfs", "faccessat", "faccessat2", "readlink", "readlinkat",
	"getdents64", "getcwd", "dup", "dup2", "dup3", "pipe", "pipe2",
	// Sockets, of those kinds that can be made.
	"accept", "accept4", "bind", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmsg", "shutdown",
	// Waiting.
	"epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "poll", "ppoll", "eventfd2",
	"wait4", "waitid", "pidfd_open", "pidfd_send_signal",
	// Asking who and how much.
	"capget", "getegid", "geteuid", "getgid", "getgroups", "getuid", "getrlimit", "uname",
}

// forPrograms are what a program in C (journalctl) uses beyond that. There is no
// memfd_create among them: a file in memory could be executed, since Landlock
// knows no path of it.
var forPrograms = [...]string{
	"execve", "vfork", "getcpu", "getppid", "getpgrp", "rt_sigtimedwait", "tkill", "clock_getres", "time",
	"timerfd_create", "timerfd_settime", "timerfd_gettime", "openat2", "close_range", "readv", "preadv", "writev", "pwritev",
	"fadvise64", "statx", "access", "getdents", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
	"getxattr", "lgetxattr", "fgetxattr", "name_to_handle_at", "epoll_pwait2", "select", "pselect6",
	"getresgid", "getresuid", "getrusage", "sysinfo", "times",
}

// absent are answered as by a kernel that does not have them, so that C libraries
// use the call that came before: clone3 has its flags in memory, where no filter
// sees them (seccomp(2)), clone has them in a register.
var absent = [...]string{"clone3"}

// seccomp loads the allow list, into all threads. A call that is not on it
// fails with EPERM: the daemon is not to die of a call that nobody thought of,
// and an intruder gains nothing by it.
func (p Policy) seccomp() error {
	machine, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("this machine: %w", err)
	}
	return load(p.filter(machine))
}

// filter is the allow list for a machine.
func (p Policy) filter(machine *arch.Info) []bpf.Instruction {
	names := slices.Clone(plain[:])
	if len(p.Programs) > 0 {
		names = append(names, forPrograms[:]...)
	}
	if p.Connect {
		names = append(names, "connect") // Landlock lets it reach unix sockets alone
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
