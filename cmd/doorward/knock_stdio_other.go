//go:build !linux

package main

import (
	"context"
	"net"
)

// delivered is not known on this system.
func delivered(context.Context, net.Conn) error { return nil }
