//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/store"
)

// daemonLock keeps a second daemon away from the fence of the first. Its files are
// locked until they are closed or the process ends.
type daemonLock []*os.File

// lockDaemon takes the lock. That must work if nothing can be written to the disk, since
// the fence is raised before the store is opened, or without a store; and no other user
// may be able to take it and so keep the daemon from starting. So the lock is on a file
// of mode 0600 beside the control socket, whose directory is in memory on most machines,
// and on the state directory itself: flock(2) needs neither space nor permission to
// write. An abstract unix socket, the obvious lock without a disk, is open to anybody.
//
// Two daemons that have one of the two in common exclude each other, as long as it can
// be locked. If neither can be, that is logged but is not an error: from Linux 6.9 on,
// the table has one owner at a time anyway.
func lockDaemon(where config.Gateway, log *slog.Logger) (daemonLock, error) {
	var held daemonLock
	var problems []error
	for _, open := range []func() (*os.File, error){
		func() (*os.File, error) { return openLockFile(where.Control + ".lock") },
		func() (*os.File, error) { return openPrivateDir(where.State) },
	} {
		f, err := open()
		if err != nil {
			problems = append(problems, err)
			continue
		}
		err = store.LockFile(f)
		if err == nil {
			held = append(held, f)
			continue
		}
		f.Close()
		if errors.Is(err, store.ErrLocked) {
			held.release()
			return nil, err
		}
		problems = append(problems, err)
	}
	if len(held) == 0 {
		log.Warn("cannot keep a second daemon from being started", "err", errors.Join(problems...))
	}
	return held, nil
}

func (l daemonLock) release() {
	for _, f := range l {
		f.Close()
	}
}

// openLockFile opens a lock file that nobody else can open, and creates it if possible.
func openLockFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the control socket's directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		// A file that exists can be locked even on a read-only file system.
		f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	return private(f, "lock file", "600")
}

// openPrivateDir opens a directory that nobody else can open, and so lock.
func openPrivateDir(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return private(f, "state directory", "700")
}

// private returns f if nobody else can open it, and otherwise closes it and returns an
// error that says which mode it should have.
func private(f *os.File, what, mode string) (*os.File, error) {
	info, err := f.Stat()
	if err == nil && info.Mode()&0o044 != 0 {
		err = fmt.Errorf("%s %q has mode %#o, so that others can open it: chmod %s %s",
			what, f.Name(), info.Mode().Perm(), mode, f.Name())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// firstWritable returns the first directory in which a file can be created and written,
// or dirs[0] if there is none.
func firstWritable(dirs ...string) string {
	for _, dir := range dirs {
		f, err := os.CreateTemp(dir, ".takes-files-*")
		if err != nil {
			continue
		}
		_, err = f.Write([]byte{0})
		f.Close()
		os.Remove(f.Name())
		if err == nil {
			return dir
		}
	}
	return dirs[0]
}
