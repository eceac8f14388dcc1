//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/presence"
	"github.com/doorward/doorward/internal/ruleset"
	"github.com/doorward/doorward/internal/service"
)

// Unit is what doctor asks of a systemd unit.
type Unit interface {
	Facts(ctx context.Context) (service.Facts, error)
	Status(ctx context.Context) (service.Status, error)
	CutsSessions(ctx context.Context) (bool, string, error)
}

// Host is the machine, and how to ask about it. All fields but Root must be set.
type Host struct {
	Config  string // path of the configuration file
	Control string // path of the daemon's socket
	// Status asks the daemon.
	Status func(ctx context.Context) (control.Status, error)
	Unit   func(name string) Unit
	// Flows returns why the kernel's flows cannot be seen; see presence.Watcher.FlowsVisible.
	Flows func() error
	// Denied asks polkit which orders it would deny to a user; see service.Denied.
	Denied func(ctx context.Context, uid int, orders []service.Order) ([]service.Order, error)
	Now    func() time.Time
	// Root is put before paths of files, "" except in tests. Sockets and nftables
	// are always those of the caller's network namespace.
	Root string
}

// This returns the machine that the program runs on, with a configuration file and the
// daemon's socket. The error is always nil on Linux.
func This(config, socket string, now func() time.Time) (*Host, error) {
	return &Host{
		Config:  config,
		Control: socket,
		Status:  control.NewClient(socket).Status,
		Unit:    func(name string) Unit { return service.NewUnit(name, slog.New(slog.DiscardHandler)) },
		Flows:   presence.NewWatcher().FlowsVisible,
		Denied:  service.Denied,
		Now:     now,
	}, nil
}

// Run asks everything, in the order in which an operator would want to read
// the answers. It runs on the caller's goroutine, so that a caller inside a
// network namespace looks at that one. What it may not see, without root, is a
// finding too.
func (h *Host) Run(ctx context.Context) []Finding {
	c, all := h.configuration()
	add := func(f ...Finding) { all = append(all, f...) }

	add(h.privileges()...)
	add(h.kernel(c)...)
	add(h.conntrack(c)...)
	now := readClock()
	add(clock(now)...)
	add(timed(c, now)...)

	status, err := h.Status(ctx)
	daemon := h.daemonPID()
	if err != nil {
		add(h.absent(ctx, c, err)...)
	} else {
		add(daemonFindings(h.Control, status)...)
	}
	if daemon > 0 {
		add(capabilities(daemon, h.readProc(daemon, "status"), c)...)
	}
	rules, rulesErr := ruleset.Read(ownChain)
	add(h.firewalls(c, rules, rulesErr)...)
	add(standingOut(c, rules, rulesErr)...)
	add(h.saved()...)

	holders, listErr := h.listeners()
	if listErr != nil {
		add(Finding{Problem, "sockets", fmt.Sprintf("cannot be listed: %v", listErr), "run doctor as root"})
	}
	busy, listErr := h.connected(c)
	if listErr != nil {
		add(Finding{Problem, "sockets", fmt.Sprintf("that are connected over UDP cannot be listed: %v", listErr), "run doctor as root"})
	}
	add(taken(c, slices.Concat(holders, busy), daemon)...)
	add(elsewhere(c, holders)...)
	add(h.clashes(c)...)
	add(h.sshdConfig(c)...)
	reader := h.daemonReader(daemon)
	add(mayReadConfiguration(reader, h.path(h.Config))...)
	for i := range c.Doors {
		add(h.unit(ctx, &c.Doors[i], reader, holders)...)
		add(h.needs(&c.Doors[i], reader)...)
		add(h.equipped(&c.Doors[i], reader)...)
		add(h.presence(&c.Doors[i])...)
		add(h.logins(ctx, &c.Doors[i], reader, status)...)
	}
	add(h.sharedUnits(ctx, c)...)
	if err == nil || !h.fresh(c) {
		add(h.boot()...)
	}
	add(ownSession(c, h.sshConnection(), status, h.Now())...)
	add(outside(c)...)
	return once(all)
}

// once leaves out what was said of another door already, and what the daemon warns about
// when another finding says it, in the same words or with the same thing to do at the same
// place.
func once(all []Finding) []Finding {
	said := map[Finding]bool{}
	all = slices.DeleteFunc(all, func(f Finding) bool {
		before := said[f]
		said[f] = true
		return before
	})
	return slices.DeleteFunc(all, func(w Finding) bool {
		return w.Where == daemonWhere && w.Verdict == Warning && slices.ContainsFunc(all, func(f Finding) bool {
			return f.Where != daemonWhere && (w.What == f.What || w.What == f.Where+" "+f.What ||
				w.What == f.Where+": "+f.What || f.Do != "" && strings.HasPrefix(w.What, f.Where+": ") && strings.Contains(w.What, strconv.Quote(f.Do)))
		})
	})
}

// configuration reads the configuration; without one there are no doors, and
// the rest of the machine is looked at all the same.
func (h *Host) configuration() (*config.Config, []Finding) {
	c, text, err := config.Load(h.path(h.Config))
	untrusted, _ := errors.AsType[*files.Error](err)
	switch {
	case untrusted != nil:
		return &config.Config{}, []Finding{{Problem, "configuration",
			fmt.Sprintf("%s %s, and the file names what is run as root", untrusted.Path, untrusted.Problem), untrusted.Fix}}
	case errors.Is(err, fs.ErrNotExist) && h.Config == config.DefaultPath && h.fresh(&config.Config{}):
		return &config.Config{}, []Finding{{Note, "configuration", "there is none yet", "doorward init writes one"}}
	case errors.Is(err, fs.ErrNotExist):
		return &config.Config{}, []Finding{{Problem, "configuration", fmt.Sprintf("%s does not exist", h.Config),
			"doorward init writes one"}}
	case errors.Is(err, fs.ErrPermission):
		return &config.Config{}, []Finding{{Problem, "configuration", fmt.Sprintf("%s: permission denied", h.Config),
			"run doctor as root"}}
	case err != nil && config.Blank(text):
		return &config.Config{}, []Finding{{Note, "configuration", fmt.Sprintf("%s has no doors yet", h.Config),
			"doorward init"}}
	case err != nil:
		return &config.Config{}, []Finding{{Problem, "configuration", fmt.Sprintf("%s has mistakes", h.Config),
			"doorward check " + h.Config}}
	}
	all := []Finding{{OK, "configuration", fmt.Sprintf("%s: %s", h.Config, doorNames(c)), ""}}
	for _, w := range c.Warnings() {
		all = append(all, Finding{Warning, "configuration", w, "doorward check " + h.Config})
	}
	return c, all
}

// privileges warns if doctor may not see everything.
func (h *Host) privileges() []Finding {
	if os.Geteuid() == 0 {
		return nil
	}
	return []Finding{{Warning, "doctor", "runs without root: nftables and other users' processes cannot be seen",
		"sudo doorward doctor"}}
}

// path returns where a file of the machine is.
func (h *Host) path(name string) string {
	if h.Root == "" {
		return name
	}
	return filepath.Join(h.Root, name)
}

// read returns a file's text, "" when there is none that may be read.
func (h *Host) read(name string) string {
	text, err := os.ReadFile(h.path(name))
	if err != nil {
		return ""
	}
	return string(text)
}

// readProc returns the text of a file of a process, "" if it cannot be read.
func (h *Host) readProc(pid int, name string) string {
	return h.read(fmt.Sprintf("/proc/%d/%s", pid, name))
}
