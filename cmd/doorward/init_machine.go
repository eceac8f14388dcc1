package main

import (
	"bufio"
	"io/fs"
	"path"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/service"
)

// machine is what init and check find out about the machine they run on.
type machine struct {
	root fs.FS // the root of the file system
	// flows says why the kernel's flows cannot be seen, nil if they can, as
	// presence.Watcher.FlowsVisible does. It is nil where no daemon runs.
	flows func() error
}

// unseen says why who talks to the door's UDP ports would not be seen, nil if they
// would, or if it has none.
func (m machine) unseen(d *config.Door) error {
	if m.flows == nil || !port.Has(d.Ports, port.UDP) {
		return nil
	}
	return m.flows()
}

// has says whether a file, directory or symbolic link is there.
func (m machine) has(p string) bool {
	_, err := fs.Lstat(m.root, strings.TrimPrefix(p, "/"))
	return err == nil
}

// sshUnit returns the unit of the SSH server and why it is that one: an enabled
// socket first, because starting the service beside it would listen for nothing.
func (m machine) sshUnit() (unit, why string, ok bool) {
	for _, unit := range []string{"ssh.socket", "sshd.socket"} {
		p := path.Join(service.UnitDirs[0], "sockets.target.wants", unit)
		if m.has(p) {
			return unit, "enabled here: " + p, true
		}
	}
	for _, unit := range []string{"ssh.service", "sshd.service", "ssh.socket", "sshd.socket"} {
		for _, dir := range service.UnitDirs {
			if p := path.Join(dir, unit); m.has(p) {
				return unit, "found here: " + p, true
			}
		}
	}
	return "", "", false
}

// authLogs are the files that syslog daemons write logins to: Red Hat's and the
// article's, then Debian's.
var authLogs = [...]string{"/var/log/secure", "/var/log/auth.log"}

// authLog returns the auth log, "" for none.
func (m machine) authLog() string {
	for _, p := range authLogs {
		if m.has(p) {
			return p
		}
	}
	return ""
}

// hasJournal says whether systemd's journal is kept, on disk or in memory.
func (m machine) hasJournal() bool {
	return m.has("/var/log/journal") || m.has("/run/log/journal")
}

// named returns the ports that have a name in /etc/services.
func (m machine) named() map[port.Port]bool {
	ports := map[port.Port]bool{}
	f, err := m.root.Open("etc/services")
	if err != nil {
		return ports // a machine without the file names no ports
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) < 2 {
			continue
		}
		if r, err := port.ParseRange(words[1]); err == nil {
			ports[port.Port{Proto: r.Proto, Number: r.First}] = true
		}
	}
	return ports
}

// local returns the ports that the kernel gives to outgoing connections, and
// Linux's default with false where that cannot be read.
func (m machine) local() (l port.Local, known bool) {
	l, err := port.ReadLocal(m.root)
	if err != nil {
		return port.Local{First: 32768, Last: 60999}, false
	}
	return l, true
}

// scanned are the ports in the ranges of share.Lots that are among the thousand
// that port scanners try first (nmap's default selection): a touch there means
// nothing, and costs strangers penalties.
var scanned = [...]uint16{
	20000, 20005, 20031, 20221, 20222, 20828, 21571, 22939, 23502, 24444, 24800, 25734,
	25735, 26214, 27000, 27352, 27353, 27355, 27356, 27715, 28201, 30000, 30718, 30951,
	31038, 31337, 61532, 61613, 61900, 62078, 63331, 64623, 64680, 65000, 65129, 65310,
	65389,
}
