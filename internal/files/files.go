// Package files reads what root relies on, and finds directories in which root
// may write: only where nobody else could have put something else in place. It
// judges owners and modes of a file and of every directory on the way to it, as
// sshd does with authorized_keys (StrictModes, sshd_config(5)), and it never
// waits for what is not a regular file.
//
// A name that is judged good stays what it is, since nobody but root and the
// user who runs the program can change it: each directory on its way belongs to
// one of the two, and others may not write to it. In a sticky directory such as
// /tmp, which others may write to, only the owner of an entry can rename or
// remove it (inode(7), S_ISVTX), so there the entry must be theirs. It makes no
// difference then that the name is looked up once more to be opened; what was
// opened is judged again all the same, by its descriptor.
//
// Owners are not known on Windows: there every name is good.
package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Error says why a file or directory cannot be relied on.
type Error struct {
	Path    string // of the file, or of the directory on its way
	Problem string // "belongs to alice: allowed are root and ..."
	Fix     string // the command that mends it
	File    bool   // Path is the regular file itself
}

// Error returns path, problem and the command that mends it, on one line.
func (e *Error) Error() string {
	return fmt.Sprintf("%q %s; to fix it: %s", e.Path, e.Problem, e.Fix)
}

// ErrNotRegular is what Read and Given return, wrapped, for whatever is not a
// regular file.
var ErrNotRegular = errors.New("not a regular file")

// Read returns the text of a file that belongs to root or the user who runs the
// program, and that nobody else may change or replace; otherwise it returns an
// *Error. A symbolic link on the way is followed if nobody else could have put it
// there. More than limit bytes are refused.
func Read(path string, limit int64) ([]byte, error) {
	real, err := resolve(path)
	if err != nil {
		return nil, err
	}
	return read(path, real, limit, judgeFile)
}

// ReadSecret is Read for a file that nobody but its owner and its group may read: else
// an *Error.
func ReadSecret(path string, limit int64) ([]byte, error) { return readSecret(path, limit, false) }

// ReadPrivate is ReadSecret for a file that its group may not read either.
func ReadPrivate(path string, limit int64) ([]byte, error) { return readSecret(path, limit, true) }

func readSecret(path string, limit int64, private bool) ([]byte, error) {
	real, err := resolve(path)
	if err != nil {
		return nil, err
	}
	return read(path, real, limit, func(path string, info fs.FileInfo) error {
		if err := judgeFile(path, info); err != nil {
			return err
		}
		return judgeSecret(path, info, private)
	})
}

// File returns the real path, without symbolic links, of a file that Read would
// read.
func File(path string) (string, error) {
	real, err := resolve(path)
	if err != nil {
		return "", err
	}
	info, err := os.Lstat(real)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%q is %w", path, ErrNotRegular)
	}
	return real, judgeFile(real, info)
}

// Given returns the text of a file that somebody hands in, whoever may write to
// it: what is in it is not relied on. It does not wait for a pipe or a device,
// and more than limit bytes are refused.
func Given(path string, limit int64) ([]byte, error) {
	return read(path, path, limit, func(string, fs.FileInfo) error { return nil })
}

func read(name, path string, limit int64, judge func(string, fs.FileInfo) error) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%q is %w", name, ErrNotRegular)
	}
	if err := judge(path, info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%q is longer than %d bytes", name, limit)
	}
	return text, nil
}

// Directory returns the real path of a directory, without symbolic links, that
// belongs to root, the user who runs the program, or one of also, and to which
// nobody else may write; otherwise it returns an *Error. A sticky directory is
// refused too: others could have made what is about to be made in it.
func Directory(path string, also ...int) (string, error) {
	real, err := resolve(path, also...)
	if err != nil {
		return "", err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%q is not a directory", path)
	}
	return real, judgeDirectory(real, info, false, also)
}

// MakeDirectory makes a directory unless it exists, and gives it to a group if that
// is more than 0 and the user may do so. Nobody but root and the user may be able to
// change what is on the way to it, or to replace it. A directory that existed is not
// judged itself.
func MakeDirectory(path string, mode fs.FileMode, group int) error {
	parent, err := resolve(filepath.Dir(path))
	if err != nil {
		return err
	}
	path = filepath.Join(parent, filepath.Base(path))
	if err := os.Mkdir(path, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	if group > 0 {
		if err := os.Lchown(path, -1, group); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}

// Quoted writes a path for a shell's command line.
func Quoted(path string) string {
	plain := !strings.ContainsFunc(path, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-+@", r)
	})
	if plain && path != "" && path[0] != '-' {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
