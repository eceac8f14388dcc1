package control

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peerUID asks the kernel for the user at the other end of a unix socket
// (SO_PEERCRED, unix(7)).
func peerUID(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("a %T is not a unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, fmt.Errorf("read the peer's credentials: %w", credErr)
	}
	return cred.Uid, nil
}

// bindMode sets the mode that bind gives to the socket's file: Linux takes it
// from the unbound socket's inode, less the umask (unix_bind_bsd in
// net/unix/af_unix.c).
func bindMode(fd uintptr, mode uint32) error {
	return unix.Fchmod(int(fd), mode)
}
