//go:build linux

// Package cage locks the daemon in once it has opened what it needs: no new
// privileges, only the capabilities that it still uses, Landlock for files, TCP
// and signals (landlock(7)), and a seccomp allow list of system calls
// (seccomp(2)). What is inside stays inside: programs that the process starts
// are in the same cage. It decides nothing about what is needed; Walls says.
//
// What the walls cannot keep out, because no system call tells it apart, is what
// D-Bus is asked for: the daemon's own user, polkit and D-Bus policy see to that.
package cage

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Walls are what a caged process may still do. It makes and changes no file but
// those that it has open. Paths that do not exist when the process is caged stay
// out of its reach, also when they come later.
type Walls struct {
	Read     []string    // directories and files to be read, with all that is below
	Programs []string    // files that may be executed; none: no program can be started
	Keep     []cap.Value // capabilities to be kept of those that the process has
}

// Enter locks the whole process in, all its threads; there is no way back. It
// answers with what this kernel could not do, for people, and with an error if
// the process is not locked in as far as the kernel can. Landlock needs Linux
// 5.13, its rules for TCP 6.7, for signals 6.12.
func (w Walls) Enter() (missing []string, err error) {
	if err := w.capabilities(); err != nil {
		return nil, fmt.Errorf("drop capabilities: %w", err)
	}
	abi := landlockABI()
	for _, part := range []struct {
		from int
		what string
	}{
		{1, "files are not confined: this kernel has no Landlock"},
		{4, "outgoing TCP connections are not confined: Landlock of this kernel is too old"},
		{6, "signals are not confined: Landlock of this kernel is too old"},
	} {
		if abi < part.from {
			missing = append(missing, part.what)
		}
	}
	if err := w.landlock(); err != nil {
		return missing, fmt.Errorf("landlock: %w", err)
	}
	if err := w.seccomp(); err != nil {
		return missing, fmt.Errorf("seccomp: %w", err)
	}
	return missing, nil
}

// capabilities drops all but those to keep: from the bounding set, where the
// process may, so that not even a program with capabilities of its own brings
// one back, and from the ambient set, so that no program is started with any.
func (w Walls) capabilities() error {
	now := cap.GetProc()
	if can, err := now.GetFlag(cap.Effective, cap.SETPCAP); err != nil {
		return err
	} else if can {
		for c := cap.Value(0); c < cap.MaxBits(); c++ {
			if !slices.Contains(w.Keep, c) {
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
	for _, c := range w.Keep {
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

// landlock confines files to the walls, forbids outgoing TCP connections (the
// daemon makes none) and signals to processes that it did not start.
func (w Walls) landlock() error {
	rules := []landlock.Rule{landlock.RWFiles("/dev/null").IgnoreIfMissing()}
	for _, p := range w.Read {
		rules = append(rules, readable(p))
	}
	for _, p := range w.Programs {
		rules = append(rules, executable(p)...)
	}
	return landlock.MustConfig(
		landlock.V6.HandledAccessFS,
		landlock.AccessNetSet(unix.LANDLOCK_ACCESS_NET_CONNECT_TCP),
		landlock.ScopedSet(unix.LANDLOCK_SCOPE_SIGNAL),
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

// executable lets a program be executed: the file, the ELF interpreter that the
// kernel executes for it, and the libraries that this one reads. The interpreter
// alone runs no other program, which it would have to read.
func executable(program string) []landlock.Rule {
	run := landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE)
	rules := []landlock.Rule{landlock.PathAccess(run, program).IgnoreIfMissing()}
	if i := interpreter(program); i != "" {
		rules = append(rules, landlock.PathAccess(run, i).IgnoreIfMissing())
	}
	for _, p := range []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"} {
		rules = append(rules, readable(p))
	}
	return rules
}

// interpreter is the ELF interpreter that a program names (elf(5), PT_INTERP),
// "" for none.
func interpreter(program string) string {
	f, err := elf.Open(program)
	if err != nil {
		return ""
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > unix.PathMax {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return ""
		}
		return string(bytes.TrimRight(name, "\x00"))
	}
	return ""
}

// landlockABI is the kernel's version of Landlock, 0 for none.
func landlockABI() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
}
