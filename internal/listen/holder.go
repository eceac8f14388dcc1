//go:build linux

package listen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/sockdiag"
)

// openError is a port that could not be opened.
type openError struct {
	port uint16
	err  error
}

// explain says it to the operator.
func (f openError) explain() error {
	switch {
	case errors.Is(f.err, unix.EADDRINUSE):
		return fmt.Errorf("%d/tcp: %w: held by %s; choose another port in listen, or stop it",
			f.port, f.err, holder(f.port))
	case errors.Is(f.err, unix.EACCES):
		return fmt.Errorf("%d/tcp: %w: ports below 1024 need the capability CAP_NET_BIND_SERVICE; "+
			"choose another port in listen, or give it to the daemon", f.port, f.err)
	}
	return fmt.Errorf("%d/tcp: %w", f.port, f.err)
}

// listenedOn says whether somebody listens on an address's port.
func listenedOn(at unix.Sockaddr) bool {
	var p int
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		p = at.Port
	case *unix.SockaddrInet6:
		p = at.Port
	}
	_, ok := findListener(uint16(p))
	return ok
}

// findListener returns a socket that listens on the port, if one can be seen.
func findListener(p uint16) (sockdiag.Socket, bool) {
	found, err := sockdiag.Listening([]port.Range{{Proto: port.TCP, First: p, Last: p}})
	if err != nil || len(found) == 0 {
		return sockdiag.Socket{}, false
	}
	return found[0], true
}

// holder names the process that listens on the port, as well as this process
// may see it.
func holder(p uint16) string {
	s, ok := findListener(p)
	if !ok {
		return "a socket that does not listen"
	}
	if pid, name, ok := findProcess(fmt.Sprintf("socket:[%d]", s.Inode)); ok {
		return fmt.Sprintf("%q (process %s)", name, pid)
	}
	return fmt.Sprintf("a process of user id %d", s.UID)
}

// findProcess looks for a process that has the socket open.
func findProcess(socket string) (pid, name string, ok bool) {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return "", "", false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != socket {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		return filepath.Base(dir), strings.TrimSpace(string(comm)), true
	}
	return "", "", false
}
