//go:build linux

// Package sandbox confines the daemon once it has opened what it needs: no new
// privileges, only the capabilities that it still uses, Landlock for files, TCP
// and signals (landlock(7)), and a seccomp allow list of system calls
// (seccomp(2)). What is inside stays inside: programs that the process starts
// are in the same sandbox. It decides nothing about what is needed; Policy says.
//
// What a policy cannot restrict, because no system call tells it apart, is what is sent
// over sockets. Requests over D-Bus are restricted by the daemon's own user, polkit and
// the D-Bus policy. Requests to nftables and connection tracking over netlink are not:
// whoever has CAP_NET_ADMIN and may set grants may set any rule.
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

// Policy is what a sandboxed process may still do. It makes and changes no file but
// those that it has open. Paths that do not exist when the process enters stay
// out of its reach, also when they come later.
type Policy struct {
	Read     []string    // directories and files to be read, with all that is below
	Programs []string    // files that may be executed; none: no program can be started
	Keep     []cap.Value // capabilities to be kept of those that the process has
	Calls    []string    // system calls that it may make beside; not those of which some uses are allowed already
	Connect  bool        // whether it may connect to unix sockets of others
	Abstract bool        // whether these may be abstract ones, unix(7)
	// Datagrams is whether it may hear UDP and answer, which is to send to anybody:
	// where to stands in memory, which no filter sees.
	Datagrams bool
}

// Enter locks the whole process in, all its threads; there is no way back. It
// answers with what this kernel could not do and what programs will lack, for
// people, and with an error if the process is not locked in as far as the kernel
// can. Landlock needs Linux 5.13, its rules for TCP 6.7, for signals and abstract
// sockets 6.12.
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
		missing = append(missing, "outgoing MPTCP connections are not confined: a socket that speaks it is open")
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

// enoughSignals is more than the process has threads when it is locked in.
const enoughSignals = 128

// roomForSignals says whether a thread can tell all others to lock themselves in.
// It sends each a real-time signal, of which the kernel takes no more than are
// allowed to be pending (tgkill(2), EAGAIN), and waits for their answers with the
// whole process at a halt: for ever, if one was not taken (doAllThreadsSyscall in
// Go's runtime/os_linux.go).
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

// capabilities drops all but those to keep: from the bounding set, where the
// process may, so that not even a program with capabilities of its own brings
// one back, and from the ambient set, so that no program is started with any.
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

// landlock confines files to the policy, forbids outgoing TCP connections (the
// daemon makes none), signals to processes that it did not start, and connections
// to their abstract sockets. It answers with what programs will lack.
func (w Policy) landlock() (lacking []string, err error) {
	rules := []landlock.Rule{landlock.RWFiles("/dev/null").IgnoreIfMissing()}
	for _, p := range w.Read {
		rules = append(rules, readable(p))
	}
	for _, p := range w.Programs {
		if _, err := os.Stat(p); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		files, without := executable(p)
		rules = append(rules, files...)
		for _, l := range without {
			lacking = append(lacking, fmt.Sprintf("%s cannot be used: not found: %s", p, l))
		}
	}
	scope := landlock.ScopedSet(unix.LANDLOCK_SCOPE_SIGNAL)
	if !w.Abstract {
		scope |= unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	return lacking, landlock.MustConfig(
		landlock.V6.HandledAccessFS,
		landlock.AccessNetSet(unix.LANDLOCK_ACCESS_NET_CONNECT_TCP),
		scope,
	).BestEffort().Restrict(rules...)
}

// readable lets a file, or a directory with all below it, be read. (The
// library's RODirs would let it be executed as well.)
func readable(path string) landlock.FSRule {
	access := landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_READ_FILE)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		access |= unix.LANDLOCK_ACCESS_FS_READ_DIR
	}
	return landlock.PathAccess(access, path).IgnoreIfMissing()
}

// executable lets a program be executed: the file and the ELF interpreter that
// the kernel executes for it, and lets these read what they need besides. The
// interpreter runs any program that it may read: this one alone. It answers with
// the libraries that are lacking.
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

// interpreterOf is the ELF interpreter of a program, "" for none.
func interpreterOf(program string) string {
	f, err := elf.Open(program)
	if err != nil {
		return ""
	}
	defer f.Close()
	return interpreter(f)
}

// speaksMPTCP tells whether the process has a socket of MPTCP (RFC 8684), of which
// Landlock knows nothing: one that listens could be turned into one that has
// connected out. Go's package net makes such listeners unless it is told not to
// (GODEBUG multipathtcp=0).
func speaksMPTCP() bool {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return true // it cannot be told
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

// landlockABI is the kernel's version of Landlock, 0 for none.
func landlockABI() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
}
