//go:build linux

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/doorward/doorward/internal/cage"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/gateway"
	"github.com/doorward/doorward/internal/launcher"
	"github.com/doorward/doorward/internal/presence"
)

// confinement locks the daemon in for its first configuration, and says of a
// later one whether it can be served from inside. Doors' commands are run from
// outside, by a launcher that it makes before.
type confinement struct {
	configPath string
	state      string // directory
	spare      string // directory for what the launcher remembers, when state takes nothing
	log        *slog.Logger
	walls      *cage.Walls             // nil before the first configuration
	launcher   *launcher.Launcher      // nil when the first configuration has no commands
	launched   chan *launcher.Launcher // takes launcher, of which it holds one
}

// confine is gateway.Options.Confine.
func (c *confinement) confine(conf *config.Config) error {
	walls := wallsFor(c.configPath, conf)
	if c.walls != nil {
		return c.serves(walls, conf)
	}
	if specs := commands(conf); len(specs) > 0 {
		l, err := launcher.Start(firstThatTakesFiles(c.state, c.spare), specs, "-c", c.configPath)
		if err != nil {
			return err
		}
		c.launcher = l
		c.launched <- l
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

// serves says whether a configuration can be served from inside.
func (c *confinement) serves(walls cage.Walls, conf *config.Config) error {
	const hint = "the daemon has locked itself in when it started; systemctl restart doorward"
	if specs := commands(conf); len(specs) > 0 && c.launcher == nil {
		return fmt.Errorf("door %q has commands, which cannot be started any more: %s", specs[0].Door, hint)
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

// service is what runs a door's commands.
func (c *confinement) service(d config.Door) gateway.Service { return c.launcher.Service(specOf(d)) }

// watch returns an error when there was a launcher and it has ended, nil when ctx
// ends.
func (c *confinement) watch(ctx context.Context) error {
	select {
	case l := <-c.launched:
		return l.Wait(ctx)
	case <-ctx.Done():
		return nil
	}
}

// Launch is the launcher of a daemon with this configuration file.
func Launch(configPath string, log *slog.Logger) error {
	return launcher.Serve(log, func() ([]launcher.Spec, error) {
		conf, _, err := config.Load(configPath)
		if err != nil {
			return nil, err
		}
		return commands(conf), nil
	})
}

// commands are the services of a configuration that are commands.
func commands(conf *config.Config) (specs []launcher.Spec) {
	for _, d := range conf.Doors {
		if d.Service != nil && d.Service.Unit == "" {
			specs = append(specs, specOf(d))
		}
	}
	return specs
}

func specOf(d config.Door) launcher.Spec {
	return launcher.Spec{Door: d.Name, Start: d.Service.Start, Stop: d.Service.Stop, Status: d.Service.Status}
}

// wallsFor is what the daemon needs for a configuration. It writes nothing but
// the store and the sockets, which are open.
func wallsFor(configPath string, conf *config.Config) cage.Walls {
	w := cage.Walls{
		Read: []string{
			filepath.Dir(configPath),
			"/var/log", "/run/log/journal", "/etc/machine-id", // logs; journalctl(1)
			"/etc/localtime", "/usr/share/zoneinfo", // the stamps of a syslog
			"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", // who gives an order
			"/proc", "/sys/fs/cgroup", // boot, ports' holders; Go's share of the processors
		},
		Keep: []cap.Value{cap.NET_ADMIN, cap.NET_BIND_SERVICE},
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
