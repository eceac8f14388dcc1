//go:build unix

package setup

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// mayWrite returns why the user who runs the program may not make files in a directory.
func mayWrite(dir string) error {
	// As the effective user, who is the one that will make them.
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "access", Path: dir, Err: err}
	}
	return nil
}
