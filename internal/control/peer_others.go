//go:build !linux

package control

import (
	"errors"
	"net"
	"runtime"

	"github.com/doorward/doorward/internal/audit"
)

// peerAt returns an error: the daemon runs on Linux only.
func peerAt(net.Conn) (audit.Operator, error) {
	return audit.Operator{}, errors.New("no peer credentials on " + runtime.GOOS)
}

// bindMode does nothing: the daemon runs on Linux only.
func bindMode(uintptr, uint32) error { return nil }
