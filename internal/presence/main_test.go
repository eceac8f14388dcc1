//go:build linux

package presence

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary be other programs too: see fakeJournalctl and
// journalClient.
func TestMain(m *testing.M) {
	if f := os.Getenv("PRESENCE_FAKE_JOURNALCTL"); f != "" {
		os.Exit(fakeJournalctl(f, os.Args[1:]))
	}
	if socket := os.Getenv("PRESENCE_JOURNAL_CLIENT"); socket != "" {
		os.Exit(journalClient(socket))
	}
	goleak.VerifyTestMain(m)
}
