//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/tables"
)

// polkitTime is how long polkit may take to answer.
const polkitTime = 10 * time.Second

// unit checks what runs behind a door; r is who starts and stops it, and sockets are
// the machine's.
func (h *Host) unit(ctx context.Context, d *config.Door, r *reader, sockets []listener) []Finding {
	where := "door " + d.Name
	switch {
	case d.Service == nil:
		return nil
	case d.Service.Unit == "":
		return commands(where, d.Service, h.path)
	}
	u := h.Unit(d.Service.Unit)
	f, err := u.Facts(ctx)
	var s service.Status
	if err == nil {
		s, err = u.Status(ctx)
	}
	switch {
	case err != nil:
		return []Finding{{Problem, where, fmt.Sprintf("cannot ask systemd about its unit %s: %v", d.Service.Unit, err),
			"systemctl status " + d.Service.Unit}}
	case f.Load != "loaded":
		return []Finding{unloaded(where, f)}
	}
	all := []Finding{{OK, where, fmt.Sprintf("its unit %s is %s", f.ID, s.State), ""}}
	if s.State == service.Failed {
		all[0].Verdict, all[0].Do = Warning, "journalctl -u "+f.ID
		all[0].What += ": " + s.Detail
	}
	if d.Service.Unit != f.ID {
		all = append(all, Finding{Note, where, fmt.Sprintf("%s is another name of %s, and may go when that is disabled",
			d.Service.Unit, f.ID), fmt.Sprintf("write unit = %q", f.ID)})
	}
	if cuts, why, err := u.CutsSessions(ctx); err == nil && cuts {
		all = append(all, Finding{Problem, where, "going dark would end open sessions: " + why, "systemctl edit " + f.ID})
	}
	if h.enabled(f.ID) {
		when := "when its door goes dark"
		if d.Presence.Idle > 0 {
			when = fmt.Sprintf("when nobody has been in for %s", tables.Short(d.Presence.Idle))
		}
		all = append(all, Finding{Note, where, fmt.Sprintf("%s also starts at boot, and doorward stops it %s; that is"+
			" a way in should doorward itself not start", f.ID, when),
			"to have it run only after a knock: systemctl disable " + f.ID})
	}
	all = append(all, h.beside(ctx, where, f)...)
	all = append(all, h.mayStart(ctx, where, f.Names, r)...)
	return append(all, h.removes(where, f, s, sockets)...)
}

// unloaded reports a unit that nobody can start.
func unloaded(where string, f service.Facts) Finding {
	switch f.Load {
	case "not-found":
		return Finding{Problem, where, fmt.Sprintf("its unit %s does not exist", f.ID),
			"systemctl list-unit-files --type=" + strings.TrimPrefix(filepath.Ext(f.ID), ".")}
	case "masked":
		return Finding{Problem, where, fmt.Sprintf("its unit %s is masked, so that nothing may start it", f.ID),
			"systemctl unmask " + f.ID}
	}
	return Finding{Problem, where, fmt.Sprintf("its unit %s cannot be loaded (%s)", f.ID, f.Load), "systemctl status " + f.ID}
}

// beside looks for units that start the door's service behind doorward's back, now or
// from the next boot on. systemd names only those that are loaded, which a socket that
// does not listen may not be: the one with the service's name is asked about in any
// case.
func (h *Host) beside(ctx context.Context, where string, f service.Facts) (all []Finding) {
	base, ok := strings.CutSuffix(f.ID, ".service")
	if !ok {
		return nil
	}
	others := append([]string{base + ".socket"}, f.FedBy...)
	slices.Sort(others)
	for _, name := range slices.Compact(others) {
		o, err := h.Unit(name).Facts(ctx)
		if err != nil || o.Load != "loaded" {
			continue
		}
		does, instead := "starts the service", ""
		if strings.HasSuffix(o.ID, ".socket") {
			does, instead = "holds the port, and starts the service", fmt.Sprintf("; or write unit = %q", o.ID)
		}
		running := o.Own.State == service.Running || o.Own.State == service.Starting
		enabled := strings.HasPrefix(o.Enabled, "enabled") // or enabled-runtime
		switch {
		case running && enabled:
			all = append(all, Finding{Problem, where, fmt.Sprintf("%s is active and enabled beside %s: it %s behind"+
				" doorward's back", o.ID, f.ID, does), "systemctl disable --now " + o.ID + instead})
		case running:
			all = append(all, Finding{Problem, where, fmt.Sprintf("%s is active beside %s, though not enabled: it %s behind"+
				" doorward's back", o.ID, f.ID, does), "systemctl stop " + o.ID + instead})
		case enabled:
			all = append(all, Finding{Warning, where, fmt.Sprintf("%s is enabled beside %s, though not active: from the next"+
				" boot on it %s behind doorward's back", o.ID, f.ID, does), "systemctl disable " + o.ID + instead})
		}
	}
	return all
}

