//go:build linux

package presence

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// TestMain makes the test binary act as other programs, depending on the name under which
// it is run.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "sshd", "sshd-session", "evil":
		os.Exit(logAs(os.Args[1:]))
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "presence"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(buildDir)
		os.Exit(code)
	}))
}
