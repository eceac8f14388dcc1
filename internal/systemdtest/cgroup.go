//go:build linux

package systemdtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// namePrefix begins the names of machines and of their cgroups; the pid of
// their test and a number follow.
const namePrefix = "doorward-"

// hierarchies are the cgroup mounts in which systemd keeps track of units:
// cgroup2 alone, or beside version 1's name=systemd.
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

// makeGroups makes a machine's cgroups, and removes those of tests that were
// killed.
func makeGroups(name string) ([]string, error) {
	var groups []string
	for _, h := range hierarchies() {
		old, _ := filepath.Glob(filepath.Join(h, namePrefix+"*-*"))
		for _, o := range old {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(o), namePrefix), "-")
			if _, err := strconv.Atoi(pid); err != nil {
				continue
			}
			if _, err := os.Stat("/proc/" + pid); err != nil {
				removeGroup(o)
			}
		}
		g := filepath.Join(h, name)
		if err := os.Mkdir(g, 0o755); err != nil {
			return nil, fmt.Errorf("make a cgroup: %w", err)
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// removeGroups removes a halted machine's cgroups. Its last processes may take a
// moment to be gone.
func removeGroups(t testing.TB, groups []string) {
	for end := time.Now().Add(haltLimit); ; time.Sleep(look) {
		groups = slices.DeleteFunc(groups, func(g string) bool { return removeGroup(g) == nil })
		if len(groups) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("cgroups %q cannot be removed", groups)
			return
		}
	}
}

// removeGroup removes a cgroup and those below it, innermost first. Only
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
		if rerr := os.Remove(d); rerr != nil {
			err = rerr
		}
	}
	return err
}
