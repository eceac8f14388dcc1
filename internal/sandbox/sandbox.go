//go:build linux

// Package sandbox confines the daemon once it has opened what it needs: no new
// privileges, only the capabilities that it still uses, Landlock for files, TCP
// and signals (landlock(7)), and a seccomp allow list of system calls
// (seccomp(2)). Programs that the process starts are in the same sandbox. The package
// does not decide what is needed; a Policy says that.
//
// A policy cannot restrict what is sent over a socket, since the system calls are the
// same whatever is sent. Requests over D-Bus are restricted by the daemon's own user,
// polkit and the D-Bus policy. Requests to nftables and connection tracking over netlink
// are not: whoever has CAP_NET_ADMIN and may set grants may set any rule.
package sandbox

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Policy is what a sandboxed process may still do. It can create no files, and change
// only those that it has open. Paths that do not exist when the process enters the
// sandbox stay out of its reach, even if they are created later.
type Policy struct {
	Read     []string    // files that may be read, and directories with all that is below them
	Programs []string    // files that may be executed; if empty, no program can be started
	Keep     []cap.Value // capabilities to keep, of those that the process has
	Calls    []string    // additional system calls; ignored are those of which some uses are allowed already
	Connect  bool        // whether it may connect to other processes' unix sockets
	Abstract bool        // whether these may be abstract ones, unix(7)
	// Datagrams is whether it may receive UDP datagrams and answer them. That means
	// that it can send to anybody, since the address is in memory, where no filter
	// sees it.
	Datagrams bool
}

// Enter confines the whole process, all its threads, for as long as it lives. It
// returns, for people, what this kernel could not confine and what programs will lack,
// and an error if the process is not confined as well as the kernel can do it. Landlock
// needs Linux 5.13, its rules for TCP 6.7, and those for signals and abstract sockets
// 6.12.
func (p Policy) Enter() (missing []string, err error) {
	if err := roomForSignals(); err != nil {
		return nil, err
	}
	if err := p.capabilities(); err != nil {
		return nil, fmt.Errorf("drop capabilities: %w", err)
	}
	abi := landlockABI()
	for _, part := range []struct {
		from int
		what string
	}{
		{1, "files are not confined: this kernel has no Landlock"},
		{4, "outgoing TCP connections are not confined: Landlock of this kernel is too old"},
		{6, "signals and abstract unix sockets are not confined: Landlock of this kernel is too old"},
	} {
		if abi < part.from {
			missing = append(missing, part.what)
		}
	}
	if speaksMPTCP() {
		missing = append(missing, "outgoing MPTCP connections are not confined: an MPTCP socket is open")
	}
	lacking, err := p.landlock()
	if err != nil {
		return missing, fmt.Errorf("landlock: %w", err)
	}
	missing = append(missing, lacking...)
	if err := p.seccomp(); err != nil {
		return missing, fmt.Errorf("seccomp: %w", err)
	}
	return missing, nil
}

// enoughSignals is more than the number of threads that the process has when it enters
// the sandbox.
const enoughSignals = 128

// roomForSignals returns an error if one thread might not be able to signal all others
// to confine themselves. Go's runtime sends each thread a real-time signal, which the
// kernel refuses when too many are pending (tgkill(2), EAGAIN), and stops the whole
// process until all have answered: for ever, if one did not receive the signal
// (syscall_runtime_doAllThreadsSyscall in Go's runtime/os_linux.go).
func roomForSignals() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_SIGPENDING, &limit); err != nil {
		return fmt.Errorf("ask for the limit of pending signals: %w", err)
	}
	if limit.Cur < enoughSignals {
		return fmt.Errorf("only %d signals may be pending: raise the limit to %d or more "+
			"(LimitSIGPENDING= in the unit, ulimit -i)", limit.Cur, enoughSignals)
	}
	return nil
}

