package setup

import (
	"io/fs"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/sshd"
)

// sshPorts returns the TCP ports of the SSH server behind a unit: those of a socket
// unit, or else those on which a server listens at this moment, or else those of
// sshd_config. There is at least one.
func (m Machine) sshPorts(unit string) []uint16 {
	if strings.HasSuffix(unit, ".socket") {
		if ports := m.socketPorts(unit); len(ports) > 0 {
			return ports
		}
	}
	if m.SSHD != nil {
		if ports := m.SSHD(); len(ports) > 0 {
			return ports
		}
	}
	if c, ok := sshd.Read(m.Root); ok && len(c.Ports) > 0 {
		return c.Ports
	}
	return []uint16{22}
}

// unitPath is where systemd looks for units; of files with the same name the first
// counts (systemd.unit(5), "Unit File Load Path"). Unlike service.UnitDirs it includes
// what generators write: that of Debian's openssh-server turns sshd_config's ports into
// a drop-in of ssh.socket.
var unitPath = []string{
	"etc/systemd/system", "run/systemd/system", "run/systemd/generator", "usr/local/lib/systemd/system",
	"usr/lib/systemd/system", "lib/systemd/system",
}

// socketPorts returns the TCP ports on which a socket unit listens for others than this
// machine, in ascending order.
func (m Machine) socketPorts(unit string) []uint16 {
	var streams []string
	for _, file := range m.unitFiles(unit) {
		text, err := fs.ReadFile(m.Root, file)
		if err != nil {
			continue
		}
		section := ""
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") {
				section = line
			}
			key, value, _ := strings.Cut(line, "=")
			if section != "[Socket]" || strings.TrimSpace(key) != "ListenStream" {
				continue
			}
			if value = strings.TrimSpace(value); value == "" {
				streams = nil // systemd.socket(5): an empty string resets the list
				continue
			}
			streams = append(streams, value)
		}
	}
	var ports []uint16
	for _, s := range streams {
		if n, ok := streamPort(s); ok {
			ports = append(ports, n)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// unitFiles returns the unit's file, if there is one, and its drop-ins in the order in
// which systemd reads them: by name, of the same name only the first.
func (m Machine) unitFiles(unit string) (all []string) {
	for _, dir := range unitPath {
		if file := path.Join(dir, unit); m.has(file) {
			all = append(all, file)
			break
		}
	}
	dropIns := map[string]string{} // by their names
	for _, dir := range unitPath {
		found, err := fs.Glob(m.Root, path.Join(dir, unit+".d", "*.conf"))
		if err != nil {
			continue
		}
		for _, file := range found {
			if name := path.Base(file); dropIns[name] == "" {
				dropIns[name] = file
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(dropIns)) {
		all = append(all, dropIns[name])
	}
	return all
}

// streamPort returns the TCP port of a ListenStream: a number, or an IPv4 address or a
// bracketed IPv6 address with a number. There is none in a path, an abstract name or a
// vsock address, and one at a loopback address does not count.
func streamPort(s string) (uint16, bool) {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return uint16(n), n > 0
	}
	a, err := netip.ParseAddrPort(s)
	return a.Port(), err == nil && a.Port() > 0 && !a.Addr().IsLoopback()
}
