package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/share"
)

// daemonGroup is the group through which the daemon may read its configuration.
const daemonGroup = "doorward"

// daemonGroupNumber returns the number of that group, 0 where there is none.
func daemonGroupNumber() int {
	g, err := user.LookupGroup(daemonGroup)
	if err != nil {
		return 0
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0 // Windows has no group numbers
	}
	return gid
}

// ErrExists is what Writable returns, wrapped, for a file that is there and is not to be
// replaced.
var ErrExists = errors.New("exists")

// Writable returns why Place would not write a file, as far as that can be known
// beforehand: fs.ErrPermission or ErrExists, wrapped. It changes nothing.
func Writable(path string, replace bool) error {
	if _, err := os.Lstat(path); err == nil && !replace && blank(path) == nil {
		return fmt.Errorf("%q %w", path, ErrExists)
	}
	dir := filepath.Dir(path)
	err := mayWrite(dir)
	if errors.Is(err, fs.ErrNotExist) { // Place makes it, but not what is above
		dir = filepath.Dir(dir)
		err = mayWrite(dir)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%q cannot be written by you: %q: %w", path, dir, fs.ErrPermission)
	}
	return nil // whatever else is wrong, Place reports
}

// Place writes the file, readable by its owner and the daemon's group, as a whole or not
// at all, and makes its directory if that alone is missing. With replace, what was there
// is kept under the name that is returned; without, nothing may be there but a
// configuration that says nothing, which is not kept.
func Place(path, text string, replace bool) (kept string, err error) {
	// A symbolic link that nobody else could have put there stays one.
	if real, err := files.File(path); err == nil {
		path = real
	}
	group := daemonGroupNumber()
	dir := filepath.Dir(path)
	if err := files.MakeDirectory(dir, 0o750, group); err != nil {
		return "", fmt.Errorf("make directory %q: %w", dir, err)
	}
	was := blank(path)
	change, err := share.Stage([]share.File{{Path: path, Text: []byte(text), Mode: 0o640, Group: group,
		New: !replace && was == nil, Was: was, Backup: replace && was == nil}})
	if err != nil {
		return "", err
	}
	defer change.Close()
	return change.Backup(path), change.Commit()
}

// Equip makes those of the files that are not there yet, readable by their owner and the
// daemon's group, and the directory of each if that alone is missing. All are made or none.
// It returns the paths of those that it made.
func Equip(all []knock.Equipment) (made []string, err error) {
	group := daemonGroupNumber()
	var missing []share.File
	for _, f := range all {
		if _, err := os.Lstat(f.Path); !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return nil, err
			}
			continue
		}
		if err := files.MakeDirectory(filepath.Dir(f.Path), 0o750, group); err != nil {
			return nil, fmt.Errorf("make directory %q: %w", filepath.Dir(f.Path), err)
		}
		missing = append(missing, share.File{Path: f.Path, Text: f.Text, Mode: 0o640, Group: group, New: true})
		made = append(made, f.Path)
	}
	change, err := share.Stage(missing)
	if err != nil {
		return nil, err
	}
	defer change.Close()
	return made, change.Commit()
}

// blank returns the text of a configuration that says nothing, such as packages install;
// nil if the file says something, cannot be read, or is not there.
func blank(path string) []byte {
	text, err := config.Read(path)
	if err != nil || !config.Blank(text) {
		return nil
	}
	return append([]byte{}, text...) // an empty file's is not nil
}
