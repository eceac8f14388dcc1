//go:build linux

// Command intruder enters the daemon's sandbox and tries what somebody would try who
// had taken over the daemon. It prints a line for each attempt: "work" (the daemon's)
// or "crime", what it was, and "done" or the error. Tests run it, also in the daemon's
// unit; it is never installed.
//
//	intruder READ STORE PROGRAM [unconfined] [alone] [mptcp]
//
// READ is a directory that may be read, STORE a file that is opened before, as the store
// is, and PROGRAM a program that may be executed ("" for none). With unconfined, it
// tries the same without the sandbox; with alone, it may not connect to other processes,
// like a daemon that needs neither systemd nor D-Bus; with mptcp, it has an MPTCP
// listener.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/doorward/doorward/internal/sandbox"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Println("intruder:", err)
		os.Exit(1)
	}
}

func run(read, store, program string, how []string) error {
	t, err := prepare(read, store, program, slices.Contains(how, "alone"), slices.Contains(how, "mptcp"))
	if err != nil {
		return err
	}
	walls := sandbox.Policy{Read: []string{read, "/proc"}, Connect: !t.alone, Keep: []cap.Value{cap.NET_ADMIN, cap.NET_BIND_SERVICE}}
	if program != "" {
		walls.Programs = []string{program}
	}
	if !slices.Contains(how, "unconfined") {
		missing, err := walls.Enter()
		if err != nil {
			return err
		}
		for _, m := range missing {
			fmt.Println("missing:", m)
		}
	}
	attempts("work", t.work())
	attempts("crime", slices.Concat(t.files(), t.processes(), t.network(), t.kernel(), t.services()))
	return nil
}

// target is what the intruder finds after it has taken over the daemon.
type target struct {
	read, program string
	store         *os.File
	listener      net.Listener  // on the machine itself; it stands for any address
	spare         net.Listener  // one of the daemon's
	abstract      net.Listener  // an abstract socket of another process, unix(7)
	systemd       *net.UnixConn // receives datagrams, as systemd does from a service
	code          []byte        // of a program
	peer          int           // a connection over a unix socket, such as an operator's
	alone         bool
	parent        int
}

func prepare(read, store, program string, alone, mptcp bool) (*target, error) {
	t := &target{read: read, program: program, alone: alone, parent: os.Getppid()}
	var err error
	for _, l := range []*net.Listener{&t.listener, &t.spare} {
		like := &net.ListenConfig{}
		like.SetMultipathTCP(mptcp)
		if *l, err = like.Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
	}
	if t.store, err = os.OpenFile(store, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if t.abstract, err = net.Listen("unix", fmt.Sprintf("@doorward-intruder-%d", os.Getpid())); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(store + ".notify"); err != nil {
		return nil, err
	}
	if t.systemd, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: store + ".notify", Net: "unixgram"}); err != nil {
		return nil, err
	}
	operator, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	t.peer = operator[0]
	t.code, err = os.ReadFile("/bin/true")
	return t, err
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

// work are attempts at what the daemon needs to do.
func (t *target) work() []attempt {
	all := []attempt{
		{"read a log", func() error { _, err := os.ReadFile(filepath.Join(t.read, "log")); return err }},
		{"list the logs", func() error { _, err := os.ReadDir(t.read); return err }},
		{"write the store", func() error {
			_, err := t.store.WriteAt([]byte("x"), 1<<20)
			return errors.Join(err, t.store.Sync(), t.store.Truncate(1))
		}},
		{"listen below 1024", func() error { return listen("127.0.0.1:1023") }},
		{"listen over IPv6", func() error { return listen("[::]:0") }},
		{"open a netfilter socket", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER) }},
		{"open a sock_diag socket", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG) }},
		{"size its buffer by force", func() error {
			return option(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20)
		}},
		{"ask for errors in words", func() error {
			return option(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
		}},
		{"make a pair of sockets", func() error {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			return errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
		}},
		{"start threads", threads},
		{"learn who logged in to give an order", t.askForLogin},
	}
	if !t.alone {
		all = append(all,
			attempt{"open a unix socket", func() error { return socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) }},
			attempt{"send systemd a descriptor", t.sendDescriptor})
	}
	if t.program != "" {
		all = append(all, attempt{"run the program", func() error { return exec.Command(t.program, "--version").Run() }})
	}
	return all
}

// askForLogin asks for the process at the other end of a connection, whether it is
// alive, and who logged in to start a process of another user.
func (t *target) askForLogin() error {
	fd, err := unix.GetsockoptInt(t.peer, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		unix.Close(fd)
	} else if errors.Is(err, unix.ENOPROTOOPT) {
		err = nil // a kernel before 6.5
	}
	_, unread := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", t.parent))
	return errors.Join(err, unread)
}

// sendDescriptor sends a descriptor to the socket that stands for systemd's, as
// sd_notify(3) does with FDSTORE=1.
func (t *target) sendDescriptor() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendmsg(fd, []byte("FDSTORE=1"), unix.UnixRights(int(t.store.Fd())),
		&unix.SockaddrUnix{Name: t.systemd.LocalAddr().String()}, 0)
}

func listen(address string) error {
	l, err := net.Listen("tcp", address)
	if err == nil {
		l.Close()
	}
	return err
}

func socket(family, kind, proto int) error {
	fd, err := unix.Socket(family, kind, proto)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// option sets an option of a new socket.
func option(family, kind, proto, level, name, value int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, level, name, value)
}

// threads makes the runtime start threads, by blocking many in system calls.
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
