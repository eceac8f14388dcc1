//go:build unix

package relay

import (
	"os"
	"syscall"
)

// shutdown ends the sending direction of f if it is a socket. Standard input may be the
// same socket, as under inetd(8), and then closing f ends nothing.
func shutdown(f *os.File) {
	c, err := f.SyscallConn()
	if err != nil {
		return // it is closed, and so has ended
	}
	// The error is ENOTSOCK for a file, which closing ends.
	_ = c.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_WR) })
}
