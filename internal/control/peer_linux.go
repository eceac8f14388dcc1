package control

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/audit"
)

// peerAt asks the kernel for the process at the other end of a unix socket
// (SO_PEERCRED, unix(7)), and for who logged in to start it.
func peerAt(c net.Conn) (audit.Operator, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return audit.Operator{}, fmt.Errorf("a %T is not a unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return audit.Operator{}, err
	}
	var cred *unix.Ucred
	var credErr, pidErr error
	var process int
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		process, pidErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	})
	if err != nil {
		return audit.Operator{}, err
	}
	if pidErr == nil {
		defer unix.Close(process)
	}
	if credErr != nil {
		return audit.Operator{}, fmt.Errorf("read the peer's credentials: %w", credErr)
	}
	by := audit.Operator{UID: cred.Uid, PID: cred.Pid}
	if pidErr == nil {
		by.LoginUID = loginOf(cred.Pid, process)
	}
	return by, nil
}

// notSet is the login uid of a process that does not come from a login, such as a
// service or a cron job: AUDIT_UID_UNSET of linux/audit.h.
const notSet = ^uint32(0)

// loginOf returns who logged in to start a process (proc_pid_loginuid(5)), however
// they have changed users since; nil if that is not known. The number may belong to
// another process by now, whose login must not be mistaken for this one's: so loginOf
// checks afterwards that process, a pidfd of the right one, is still alive. Before Linux
// 6.5 there is no pidfd of a peer, and somebody who keeps a socket open after its maker
// has ended can wait for the number to be used again: there the login is not known.
func loginOf(pid int32, process int) *uint32 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/loginuid")
	if err != nil || ended(process) {
		return nil
	}
	uid, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil || uint32(uid) == notSet {
		return nil
	}
	login := uint32(uid)
	return &login
}

// ended reports whether a process has ended, or may have: its pidfd is readable then
// (pidfd_open(2)). A null signal would not do, since a process in the sandbox may send
// none (landlock(7)).
func ended(process int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 0)
	return err != nil || n != 0
}

// bindMode sets the mode that bind(2) gives to the socket's file: Linux takes it
// from the unbound socket's inode, less the umask (unix_bind_bsd in
// net/unix/af_unix.c).
func bindMode(fd uintptr, mode uint32) error {
	return unix.Fchmod(int(fd), mode)
}
