//go:build linux

package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/tables"
)

// daemonWhere is the Where of findings about the daemon, and of its own warnings.
const daemonWhere = "daemon"

// daemonUnit is the daemon's own unit.
const daemonUnit = "doorward.service"

// fresh reports whether the daemon has never run here, and is not meant to yet: it is
// not enabled, and has left no state behind. Operators run doctor before they guard a
// machine.
func (h *Host) fresh(c *config.Config) bool {
	if h.enabled(daemonUnit) {
		return false
	}
	state, err := os.ReadDir(h.path(cmp.Or(c.Gateway.State, config.DefaultState)))
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(state) == 0
}

// absent says why no daemon answers: err is the client's.
func (h *Host) absent(ctx context.Context, c *config.Config, err error) []Finding {
	const where = daemonWhere
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EACCES) {
		return []Finding{{Problem, where, fmt.Sprintf("%s: permission denied", h.Control),
			"run doctor as root, or join the group doorward"}}
	}
	var own service.Status
	if f, err := h.Unit(daemonUnit).Facts(ctx); err == nil {
		own = f.Own
	}
	switch {
	case own.State == service.Failed:
		return []Finding{{Problem, where, fmt.Sprintf("its unit %s has failed: %s", daemonUnit, own.Detail), "journalctl -u doorward"}}
	case own.State == service.Running:
		return []Finding{{Problem, where, fmt.Sprintf("its unit %s is active, but it cannot be asked: %v", daemonUnit, err),
			"journalctl -u doorward\nsystemctl restart doorward"}}
	case h.fresh(c) && len(c.Doors) == 0:
		return []Finding{{Note, where, "has not been started yet: nothing is guarded", "first a configuration: doorward init"}}
	case h.fresh(c):
		return []Finding{{Note, where, "has not been started yet: nothing is guarded", "systemctl enable --now doorward"}}
	}
	return []Finding{{Warning, where, err.Error(), "systemctl start doorward\njournalctl -u doorward says why it does not run"}}
}

// daemonFindings returns what the daemon says about itself.
func daemonFindings(socket string, s control.Status) []Finding {
	const where = daemonWhere
	all := []Finding{{OK, where, fmt.Sprintf("doorward %s answers at %s", s.Version, socket), ""}}
	if !s.Fence.Up || s.Fence.Mismatch != "" {
		what := "is down: nothing is guarded"
		if s.Fence.Up {
			what = "differs from what it should be: " + s.Fence.Mismatch
		}
		all = append(all, Finding{Problem, "fence", what, "journalctl -u doorward; systemctl restart doorward"})
	}
	for _, w := range s.Warnings {
		all = append(all, Finding{Warning, where, w, "doorward status"})
	}
	if s.Pending != nil {
		all = append(all, Finding{Warning, where, fmt.Sprintf("a configuration waits to be confirmed until %s",
			s.Pending.Until.Local().Format("15:04:05")), "doorward apply --keep, or --undo"})
	}
	for _, d := range s.Doors {
		if d.State == control.StateFailsafe {
			all = append(all, Finding{Problem, "door " + d.Name, "is in failsafe and ignores knocks: " + d.Reason,
				"repair its log, or: doorward arm " + d.Name})
		}
	}
	return all
}

// daemonPID returns the process that listens at the control socket, or 0. It is the
// one that called listen(2): see unix(7), SO_PEERCRED.
func (h *Host) daemonPID() int {
	c, err := net.Dial("unix", h.Control)
	if err != nil {
		return 0
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if u, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(u.Pid)
		}
	})
	return pid
}

// capabilities checks what the daemon may do; status is its /proc/PID/status.
func capabilities(pid int, status string, c *config.Config) []Finding {
	where := fmt.Sprintf("daemon (pid %d)", pid)
	var effective uint64
	var err error = fs.ErrNotExist
	for line := range strings.Lines(status) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			effective, err = strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	if err != nil {
		return []Finding{{Note, where, "its capabilities cannot be read", "run doctor as root"}}
	}
	var all []Finding
	var has []string
	for _, n := range needed(c) {
		bit, err := cap.FromName(strings.ToLower(n.capability))
		switch {
		case slices.Contains(has, n.capability):
		case err == nil && effective&(1<<bit) != 0:
			has = append(has, n.capability)
		default:
			all = append(all, Finding{Problem, where, fmt.Sprintf("lacks %s, which it needs %s", n.capability, n.why),
				"compare its unit with the one that comes with doorward: systemctl cat doorward"})
		}
	}
	if len(all) == 0 {
		all = append(all, Finding{OK, where, "has " + tables.Listed(has), ""})
	}
	return all
}

// need is a capability, by its name in capabilities(7), and what for.
type need struct{ capability, why string }

// needed returns the capabilities that a daemon with this configuration needs.
func needed(c *config.Config) []need {
	all := []need{{"CAP_NET_ADMIN", "to change nftables"}}
	if p := privileged(c); p != 0 {
		all = append(all, need{"CAP_NET_BIND_SERVICE", fmt.Sprintf("to listen on port %d", p)})
	}
	for _, d := range c.Doors {
		for _, k := range d.Knocks {
			for _, name := range k.Needs().Capabilities {
				all = append(all, need{name, fmt.Sprintf("for knock %s of door %s", k.Name, d.Name)})
			}
		}
	}
	return all
}

// privileged returns a knock's port below 1024, or 0.
func privileged(c *config.Config) uint16 {
	for _, d := range c.Doors {
		for _, k := range d.Knocks {
			for _, p := range k.Hears() {
				if p.Port < 1024 {
					return p.Port
				}
			}
		}
	}
	return 0
}

// boot reports whether the machine guards its doors after the next boot.
func (h *Host) boot() []Finding {
	const unit = daemonUnit
	if h.contained() {
		return []Finding{{Note, "boot", "this is a container: after a boot nothing is guarded until its engine starts it again",
			"see that the engine does: restart: always in a compose file, or --restart=always"}}
	}
	if _, err := os.Stat(h.path("/run/systemd/system")); err != nil {
		return []Finding{{Note, "boot", "there is no systemd here: see that something starts doorwardd",
			"an OpenRC and a SysV script come with doorward"}}
	}
	if h.enabled(unit) {
		return []Finding{{OK, "boot", unit + " is enabled", ""}}
	}
	for _, dir := range service.UnitDirs {
		if _, err := os.Stat(h.path(dir + "/" + unit)); err == nil {
			return []Finding{{Warning, "boot", unit + " is not enabled: after a boot nothing is guarded",
				"systemctl enable " + unit}}
		}
	}
	return []Finding{{Warning, "boot", unit + " is not installed: after a boot nothing is guarded",
		"install doorward's package, or its unit"}}
}

// contained reports whether this is a container without systemd in it, whose engine has
// to start the daemon: Docker and Podman leave a file in each, and elsewhere the daemon
// is the first process.
func (h *Host) contained() bool {
	if _, err := os.Stat(h.path("/run/systemd/system")); err == nil {
		return false
	}
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(h.path(mark)); err == nil {
			return true
		}
	}
	return h.daemonPID() == 1
}

// enabled reports whether something that systemd starts at boot wants the unit. It
// is read from the links that systemctl enable makes; see systemd.unit(5).
func (h *Host) enabled(unit string) bool {
	for _, kind := range []string{"wants", "requires"} {
		found, err := filepath.Glob(h.path("/etc/systemd/system/*." + kind + "/" + unit))
		if err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}
