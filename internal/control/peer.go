package control

import (
	"context"
	"fmt"
	"os/user"
	"strconv"
)

// peerKey is the context key of a connection's peer.
type peerKey struct{}

// peer is who opened a connection, or why that is not known. The kernel keeps
// it as of the connect, so it cannot be changed by what the client does later.
type peer struct {
	uid uint32
	err error
}

// peerOf returns the name under which a request's orders stand in the audit
// trail, e.g. "operator alice (uid 1000)", or "operator uid 1000" when the
// user has no name on this machine.
func peerOf(ctx context.Context) (string, error) {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return "", fmt.Errorf("who gives the order is not known")
	}
	if p.err != nil {
		return "", fmt.Errorf("who gives the order is not known: %w", p.err)
	}
	id := strconv.FormatUint(uint64(p.uid), 10)
	if u, err := user.LookupId(id); err == nil && u.Username != "" {
		return fmt.Sprintf("operator %s (uid %s)", u.Username, id), nil
	}
	return "operator uid " + id, nil
}
