package setup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/tables"
)

// Machine is the machine that a configuration is for, and how to ask it. Only Root must
// be set: what cannot be asked is not known. It is safe for concurrent use if its
// functions are.
type Machine struct {
	// Root is the root of the file system.
	Root fs.FS
	// Flows says why the kernel's UDP flows cannot be seen, nil if they can; see
	// presence.Watcher.FlowsVisible. It is nil where no daemon runs.
	Flows func() error
	// SSHD returns the TCP ports on which SSH servers listen for others than this
	// machine, in ascending order: none if none runs, or if that cannot be seen.
	SSHD func() []uint16
	// Addresses returns the addresses of the machine that strangers may reach.
	Addresses func() []netip.Addr
	// Firewalls returns the machine's other firewalls that do not, or may not, let the
	// ports of the doors and their knocks through, and what to do about that.
	Firewalls func(*config.Config) []Firewall
}

// Firewall is another firewall that stands in the way, or may.
type Firewall struct {
	Name  string   // "ufw", or the chain that decides
	Steps []string // to do about it, commands and words
}

// Unseen returns why nobody who uses the door's UDP ports would be seen, nil if they
// would, if that is not known, or if it has none.
func (m Machine) Unseen(d *config.Door) error {
	if m.Flows == nil || !port.Has(d.Ports, port.UDP) {
		return nil
	}
	return m.Flows()
}

// Blind returns the mistakes of doors whose presence depends on UDP flows, if they
// cannot be seen on this machine, and what to say if only root may ask that. The file's
// path and text are for the places of the mistakes.
func (m Machine) Blind(c *config.Config, path string, text []byte) (mistakes []*tables.Mistake, notAsked []string) {
	var doors []string
	for i := range c.Doors {
		if c.Doors[i].ByFlows() {
			doors = append(doors, c.Doors[i].Name)
		}
	}
	if m.Flows == nil || len(doors) == 0 {
		return nil, nil
	}
	switch err := m.Flows(); {
	case errors.Is(err, fs.ErrPermission):
		return nil, []string{fmt.Sprintf("whether the kernel shows flows over UDP, by which door %s would know that "+
			"somebody is in, was not checked: run as root", tables.Listed(doors))}
	case err != nil:
		return c.Blind(path, text, err.Error()), nil
	}
	return nil, nil
}

// has reports whether a file, directory or symbolic link is there.
func (m Machine) has(p string) bool {
	_, err := fs.Lstat(m.Root, strings.TrimPrefix(p, "/"))
	return err == nil
}

// sshUnit returns the unit of the SSH server and why it is that one: an enabled
// socket first, because starting the service beside it would listen for nothing.
func (m Machine) sshUnit() (unit, why string, ok bool) {
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
func (m Machine) authLog() string {
	for _, p := range authLogs {
		if m.has(p) {
			return p
		}
	}
	return ""
}

// hasJournal reports whether systemd's journal is kept, on disk or in memory.
func (m Machine) hasJournal() bool {
	return m.has("/var/log/journal") || m.has("/run/log/journal")
}

// named returns the ports that have a name in /etc/services.
func (m Machine) named() map[port.Port]bool {
	ports := map[port.Port]bool{}
	f, err := m.Root.Open("etc/services")
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

// Local returns the ports that the kernel assigns to outgoing connections, or Linux's
// default and false where they cannot be read.
func (m Machine) Local() (l port.Local, known bool) {
	l, err := port.ReadLocal(m.Root)
	if err != nil {
		return port.Local{First: 32768, Last: 60999}, false
	}
	return l, true
}

// notPublic are the ends of names that no other machine can be expected to resolve:
// RFC 6762, RFC 8375, and what clouds and installers make up.
var notPublic = []string{".local", ".localdomain", ".internal", ".lan", ".home.arpa", ".home"}

// host returns a name or address by which visitors may reach the machine: a guess, ""
// for none. A name is proposed if it looks like one in the public DNS.
func (m Machine) host() string {
	text, err := fs.ReadFile(m.Root, "etc/hostname") // hostname(5)
	name := strings.ToLower(strings.TrimSpace(string(text)))
	public := err == nil && strings.Contains(name, ".") && config.CheckHost(name) == nil
	for _, end := range notPublic {
		public = public && !strings.HasSuffix(name, end)
	}
	if public {
		return name
	}
	if m.Addresses == nil {
		return ""
	}
	for _, a := range m.Addresses() {
		if a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a) {
			return a.String()
		}
	}
	return ""
}

// shared are the addresses between customers and a carrier's address translation
// (RFC 6598), which strangers cannot reach.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// scanned are the ports in the ranges of share.Lots that are among the thousand
// that port scanners try first (nmap's default selection): a touch there means
// nothing, and costs strangers penalties.
var scanned = [...]uint16{
	20000, 20005, 20031, 20221, 20222, 20828, 21571, 22939, 23502, 24444, 24800, 25734,
	25735, 26214, 27000, 27352, 27353, 27355, 27356, 27715, 28201, 30000, 30718, 30951,
	31038, 31337, 61532, 61613, 61900, 62078, 63331, 64623, 64680, 65000, 65129, 65310,
	65389,
}
