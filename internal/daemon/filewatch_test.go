//go:build linux

package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func TestAVigilSeesWhatIsReplaced(t *testing.T) {
	write := func(path string) error { return os.WriteFile(path, []byte("code"), 0o600) }
	for _, tt := range []struct {
		name   string
		change func(dir string) error
	}{
		{"a file that takes its place", func(dir string) error {
			if err := write(filepath.Join(dir, "real", "new")); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "real", "new"), filepath.Join(dir, "real", "lib.so.1.2"))
		}},
		{"a link to another file", func(dir string) error {
			if err := write(filepath.Join(dir, "real", "lib.so.1.3")); err != nil {
				return err
			}
			if err := os.Symlink("real/lib.so.1.3", filepath.Join(dir, "new")); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "lib.so.1"))
		}},
		{"a file that is gone", func(dir string) error { return os.Remove(filepath.Join(dir, "real", "lib.so.1.2")) }},
		{"a file that was not there", func(dir string) error { return write(filepath.Join(dir, "preload")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := write(filepath.Join(dir, "real", "lib.so.1.2")); err != nil {
				t.Fatal(err)
			}
			link := filepath.Join(dir, "lib.so.1")
			if err := os.Symlink("real/lib.so.1.2", link); err != nil {
				t.Fatal(err)
			}
			absent := filepath.Join(dir, "preload")
			v, err := newFileWatch([]string{link, absent})
			if err != nil {
				t.Fatal(err)
			}
			v.quiet = 0
			// What is no file of the vigil's does not matter.
			if err := write(filepath.Join(dir, "other")); err != nil {
				t.Fatal(err)
			}
			if got := v.replaced(); got != "" {
				t.Errorf("replaced before anything changed: %q", got)
			}
			if err := tt.change(dir); err != nil {
				t.Fatal(err)
			}
			if got := v.wait(t.Context()); got != link && got != absent {
				t.Errorf("replaced: %q, want %q or %q", got, link, absent)
			}
		})
	}
}

func TestAVigilEndsWithItsContext(t *testing.T) {
	v, err := newFileWatch([]string{filepath.Join(t.TempDir(), "file")})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*fileWatch{v, nil} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan string)
		go func() { done <- v.wait(ctx) }()
		cancel()
		if got := <-done; got != "" {
			t.Errorf("replaced: %q", got)
		}
	}
}

// said are the lines of a log.
type said struct{ lines chan string }

func (s *said) Write(p []byte) (int, error) {
	s.lines <- string(p)
	return len(p), nil
}

func (s *said) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s, nil)) }
