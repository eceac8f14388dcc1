//go:build linux

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFileWatchSeesWhatIsReplaced(t *testing.T) {
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
			// Other files in the directory do not matter.
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

func TestFileWatchEndsWithItsContext(t *testing.T) {
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

// If the control socket is deleted, a daemon under systemd ends, so that it is started
// again, and any other logs it. That the socket is closed at the end does not count.
func TestADeletedControlSocket(t *testing.T) {
	for _, notify := range []string{"", "/run/systemd/notify"} {
		t.Setenv("NOTIFY_SOCKET", notify)
		path := filepath.Join(t.TempDir(), "control.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		log := &said{lines: make(chan string, 1)}
		d := &Daemon{Log: log.logger()}
		w := d.watchSocket(path)
		w.quiet = 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.keepSocket(ctx, w, path) }()
		l.Close() // and with it the file
		if notify != "" {
			want := fmt.Sprintf("the control socket %q was deleted: the daemon restarts to create it again", path)
			if err := <-done; err == nil || err.Error() != want {
				t.Errorf("under systemd: %v, want %q", err, want)
			}
		} else if line := <-log.lines; !strings.Contains(line, "the control socket was deleted, and operators get no answer: restart the daemon") {
			t.Errorf("the log has %q", line)
		}
		cancel()
		if notify == "" {
			if err := <-done; err != nil {
				t.Errorf("at the end: %v", err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := new(Daemon).keepSocket(ctx, nil, "x"); err != nil {
		t.Errorf("at the end: %v", err)
	}
}

// said receives the lines of a log.
type said struct{ lines chan string }

func (s *said) Write(p []byte) (int, error) {
	s.lines <- string(p)
	return len(p), nil
}

func (s *said) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s, nil)) }