// mayStart asks whether the daemon's user may give the orders that it will.
func (h *Host) mayStart(ctx context.Context, where string, n service.Names, r *reader) []Finding {
	switch {
	case os.Geteuid() != 0:
		return []Finding{{Note, where, fmt.Sprintf("did not ask whether the daemon may start and stop %s: only root may ask"+
			" polkit", n.ID), "sudo doorward doctor"}}
	case r == nil: // a daemon that is root needs no permission; without a user there is none yet
		return nil
	}
	const install = "sudo doorward polkit --install"
	ctx, cancel := context.WithTimeout(ctx, polkitTime)
	defer cancel()
	denied, err := h.Denied(ctx, r.uid, n.Orders())
	if errors.Is(err, service.ErrNoPolkit) {
		return []Finding{{Problem, where, fmt.Sprintf("%s may not start and stop %s: polkit, which would"+
			" allow it, is not installed", r.name, n.ID), "apt-get install polkitd (dnf install polkit), and then " + install}}
	}
	if err != nil {
		return []Finding{{Warning, where, fmt.Sprintf("cannot tell whether %s may start and stop %s: %v", r.name, n.ID, err),
			"systemctl status polkit"}}
	}
	if len(denied) == 0 {
		return []Finding{{OK, where, fmt.Sprintf("%s may start and stop %s", r.name, n.ID), ""}}
	}
	var words []string
	verdict, then := Warning, ""
	for _, o := range denied {
		words = append(words, o.String())
		if o.Verb != "reset-failed" {
			verdict, then = Problem, ", so that right knocks fail or the service is never stopped"
		}
	}
	return []Finding{{verdict, where, fmt.Sprintf("polkit does not let %s %s%s", r.name, strings.Join(words, ", "), then), install}}
}

// removes reports whether stopping the unit removes the directory that every sshd of
// the machine changes its root to (privilege separation, sshd(8)): another one would
// let nobody in from then on.
func (h *Host) removes(where string, f service.Facts, s service.Status, sockets []listener) []Finding {
	const shared = "sshd"
	for _, d := range f.Removes {
		if d.Name != shared {
			continue
		}
		what := fmt.Sprintf("stopping %s removes /run/%s, without which no sshd lets anybody in", d.Unit, d.Name)
		do := fmt.Sprintf("systemctl edit %s, and add the lines [Service] and RuntimeDirectoryPreserve=yes", d.Unit)
		others := h.otherServers(d.Unit, s.PID, sockets)
		if len(others) == 0 {
			return []Finding{{Note, where, what + "; that would affect a second one", do}}
		}
		return []Finding{{Warning, where, what + ": " + strings.Join(others, " and ") + " would not either", do}}
	}
	return nil
}

// otherServers returns the SSH servers that run beside that of a unit, and the units of
// those that an administrator has set up.
func (h *Host) otherServers(unit string, pid int, sockets []listener) (all []string) {
	for _, l := range sockets {
		if l.name == "sshd" && l.pid != pid {
			all = append(all, l.holder())
		}
	}
	for _, dir := range service.LocalUnitDirs {
		files, err := filepath.Glob(h.path(dir + "/*.service"))
		if err != nil {
			continue
		}
		for _, path := range files {
			name := filepath.Base(path)
			if service.NamesByLinks(h.Root, name).ID != unit && startsSSHD(h.read(dir+"/"+name)) {
				all = append(all, name)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// startsSSHD reports whether a unit file starts an sshd; see systemd.service(5) for
// what may stand before the program.
func startsSSHD(text string) bool {
	for line := range strings.Lines(text) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=")
		if f := strings.Fields(strings.TrimLeft(command, "@-:+!|")); ok && len(f) > 0 && filepath.Base(f[0]) == "sshd" {
			return true
		}
	}
	return false
}

// sharedUnits finds one service behind two doors, by whatever names.
func (h *Host) sharedUnits(ctx context.Context, c *config.Config) (all []Finding) {
	users := map[string]string{} // the door that has a unit
	for _, d := range c.Doors {
		if d.Service == nil || d.Service.Unit == "" {
			continue
		}
		f, err := h.Unit(d.Service.Unit).Facts(ctx)
		if err != nil {
			continue // unit reports that
		}
		for _, unit := range append([]string{f.ID}, f.Feeds...) {
			if other, taken := users[unit]; taken {
				all = append(all, Finding{Problem, "door " + d.Name, fmt.Sprintf("has the same service as door %s, %s: when one"+
					" goes dark, it is stopped for both", other, unit), "make it one door: its ports may be several"})
				continue
			}
			users[unit] = d.Name
		}
	}
	return all
}
