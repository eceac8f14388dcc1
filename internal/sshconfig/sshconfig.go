// Package sshconfig writes what ssh needs to knock into a user's ~/.ssh/config
// (ssh_config(5)): a section of its own between two lines of comment, by which it is found
// again. Nothing outside of them is changed.
//
// Of several values for an option ssh takes the first, so a new section goes to the top of
// the file. It ends with "Host *", since whatever stood there before is for all hosts until
// the file's own first Host or Match.
package sshconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Host is how ssh reaches a gateway.
type Host struct {
	Names    []string // that are typed after ssh for HostName
	HostName string   // the gateway's name or address
	// Others are further names and addresses of the gateway. ssh goes to each as it is typed,
	// and checks its key as that one's: who made the list need not be whose they are.
	Others []string
	Port   uint16 // 0: as ssh has it without
	User   string // "": as ssh has it without
	// One of them says how to knock: Proxy connects, Exec knocks and exits. They are
	// commands for the user's shell, in which ssh replaces %h and %p.
	Proxy, Exec string
}

// Text returns the lines for a Host.
func (h Host) Text() string {
	var b strings.Builder
	// ssh takes % for its own there, as in an address with a zone.
	fmt.Fprintf(&b, "Host %s\n    HostName %s\n", strings.Join(h.Names, " "), strings.ReplaceAll(h.HostName, "%", "%%"))
	all := slices.Concat(h.Names, h.Others)
	if len(h.Others) > 0 {
		fmt.Fprintf(&b, "Host %s\n", strings.Join(all, " "))
	}
	if h.Port != 0 {
		fmt.Fprintf(&b, "    Port %d\n", h.Port)
	}
	if h.User != "" {
		fmt.Fprintf(&b, "    User %s\n", h.User)
	}
	if h.Proxy != "" {
		fmt.Fprintf(&b, "    ProxyCommand %s\n", h.Proxy)
	}
	if h.Exec != "" {
		fmt.Fprintf(&b, "Match originalhost %s exec \"%s\"\n", strings.Join(all, ","), h.Exec)
	}
	return b.String()
}

// The lines around a section.
func begins(name string) string { return "# doorward: " + name + " begins" }
func ends(name string) string   { return "# doorward: " + name + " ends" }

// Install returns a file's text with a section in it: in place of the one of this name, or
// first.
func Install(text, name, section string) (string, error) {
	const back = "Host *\n" // what follows is for all hosts, as it was
	section = begins(name) + "\n" + section + back + ends(name) + "\n"
	if strings.Contains(text, "\r\n") {
		section = strings.ReplaceAll(section, "\n", "\r\n")
	}
	from, to, err := find(text, name)
	switch {
	case err != nil:
		return "", err
	case from == to && text != "":
		return section + blank(section) + text, nil
	}
	return text[:from] + section + text[to:], nil
}

// blank is an empty line as a section has it.
func blank(section string) string {
	if strings.HasSuffix(section, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

// Remove returns a file's text without the section of this name, and what Install has put
// after it.
func Remove(text, name string) (string, error) {
	from, to, err := find(text, name)
	if err != nil || from == to {
		return text, err
	}
	rest := text[to:]
	for _, empty := range []string{"\r\n", "\n"} {
		if after, ok := strings.CutPrefix(rest, empty); ok && from == 0 {
			rest = after
			break
		}
	}
	return text[:from] + rest, nil
}

// find returns where the section of a name is; both are 0 if there is none.
func find(text, name string) (from, to int, err error) {
	at, number, begun := 0, 0, 0
	for line := range strings.Lines(text) {
		number++
		switch strings.TrimSpace(line) {
		case begins(name):
			if begun != 0 || to != 0 {
				return 0, 0, damaged(number, "a second %q", begins(name))
			}
			from, begun = at, number
		case ends(name):
			if begun == 0 {
				return 0, 0, damaged(number, "%q without a beginning", ends(name))
			}
			to, begun = at+len(line), 0
		}
		at += len(line)
	}
	if begun != 0 {
		return 0, 0, damaged(begun, "%q, and no line %q after it", begins(name), ends(name))
	}
	return from, to, nil
}

func damaged(line int, format string, args ...any) error {
	return fmt.Errorf("line %d: "+format+": mend or delete these lines by hand", slices.Concat([]any{line}, args)...)
}

const largest = 4 << 20

// Edit changes a file by a function of its text, at once and as a whole, and says whether
// anything has changed. Symbolic links are followed. A file that is missing is made, for the
// user alone, and so is its directory, unless there is nothing to write.
func Edit(path string, change func(text string) (string, error)) (changed bool, err error) {
	const tries = 3
	for range tries {
		if changed, err = edit(path, change); !errors.Is(err, errMeanwhile) {
			break
		}
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return changed, nil
}

var errMeanwhile = errors.New("another program has changed it meanwhile")

func edit(path string, change func(text string) (string, error)) (bool, error) {
	real, mode, before, err := read(path)
	if err != nil {
		return false, err
	}
	after, err := change(before)
	if err != nil || after == before {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(real), 0o700); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(filepath.Dir(real), ".config.doorward.*") // mode 0600
	if err != nil {
		return false, fmt.Errorf("cannot be replaced: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it has another name
	_, err = f.WriteString(after)
	err = errors.Join(err, f.Chmod(mode), keepOwner(f, real), f.Sync(), f.Close())
	if err != nil {
		return false, fmt.Errorf("cannot be replaced: %w", err)
	}
	if _, _, now, err := read(path); err != nil || now != before {
		return false, errors.Join(errMeanwhile, err)
	}
	return true, os.Rename(f.Name(), real)
}

// read returns a file's real path, mode and text. One that is missing is empty.
func read(path string) (real string, mode fs.FileMode, text string, err error) {
	const own = 0o600
	real, err = filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return "", 0, "", errors.New("it is a symbolic link to a file that is not there")
		}
		return path, own, "", nil
	}
	if err != nil {
		return "", 0, "", err
	}
	info, err := os.Stat(real)
	switch {
	case err != nil:
		return "", 0, "", err
	case !info.Mode().IsRegular():
		return "", 0, "", errors.New("it is no regular file")
	case info.Size() > largest:
		return "", 0, "", fmt.Errorf("it has %d bytes: allowed are %d", info.Size(), largest)
	}
	b, err := os.ReadFile(real)
	return real, info.Mode().Perm(), string(b), err
}
