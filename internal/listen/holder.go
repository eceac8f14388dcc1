//go:build linux

package listen

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/sockdiag"
)

// openError is a port that could not be opened.
type openError struct {
	port uint16
	err  error
}

// explain returns the error for the operator.
func (f openError) explain() error {
	switch {
	case errors.Is(f.err, unix.EADDRINUSE):
		return fmt.Errorf("%d/tcp: %w: held by %s; choose another port in listen, or stop it",
			f.port, f.err, sockdiag.Holder(place(f.port)))
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
	found, err := sockdiag.Listening([]port.Range{place(uint16(p))})
	return err == nil && len(found) > 0
}

func place(p uint16) port.Range { return port.Range{Proto: port.TCP, First: p, Last: p} }
