package share

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/files"
)

// File is a file to be written.
type File struct {
	Path string
	Text []byte
	// Mode is the file's permissions, unless Keep.
	Mode fs.FileMode
	// Group is the number of the group that gets the file, if the user may give it
	// away; 0 for the default one.
	Group int
	// Keep says that the file exists, and that its mode and owner stay.
	Keep bool
	// Was is what the file must still hold when it is replaced, nil for
	// anything: nobody else's edit is overwritten.
	Was []byte
	// New says that nothing may be in the place, not even at the last moment.
	New bool
	// Backup says that the file that is replaced is kept beside it: see Change.Backup.
	// Its owner and mode stay, except that nobody but its owner and its group may read it.
	Backup bool
	// Owners are users who may own the directory, besides root and whoever writes.
	Owners []int
	// Caller gets the file if its directory is theirs; nil for nobody.
	Caller *Caller
}

// Change is a set of files that are put in place together or not at all. It is not
// safe for concurrent use.
type Change struct {
	dirs   map[string]*os.Root // by their real paths, those of a caller as they were named
	staged []*staged
	done   int               // how many of staged are in place
	backup map[string]string // by the paths of what is replaced
}

// staged is one file that waits beside its place.
type staged struct {
	path string   // for messages
	dir  *os.Root // of the place
	base string   // its name there
	temp string   // the name beside it, "" once it is in place
	was  []byte   // what the place must hold, nil for anything
	free bool     // the place must hold nothing
	old  *saved   // what the place held, nil for nothing
	to   *Caller  // who gets it, nil for whoever writes
}

// saved is a file as it was.
type saved struct {
	text []byte
	info fs.FileInfo
}

// Stage writes the files beside their places, under other names, and synced, so that
// what is left to do can hardly fail. Directories must exist, and nobody but root and
// the user may write to them or to those above (see files.Directory), unless they are
// the Caller's. A symbolic link in the place of a file is followed only with Keep, and
// only if nobody else could have put it there. On an error nothing is left behind;
// otherwise Close must be called in the end.
func Stage(all []File) (*Change, error) {
	c := &Change{dirs: map[string]*os.Root{}, backup: map[string]string{}}
	for _, f := range all {
		if err := c.stage(f); err != nil {
			c.Close()
			return nil, fmt.Errorf("write %q: %w", f.Path, err)
		}
	}
	return c, nil
}

func (c *Change) stage(f File) (err error) {
	path := f.Path
	if f.Keep {
		if path, err = files.File(path); err != nil {
			return err
		}
	}
	s := &staged{path: f.Path, base: filepath.Base(path), was: f.Was, free: f.New}
	if err := c.open(s, filepath.Dir(path), f); err != nil {
		return err
	}
	if s.old, err = s.holds(); err != nil {
		return err
	}
	mode := f.Mode
	var like fs.FileInfo
	switch {
	case f.Keep && s.old == nil:
		return fs.ErrNotExist
	case f.New && s.old != nil:
		return fs.ErrExist
	case f.Keep:
		mode, like = s.old.info.Mode().Perm(), s.old.info
	}
	if f.Backup && s.old != nil {
		if _, err := os.Readlink(f.Path); err != nil {
			path = f.Path // no link: as the user calls it
		}
		if err := c.keep(s, filepath.Dir(path)); err != nil {
			return err
		}
	}
	if s.temp, err = s.writeTemp(f.Text, mode, owner{like, f.Group, s.to}); err == nil {
		c.staged = append(c.staged, s)
	}
	return err
}

// holds reads what is in the place, nil for nothing.
func (s *staged) holds() (*saved, error) {
	info, err := s.dir.Lstat(s.base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("there is something other than a regular file")
	}
	return readFile(s.dir, s.base)
}

// keep stages what the place of s holds beside it, under the name base.~n~, as cp
// --backup=numbered has it. n is greater than any that is there, so that the names show
// the order.
func (c *Change) keep(s *staged, dir string) error {
	entries, err := fs.ReadDir(s.dir.FS(), ".")
	if err != nil {
		return err
	}
	n := 0
	for _, e := range entries {
		number, ours := strings.CutPrefix(e.Name(), s.base+".~")
		number, whole := strings.CutSuffix(number, "~")
		if i, err := strconv.ParseUint(number, 10, 30); ours && whole && err == nil { // of 30 bits: one more fits, too
			n = max(n, int(i))
		}
	}
	k := &staged{dir: s.dir, base: fmt.Sprintf("%s.~%d~", s.base, n+1), free: true}
	k.path = filepath.Join(dir, k.base)
	if k.temp, err = k.writeTemp(s.old.text, s.old.info.Mode().Perm()&^0o137, owner{like: s.old.info}); err != nil {
		return err
	}
	s.was = s.old.text // what is kept is what is replaced
	c.staged = append(c.staged, k)
	c.backup[s.path] = k.path
	return nil
}

