//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// files are attempts at other users' files, and at those that the daemon may only read.
func (t *target) files() []attempt {
	store := t.store.Name()
	return []attempt{
		{"read /etc/shadow", func() error { _, err := os.ReadFile("/etc/shadow"); return err }},
		{"read another's home", func() error { _, err := os.ReadDir("/root"); return err }},
		{"read /etc/shadow by /proc", func() error { _, err := os.ReadFile("/proc/self/root/etc/shadow"); return err }},
		{"write a log", func() error { return os.WriteFile(filepath.Join(t.read, "log"), nil, 0o600) }},
		{"write beside the store", func() error { return os.WriteFile(store+".1", nil, 0o600) }},
		{"replace the store", func() error { return os.Rename(store, store+".2") }},
		{"open the store again", func() error { _, err := os.OpenFile(store, os.O_RDWR, 0); return err }},
		{"open the store by /proc", func() error {
			_, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(t.store.Fd())), os.O_RDWR, 0)
			return err
		}},
		{"write outside", func() error {
			f, err := os.CreateTemp("", "doorward-intruder-")
			if err != nil {
				return err
			}
			return errors.Join(f.Close(), os.Remove(f.Name()))
		}},
	}
}

// processes are attempts to run another program, and to reach other processes.
func (t *target) processes() []attempt {
	all := []attempt{
		{"exec a shell", func() error { return exec.Command("/bin/sh", "-c", "true").Run() }},
		{"exec a shell by the loader", func() error { return exec.Command(loader(), "/bin/sh", "-c", "true").Run() }},
		{"exec a program among the libraries by the loader", func() error { return exec.Command(loader(), hidden(), "--version").Run() }},
		{"exec a program in memory", t.execInMemory},
		{"make memory executable", func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			return err
		}},
		{"turn memory executable", func() error {
			b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			return errors.Join(err, unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC))
		}},
		{"signal the parent", func() error { return unix.Kill(t.parent, 0) }},
		{"ptrace the parent", func() error { return unix.PtraceAttach(t.parent) }},
		{"read the parent's memory", func() error { return plain(unix.SYS_PROCESS_VM_READV, uintptr(t.parent)) }},
		{"read the parent's memory by /proc", func() error { return t.readOfParent("mem") }},
		{"read the parent's environment", func() error { return t.readOfParent("environ") }},
		{"read what the parent has open", func() error {
			_, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", t.parent))
			return err
		}},
		{"become another login", func() error { return os.WriteFile("/proc/thread-self/loginuid", []byte("0"), 0) }},
		{"limit the parent", func() error { return plain(unix.SYS_PRLIMIT64, uintptr(t.parent)) }},
		{"make a namespace", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
		{"make a namespace by clone", func() error { return clone(unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD)) }},
		{"make a namespace by clone, with bits that mean nothing", func() error { return clone(1<<35 | unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD)) }},
		{"make a network namespace by clone", func() error {
			return clone(unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_VM | unix.CLONE_VFORK | uintptr(unix.SIGCHLD))
		}},
		{"make a namespace by clone3", clone3},
		{"enter a namespace", func() error { return unix.Setns(0, unix.CLONE_NEWNET) }},
		{"type at the terminal", func() error { return control(unix.AF_UNIX, unix.TIOCSTI) }},
	}
	if t.program == "" {
		all = append(all, attempt{"start a process", func() error { return clone(uintptr(unix.SIGCHLD)) }})
	}
	return all
}

// readOfParent reads a byte of one of the parent's files in /proc.
func (t *target) readOfParent(what string) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/%s", t.parent, what))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

