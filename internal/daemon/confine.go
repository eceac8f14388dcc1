//go:build linux

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/gateway"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/launcher"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/presence"
	"github.com/doorward/doorward/internal/sandbox"
)

// confinement puts the daemon into a sandbox for its first configuration, and says
// whether a later one can be used inside it. Doors' commands are run from outside, by a
// launcher that it starts before.
type confinement struct {
	configPath string
	state      string // directory
	spare      string // directory for the launcher's files if state cannot be written to
	log        *slog.Logger
	policy     *sandbox.Policy         // nil before the first configuration
	launcher   *launcher.Launcher      // nil if the first configuration has no commands
	launched   chan *launcher.Launcher // receives launcher; has room for one
	fixed      chan *fileWatch         // receives the watch on the programs' files; has room for one
}

// confine is gateway.Options.Confine.
func (c *confinement) confine(conf *config.Config) error {
	policy := policyFor(c.configPath, conf)
	if c.policy != nil {
		return c.serves(policy, conf)
	}
	for _, cut := range cutTo(&policy, c.filed()) {
		c.log.Error(cut, "file", c.configPath, "hint", "fix the file, and restart the daemon")
	}
	if specs := commands(conf); len(specs) > 0 {
		l, err := launcher.Start(firstWritable(c.state, c.spare), specs, "-c", c.configPath)
		if err != nil {
			return err
		}
		c.launcher = l
		c.launched <- l
	}
	kept, err := newFileWatch(files(policy.Programs))
	if err != nil {
		c.log.Warn("cannot watch for upgrades of journalctl: restart the daemon after one", "err", err)
	}
	missing, err := policy.Enter()
	if err != nil {
		return fmt.Errorf("set up the daemon's sandbox: %w", err)
	}
	c.fixed <- kept
	for _, m := range missing {
		c.log.Warn(m)
	}
	c.log.Info("the daemon is sandboxed", "capabilities", cap.GetProc().String())
	c.policy = &policy
	return nil
}

// filed returns the policy for the configuration in the file, or for an empty one if
// the file cannot be used.
func (c *confinement) filed() sandbox.Policy {
	conf, _, err := config.Load(c.configPath)
	if err != nil {
		conf = &config.Config{}
	}
	return policyFor(c.configPath, conf)
}

// cutTo removes from a policy what that of the file does not allow, and returns messages
// about what it removed. A gateway that starts with the previous configuration reads it
// from its store. Somebody who had taken over the daemon could have written to the
// store, but not to the file.
func cutTo(policy *sandbox.Policy, filed sandbox.Policy) (cut []string) {
	policy.Read = slices.DeleteFunc(policy.Read, func(path string) bool {
		if slices.ContainsFunc(filed.Read, func(dir string) bool { return within(path, dir) }) {
			return false
		}
		cut = append(cut, fmt.Sprintf("%q cannot be read, since the file does not name it", path))
		return true
	})
	policy.Keep = slices.DeleteFunc(policy.Keep, func(c cap.Value) bool {
		if c == cap.NET_BIND_SERVICE || slices.Contains(filed.Keep, c) {
			return false
		}
		cut = append(cut, fmt.Sprintf("%s is not kept, since no knock of the file needs it", capability(c)))
		return true
	})
	policy.Calls = slices.DeleteFunc(policy.Calls, func(call string) bool {
		if slices.Contains(filed.Calls, call) {
			return false
		}
		cut = append(cut, fmt.Sprintf("the system call %s cannot be made, since no knock of the file needs it", call))
		return true
	})
	if policy.Datagrams && !filed.Datagrams {
		policy.Datagrams = false
		cut = append(cut, "no datagram can be heard, since no knock of the file is one")
	}
	if policy.Connect && !filed.Connect {
		policy.Connect = false
		cut = append(cut, "D-Bus cannot be reached, since the file names no unit")
	}
	return cut
}

