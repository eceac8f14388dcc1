//go:build !linux

package relay

import (
	"context"
	"net"
)

// delivered does nothing: what is acknowledged is not known on this system.
func delivered(context.Context, net.Conn) error { return nil }
