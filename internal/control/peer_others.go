//go:build !linux

package control

import (
	"errors"
	"net"
	"runtime"

	"github.com/doorward/doorward/internal/audit"
)

// peerAt has no answer: the daemon runs on Linux.
func peerAt(net.Conn) (audit.Operator, error) {
	return audit.Operator{}, errors.New("no peer credentials on " + runtime.GOOS)
}

// bindMode has nothing to do: the daemon runs on Linux.
func bindMode(uintptr, uint32) error { return nil }
