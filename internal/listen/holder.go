//go:build linux

package listen

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openError is a port that could not be opened.
type openError struct {
	port uint16
	err  error
}

// explain says it to the operator.
func (f openError) explain() error {
	switch {
	case errors.Is(f.err, unix.EADDRINUSE):
		return fmt.Errorf("%d/tcp: %w: held by %s; choose another port in listen, or stop it",
			f.port, f.err, holder(f.port))
	case errors.Is(f.err, unix.EACCES):
		return fmt.Errorf("%d/tcp: %w: ports below 1024 need the capability CAP_NET_BIND_SERVICE; "+
			"choose another port in listen, or give it to the daemon", f.port, f.err)
	}
	return fmt.Errorf("%d/tcp: %w", f.port, f.err)
}

// listenedOn says whether somebody listens on an address's port.
func listenedOn(at unix.Sockaddr) bool {
	var p int
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		p = at.Port
	case *unix.SockaddrInet6:
		p = at.Port
	}
	for _, table := range tables {
		if _, _, ok := findListener(table, uint16(p)); ok {
			return true
		}
	}
	return false
}

// tables list the sockets of the caller's network namespace, proc_net(5).
var tables = [...]string{"/proc/thread-self/net/tcp6", "/proc/thread-self/net/tcp"}

// holder names the process that listens on the port, as well as this process
// may see it.
func holder(p uint16) string {
	for _, table := range tables {
		inode, uid, ok := findListener(table, p)
		if !ok {
			continue
		}
		if pid, name, ok := findProcess("socket:[" + inode + "]"); ok {
			return fmt.Sprintf("%q (process %s)", name, pid)
		}
		return "a process of user id " + uid
	}
	return "a socket that does not listen"
}

// findListener looks for a listening socket in a table as proc_net(5) has it;
// the kernel lists listening sockets first.
func findListener(table string, p uint16) (inode, uid string, ok bool) {
	f, err := os.Open(table)
	if err != nil {
		return "", "", false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan() // the heading
	for lines.Scan() {
		// sl local rem st tx:rx tr:tm retrnsmt uid timeout inode
		v := strings.Fields(lines.Text())
		if len(v) < 10 || v[3] != "0A" {
			return "", "", false
		}
		_, hex, _ := strings.Cut(v[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(n) == p {
			return v[9], v[7], true
		}
	}
	return "", "", false
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