// serves returns an error if a configuration cannot be used inside the sandbox.
func (c *confinement) serves(policy sandbox.Policy, conf *config.Config) error {
	const hint = "the sandbox was set up when the daemon started; systemctl restart doorward"
	if specs := commands(conf); len(specs) > 0 && c.launcher == nil {
		return fmt.Errorf("door %q has commands, which cannot be started any more: %s", specs[0].Door, hint)
	}
	if policy.Connect && !c.policy.Connect {
		return fmt.Errorf("door %q has a unit, and D-Bus cannot be reached any more: %s", unitDoor(conf), hint)
	}
	if policy.Datagrams && !c.policy.Datagrams {
		return fmt.Errorf("a knock is heard on UDP, and no datagram can be heard any more: %s", hint)
	}
	if p := lowPort(conf); p.Number != 0 && !slices.Contains(c.policy.Keep, cap.NET_BIND_SERVICE) {
		return fmt.Errorf("%s cannot be listened on any more, as all below %d: %s", p, firstFree, hint)
	}
	for _, v := range policy.Keep {
		if !slices.Contains(c.policy.Keep, v) {
			return fmt.Errorf("a knock needs %s, which the daemon has given up: %s", capability(v), hint)
		}
	}
	for _, call := range policy.Calls {
		if !slices.Contains(c.policy.Calls, call) {
			return fmt.Errorf("a knock needs the system call %s, which cannot be made any more: %s", call, hint)
		}
	}
	for _, path := range policy.Read {
		if !slices.ContainsFunc(c.policy.Read, func(dir string) bool { return within(path, dir) }) {
			return fmt.Errorf("%q cannot be read any more: %s", path, hint)
		}
	}
	if len(policy.Programs) > len(c.policy.Programs) {
		return fmt.Errorf("journalctl cannot be started any more: %s", hint)
	}
	return nil
}

// service returns the service that runs a door's commands.
func (c *confinement) service(d config.Door) gateway.Service { return c.launcher.Service(specOf(d)) }

