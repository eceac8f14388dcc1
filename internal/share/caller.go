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

// SudoCaller returns who called sudo, nil if nobody did. sudo sets SUDO_UID and SUDO_GID
// itself, whatever was there before (sudo(8), ENVIRONMENT). They are trusted only to say
// whose directory may be written to: a file that is made there goes to the owner of that
// directory, who could make one there anyway, and it is encrypted to keys that this user
// does not choose. getenv is os.Getenv except in tests.
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

// Directory returns the error with which Stage would refuse a directory: that of
// files.Directory, unless the directory is the caller's.
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

// openTheirs opens a directory if it is the caller's own. How the path led there does
// not matter, and is not judged: what is opened belongs to the caller, and nothing that
// is made in it by its descriptor can be anywhere else.
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

// readFile reads a regular file in dir. Text and information are of the same file, as
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
