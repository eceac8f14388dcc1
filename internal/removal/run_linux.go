package removal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/sockdiag"
	"github.com/doorward/doorward/internal/store"
)

// ErrRuns is returned while a daemon runs, which would undo what is done here.
var ErrRuns = errors.New("doorwardd still runs")

// ErrClosed is returned when the service of a way in could not be started.
var ErrClosed = errors.New("a way into this machine is closed")

// ErrUnknown is returned while a fence stands and the configuration cannot be used, so
// that nobody knows which doors it guards. Only Options.All takes it down then: what is
// behind it may rely on it.
var ErrUnknown = errors.New("the doors are not known")

// polkitRule names the units that doorward may start and stop. Only root writes it.
const polkitRule = "/etc/polkit-1/rules.d/50-doorward.rules"

// notes is the file for what is to be done when the rest is given back. Its directory
// is root's alone to write to.
const notes = "/etc/doorward/removed"

// ownUnit is the daemon's.
const ownUnit = "doorward.service"

// askTime is how long systemd may take to answer a question about a unit.
const askTime = 10 * time.Second

// Options say what is given back.
type Options struct {
	Config string    // path of the configuration
	All    bool      // every door, and not only those by which people reach the machine
	Out    io.Writer // where Run writes what was done, and what is left to do
}

// Run gives the machine back. It needs root, and that no daemon runs. Where the
// configuration cannot be used nobody knows which doors there are: then it changes
// nothing (ErrUnknown), and with All, or where there is no configuration any more, the
// fence goes. An error means that a way in may still be closed; what could be done has
// been done.
func Run(ctx context.Context, o Options) error {
	conf, _, err := config.Load(o.Config)
	if err != nil {
		return unknown(ctx, o, err)
	}
	if c, err := net.Dial("unix", conf.Gateway.Control); err == nil {
		c.Close()
		return ErrRuns
	}
	m, err := examine(ctx, conf)
	if err != nil {
		return err
	}
	p := For(m, o.All)
	out := Outcome{Failed: start(ctx, conf, m, p)}
	out.Fence, err = openDoors(conf, p, m.Fence)
	_, werr := io.WriteString(o.Out, Words(m, p, out))
	if nerr := writeNotes(notes, m, p); nerr != nil {
		// Nobody is locked out by that, so it keeps nothing from being removed.
		fmt.Fprintf(o.Out, "A purge will not start what was stopped: what to start could not be noted: %v\n", nerr)
	}
	return errors.Join(err, werr, closed(ctx, m, p))
}

// closed returns an error for ways in whose service should run and does not. One that
// is masked or not installed is left out: that is root's decision.
func closed(ctx context.Context, m Machine, p Plan) error {
	var down []string
	for _, i := range p.Start {
		d := &m.Doors[i]
		if !d.WayIn || d.Unit == "" {
			continue
		}
		f, err := facts(ctx, d.Unit)
		if err == nil && (f.Load == "masked" || f.Load == "not-found" || f.Own.State == service.Running) {
			continue
		}
		down = append(down, d.Unit)
	}
	if len(down) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s does not run; start it, or, if it is not to run: systemctl mask %[2]s",
		ErrClosed, strings.Join(down, " "))
}

// unknown is Run where the configuration cannot be used, for the reason why. The fence
// goes, and the machine's SSH server runs, and so do the ways in among the units that
// polkit lets doorward start.
func unknown(ctx context.Context, o Options, why error) error {
	fenced, err := stands()
	if err != nil {
		return errors.Join(why, err)
	}
	m := Machine{Fence: fenced}
	m.Boot, _ = atBoot(ctx, ownUnit)
	if !m.Fence && !m.Boot {
		return nil // doorward was not in use
	}
	if fenced && !o.All && !errors.Is(why, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrUnknown, why)
	}
	fmt.Fprintf(o.Out, "the configuration cannot be used: %v\nSo the fence goes as a whole: everything that runs can be reached.\n", why)
	rule, _ := os.ReadFile(polkitRule) // without it, doorward could start and stop no unit
	conf, others := knownBy(sshDoors(ctx), service.PolkitUnits(string(rule)))
	for i := range conf.Doors {
		m.Doors = append(m.Doors, look(ctx, &conf.Doors[i]))
	}
	p := For(m, true)
	failed := start(ctx, conf, m, p)
	if fenced {
		err = fence.Cleanup()
	}
	_, werr := io.WriteString(o.Out, Words(m, p, Outcome{Failed: failed})+othersWords(others))
	return errors.Join(err, werr, closed(ctx, m, p))
}

