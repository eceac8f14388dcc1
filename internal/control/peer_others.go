//go:build !linux

package control

import (
	"errors"
	"net"
	"runtime"
)

// peerUID has no answer: the daemon runs on Linux.
func peerUID(net.Conn) (uint32, error) {
	return 0, errors.New("no peer credentials on " + runtime.GOOS)
}

// bindMode has nothing to do: the daemon runs on Linux.
func bindMode(uintptr, uint32) error { return nil }