// watch returns an error when a launcher that was started has ended, or when the daemon
// can no longer start the programs that it needs: the daemon must then be started again.
// It returns nil when ctx ends.
func (c *confinement) watch(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case l := <-c.launched:
			return l.Wait(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error {
		select {
		case v := <-c.fixed:
			return c.keep(ctx, v)
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}

// keep returns an error when a file of a program was replaced, as by an upgrade, since
// the daemon cannot reach the new one from inside its sandbox. The error ends the
// daemon, so that systemd starts it again; the fence stands meanwhile. Without systemd,
// it only logs what to do.
func (c *confinement) keep(ctx context.Context, v *fileWatch) error {
	replaced := v.wait(ctx)
	if replaced == "" {
		return nil
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		return fmt.Errorf("%q was replaced, and a sandboxed daemon cannot use the new one: restarting", replaced)
	}
	c.log.Error("logins cannot be read from the journal any more: restart the daemon", "replaced", replaced)
	<-ctx.Done()
	return nil
}

// Launch runs the launcher for a daemon with this configuration file.
func Launch(configPath string, log *slog.Logger) error {
	return launcher.Serve(log, func() ([]launcher.Spec, error) {
		conf, _, err := config.Load(configPath)
		if err != nil {
			return nil, err
		}
		return commands(conf), nil
	})
}

// commands returns the services of a configuration that consist of commands.
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

// policyFor returns what the daemon needs for a configuration. Files to write are not
// among it, since the store and the sockets are open already.
func policyFor(configPath string, conf *config.Config) sandbox.Policy {
	w := sandbox.Policy{
		Read: []string{
			filepath.Dir(configPath),
			"/var/log", "/run/log/journal", "/etc/machine-id", // logs; journalctl(1)
			"/etc/localtime", "/usr/share/zoneinfo", // for the timestamps of syslog files
			"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", // who gives an order
			"/proc", "/sys/fs/cgroup", // boot ID, who uses a port; how many processors Go may use
		},
		Keep:     []cap.Value{cap.NET_ADMIN},
		Connect:  os.Getenv("NOTIFY_SOCKET") != "" || unitDoor(conf) != "",
		Abstract: abstract(os.Getenv("NOTIFY_SOCKET"), os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")),
	}
	if lowPort(conf).Number != 0 {
		w.Keep = append(w.Keep, cap.NET_BIND_SERVICE)
	}
	if os.Geteuid() == 0 {
		// Without these, root could not use files of the daemon's own user.
		w.Keep = append(w.Keep, cap.DAC_OVERRIDE, cap.DAC_READ_SEARCH)
	}
	if real, err := filepath.EvalSymlinks(configPath); err == nil && !within(real, filepath.Dir(configPath)) {
		w.Read = append(w.Read, filepath.Dir(real)) // for Landlock it matters where the file is, not the link that leads there
	}
	for _, d := range conf.Doors {
		for _, f := range d.Presence.Files {
			w.Read = append(w.Read, filepath.Dir(f))
		}
		if d.Presence.Logins == config.LoginsJournal || d.Presence.Logins == config.LoginsAuto {
			w.Programs = presence.JournalPrograms()
		}
		for _, k := range d.Knocks {
			needs := k.Needs()
			if _, kept := kinds.Named(k.Kind).(knock.Keeper); kept {
				needs.Files = directories(needs.Files)
			}
			addNeeds(&w, needs)
			w.Datagrams = w.Datagrams || slices.ContainsFunc(k.Hears(), func(p knock.Place) bool { return p.Medium == knock.Datagrams })
		}
	}
	return w
}

// addNeeds adds to a policy what a knock needs. A capability whose name is not known is
// ignored.
func addNeeds(w *sandbox.Policy, needs knock.Needs) {
	w.Read = append(w.Read, needs.Files...)
	for _, name := range needs.Capabilities {
		if c, err := cap.FromName(strings.ToLower(name)); err == nil && !slices.Contains(w.Keep, c) {
			w.Keep = append(w.Keep, c)
		}
	}
	for _, call := range needs.SystemCalls {
		if !slices.Contains(w.Calls, call) {
			w.Calls = append(w.Calls, call)
		}
	}
}

// directories are those in which files are, by their names and in truth: a file that is
// replaced is another one to Landlock, which lets a file be read, or a directory with all
// that comes to be in it.
func directories(files []string) (all []string) {
	add := func(dir string) {
		if !slices.Contains(all, dir) {
			all = append(all, dir)
		}
	}
	for _, f := range files {
		add(filepath.Dir(f))
		if real, err := filepath.EvalSymlinks(f); err == nil {
			add(filepath.Dir(real))
		}
	}
	return all
}

// capability returns the name of c in capabilities(7).
func capability(c cap.Value) string { return strings.ToUpper(c.String()) }

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// firstFree is the lowest port on which listening takes no capability, ip(7).
const firstFree = 1024

// lowPort returns a port that the daemon listens on and that needs
// CAP_NET_BIND_SERVICE, or the zero port if there is none.
func lowPort(conf *config.Config) port.Port {
	var all []port.Port
	if a, err := netip.ParseAddrPort(conf.Gateway.Metrics); err == nil {
		all = append(all, port.Port{Proto: port.TCP, Number: a.Port()})
	}
	for _, d := range conf.Doors {
		for _, k := range d.Knocks {
			for _, p := range k.Hears() {
				all = append(all, p.AsPort())
			}
		}
	}
	if i := slices.IndexFunc(all, func(p port.Port) bool { return p.Number < firstFree }); i >= 0 {
		return all[i]
	}
	return port.Port{}
}

// unitDoor returns the name of a door whose service is a unit, or "" if there is none.
func unitDoor(conf *config.Config) string {
	for _, d := range conf.Doors {
		if d.Service != nil && d.Service.Unit != "" {
			return d.Name
		}
	}
	return ""
}

// abstract reports whether systemd or D-Bus listens on an abstract socket: see
// sd_notify(3), and "Server Addresses" of the D-Bus specification.
func abstract(notify, bus string) bool {
	return strings.HasPrefix(notify, "@") || strings.Contains(bus, "abstract=")
}

// files returns the files that the programs need to start.
func files(programs []string) (all []string) {
	for _, p := range programs {
		if _, err := os.Stat(p); err == nil {
			of, _ := sandbox.Files(p) // Policy.Enter reports what is lacking
			all = append(all, of...)
		}
	}
	return all
}
