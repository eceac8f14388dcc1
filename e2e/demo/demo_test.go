//go:build linux

package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
)

// TestDemo is `make demo`: what a newcomer sees first has to happen.
func TestDemo(t *testing.T) {
	nstest.Need(t, "sshd", "ssh", "ssh-keygen", "nmap", "telnet", "nft", "ip", "ss", "bash", "unshare", "nsenter")
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin,
		"github.com/doorward/doorward/cmd/doorwardd", "github.com/doorward/doorward/cmd/doorward")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := run(t.Context(), os.Stdout, bin); err != nil {
		t.Fatal(err)
	}
}
