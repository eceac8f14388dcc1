//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/knock"
)

// reader is who reads the logs: the daemon's user, and its groups.
type reader struct {
	name string
	uid  int
	gids []int
}

// unitGroups are the groups that doorward's unit gives the daemon besides its own, for
// the logs.
const unitGroups = "adm systemd-journal"

// daemonReader returns the daemon that runs, or else the user that packages make for
// it; nil when there is neither, or it is root.
func (h *Host) daemonReader(pid int) *reader {
	r := &reader{uid: -1}
	if pid > 0 {
		r.name = fmt.Sprintf("the daemon (pid %d)", pid)
		for line := range strings.Lines(h.readProc(pid, "status")) {
			key, v, _ := strings.Cut(line, ":")
			f := strings.Fields(v)
			switch {
			case key == "Uid" && len(f) > 1:
				r.uid = userID(f[1])
			case key == "Gid" && len(f) > 1, key == "Groups":
				for _, g := range f {
					if n, err := strconv.Atoi(g); err == nil {
						r.gids = append(r.gids, n)
					}
				}
			}
		}
	} else {
		r.name = "the user doorward"
		r.uid, r.gids = h.account("doorward")
	}
	if r.uid <= 0 {
		return nil
	}
	return r
}

// userID reads the number of a user; -1 for what is none.
func userID(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

// account finds a user, its own group, those that it is a member of, and those of
// unitGroups; uid is -1 for none.
func (h *Host) account(name string) (uid int, gids []int) {
	uid = -1
	for line := range strings.Lines(h.read("/etc/passwd")) {
		f := strings.Split(line, ":")
		if len(f) > 3 && f[0] == name {
			uid = userID(f[2])
			if g, err := strconv.Atoi(f[3]); err == nil {
				gids = append(gids, g)
			}
		}
	}
	for line := range strings.Lines(h.read("/etc/group")) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || !slices.Contains(strings.Fields(unitGroups), f[0]) &&
			!slices.Contains(strings.Split(f[3], ","), name) {
			continue
		}
		if g, err := strconv.Atoi(f[2]); err == nil {
			gids = append(gids, g)
		}
	}
	return uid, gids
}

// mayRead says what keeps the reader from a log file that we can read, if it is
// a file at all.
func mayRead(r *reader, path string) []Finding {
	why := r.kept(path)
	if why == "" {
		return nil
	}
	return []Finding{{Problem, path, why + ": its door would go to failsafe",
		fmt.Sprintf("chgrp adm %s; chmod g+r %[1]s; and the same where it is rotated (create in /etc/logrotate.d)", path)}}
}

// kept says what keeps the reader from a file, "" for nothing, or if it is not a
// regular file.
func (r *reader) kept(path string) string {
	info, err := os.Stat(path)
	if r == nil || err != nil || !info.Mode().IsRegular() {
		return ""
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || readable(info.Mode(), int(s.Uid), int(s.Gid), r) {
		return ""
	}
	return fmt.Sprintf("%s may not read it (%v, owner %d, group %d)", r.name, info.Mode(), s.Uid, s.Gid)
}

// needs checks whether the files that the door's knocks need are there, and whether the
// reader may read them.
func (h *Host) needs(d *config.Door, r *reader) (all []Finding) {
	for _, k := range d.Knocks {
		if _, ok := k.Rule.(knock.Equipped); ok {
			continue // their files are read: see equipped
		}
		of := fmt.Sprintf("knock %s of door %s", k.Name, d.Name)
		for _, name := range k.Needs().Files {
			path := h.path(name)
			_, err := os.Stat(path)
			why := r.kept(path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				all = append(all, Finding{Problem, name, "does not exist, and " + of + " needs it",
					"create it, or change the knock in the configuration"})
			case err != nil:
				all = append(all, Finding{Note, name, fmt.Sprintf("cannot see whether %s can use it: %v", of, err), "sudo doorward doctor"})
			case why != "":
				file := files.Quoted(path)
				all = append(all, Finding{Problem, name, why + ", and " + of + " needs it",
					fmt.Sprintf("chgrp doorward %s && chmod g+r %[1]s", file)})
			default:
				all = append(all, Finding{OK, name, "is there for " + of, ""})
			}
		}
	}
	return all
}

// mayReadConfiguration says what keeps the reader from a configuration that we can
// read.
func mayReadConfiguration(r *reader, path string) []Finding {
	for _, name := range []string{path, filepath.Dir(path)} {
		info, err := os.Stat(name)
		if r == nil || err != nil {
			return nil
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok && !readable(info.Mode(), int(s.Uid), int(s.Gid), r) {
			dir, file := files.Quoted(filepath.Dir(path)), files.Quoted(path)
			return []Finding{{Problem, "configuration", fmt.Sprintf("%s may not read %s (%v, owner %d, group %d)",
				r.name, name, info.Mode(), s.Uid, s.Gid),
				fmt.Sprintf("chgrp doorward %s %s && chmod g+rX %[1]s %[2]s", dir, file)}}
		}
	}
	return nil
}

// readable decides as the kernel does (path_resolution(7)): by the first of owner,
// group and others that fits, and by no other.
func readable(mode fs.FileMode, uid, gid int, r *reader) bool {
	switch {
	case uid == r.uid:
		return mode&0o400 != 0
	case slices.Contains(r.gids, gid):
		return mode&0o040 != 0
	}
	return mode&0o004 != 0
}
