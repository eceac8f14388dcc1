//go:build linux

package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/config"
)

// A lock that others can open, and so take, does not count, and that is logged.
func TestALockThatOthersCanTake(t *testing.T) {
	for what, put := range map[string]func(path string) error{
		"a file":      func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a pipe":      func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		for mode, locks := range map[os.FileMode]int{0: 1, 0o040: 0, 0o004: 0} {
			dir := t.TempDir()
			where := config.Gateway{State: filepath.Join(dir, "state"), Control: filepath.Join(dir, "control.sock")}
			lock := where.Control + ".lock"
			if err := put(lock); err != nil {
				t.Fatal(err)
			}
			for path, mode := range map[string]os.FileMode{lock: 0o700 | mode, where.State: 0o755} {
				if err := os.MkdirAll(where.State, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
			}
			var log strings.Builder
			held, err := lockDaemon(where, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Errorf("%s of mode %#o: %v", what, 0o700|mode, err)
			}
			if len(held) != locks {
				t.Errorf("%s of mode %#o: %d locks, want %d", what, 0o700|mode, len(held), locks)
			}
			if said := strings.Contains(log.String(), "so that others can open it: chmod 600 "+lock); said != (locks == 0) {
				t.Errorf("%s of mode %#o: the log has %q", what, 0o700|mode, log.String())
			}
			held.release()
		}
	}
}
