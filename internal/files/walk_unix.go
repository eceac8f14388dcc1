//go:build unix

package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// nonblock keeps the opening of a pipe from waiting for its other end.
const nonblock = syscall.O_NONBLOCK | syscall.O_NOCTTY

// maxLinks is how many symbolic links are followed, as many as Linux does
// (path_resolution(7)).
const maxLinks = 40

// The mode bits that let others write and read. An access control list shows in those
// of the group (acl(5)).
const (
	groupWrites fs.FileMode = 0o020
	othersWrite fs.FileMode = 0o002
	groupReads  fs.FileMode = 0o040
	othersRead  fs.FileMode = 0o004
)

// resolve returns the real path of what path names, and an *Error when anybody
// but root and the user who runs the program could make it name something else.
// also lists further users whose directories are good.
func resolve(path string, also ...int) (string, error) {
	rest, err := split(path)
	if err != nil {
		return "", err
	}
	at, sticky := "/", false
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			// at has no links in it, and was judged on the way down.
			at, sticky = filepath.Dir(at), false
			if info, err := os.Lstat(at); err == nil {
				sticky = info.Mode()&fs.ModeSticky != 0
			}
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil {
			return "", &fs.PathError{Op: "open", Path: path, Err: errors.Unwrap(err)}
		}
		if sticky && !good(owner(info), also) {
			return "", foreign(next, info)
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
			}
			target, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if filepath.IsAbs(target) {
				at, sticky = "/", false
			}
			rest = append(names(target), rest...)
			continue
		case info.IsDir():
			if err := judgeDirectory(next, info, true, also); err != nil {
				return "", err
			}
			sticky = info.Mode()&fs.ModeSticky != 0
		case len(rest) > 0:
			return "", &fs.PathError{Op: "open", Path: next, Err: syscall.ENOTDIR}
		}
		at = next
	}
	return at, nil
}

// split returns the names on the way from the root to path. It does not clean
// the path: what ".." means depends on the links before it.
func split(path string) ([]string, error) {
	if path == "" {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	if filepath.IsAbs(path) {
		return names(path), nil
	}
	wd, err := os.Getwd()
	return append(names(wd), names(path)...), err
}

func names(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

// judgeFile returns an *Error unless the file is root's or the user's own, and
// theirs alone to write.
func judgeFile(path string, info fs.FileInfo) error {
	if !good(owner(info), nil) {
		return foreign(path, info)
	}
	if bits := foreignWrites(info); bits != 0 {
		return open(path, info, bits)
	}
	return nil
}

// judgeSecret returns an *Error if everybody may read the file, or, if it is private, its
// group.
func judgeSecret(path string, info fs.FileInfo, private bool) error {
	if private && info.Mode()&(groupReads|othersRead) != 0 {
		return &Error{path, "may be read by others, and is a secret: allowed is its owner alone", "chmod go-rwx " + Quoted(path), true}
	}
	if info.Mode()&othersRead == 0 {
		return nil
	}
	return &Error{path, "may be read by everybody, and is a secret: allowed are its owner and its group",
		"chmod o= " + Quoted(path), true}
}

// judgeDirectory is judgeFile for a directory. sticky says that a sticky one is
// good, as its entries are judged by their owners.
func judgeDirectory(path string, info fs.FileInfo, sticky bool, also []int) error {
	if !good(owner(info), also) {
		return foreign(path, info)
	}
	bits := foreignWrites(info)
	if bits == 0 || sticky && info.Mode()&fs.ModeSticky != 0 {
		return nil
	}
	return open(path, info, bits)
}

// foreignWrites returns those of the mode's bits that let somebody else write.
// What belongs to an unprivileged user who runs the program, and to that user's
// own group, is for them to judge: where each user has a group of their own, what
// they make is often writable by it.
func foreignWrites(info fs.FileInfo) fs.FileMode {
	bits := info.Mode() & (groupWrites | othersWrite)
	s, ok := info.Sys().(*syscall.Stat_t)
	if ok && os.Geteuid() != 0 && int(s.Uid) == os.Geteuid() && int(s.Gid) == os.Getegid() {
		bits &^= groupWrites
	}
	return bits
}

// owner returns a file's owner, -1 when it is not known.
func owner(info fs.FileInfo) int {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid)
	}
	return -1
}

func good(uid int, also []int) bool {
	return uid == 0 || uid == os.Geteuid() || slices.Contains(also, uid)
}

func foreign(path string, info fs.FileInfo) error {
	fix := "chown root " + Quoted(path)
	switch {
	case info.IsDir():
		fix += ", if nobody else needs it, or use another directory"
	case !info.Mode().IsRegular():
		fix = "use another path" // a link would lead wherever it leads
	}
	return &Error{path, fmt.Sprintf("belongs to %s: allowed are root and the user who runs this", userName(owner(info))),
		fix, info.Mode().IsRegular()}
}

func open(path string, info fs.FileInfo, bits fs.FileMode) error {
	who := "everybody"
	if bits&othersWrite == 0 {
		who = "its group"
	}
	fix := "chmod go-w " + Quoted(path)
	if info.Mode()&fs.ModeSticky != 0 {
		fix = "mkdir -m 700 " + Quoted(filepath.Join(path, "doorward")) + ", and use that"
	}
	return &Error{path, "may be written by " + who + ": allowed is its owner alone", fix, info.Mode().IsRegular()}
}

func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "user number " + id
}