// Backup returns the path at which Commit keeps what a file with Backup replaces, ""
// where it replaces nothing: FILE.~1~, with a number greater than that of any other.
func (c *Change) Backup(path string) string { return c.backup[path] }

// open opens the directory of s, and notes who gets the file there.
func (c *Change) open(s *staged, path string, f File) error {
	dir, err := c.directory(path, f.Owners)
	if err == nil || f.Caller == nil {
		s.dir = dir
		return err
	}
	dir, theirs := c.dirs[path], c.dirs[path] != nil
	if !theirs {
		if dir, theirs = openTheirs(path, f.Caller); !theirs {
			return err
		}
		c.dirs[path] = dir
	}
	s.dir, s.to = dir, f.Caller
	return nil
}

// directory opens a directory, once for all of its files: what it names from
// then on cannot be changed from outside.
func (c *Change) directory(path string, owners []int) (*os.Root, error) {
	real, err := files.Directory(path, owners...)
	if err != nil {
		return nil, err
	}
	if c.dirs[real] == nil {
		if c.dirs[real], err = os.OpenRoot(real); err != nil {
			delete(c.dirs, real)
			return nil, err
		}
	}
	return c.dirs[real], nil
}

// owner says who gets a new file: the owner of another one, a group, or a caller;
// otherwise it stays with whoever writes it.
type owner struct {
	like  fs.FileInfo
	group int
	to    *Caller
}

// writeTemp writes a file beside the place and returns its name.
func (s *staged) writeTemp(text []byte, mode fs.FileMode, to owner) (string, error) {
	name := "." + s.base + "." + rand.Text()
	t, err := s.dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = t.Write(text)
	err = errors.Join(err, to.give(t), t.Chmod(mode), t.Sync(), t.Close())
	if err != nil {
		s.dir.Remove(name)
		return "", err
	}
	return name, nil
}

// give gives a file, by its descriptor, to its owner.
func (o owner) give(t *os.File) error {
	switch {
	case o.like != nil:
		return chownLike(t, o.like)
	case o.to != nil:
		return giveTo(t, o.to)
	case o.group > 0:
		// Where the user may not do that, the file keeps its group: then it is not
		// that of this system's daemon.
		if err := t.Chown(-1, o.group); !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}

// Commit puts the files in place, in their order. On an error it calls Undo.
func (c *Change) Commit() error {
	for _, s := range c.staged {
		if err := s.commit(); err != nil {
			return errors.Join(fmt.Errorf("write %q: %w", s.path, err), c.Undo())
		}
		c.done++
	}
	for _, dir := range c.dirs {
		syncDir(dir)
	}
	return nil
}

func (s *staged) commit() error {
	if s.was != nil {
		now, err := s.dir.ReadFile(s.base)
		if err != nil {
			return err
		}
		if !bytes.Equal(now, s.was) {
			return errors.New("somebody else has changed it meanwhile")
		}
	}
	if s.free {
		// Created by us, or an error: rename would overwrite what came meanwhile.
		claim, err := s.dir.OpenFile(s.base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		claim.Close()
	}
	if err := s.dir.Rename(s.temp, s.base); err != nil {
		if s.free {
			s.dir.Remove(s.base)
		}
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
		return s.dir.Remove(s.base)
	}
	temp, err := s.writeTemp(s.old.text, s.old.info.Mode().Perm(), owner{like: s.old.info})
	if err != nil {
		return err
	}
	return s.dir.Rename(temp, s.base)
}

// Close removes what is staged and not in place. It does not undo.
func (c *Change) Close() {
	for _, s := range c.staged {
		if s.temp != "" {
			s.dir.Remove(s.temp)
			s.temp = ""
		}
	}
	for _, dir := range c.dirs {
		dir.Close()
	}
}

// syncDir makes the renames in a directory durable. Where a directory cannot be synced
// (Windows), the file system sees to that.
func syncDir(dir *os.Root) {
	d, err := dir.Open(".")
	if err != nil {
		return
	}
	d.Sync()
	d.Close()
}