// kernel are attempts to change the machine.
func (t *target) kernel() []attempt {
	return []attempt{
		{"load a module", func() error { return unix.FinitModule(0, "", 0) }},
		{"mount", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
		{"change the root", func() error { return unix.Chroot("/tmp") }},
		{"become root", func() error { return plain(unix.SYS_SETUID, 0) }},
		{"set the clock", func() error { return plain(unix.SYS_CLOCK_SETTIME, 0) }},
		{"load a BPF program", func() error { return plain(unix.SYS_BPF, unix.BPF_PROG_LOAD) }},
		{"watch for events of the processor", func() error { return plain(unix.SYS_PERF_EVENT_OPEN, 0) }},
		{"handle page faults", func() error { return plain(unix.SYS_USERFAULTFD, 0) }},
		{"take a descriptor from another", func() error { return plain(unix.SYS_PIDFD_GETFD, 0) }},
		{"open a file by its handle", func() error { return plain(unix.SYS_OPEN_BY_HANDLE_AT, 0) }},
		{"use io_uring", ring},
		{"use the keyring", func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true); return err }},
	}
}

// services are attempts at the services that the daemon talks to.
func (t *target) services() []attempt {
	return []attempt{
		{"stop another unit", func() error {
			return ask("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "Manager.StopUnit", "systemd-logind.service", "replace")
		}},
		{"start a unit of its own", func() error {
			type property struct {
				Name  string
				Value dbus.Variant
			}
			type argv struct {
				Path  string
				Args  []string
				Fails bool
			}
			start := []property{{"ExecStart", dbus.MakeVariant([]argv{{"/bin/true", []string{"/bin/true"}, false}})}}
			none := []struct {
				Name       string
				Properties []property
			}{}
			return ask("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "Manager.StartTransientUnit", "own.service", "replace", start, none)
		}},
		{"talk to systemd without D-Bus", func() error { return dialUnix("/run/systemd/private") }},
		{"talk to another on D-Bus", func() error { return ask("org.freedesktop.login1", "/org/freedesktop/login1", "Manager.ListSessions") }},
	}
}

func ring() error {
	var params [120]byte // struct io_uring_params, io_uring_setup(2)
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	return failure(errno)
}

// ask calls a method over the system's D-Bus.
func ask(name, path, method string, args ...any) error {
	bus, err := dbus.ConnectSystemBus()
	if err != nil {
		return err
	}
	defer bus.Close()
	return bus.Object(name, dbus.ObjectPath(path)).Call(name+"."+method, 0, args...).Err
}

// execInMemory executes a program in an anonymous file, memfd_create(2), which Landlock
// does not restrict.
func (t *target) execInMemory() error {
	fd, err := unix.MemfdCreate("program", 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, t.code); err != nil {
		return err
	}
	return exec.Command("/proc/self/fd/" + strconv.Itoa(fd)).Run()
}

// clone starts a process that ends at once.
func clone(flags uintptr) error {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, flags&^unix.CLONE_VM, 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	if errno == 0 {
		_, err := unix.Wait4(int(pid), nil, 0, nil)
		return err
	}
	return errno
}

// clone3 makes a namespace with flags that no filter sees, since they are in memory.
func clone3() error {
	args := [8]uint64{0: unix.CLONE_NEWUSER, 4: uint64(unix.SIGCHLD)} // struct clone_args, clone(2)
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno == 0 && pid == 0 {
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	if errno == 0 {
		_, err := unix.Wait4(int(pid), nil, 0, nil)
		return err
	}
	return errno
}

// plain makes a system call with one argument that matters.
func plain(call, arg uintptr) error {
	var none [128]byte
	_, _, errno := unix.Syscall6(call, arg, uintptr(unsafe.Pointer(&none)), 0, 0, 0, 0)
	return failure(errno)
}

func failure(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// loader returns the ELF interpreter, which can run a program that may only be read.
func loader() string {
	return first("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld.so")
}

// hidden returns a program in a directory of libraries.
func hidden() string {
	return first("/usr/lib/git-core/git", "/usr/lib/systemd/systemd", "/lib/systemd/systemd")
}

// first returns the first path that exists, or the last one if none does.
func first(paths ...string) string {
	for _, p := range paths[:len(paths)-1] {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return paths[len(paths)-1]
}
