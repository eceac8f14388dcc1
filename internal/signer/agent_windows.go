package signer

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// agentPipe is where the agent of Windows' OpenSSH is.
const agentPipe = `\\.\pipe\openssh-ssh-agent`

// dialAgent connects to the agent of Windows' OpenSSH, or to that of SSH_AUTH_SOCK.
func dialAgent(_ context.Context, getenv func(string) string) (connection, error) {
	path := getenv("SSH_AUTH_SOCK")
	if path == "" {
		path = agentPipe
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrNoAgent, path, err)
	}
	// Whoever has made a pipe can act as its client unless that is forbidden here
	// (CreateFileW, SECURITY_IDENTIFICATION).
	const flags = windows.SECURITY_SQOS_PRESENT | windows.SECURITY_IDENTIFICATION | windows.FILE_FLAG_OVERLAPPED
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrNoAgent, path, err)
	}
	return os.NewFile(uintptr(h), path), nil
}
