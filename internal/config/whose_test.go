//go:build unix

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestLoadWhoseFile: only root may write a file that names what is run as root, and
// every directory on the way to it; the error says what to type.
func TestLoadWhoseFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files to another user")
	}
	const stranger = 54321
	tests := []struct {
		name        string
		file, dir   fs.FileMode
		owner, over int // of the file, of the directory
		want        string
	}{
		{name: "as init makes it", file: 0o640, dir: 0o750},
		{name: "readable by all", file: 0o644, dir: 0o755},
		{
			name: "somebody else's", file: 0o640, dir: 0o755, owner: stranger,
			want: `"FILE" belongs to user number 54321: allowed are root and the user who runs this; ` +
				`to fix it: chown root:doorward FILE && chmod 0640 FILE`,
		},
		{
			name: "writable by all", file: 0o666, dir: 0o755,
			want: `"FILE" may be written by everybody: allowed is its owner alone; ` +
				`to fix it: chown root:doorward FILE && chmod 0640 FILE`,
		},
		{
			name: "writable by its group", file: 0o660, dir: 0o755,
			want: `"FILE" may be written by its group: allowed is its owner alone; ` +
				`to fix it: chown root:doorward FILE && chmod 0640 FILE`,
		},
		{
			name: "in somebody else's directory", file: 0o640, dir: 0o755, over: stranger,
			want: `"DIR" belongs to user number 54321: allowed are root and the user who runs this; to fix it: chown root DIR, if nobody else needs it, or use another directory`,
		},
		{
			name: "in a directory that all may write to", file: 0o640, dir: 0o777,
			want: `"DIR" may be written by everybody: allowed is its owner alone; to fix it: chmod go-w DIR`,
		},
		{name: "in a sticky directory", file: 0o640, dir: 0o777 | fs.ModeSticky},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "doorward.toml")
			err := errors.Join(os.WriteFile(path, []byte(ssh+oneKnock), 0o600), os.Chmod(path, tt.file), os.Chmod(dir, tt.dir),
				os.Chown(path, tt.owner, 0), os.Chown(dir, tt.over, 0))
			if err != nil {
				t.Fatal(err)
			}
			c, _, err := Load(path)
			if tt.want == "" {
				if c == nil || err != nil {
					t.Errorf("Load = %v, %v", c, err)
				}
				return
			}
			want := "read configuration: " + strings.NewReplacer("FILE", path, "DIR", dir).Replace(tt.want)
			if err == nil || err.Error() != want || c != nil {
				t.Errorf("Load = %v, %v\nwant error %s", c, err, want)
			}
		})
	}
}

// TestLoadWithoutPermission: the error says how somebody who may not read the file
// could.
func TestLoadWithoutPermission(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it stops being root")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "doorward.toml")
	err := errors.Join(os.WriteFile(path, []byte(ssh+oneKnock), 0o600), os.Chmod(filepath.Dir(dir), 0o755),
		syscall.Seteuid(54321))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Load(path)
	closed := errors.Join(syscall.Seteuid(0), os.Chown(dir, 0, 54322), os.Chmod(dir, 0o750), syscall.Seteuid(54321))
	_, _, other := Load(path)
	if err := errors.Join(closed, syscall.Seteuid(0)); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("read configuration: open %s: permission denied; run as root, or join the group doorward", path); other == nil || other.Error() != want {
		t.Errorf("in a directory for a group alone: error %v\nwant %s", other, want)
	}
	want := fmt.Sprintf("read configuration: open %s: permission denied; read it as root, or let the group doorward read it: "+
		"chgrp doorward %s %[1]s && chmod g+rX %[2]s %[1]s", path, dir)
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant %s", err, want)
	}
}
