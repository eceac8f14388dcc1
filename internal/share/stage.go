package share

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// File is a file to be written.
type File struct {
	Path string
	Text []byte
	// Mode is the file's permissions, unless Keep.
	Mode fs.FileMode
	// Keep says that the file exists, and that its mode and owner stay.
	Keep bool
	// Was is what the file must still hold when it is replaced, nil for
	// anything: nobody else's edit is written over.
	Was []byte
}

// Change is a set of files that are put in place together or not at all. It is
// for one goroutine.
type Change struct {
	staged []*staged
	done   int // so many of staged are in place
}

// staged is one file that waits beside its place.
type staged struct {
	path string // of the file itself, symbolic links followed
	temp string // "" once it is in place
	was  []byte // what the place must hold, nil for anything
	old  *saved // what the place held, nil for nothing
}

// saved is a file as it was.
type saved struct {
	text []byte
	info fs.FileInfo
}

// Stage writes the files beside their places, under other names, and synced,
// so that what is left to do can hardly fail. Directories must exist. On an
// error nothing is left behind; else the caller ends with Close.
func Stage(files []File) (*Change, error) {
	c := &Change{}
	for _, f := range files {
		s, err := stage(f)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("write %q: %w", f.Path, err)
		}
		c.staged = append(c.staged, s)
	}
	return c, nil
}

func stage(f File) (*staged, error) {
	s := &staged{path: f.Path, was: f.Was}
	if real, err := filepath.EvalSymlinks(f.Path); err == nil {
		s.path = real
	}
	info, err := os.Stat(s.path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return nil, errors.New("there is something else than a regular file")
	case err == nil:
		text, err := os.ReadFile(s.path)
		if err != nil {
			return nil, err
		}
		s.old = &saved{text, info}
	case !errors.Is(err, fs.ErrNotExist) || f.Keep:
		return nil, err
	}
	mode := f.Mode
	var like fs.FileInfo
	if f.Keep {
		mode, like = info.Mode().Perm(), info
	}
	s.temp, err = writeTemp(s.path, f.Text, mode, like)
	return s, err
}

// writeTemp writes a file beside path and returns its name. like, when not nil,
// is whose owner it gets.
func writeTemp(path string, text []byte, mode fs.FileMode, like fs.FileInfo) (string, error) {
	t, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", err
	}
	_, err = t.Write(text)
	err = errors.Join(err, t.Chmod(mode))
	if like != nil {
		err = errors.Join(err, chownLike(t, like))
	}
	err = errors.Join(err, t.Sync(), t.Close())
	if err != nil {
		os.Remove(t.Name())
		return "", err
	}
	return t.Name(), nil
}

// Commit puts the files in place, in their order. On an error those that were
// are put back.
func (c *Change) Commit() error {
	for _, s := range c.staged {
		if err := s.commit(); err != nil {
			return errors.Join(fmt.Errorf("write %q: %w", s.path, err), c.Undo())
		}
		c.done++
	}
	for _, s := range c.staged {
		syncDir(filepath.Dir(s.path))
	}
	return nil
}

func (s *staged) commit() error {
	if s.was != nil {
		now, err := os.ReadFile(s.path)
		if err != nil {
			return err
		}
		if !bytes.Equal(now, s.was) {
			return errors.New("somebody else has changed it meanwhile")
		}
	}
	if err := os.Rename(s.temp, s.path); err != nil {
		return err
	}
	s.temp = ""
	return nil
}

// Undo puts every place back to what it held before Commit.
func (c *Change) Undo() error {
	var errs []error
	for ; c.done > 0; c.done-- {
		s := c.staged[c.done-1]
		if err := s.undo(); err != nil {
			errs = append(errs, fmt.Errorf("put %q back: %w", s.path, err))
		}
	}
	return errors.Join(errs...)
}

func (s *staged) undo() error {
	if s.old == nil {
		return os.Remove(s.path)
	}
	temp, err := writeTemp(s.path, s.old.text, s.old.info.Mode().Perm(), s.old.info)
	if err != nil {
		return err
	}
	return os.Rename(temp, s.path)
}

// Close removes what is staged and not in place. It does not undo.
func (c *Change) Close() {
	for _, s := range c.staged {
		if s.temp != "" {
			os.Remove(s.temp)
			s.temp = ""
		}
	}
}

// syncDir makes the renames of a directory last. Where a directory cannot be
// synced (Windows) the file system sees to it.
func syncDir(dir string) {
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	d.Sync()
	d.Close()
}
