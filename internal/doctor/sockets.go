//go:build linux

package doctor

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/sockdiag"
	"github.com/doorward/doorward/internal/tables"
)

// listener is a socket that has a port, mostly to accept connections or datagrams from
// anybody, and the process that has it.
type listener struct {
	port port.Port
	addr netip.Addr
	pid  int    // 0 when it cannot be seen
	name string // of the process
}

// holder names the process for people.
func (l listener) holder() string {
	if l.pid == 0 {
		return "a process that only root can see"
	}
	return fmt.Sprintf("%s (pid %d)", l.name, l.pid)
}

// listeners lists the sockets that listen in the caller's network namespace, as the
// daemon does.
func (h *Host) listeners() ([]listener, error) {
	sockets, err := sockdiag.Listening([]port.Range{{Proto: port.TCP, First: 1, Last: 65535}, {Proto: port.UDP, First: 1, Last: 65535}})
	if err != nil {
		return nil, err
	}
	return h.held(sockets), nil
}

// SSHServers returns the TCP ports on which SSH servers listen for others than this machine,
// in ascending order: in the caller's network namespace, and as far as other users'
// processes may be seen.
func SSHServers() []uint16 {
	all, err := (&Host{}).listeners()
	if err != nil {
		return nil
	}
	var ports []uint16
	for _, l := range all {
		if l.name == "sshd" && l.port.Proto == port.TCP && !l.addr.IsLoopback() {
			ports = append(ports, l.port.Number)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// connected lists the UDP sockets that are connected and have the port of a knock:
// nobody else can bind it then.
func (h *Host) connected(c *config.Config) ([]listener, error) {
	var at []port.Range
	for _, d := range c.Doors {
		for _, k := range d.Knocks {
			for _, place := range k.Hears() {
				if r := place.Range(); r.Proto == port.UDP {
					at = append(at, r)
				}
			}
		}
	}
	sockets, err := sockdiag.Live(at)
	return h.held(sockets), err
}

// held finds the processes that have the sockets.
func (h *Host) held(sockets []sockdiag.Socket) []listener {
	all := make([]listener, len(sockets))
	inodes := map[string][]int{} // which of all have this socket
	for i, s := range sockets {
		all[i] = listener{port: port.Port{Proto: s.Proto, Number: s.Local.Port()}, addr: s.Local.Addr()}
		inode := fmt.Sprint(s.Inode)
		inodes[inode] = append(inodes[inode], i)
	}
	// Several processes may have a listener. The one with the lowest number has
	// probably made it, and is the one that an operator knows. systemd, which holds the
	// sockets of others, the daemon's too, comes last.
	pids := h.pids()
	if len(pids) > 0 && pids[0] == 1 {
		pids = append(pids[1:], 1)
	}
	for _, pid := range pids {
		for inode := range h.socketsOf(pid) {
			for _, i := range inodes[inode] {
				if all[i].pid == 0 {
					all[i].pid, all[i].name = pid, h.processName(pid)
				}
			}
		}
	}
	return all
}

// pids lists the processes, lowest first.
func (h *Host) pids() []int {
	entries, err := os.ReadDir(h.path("/proc"))
	if err != nil {
		return nil
	}
	var all []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

// socketsOf returns the inodes of a process's sockets, as far as they may be seen.
func (h *Host) socketsOf(pid int) map[string]bool {
	dir := h.path(fmt.Sprintf("/proc/%d/fd", pid))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	all := map[string]bool{}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if inode, ok := strings.CutPrefix(to, "socket:["); err == nil && ok {
			all[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return all
}

// processName names a process for people. An sshd that only serves a session
// also listens, for what its visitor forwards, and is no server: see the titles
// that it gives itself (sshd.c, setproctitle).
func (h *Host) processName(pid int) string {
	name := strings.TrimSpace(h.readProc(pid, "comm"))
	title, isTitle := strings.CutPrefix(h.readProc(pid, "cmdline"), "sshd: ")
	if name == "sshd" && isTitle && !strings.Contains(title, "[listener]") {
		return "a port forwarding of an SSH session"
	}
	return name
}

// running reports whether a process of that name runs.
func (h *Host) running(name string) bool {
	for _, pid := range h.pids() {
		if strings.TrimSpace(h.readProc(pid, "comm")) == name {
			return true
		}
	}
	return false
}

// taken looks for others on the ports of the knocks.
func taken(c *config.Config, all []listener, daemon int) []Finding {
	var found []Finding
	for _, d := range c.Doors {
		var ours, hidden, kept []string
		for _, k := range d.Knocks {
			for _, at := range k.Hears() {
				p := at.AsPort()
				switch l, others := holding(all, p, daemon); {
				case others && l.pid == 0:
					hidden = append(hidden, p.String())
				case others && l.pid == 1 && daemon == 0:
					kept = append(kept, p.String())
				case others:
					found = append(found, Finding{Problem, p.String(), fmt.Sprintf("is taken by %s: door %s cannot"+
						" listen for its knock", l.holder(), d.Name), "stop it, or change the knock: " + another(&d, k)})
				case l.pid != 0:
					ours = append(ours, p.String())
				}
			}
		}
		where := "door " + d.Name
		if len(ours) > 0 {
			found = append(found, Finding{OK, where, "doorward listens on " + strings.Join(ours, ", "), ""})
		}
		if len(hidden) > 0 {
			found = append(found, Finding{Note, where, fmt.Sprintf("only root can see who listens on %s",
				strings.Join(hidden, ", ")), "sudo doorward doctor"})
		}
		if len(kept) > 0 {
			found = append(found, Finding{Note, where, fmt.Sprintf("systemd holds %s: for the daemon, which does not run, or"+
				" for a socket unit", strings.Join(kept, ", ")), "systemctl list-sockets"})
		}
	}
	return found
}

// another returns what to type, or to edit, for another knock.
func another(d *config.Door, k config.Knock) string {
	if _, ok := k.Rule.(knock.Redrawn); ok {
		return "doorward rotate --door " + d.Name
	}
	return fmt.Sprintf("%s of door %s in the configuration", k.Name, d.Name)
}

// holding finds who has a port: somebody other than the daemon, or else the daemon, or
// else nobody.
func holding(all []listener, p port.Port, daemon int) (holder listener, others bool) {
	for _, l := range all {
		if l.port != p {
			continue
		}
		if l.pid == 0 || l.pid != daemon && l.name != "doorwardd" {
			return l, true
		}
		holder = l
	}
	return holder, false
}

// elsewhere looks for ways round the doors.
func elsewhere(c *config.Config, all []listener) []Finding {
	var found []Finding
	for i := range c.Doors {
		found = append(found, round(c, &c.Doors[i], all)...)
	}
	return found
}

// round looks for processes behind a door, and, if it is an SSH door, for any sshd, that
// listen also on a port that no door guards.
func round(c *config.Config, d *config.Door, all []listener) []Finding {
	behind := map[int]bool{} // processes behind this door
	var held []string
	for _, l := range all {
		if port.Within(d.Ports, l.port) && l.pid > 1 { // systemd holds sockets of others
			behind[l.pid] = true
			held = append(held, fmt.Sprintf("%s on %s", l.holder(), l.port))
		}
	}
	var found []Finding
	if len(held) > 0 {
		slices.Sort(held)
		found = []Finding{{OK, "door " + d.Name, "behind it is " + strings.Join(slices.Compact(held), ", "), ""}}
	}
	for _, l := range all {
		sshd := d.SSH() && l.name == "sshd"
		if !behind[l.pid] && !sshd || l.addr.IsLoopback() || guardedByAny(c, l.port) {
			continue
		}
		f := Finding{Note, l.port.String(), fmt.Sprintf("%s, which is behind door %s, listens here too, and no door"+
			" guards this port", l.holder(), d.Name), ""}
		if sshd {
			f.Verdict = Problem
			f.What = fmt.Sprintf("%s listens here: a way in round door %s that needs no knock", l.holder(), d.Name)
			f.Do = fmt.Sprintf("add %q to the ports of [door.%s], or take the port out of sshd_config", l.port, d.Name)
		}
		if !slices.Contains(found, f) { // it listens over both families
			found = append(found, f)
		}
	}
	return found
}

func guardedByAny(c *config.Config, p port.Port) bool {
	return slices.ContainsFunc(c.Doors, func(d config.Door) bool { return port.Within(d.Ports, p) })
}

// doorNames returns "door ssh" or "doors ssh and web".
func doorNames(c *config.Config) string {
	var names []string
	for _, d := range c.Doors {
		names = append(names, d.Name)
	}
	if len(names) == 1 {
		return "door " + names[0]
	}
	return "doors " + tables.Listed(names)
}
