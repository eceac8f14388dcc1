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
	nstest.Need(t, "ip", "nft", "ss", "ssh", "sshd", "socat", "start-stop-daemon", "unshare", "nsenter")
	bin := t.TempDir()
	args := []string{"build", "-o", bin}
	if os.Getenv("DOORWARD_RACE") != "" {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "github.com/doorward/doorward/cmd/doorwardd")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var out bytes.Buffer
	// Others test on the same machine meanwhile, and the daemon looks for races.
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
