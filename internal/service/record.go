//go:build linux

package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// record is the content of a pid file: "PID START BOOT". The start time distinguishes the
// process from a later one of the same PID, and the boot ID distinguishes this boot's
// start times from an earlier one's. PID and start time 0 stand for a service that its
// own commands started.
type record struct {
	pid   int
	start string
	boot  string
}

const bootIDFile = "/proc/sys/kernel/random/boot_id"

func bootID() (string, error) {
	raw, err := os.ReadFile(bootIDFile)
	return strings.TrimSpace(string(raw)), err
}

func (r record) text() string { return fmt.Sprintf("%d %s %s\n", r.pid, r.start, r.boot) }

// write replaces the file atomically, so that a reader never sees half of it.
func (r record) write(path string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(r.text()), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// readRecord returns the record of this boot, false when there is none. A file that is
// not as write writes it is an error: a truncated one could pass for one of another boot,
// and a running process would be forgotten.
func readRecord(path string) (record, bool, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, err
	}
	boot, err := bootID()
	if err != nil {
		return record{}, false, err
	}
	f := strings.Fields(string(raw))
	if len(f) != 3 {
		return record{}, false, fmt.Errorf("%q does not hold \"PID START BOOT\": %.60q", path, raw)
	}
	pid, err := strconv.Atoi(f[0])
	if err != nil || pid < 0 {
		return record{}, false, fmt.Errorf("%q does not begin with a pid: %.60q", path, raw)
	}
	r := record{pid: pid, start: f[1], boot: f[2]}
	if _, err := strconv.ParseUint(r.start, 10, 64); err != nil || r.text() != string(raw) {
		return record{}, false, fmt.Errorf("%q is not as it was written: %.60q", path, raw)
	}
	return r, r.boot == boot, nil
}

// outputFile returns where a command's output goes, beside its pid file.
func outputFile(pidFile string) string {
	return strings.TrimSuffix(pidFile, filepath.Ext(pidFile)) + ".out"
}