// capabilities drops all capabilities but those to keep. It also drops them from the
// bounding set, if it may, so that not even a program with file capabilities regains
// one, and clears the ambient set, so that no program is started with any.
func (p Policy) capabilities() error {
	now := cap.GetProc()
	if can, err := now.GetFlag(cap.Effective, cap.SETPCAP); err != nil {
		return err
	} else if can {
		for c := cap.Value(0); c < cap.MaxBits(); c++ {
			if !slices.Contains(p.Keep, c) {
				if err := cap.DropBound(c); err != nil {
					return fmt.Errorf("%s from the bounding set: %w", c, err)
				}
			}
		}
	}
	if err := cap.ResetAmbient(); err != nil {
		return fmt.Errorf("ambient set: %w", err)
	}
	keep := cap.NewSet()
	for _, c := range p.Keep {
		has, err := now.GetFlag(cap.Permitted, c)
		if err != nil {
			return err
		}
		if !has {
			continue
		}
		if err := errors.Join(keep.SetFlag(cap.Permitted, true, c), keep.SetFlag(cap.Effective, true, c)); err != nil {
			return err
		}
	}
	return keep.SetProc()
}

// landlock confines access to files to the policy, and forbids outgoing TCP connections
// (the daemon makes none), signals to processes that it did not start, and connections
// to their abstract sockets. It returns what programs will lack.
func (p Policy) landlock() (lacking []string, err error) {
	rules := []landlock.Rule{landlock.RWFiles("/dev/null").IgnoreIfMissing()}
	for _, path := range p.Read {
		rules = append(rules, readable(path))
	}
	for _, program := range p.Programs {
		if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		files, without := executable(program)
		rules = append(rules, files...)
		for _, l := range without {
			lacking = append(lacking, fmt.Sprintf("%s cannot be used: not found: %s", program, l))
		}
	}
	scope := landlock.ScopedSet(unix.LANDLOCK_SCOPE_SIGNAL)
	if !p.Abstract {
		scope |= unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	return lacking, landlock.MustConfig(
		landlock.V6.HandledAccessFS,
		landlock.AccessNetSet(unix.LANDLOCK_ACCESS_NET_CONNECT_TCP),
		scope,
	).BestEffort().Restrict(rules...)
}

// readable returns a rule that lets a file, or a directory with all below it, be read.
// (The library's RODirs would let it be executed as well.)
func readable(path string) landlock.FSRule {
	access := landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_READ_FILE)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		access |= unix.LANDLOCK_ACCESS_FS_READ_DIR
	}
	return landlock.PathAccess(access, path).IgnoreIfMissing()
}

// executable returns rules that let a program be executed, together with the ELF
// interpreter that the kernel executes for it, and let them read the files that they
// need. The interpreter runs any program that it can read, so this is the only one.
// Lacking are the libraries that were not found.
func executable(program string) (rules []landlock.Rule, lacking []string) {
	files, lacking := Files(program)
	for _, f := range files {
		rules = append(rules, readable(f))
	}
	run := landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE)
	for _, p := range []string{program, interpreterOf(program)} {
		if p != "" {
			rules = append(rules, landlock.PathAccess(run, p).IgnoreIfMissing())
		}
	}
	return rules, lacking
}

// interpreterOf returns the ELF interpreter of a program, or "" if it has none.
func interpreterOf(program string) string {
	f, err := elf.Open(program)
	if err != nil {
		return ""
	}
	defer f.Close()
	return interpreter(f)
}

// speaksMPTCP reports whether the process has an MPTCP socket (RFC 8684). Landlock does
// not restrict MPTCP, and a listening socket could be turned into one that connects out.
// Go's package net makes such listeners by default; GODEBUG=multipathtcp=0 disables
// that.
func speaksMPTCP() bool {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return true // perhaps
	}
	return slices.ContainsFunc(fds, func(e os.DirEntry) bool {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return false
		}
		protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		return err == nil && protocol == unix.IPPROTO_MPTCP
	})
}

// landlockABI returns the kernel's version of Landlock, or 0 if it has none.
func landlockABI() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
}