// sshDoors returns a door to the machine's SSH server: one that runs, or else one that
// systemd starts at boot, or else any; none where there is no unit for one.
func sshDoors(ctx context.Context) []config.Door {
	var best string
	var most int
	for _, name := range []string{"ssh.service", "sshd.service", "ssh.socket", "sshd.socket", "dropbear.service"} {
		f, err := facts(ctx, name)
		if err != nil || f.Load != "loaded" {
			continue
		}
		fit := 1
		if f.Enabled == "enabled" {
			fit = 2
		}
		if f.Own.State == service.Running {
			fit = 3
		}
		if fit > most {
			best, most = name, fit
		}
	}
	if best == "" {
		return nil
	}
	return []config.Door{{Name: "ssh", Ports: []port.Range{{Proto: port.TCP, First: 22, Last: 22}},
		Service: &config.Service{Unit: best, Timeout: startTime}}}
}

// examine looks at the machine.
func examine(ctx context.Context, conf *config.Config) (Machine, error) {
	var m Machine
	var err error
	if m.Fence, err = stands(); err != nil {
		return m, err
	}
	m.Boot, _ = atBoot(ctx, ownUnit) // without systemd nothing is
	// Without a state nobody knows what ran before: then only what starts at boot did.
	kept, _ := store.Doors(conf.Gateway.State)
	for i := range conf.Doors {
		d := look(ctx, &conf.Doors[i])
		d.Ran = slices.ContainsFunc(kept, func(k store.Door) bool { return k.Name == d.Name && k.Ran })
		m.Doors = append(m.Doors, d)
	}
	return m, nil
}

// unit returns one of systemd's units. It logs nothing: its callers report what comes
// of it.
func unit(name string) *service.Unit {
	return service.NewUnitForRoot(name, slog.New(slog.DiscardHandler))
}

// facts asks systemd about a unit, for askTime at most.
func facts(ctx context.Context, name string) (service.Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return unit(name).Facts(ctx)
}

// stands reports whether there is a fence. Where the kernel has no nf_tables, or does
// not let even root ask for them, as in a container without CAP_NET_ADMIN, there is
// none.
func stands() (bool, error) {
	stands, err := fence.Stands()
	if errors.Is(err, unix.EPERM) && os.Geteuid() == 0 || errors.Is(err, unix.EPROTONOSUPPORT) ||
		errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	return stands, err
}

// look asks systemd, or the kernel's list of sockets, about what is behind a door.
func look(ctx context.Context, d *config.Door) Door {
	var ports []string
	for _, r := range d.Ports {
		ports = append(ports, r.String())
	}
	l := Door{Name: d.Name, Ports: strings.Join(ports, ", "), WayIn: WayIn(d)}
	switch {
	case d.Service == nil:
		l.Runs = true
	case d.Service.Unit == "":
		l.Command = d.Service.Start[0]
		l.Runs = listens(d.Ports)
	default:
		l.Unit = d.Service.Unit
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		u := unit(l.Unit)
		s, err := u.Status(ctx)
		if err != nil {
			break // the order to start it says why
		}
		l.Unit = u.Names().ID
		l.Runs = s.State == service.Running || s.State == service.Starting
		l.Boot, _ = atBoot(ctx, l.Unit)
	}
	return l
}

// listens reports whether any socket listens on one of the ports.
func listens(ports []port.Range) bool {
	found, err := sockdiag.Listening(ports)
	return err == nil && len(found) > 0
}

