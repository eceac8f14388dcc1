//go:build !windows

package signer

import (
	"context"
	"fmt"
	"net"
)

// dialAgent connects to the agent of SSH_AUTH_SOCK (ssh-agent(1)).
func dialAgent(ctx context.Context, getenv func(string) string) (connection, error) {
	path := getenv("SSH_AUTH_SOCK")
	if path == "" {
		return nil, fmt.Errorf("%w: SSH_AUTH_SOCK is not set", ErrNoAgent)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
	}
	return conn, nil
}
