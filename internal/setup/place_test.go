//go:build unix

package setup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Whether a file can be written is known before anybody is asked anything.
func TestWritable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "doorward.toml")
	blank := filepath.Join(dir, "blank.toml") // as packages install it
	for path, text := range map[string]string{file: "[gateway]\n", blank: "# nothing yet\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(dir, "etc", "doorward.toml") // whose directory is made
	for _, tt := range []struct {
		path    string
		replace bool
		want    error
	}{
		{file, false, ErrExists}, {file, true, nil}, {blank, false, nil}, {fresh, false, nil}, {filepath.Join(dir, "link"), false, ErrExists},
		{filepath.Join(dir, "no", "such", "file"), false, nil}, // which Place refuses
	} {
		if err := Writable(tt.path, tt.replace); !errors.Is(err, tt.want) {
			t.Errorf("%s, replace: %v: %v, want %v", tt.path, tt.replace, err, tt.want)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: it becomes another user")
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const stranger = 54321
	if err := syscall.Seteuid(stranger); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Seteuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	for path, where := range map[string]string{filepath.Join(dir, "new.toml"): dir, fresh: dir} {
		err := Writable(path, false)
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), where) {
			t.Errorf("%s, for a user who may not write it: error %v, want %v about %s", path, err, fs.ErrPermission, where)
		}
	}
	if entries, err := os.ReadDir(dir); len(entries) != 3 || err != nil {
		t.Errorf("Writable has made something: %v, %v", entries, err)
	}
}
