package store

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// ErrLocked is returned by Open if another daemon uses the state directory.
var ErrLocked = errors.New("the state is in use")

// lockDir takes the directory for this process, until the file that it returns
// is closed or the process ends. It has a file of its own for that, because
// the lock of the state file goes with it when it is renamed.
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

// LockFile takes an open file or directory for this process, until it is closed
// or the process ends, and writes the process's id into it if it can be written.
// It returns ErrLocked if another daemon has it.
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

// words are what a locked file says. Anything else says nothing: to read a pipe
// would wait for ever.
func words(f *os.File) string {
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(f, 20))
	return strings.TrimSpace(string(text))
}

// lockPatiently tries for up to a second. A daemon that was killed while it
// started a program has left a copy of its lock to that one, until it runs:
// fork(2) copies descriptors, and only execve(2) closes them.
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

// create makes a new state file. It gets its name when it is whole, so that a
// file that is not whole is always a damaged one.
func create(path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(tmp, 0o600, &bolt.Options{NoStatistics: true})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range buckets() {
			if _, err := tx.CreateBucket(b); err != nil {
				return err
			}
		}
		return (&txn{tx: tx, l: ledger{First: 1}}).finish()
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

const asideInfix = ".corrupt-"

// setAside renames the damaged file, never onto one that was set aside before.
func setAside(path string, why error, log *slog.Logger) error {
	base := path + asideInfix + time.Now().UTC().Format("20060102T150405Z")
	to := base
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
		to = fmt.Sprintf("%s-%d", base, n)
	}
	if err := os.Rename(path, to); err != nil {
		return fmt.Errorf("set the damaged file aside: %w", err)
	}
	log.Error("the state file is damaged: it was set aside and a new one is begun; "+
		"penalties, grants and the audit trail of before are in the old file only",
		"file", path, "aside", to, "err", why)
	return syncDir(filepath.Dir(path))
}

// lastAside finds the latest file that was set aside.
func lastAside(path string) (string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	prefix := filepath.Base(path) + asideInfix
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	return filepath.Join(filepath.Dir(path), slices.Max(names)), nil
}

// syncDir makes a rename in dir last (rename(2) alone is not on the disk).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