// atBoot reports whether systemd starts a unit at boot, by itself or through another
// unit: the socket of a service, or the service of a socket.
func atBoot(ctx context.Context, of string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	f, err := unit(of).Facts(ctx)
	if err != nil {
		return false, err
	}
	names := []string{f.ID}
	if base, ok := strings.CutSuffix(f.ID, ".service"); ok {
		names = append(names, base+".socket")
	}
	for _, name := range slices.Concat(names, f.Feeds, f.FedBy) {
		// Of all its names, a unit's own one says so: systemctl(1), is-enabled.
		if o, err := unit(name).Facts(ctx); err == nil && o.Load == "loaded" && o.Enabled == "enabled" {
			return true, nil
		}
	}
	return false, nil
}

// start enables and starts what the plan says, and returns the errors by door. Units
// are enabled first, because that brings new names, such as sshd.service for
// ssh.service, and a systemd that reads them for a unit that runs may take it for one
// that does not.
func start(ctx context.Context, conf *config.Config, m Machine, p Plan) map[int]error {
	failed := map[int]error{}
	for _, i := range p.Enable {
		if err := enable(ctx, m.Doors[i].Unit); err != nil {
			failed[i] = err
		}
	}
	for _, i := range p.Start {
		if err := startOne(ctx, &conf.Doors[i]); err != nil {
			failed[i] = err
		}
	}
	return failed
}

// enable makes systemd start a unit at boot.
func enable(ctx context.Context, name string) error {
	asking, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := unit(name).Enable(asking); err != nil {
		return err
	}
	// A unit without an [Install] section cannot be enabled, which is no error to systemd.
	if boot, err := atBoot(ctx, name); err == nil && !boot {
		return fmt.Errorf("unit %q cannot be enabled: it has no [Install] section", name)
	}
	return nil
}

func startOne(ctx context.Context, d *config.Door) error {
	ctx, cancel := context.WithTimeout(ctx, d.Service.Timeout)
	defer cancel()
	if d.Service.Unit != "" {
		return unit(d.Service.Unit).Start(ctx)
	}
	// Nobody supervises the program from here on, so that its files are of no use
	// afterwards; and root makes none in a directory of the daemon's user, who could have
	// put a link there.
	dir, err := os.MkdirTemp("", "doorward-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return service.NewCommand(d.Service.Start, d.Service.Stop, d.Service.Status, dir+"/pid", slog.New(slog.DiscardHandler)).Start(ctx)
}

// openDoors takes from the fence what the plan opens, and reports whether the fence
// still stands. If the rest of it cannot be kept up, all of it goes: that exposes a
// service, but locks out nobody.
func openDoors(conf *config.Config, p Plan, stood bool) (bool, error) {
	if !stood {
		return false, nil
	}
	if len(p.Closed) > 0 {
		err := keepClosed(conf, p)
		if err == nil {
			return true, nil
		}
		if cerr := fence.Cleanup(); cerr != nil {
			return true, errors.Join(err, cerr)
		}
		return false, fmt.Errorf("every port is reachable, since what was to stay closed could not be kept so: %w", err)
	}
	if err := fence.Cleanup(); err != nil {
		return true, err
	}
	return false, nil
}

// keepClosed makes the fence guard only what the plan keeps closed.
func keepClosed(conf *config.Config, p Plan) error {
	f, err := fence.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer f.Close()
	var doors []fence.Door
	for _, i := range p.Closed {
		d := conf.Doors[i]
		doors = append(doors, fence.Door{Name: d.Name, Ports: d.Ports,
			Reject: d.Refuse == config.Reject, SingleUse: d.SingleUse, Always: d.Always})
	}
	return f.Guard(doors)
}

// writeNotes writes what is to be done when the rest is given back, for a shell
// script that has no doorward to ask: the boot in which it applies, since the next
// one starts services by itself, and the units to start.
func writeNotes(path string, m Machine, p Plan) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(p.Later) == 0 {
		return nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	text := "# What doorward had stopped when it was removed; a purge starts it.\nboot " + string(boot)
	for _, i := range p.Later {
		text += "start " + m.Doors[i].Unit + "\n"
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
