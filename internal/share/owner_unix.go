//go:build unix

package share

import (
	"io/fs"
	"os"
	"syscall"
)

// chownLike gives f the owner and group of the file that info describes.
func chownLike(f *os.File, info fs.FileInfo) error {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(s.Uid) == os.Geteuid() && int(s.Gid) == os.Getegid() {
		return nil
	}
	return f.Chown(int(s.Uid), int(s.Gid))
}

// nonblock keeps the opening of a pipe from waiting for its other end.
const nonblock = syscall.O_NONBLOCK | syscall.O_NOCTTY

// owns reports whether info is of the caller's own directory, to which nobody else may
// write. A user's own group is for them to judge, as everywhere (see package files).
func (c *Caller) owns(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(s.Uid) != c.UID || info.Mode()&0o002 != 0 {
		return false
	}
	return info.Mode()&0o020 == 0 || int(s.Gid) == c.GID
}

// giveTo gives f to the caller.
func giveTo(f *os.File, c *Caller) error { return f.Chown(c.UID, c.GID) }
