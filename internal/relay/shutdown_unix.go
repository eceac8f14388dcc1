//go:build unix

package relay

import (
	"os"
	"syscall"
)

// shutdown ends what can be written to f if it is a socket. Standard input may be
// the same one, as a superserver has it, and then closing f ends nothing.
func shutdown(f *os.File) {
	c, err := f.SyscallConn()
	if err != nil {
		return // closed, so that it has ended
	}
	// ENOTSOCK where closing does it.
	_ = c.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_WR) })
}
