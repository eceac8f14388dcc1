//go:build linux

package systemdtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// namePrefix begins the names of machines and of their cgroups. The pid of the
// process that started them and a number follow.
const namePrefix = "doorward-"

// hierarchies returns the cgroup mounts in which systemd tracks units: cgroup2 alone,
// or cgroup2 and version 1's name=systemd.
func hierarchies() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	var found []string
	for _, d := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(d, "cgroup.procs")); err == nil {
			found = append(found, d)
		}
	}
	return found
}

// makeGroups makes a machine's cgroups.
func makeGroups(name string) ([]string, error) {
	var groups []string
	for _, h := range hierarchies() {
		g := filepath.Join(h, name)
		if err := os.Mkdir(g, 0o755); err != nil {
			return groups, fmt.Errorf("make a cgroup: %w", err)
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// leftGroups returns the cgroups of machines whose process has ended.
func leftGroups() []string {
	var left []string
	for _, h := range hierarchies() {
		groups, _ := filepath.Glob(filepath.Join(h, namePrefix+"*-*"))
		for _, g := range groups {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(g), namePrefix), "-")
			if _, err := strconv.Atoi(pid); err != nil {
				continue
			}
			if _, err := os.Stat("/proc/" + pid); err != nil {
				left = append(left, g)
			}
		}
	}
	return left
}

// removeGroups removes cgroups and ends the processes in them, of which the last may
// take a moment to exit.
func removeGroups(groups []string) error {
	for end := time.Now().Add(haltLimit); ; time.Sleep(look) {
		groups = slices.DeleteFunc(groups, func(g string) bool { return removeGroup(g) == nil })
		if len(groups) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("cgroups %q cannot be removed", groups)
		}
	}
}

// removeGroup ends the processes in a cgroup and in those below it, which there are
// only if systemd-nspawn was killed, and removes the cgroups, innermost first. Only
// directories can be removed there, cgroups(7).
func removeGroup(group string) error {
	var dirs []string
	err := filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	slices.Reverse(dirs)
	for _, d := range dirs {
		raw, _ := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		for _, field := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if rerr := os.Remove(d); rerr != nil {
			err = rerr
		}
	}
	if _, serr := os.Stat(group); errors.Is(serr, fs.ErrNotExist) {
		return nil // by another test, perhaps
	}
	return err
}
