//go:build unix

package setup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/doorward/doorward/internal/knock"
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

// What is there is left alone, and what is missing is made, for the daemon's group to read.
func TestEquip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "doorward")
	has, lacks := filepath.Join(dir, "has"), filepath.Join(dir, "lacks")
	all := []knock.Equipment{{Path: has, Text: []byte("new")}, {Path: lacks, Text: []byte("new")}}
	if made, err := Equip(all[:1]); err != nil || !slices.Equal(made, []string{has}) {
		t.Fatalf("made %q, %v", made, err)
	}
	if err := os.WriteFile(has, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if made, err := Equip(all); err != nil || !slices.Equal(made, []string{lacks}) {
		t.Fatalf("made %q, %v; want %q alone", made, err, lacks)
	}
	for path, want := range map[string]string{has: "old", lacks: "new"} {
		if text, err := os.ReadFile(path); err != nil || string(text) != want {
			t.Errorf("%s has %q, %v; want %q", path, text, err, want)
		}
	}
	if info, err := os.Stat(lacks); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v; want mode 0640", info.Mode(), err)
	}
}
