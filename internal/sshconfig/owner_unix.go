//go:build unix

package sshconfig

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives a file to whom the one at path belongs, as when root edits a user's.
func keepOwner(f *os.File, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	own, err := f.Stat()
	if err != nil {
		return err
	}
	old, ok := info.Sys().(*syscall.Stat_t)
	now, also := own.Sys().(*syscall.Stat_t)
	if !ok || !also || old.Uid == now.Uid && old.Gid == now.Gid {
		return nil
	}
	return f.Chown(int(old.Uid), int(old.Gid))
}
