//go:build unix

package share

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// alice is a user who is neither root nor whoever runs the tests.
const alice = 54321

// TestCallersFiles: what root writes for the caller of sudo is theirs where the directory
// is, and no name there makes root write or give away anything elsewhere.
func TestCallersFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files to another user")
	}
	base := t.TempDir()
	theirs := func(name string, mode os.FileMode, uid int) string {
		t.Helper()
		dir := filepath.Join(base, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	home := theirs("home", 0o755, alice)
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(filepath.Join(home, name), alice, alice); err != nil {
			t.Fatal(err)
		}
	}
	roots := theirs("roots", 0o755, 0)
	write(t, filepath.Join(roots, "secret"), "root's", 0o600)
	link("../roots/secret", "linked.age")
	link("../roots", "elsewhere")
	if err := os.MkdirAll(filepath.Join(home, "sub"), 0o755); err != nil { // root's, on a way that alice can change
		t.Fatal(err)
	}
	caller := &Caller{UID: alice, GID: alice}
	for _, tt := range []struct {
		name, path string
		caller     *Caller
		owner      int
		err        string // in the message; "" for none
	}{
		{name: "theirs", path: "home/k.age", caller: caller, owner: alice},
		{name: "theirs, again", path: "home/k.age", caller: caller, owner: alice},
		{name: "root's directory", path: "roots/k.age", caller: caller, owner: 0},
		{name: "without sudo", path: "home/m.age", err: "belongs to user number 54321"},
		{name: "another user's", path: filepath.Base(theirs("bob", 0o755, 54322)) + "/k.age", caller: caller, err: "belongs to user number 54322"},
		{name: "everybody may write", path: filepath.Base(theirs("open", 0o777, alice)) + "/k.age", caller: caller, err: "belongs to user number 54321"},
		{name: "their own group may", path: filepath.Base(theirs("group", 0o775, alice)) + "/k.age", caller: caller, owner: alice},
		{name: "a link in the place", path: "home/linked.age", caller: caller, err: "something other than a regular file"},
		{name: "a link on the way", path: "home/elsewhere/k.age", caller: caller, err: "belongs to user number 54321"},
		{name: "root's below theirs", path: "home/sub/k.age", caller: caller, err: "belongs to user number 54321"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(base, tt.path)
			change, err := Stage([]File{{Path: path, Text: []byte("text"), Mode: 0o600, Caller: tt.caller}})
			if err == nil {
				err = change.Commit()
				change.Close()
			}
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one that says %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			s := info.Sys().(*syscall.Stat_t)
			if int(s.Uid) != tt.owner || int(s.Gid) != tt.owner || info.Mode() != 0o600 {
				t.Errorf("it belongs to %d:%d with mode %v, want %d and 0600", s.Uid, s.Gid, info.Mode(), tt.owner)
			}
		})
	}
	info, err := os.Lstat(filepath.Join(roots, "secret"))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("root's file: %v, %v", info, err)
	}
	for dir, want := range map[string][]string{home: {"elsewhere", "k.age", "linked.age", "sub"}, roots: {"k.age", "secret"}} {
		for name := range tree(t, dir) {
			if !slices.Contains(want, name) {
				t.Errorf("%s has %q, want nothing but %q", dir, name, want)
			}
		}
	}
}

func TestSudoCaller(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: for others there is no caller of sudo")
	}
	for _, tt := range []struct {
		uid, gid string
		want     *Caller
	}{
		{"1000", "1001", &Caller{1000, 1001}},
		{"", "", nil}, {"0", "0", nil}, {"1000", "", nil}, {"-1", "1", nil}, {"1000x", "1", nil}, {"4294967295", "1", nil},
	} {
		got := SudoCaller(func(name string) string { return map[string]string{"SUDO_UID": tt.uid, "SUDO_GID": tt.gid}[name] })
		if (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
			t.Errorf("SUDO_UID=%s SUDO_GID=%s: %v, want %v", tt.uid, tt.gid, got, tt.want)
		}
	}
}
