package share

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/doorward/doorward/internal/files"
)

// Caller is the user for whom root writes a file: who called sudo. Root writes into a
// directory that is theirs, and what it writes there is theirs.
type Caller struct{ UID, GID int }

// SudoCaller is who called sudo, nil if nobody did. sudo sets SUDO_UID and SUDO_GID
// itself, whatever was there before (sudo(8), ENVIRONMENT). They are believed for no more
// than whose directory may be written to: a file that is made there goes to the owner of
// that directory, who could make one there without us, and it is encrypted to others
// than that user's choice. getenv is os.Getenv but in tests.
func SudoCaller(getenv func(string) string) *Caller {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, err := strconv.ParseUint(getenv("SUDO_UID"), 10, 31)
	gid, err2 := strconv.ParseUint(getenv("SUDO_GID"), 10, 31)
	if err != nil || err2 != nil || uid == 0 {
		return nil
	}
	return &Caller{UID: int(uid), GID: int(gid)}
}

// Directory says why Stage would not write into a directory: the error of
// files.Directory, unless it is one of the caller's.
func Directory(path string, caller *Caller) error {
	_, err := files.Directory(path)
	if err == nil || caller == nil {
		return err
	}
	dir, theirs := openTheirs(path, caller)
	if theirs {
		dir.Close()
		return nil
	}
	return err
}

// openTheirs opens a directory if it is the caller's own. Which way led there does not
// matter, so that it need not be judged: what is opened belongs to the caller, and
// nothing that is made in it by its descriptor can be anywhere else.
func openTheirs(path string, caller *Caller) (dir *os.Root, theirs bool) {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, false
	}
	if info, err := dir.Stat("."); err == nil && caller.owns(info) {
		return dir, true
	}
	dir.Close()
	return nil, false
}

// readFile reads a regular file in dir, and returns what is known of the one that was read:
// nobody can put another one in its place between the two.
func readFile(dir *os.Root, name string) (*saved, error) {
	f, err := dir.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is %w", name, files.ErrNotRegular)
	}
	text, err := io.ReadAll(f)
	return &saved{text, info}, err
}
