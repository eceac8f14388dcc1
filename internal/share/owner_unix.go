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
