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
// files before an upgrade counts as finished.
const upgradeQuiet = 10 * time.Second

// fileWatch watches files that should not be replaced or removed. It costs nothing while
// nothing changes in their directories, since it uses inotify(7).
type fileWatch struct {
	events *os.File
	before map[string]os.FileInfo // nil for a file that did not exist
	quiet  time.Duration          // see upgradeQuiet
}

// newFileWatch begins to watch files. If there are none, it returns nil.
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
		// A library's name is a link, so watch the directories of name and file.
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

// wait returns the path of a file that has been replaced or removed, once nothing has
// changed in the files' directories for a while. It returns "" when ctx ends. A nil
// watch waits for that only.
func (v *fileWatch) wait(ctx context.Context) string {
	if v == nil {
		<-ctx.Done()
		return ""
	}
	defer v.events.Close()
	stop := context.AfterFunc(ctx, func() { v.events.Close() })
	defer stop()
	buffer := make([]byte, 4096) // its contents do not matter, only that there was an event
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

// replaced returns the path of a file that has been replaced or removed, or "" if there
// is none.
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
