//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// upgradeQuiet is how long nothing must have changed in the directories of the
// files until an upgrade is taken to be over.
const upgradeQuiet = 10 * time.Second

// fileWatch is kept over files that must stay what they are. It costs nothing while
// nothing changes beside them: the kernel tells, inotify(7).
type fileWatch struct {
	events *os.File
	before map[string]os.FileInfo // nil: there was none
	quiet  time.Duration          // see upgradeQuiet
}

// newFileWatch begins a vigil over files, nil for none.
func newFileWatch(paths []string) (*fileWatch, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	v := &fileWatch{events: os.NewFile(uintptr(fd), "inotify"), before: make(map[string]os.FileInfo), quiet: upgradeQuiet}
	for _, p := range paths {
		// Where the name is, and where the file is: a library's name is a link.
		dirs := []string{filepath.Dir(p)}
		if file, err := filepath.EvalSymlinks(p); err == nil {
			dirs = append(dirs, filepath.Dir(file))
		}
		for _, d := range dirs {
			_, err := unix.InotifyAddWatch(fd, d, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_ONLYDIR)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				v.events.Close()
				return nil, fmt.Errorf("inotify: watch %q: %w", d, err)
			}
		}
		v.before[p], _ = os.Stat(p)
	}
	return v, nil
}

// wait returns the path of a file that is another than it was, or gone, when that
// is so and nothing has changed beside the files for a while. It returns "" when
// ctx ends. A nil vigil waits for that alone.
func (v *fileWatch) wait(ctx context.Context) string {
	if v == nil {
		<-ctx.Done()
		return ""
	}
	defer v.events.Close()
	stop := context.AfterFunc(ctx, func() { v.events.Close() })
	defer stop()
	buffer := make([]byte, 4096) // what happened does not matter, only that something did
	for replaced := ""; ; replaced = v.replaced() {
		deadline := time.Time{}
		if replaced != "" {
			deadline = time.Now().Add(v.quiet)
		}
		if err := v.events.SetReadDeadline(deadline); err != nil {
			return ""
		}
		_, err := v.events.Read(buffer)
		switch {
		case ctx.Err() != nil:
			return ""
		case errors.Is(err, os.ErrDeadlineExceeded):
			return replaced
		case err != nil:
			<-ctx.Done()
			return ""
		}
	}
}

// replaced is the path of a file that is another than it was, "" for none.
func (v *fileWatch) replaced() string {
	for path, was := range v.before {
		switch now, err := os.Stat(path); {
		case err != nil && was == nil:
		case err != nil || was == nil || !os.SameFile(was, now):
			return path
		}
	}
	return ""
}
