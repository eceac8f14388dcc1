//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

// The campaign's first minute, always with the same choices.
func TestCampaign(t *testing.T) {
	nstest.Need(t, "ip", "nft", "ss", "ssh", "ssh-keygen", "sshd", "unshare", "nsenter", "setpriv", "systemd-nspawn", "debootstrap")
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "github.com/doorward/doorward/cmd/doorwardd", "github.com/doorward/doorward/cmd/doorward")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the server has another C library
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var out bytes.Buffer
	// Others test on the same machine meanwhile.
	_, err := run(t.Context(), options{bin: bin, length: time.Minute, seed: 1, most: 3, quick: 3 * time.Second}, &out)
	t.Logf("%s", out.String())
	if err != nil {
		t.Error(err)
	}
}

// What is planted is there to be planted.
func TestPlantedFaultsAreKnown(t *testing.T) {
	if _, err := planted(); err != nil {
		t.Error(err)
	}
}
