//go:build linux

package sockdiag

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/doorward/doorward/internal/port"
)

// Holder describes, for people, what is using one of ports, as well as this process
// can see it.
func Holder(ports port.Range) string {
	// A connected UDP socket keeps others from its port, too.
	all, err := list([]port.Range{ports}, 1<<stateListen, 1<<stateClose|1<<stateEstablished)
	if err != nil || len(all) == 0 {
		return "a socket that does not listen"
	}
	s := all[0]
	if pid, name, ok := findProcess(fmt.Sprintf("socket:[%d]", s.Inode)); ok {
		return fmt.Sprintf("%q (process %s)", name, pid)
	}
	return fmt.Sprintf("a process of user id %d", s.UID)
}

// findProcess looks for a process that has the socket open.
func findProcess(socket string) (pid, name string, ok bool) {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return "", "", false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != socket {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		return filepath.Base(dir), strings.TrimSpace(string(comm)), true
	}
	return "", "", false
}
