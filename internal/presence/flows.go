//go:build linux

package presence

import "github.com/doorward/doorward/internal/conntrack"

// FlowsVisible returns nil if flows that end in no socket of this machine can be
// seen: those over UDP to a server that does not connect its socket, and those
// that are forwarded. Else it says why not; without CAP_NET_ADMIN it is an error
// that Is fs.ErrPermission, and any other means that the kernel has no ctnetlink.
func FlowsVisible() error { return conntrack.Visible() }
