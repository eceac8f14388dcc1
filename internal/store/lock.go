package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrLocked is returned by Open if another daemon uses the state directory.
var ErrLocked = errors.New("the state is in use")

// lockDir locks the directory for this process, until the file that it returns is closed
// or the process ends. It has a file of its own for that, because the lock of the state
// file goes with it when it is renamed.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "doorward.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := LockFile(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// LockFile locks an open file or directory for this process, until it is closed or the
// process ends, and writes the process's ID into it if it can be written. It returns
// ErrLocked if another daemon has it.
func LockFile(f *os.File) error {
	err := lockPatiently(f)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		who := ""
		if pid := words(f); pid != "" {
			who = fmt.Sprintf(" (process %s)", pid)
		}
		return fmt.Errorf("%q: %w by another doorwardd%s: stop that one first, "+
			"or give this one paths of its own with state and control in [gateway]", f.Name(), ErrLocked, who)
	}
	if err != nil {
		return fmt.Errorf("lock %q: %w", f.Name(), err)
	}
	// The id is for the message above only, so that a full disk is no reason
	// not to start.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
	return nil
}

// words returns the contents of a locked file, "" if it is not a regular file: reading a
// pipe would block forever.
func words(f *os.File) string {
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(f, 20))
	return strings.TrimSpace(string(text))
}

// lockPatiently tries for up to a second. A daemon that was killed while it started a
// program has left a copy of its lock to that program, until it runs: fork(2) copies
// descriptors, and only execve(2) closes them.
func lockPatiently(f *os.File) error {
	const tries = 50
	for i := 0; ; i++ {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || i == tries {
			return err
		}
		time.Sleep(time.Second / tries)
	}
}
