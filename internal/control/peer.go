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
	// Name is how the audit trail and status call them: "operator alice (uid 1000)",
	// "operator root (uid 0), logged in as alice (uid 1000)", "SIGHUP".
	Name string
	// Operator is nil for who is none.
	*audit.Operator
}

// sudoHeader is the header in which a client says what sudo(8) told it in SUDO_USER.
// Anybody can say anything there: it is written down and never used.
const sudoHeader = "Doorward-Sudo-User"

// maxName bounds what a client says in it, in bytes: LOGIN_NAME_MAX of linux/limits.h.
const maxName = 256

// peerKey is the context key of a connection's peer.
type peerKey struct{}

// peer is who opened a connection, or why that is not known. The kernel keeps
// it as of the connect, so it cannot be changed by what the client does later.
type peer struct {
	audit.Operator
	err error
}

// callerOf returns who has sent a request.
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

// noteSudo is a client's word as the audit trail may have it.
func noteSudo(said string) string {
	return legible.Text(strings.ToValidUTF8(said[:min(len(said), maxName)], ""))
}
