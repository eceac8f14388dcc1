package control

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/legible"
)

// Caller is who gives an order.
type Caller struct {
	// Name is what the audit trail and status call them: "operator alice (uid 1000)",
	// "operator root (uid 0), logged in as alice (uid 1000)", "SIGHUP".
	Name string
	// Operator is nil if the order comes from a signal, not from an operator.
	*audit.Operator
}

// sudoHeader is the header in which a client passes on SUDO_USER, which sudo(8) sets.
// Anybody can write anything there: it is recorded, and nothing depends on it.
const sudoHeader = "Doorward-Sudo-User"

// maxName bounds the value of sudoHeader, in bytes: LOGIN_NAME_MAX of linux/limits.h.
const maxName = 256

// peerKey is the context key of a connection's peer.
type peerKey struct{}

// peer is who opened a connection, or why that is not known. The kernel recorded it at
// connect(2), so nothing that the client does later can change it.
type peer struct {
	audit.Operator
	err error
}

// callerOf returns who sent a request.
func (s *Server) callerOf(r *http.Request) (Caller, error) {
	p, err := peerOf(r.Context())
	if err != nil {
		return Caller{}, fmt.Errorf("cannot tell who gives the order: %w", err)
	}
	by := p.Operator
	by.SudoUser = noteSudo(r.Header.Get(sudoHeader))
	name := "operator " + s.names.of(by.UID)
	if by.LoginUID != nil && *by.LoginUID != by.UID {
		name += ", logged in as " + s.names.of(*by.LoginUID)
	}
	return Caller{name, &by}, nil
}

func peerOf(ctx context.Context) (peer, error) {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return p, fmt.Errorf("the connection has no peer")
	}
	return p, p.err
}

// noteSudo returns the value of sudoHeader in a form that is safe for the audit trail.
func noteSudo(said string) string {
	return legible.Text(strings.ToValidUTF8(said[:min(len(said), maxName)], ""))
}
