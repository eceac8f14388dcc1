//go:build linux

package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/doorward/doorward/internal/cage"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/presence"
)

// confinement locks the daemon in for its first configuration, and says of a
// later one whether it can be served from inside.
type confinement struct {
	configPath string
	log        *slog.Logger
	walls      *cage.Walls // nil before the first configuration, and without a cage
	begun      bool
}

// confine is gateway.Options.Confine.
func (c *confinement) confine(conf *config.Config) error {
	door := commandDoor(conf)
	walls := wallsFor(c.configPath, conf)
	if !c.begun {
		c.begun = true
		if door != "" {
			// What they start would be in the cage, and an sshd in a cage lets
			// nobody in.
			c.log.Warn("the daemon is not locked in, since what a door's commands start would be locked in with it; "+
				"a systemd unit needs no such freedom", "door", door)
			return nil
		}
		missing, err := walls.Enter()
		if err != nil {
			return fmt.Errorf("lock the daemon in: %w", err)
		}
		for _, m := range missing {
			c.log.Warn(m)
		}
		c.log.Info("the daemon is locked in", "capabilities", cap.GetProc().String())
		c.walls = &walls
		return nil
	}
	if c.walls == nil {
		return nil
	}
	const hint = "the daemon has locked itself in when it started; systemctl restart doorward"
	if door != "" {
		return fmt.Errorf("door %q has commands, which cannot be started any more: %s", door, hint)
	}
	for _, path := range walls.Read {
		if !slices.ContainsFunc(c.walls.Read, func(dir string) bool { return within(path, dir) }) {
			return fmt.Errorf("%q cannot be read any more: %s", path, hint)
		}
	}
	if len(walls.Programs) > len(c.walls.Programs) {
		return fmt.Errorf("journalctl cannot be started any more: %s", hint)
	}
	return nil
}

// commandDoor is a door whose service is commands, "" for none.
func commandDoor(conf *config.Config) string {
	for _, d := range conf.Doors {
		if d.Service != nil && d.Service.Unit == "" {
			return d.Name
		}
	}
	return ""
}

// wallsFor is what the daemon needs for a configuration.
func wallsFor(configPath string, conf *config.Config) cage.Walls {
	w := cage.Walls{
		Read: []string{
			filepath.Dir(configPath),
			"/var/log", "/run/log/journal", "/etc/machine-id", // logs; journalctl(1)
			"/etc/localtime", "/usr/share/zoneinfo", // the stamps of a syslog
			"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", // who gives an order
			"/proc", "/sys/fs/cgroup", // boot, ports' holders; Go's share of the processors
		},
		Write: []string{conf.Gateway.State, filepath.Dir(conf.Gateway.Control)},
		Keep:  []cap.Value{cap.NET_ADMIN, cap.NET_BIND_SERVICE},
	}
	if os.Geteuid() == 0 {
		// Root without them could not use files of the daemon's own user.
		w.Keep = append(w.Keep, cap.DAC_OVERRIDE, cap.DAC_READ_SEARCH)
	}
	for _, d := range conf.Doors {
		for _, f := range d.Presence.Files {
			w.Read = append(w.Read, filepath.Dir(f))
		}
		if d.Presence.Logins == config.LoginsJournal || d.Presence.Logins == config.LoginsAuto {
			w.Programs = presence.JournalPrograms()
		}
	}
	return w
}

// within says whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
