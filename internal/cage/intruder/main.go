//go:build linux

// Command intruder locks itself into the daemon's cage and tries what somebody
// would who had taken the daemon over. It prints a line for each: "work" (the
// daemon's) or "crime", what, and "done" or why not. Tests run it, also in the
// daemon's unit; it is never installed.
//
//	intruder READ STORE PROGRAM [uncaged]
//
// names a directory that may be read, a file that is open before, as the store
// is, and a program that may be executed ("" for none). Uncaged it tries the same
// from outside.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
	"unsafe"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/doorward/doorward/internal/cage"
)

func main() {
	read, program, parent := os.Args[1], os.Args[3], os.Getppid()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println("listen:", err)
		os.Exit(1)
	}
	store, err := os.OpenFile(os.Args[2], os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Println("open the store:", err)
		os.Exit(1)
	}
	walls := cage.Walls{Read: []string{read}, Keep: []cap.Value{cap.NET_ADMIN, cap.NET_BIND_SERVICE}}
	if program != "" {
		walls.Programs = []string{program}
	}
	if len(os.Args) < 5 {
		missing, err := walls.Enter()
		if err != nil {
			fmt.Println("enter:", err)
			os.Exit(1)
		}
		for _, m := range missing {
			fmt.Println("missing:", m)
		}
	}
	attempts("work", work(read, store, program))
	attempts("crime", crimes(read, store.Name(), listener.Addr().String(), parent))
}

func attempts(kind string, all []attempt) {
	for _, try := range all {
		result := "done"
		if err := try.do(); err != nil {
			result = err.Error()
		}
		fmt.Printf("%s: %s: %s\n", kind, try.what, result)
	}
}

type attempt struct {
	what string
	do   func() error
}

// work is what the daemon needs to go on.
func work(read string, store *os.File, program string) []attempt {
	all := []attempt{
		{"read a log", func() error { _, err := os.ReadFile(filepath.Join(read, "log")); return err }},
		{"list the logs", func() error { _, err := os.ReadDir(read); return err }},
		{"write the store", func() error {
			_, err := store.WriteAt([]byte("x"), 1<<20)
			return errors.Join(err, store.Sync(), store.Truncate(1))
		}},
		{"listen below 1024", func() error {
			l, err := net.Listen("tcp", "127.0.0.1:1023")
			if err == nil {
				l.Close()
			}
			return err
		}},
		{"open a netfilter socket", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER) }},
		{"size its buffer by force", forceBuffer},
		{"open a unix socket", func() error { return socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) }},
		{"start threads", threads},
	}
	if program != "" {
		all = append(all, attempt{"run the program", func() error { return exec.Command(program).Run() }})
	}
	return all
}

// crimes are what an intruder would try.
func crimes(read, store, address string, parent int) []attempt {
	return []attempt{
		{"exec a shell", func() error { return exec.Command("/bin/sh", "-c", "true").Run() }},
		{"exec a shell by the loader", func() error { return exec.Command(loader(), "/bin/sh", "-c", "true").Run() }},
		{"read /etc/shadow", func() error { _, err := os.ReadFile("/etc/shadow"); return err }},
		{"read another's home", func() error { _, err := os.ReadDir("/root"); return err }},
		{"write a log", func() error { return os.WriteFile(filepath.Join(read, "log"), nil, 0o600) }},
		{"write beside the store", func() error { return os.WriteFile(store+".1", nil, 0o600) }},
		{"replace the store", func() error { return os.Rename(store, store+".2") }},
		{"open the store again", func() error { _, err := os.OpenFile(store, os.O_RDWR, 0); return err }},
		{"write outside", func() error {
			f, err := os.CreateTemp("", "doorward-intruder-")
			if err != nil {
				return err
			}
			return errors.Join(f.Close(), os.Remove(f.Name()))
		}},
		{"connect out", func() error {
			c, err := net.DialTimeout("tcp", address, 5*time.Second)
			if err == nil {
				c.Close()
			}
			return err
		}},
		{"signal the parent", func() error { return unix.Kill(parent, 0) }},
		{"ptrace the parent", func() error { return unix.PtraceAttach(parent) }},
		{"read the parent's memory", func() error { return plain(unix.SYS_PROCESS_VM_READV, uintptr(parent)) }},
		{"load a module", func() error { return unix.FinitModule(0, "", 0) }},
		{"open a raw socket", func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
		{"open a packet socket", func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
		{"open a Bluetooth socket", func() error { return socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 0) }},
		{"mount", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
		{"make a namespace", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
		{"enter a namespace", func() error { return unix.Setns(0, unix.CLONE_NEWNET) }},
		{"change the root", func() error { return unix.Chroot("/tmp") }},
		{"become root", func() error { return plain(unix.SYS_SETUID, 0) }},
		{"set the clock", func() error { return plain(unix.SYS_CLOCK_SETTIME, 0) }},
		{"load a BPF program", func() error { return plain(unix.SYS_BPF, unix.BPF_PROG_LOAD) }},
		{"use io_uring", ring},
		{"stop another unit", func() error {
			return ask("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "Manager.StopUnit", "systemd-logind.service", "replace")
		}},
		{"talk to another on D-Bus", func() error { return ask("org.freedesktop.login1", "/org/freedesktop/login1", "Manager.ListSessions") }},
		{"use the keyring", func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true); return err }},
	}
}

func ring() error {
	var params [120]byte // struct io_uring_params, io_uring_setup(2)
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return errno
	}
	return nil
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

func socket(family, kind, proto int) error {
	fd, err := unix.Socket(family, kind, proto)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func forceBuffer() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20)
}

// threads has the runtime make threads, by blocking many in system calls.
func threads() error {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	done := make(chan struct{})
	for range 20 {
		go func() {
			var b [1]byte
			_, _ = unix.Read(ends[0], b[:])
			done <- struct{}{}
		}()
	}
	if _, err := unix.Write(ends[1], make([]byte, 20)); err != nil {
		return err
	}
	for range 20 {
		<-done
	}
	return nil
}

// plain makes a system call with one argument that matters.
func plain(call, arg uintptr) error {
	var none [128]byte
	_, _, errno := unix.Syscall6(call, arg, uintptr(unsafe.Pointer(&none)), 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// loader is the ELF interpreter, which runs what may only be read.
func loader() string {
	for _, p := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return "/lib/ld.so"
}
