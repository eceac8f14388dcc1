//go:build linux

package presence

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary be other programs, by the name it is run as.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "journalctl":
		os.Exit(fakeJournalctl(filepath.Dir(os.Args[0]), os.Args[1:]))
	case "sshd", "sshd-session", "evil":
		os.Exit(logAs(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}
