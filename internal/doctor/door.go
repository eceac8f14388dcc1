//go:build linux

package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/presence"
)

// commands checks whether a service's programs are there.
func commands(where string, s *config.Service, path func(string) string) []Finding {
	for _, argv := range [][]string{s.Start, s.Stop, s.Status} {
		if len(argv) == 0 {
			continue
		}
		info, err := os.Stat(path(argv[0]))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return []Finding{{Problem, where, fmt.Sprintf("its command %q is not a program that can be run", argv[0]),
				"install it, or correct the path"}}
		}
	}
	return []Finding{{OK, where, fmt.Sprintf("its command %s is there", s.Start[0]), ""}}
}

// logSource is what doctor asks of a presence.Log.
type logSource interface {
	Last(ctx context.Context) (presence.Login, bool, error)
	Warnings() []string
	PassedOver() []string
	String() string
}

// logins reads logins where a door does, and checks whether r may do so, too. If a door
// is in failsafe, the daemon has said already that there is no log data.
func (h *Host) logins(ctx context.Context, d *config.Door, r *reader, s control.Status) []Finding {
	var l logSource
	switch d.Presence.Logins {
	case config.LoginsOff:
		return nil
	case config.LoginsJournal:
		l = presence.Journal(h.Now)
	case config.LoginsFiles:
		var files []string
		for _, f := range d.Presence.Files {
			files = append(files, h.path(f))
		}
		l = presence.Files(files, h.Now)
	case config.LoginsAuto:
		l = presence.Auto(h.Now)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	all := loginFindings(ctx, d.Name, l, h.Now(), os.Geteuid() == 0)
	failsafe := func(o control.Door) bool { return o.Name == d.Name && o.State == control.StateFailsafe }
	if slices.ContainsFunc(s.Doors, failsafe) {
		all = slices.DeleteFunc(all, func(f Finding) bool { return f.Verdict == Problem })
	}
	for place := range strings.SplitSeq(l.String(), ", ") {
		all = append(all, mayRead(r, place)...)
	}
	return all
}

func loginFindings(ctx context.Context, door string, l logSource, now time.Time, root bool) []Finding {
	where := "door " + door
	last, found, err := l.Last(ctx)
	var all []Finding
	switch {
	case errors.Is(err, presence.ErrNoData) && !root:
		return []Finding{{Note, where, "cannot see whether there is log data for the daemon: you may not read any",
			"sudo doorward doctor"}}
	case errors.Is(err, presence.ErrNoData):
		// The error ends with the way out, and has what the warnings say.
		return []Finding{{Problem, where, fmt.Sprintf("would go to failsafe, dark and ignoring knocks: %v", err), ""}}
	case err != nil:
		all = append(all, Finding{Warning, where, fmt.Sprintf("its logins could not be read: %v", err), ""})
	case !found:
		all = append(all, Finding{OK, where, fmt.Sprintf("%s can be read, and has no login yet", l), ""})
	default:
		from := "an unknown address" // sshd's peer was no socket, a proxy's pipe, say
		if last.Source.IsValid() {
			from = last.Source.String()
		}
		all = append(all, Finding{OK, where, fmt.Sprintf("%s can be read; the last login was %s's from %s, %s ago",
			l, last.User, from, now.Sub(last.Time).Round(time.Second)), ""})
	}
	for _, w := range l.Warnings() {
		all = append(all, Finding{Warning, where, w, ""})
	}
	if over := l.PassedOver(); len(over) > 0 {
		all = append(all, Finding{Warning, where, fmt.Sprintf("%s cannot be read, or their names do not tell how old they are: "+
			"logins in them do not count", strings.Join(over, ", ")),
			"have logrotate compress by gzip, zstd or bzip2, and name files .1 or -20261122 (dateformat -%Y%m%d)"})
	}
	return all
}

// sshConnection returns the operator's own SSH connection, as sshd put it into the
// environment (SSH_CONNECTION, ssh(1)): that of this process, or, since sudo removes
// it, that of one of its ancestors. It is "" for none.
func (h *Host) sshConnection() string {
	const name = "SSH_CONNECTION="
	for pid := os.Getpid(); pid > 1; {
		for v := range strings.SplitSeq(h.readProc(pid, "environ"), "\x00") {
			if c, ok := strings.CutPrefix(v, name); ok {
				return c
			}
		}
		parent := 0
		for line := range strings.Lines(h.readProc(pid, "status")) {
			if v, ok := strings.CutPrefix(line, "PPid:"); ok {
				parent, _ = strconv.Atoi(strings.TrimSpace(v))
			}
		}
		pid = parent
	}
	return ""
}

// ownSession says what becomes of the operator's own session, if it is over SSH.
func ownSession(c *config.Config, connection string, s control.Status, now time.Time) []Finding {
	const where = "your session"
	f := strings.Fields(connection)
	if len(f) != 4 {
		return nil
	}
	from, err := netip.ParseAddr(f[0])
	n, err2 := strconv.ParseUint(f[3], 10, 16)
	if err != nil || err2 != nil {
		return nil
	}
	from = from.Unmap().WithZone("")
	at := port.Port{Proto: port.TCP, Number: uint16(n)}
	for i := range c.Doors {
		d := &c.Doors[i]
		if !port.Within(d.Ports, at) {
			continue
		}
		for _, a := range d.Always {
			if a.Contains(from) {
				return []Finding{{OK, where, fmt.Sprintf("comes from %s, which never needs to knock at door %s (%s)",
					from, d.Name, a), ""}}
			}
		}
		if until, ok := granted(s, d.Name, from); ok && until.After(now) {
			return []Finding{{OK, where, fmt.Sprintf("comes from %s, which has a grant at door %s until %s",
				from, d.Name, until.Local().Format("15:04:05")), ""}}
		}
		f := Finding{Warning, where, fmt.Sprintf("comes from %s through door %s: it stays open whatever happens, but a"+
			" new one needs the knock", from, d.Name),
			"keep this session open until a new one has got in; apply with doorward apply --confirm 60s"}
		if s.Fence.Up { // whoever is in has probably knocked
			f.Verdict = Note
		}
		return []Finding{f}
	}
	return []Finding{{OK, where, fmt.Sprintf("came in at %s, which no door guards", at), ""}}
}

// granted returns until when a source has a grant.
func granted(s control.Status, door string, from netip.Addr) (until time.Time, ok bool) {
	for _, d := range s.Doors {
		if d.Name != door {
			continue
		}
		for _, g := range d.Grants {
			prefix, err := netip.ParsePrefix(g.Source)
			if a, err2 := netip.ParseAddr(g.Source); err2 == nil {
				prefix, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			if g.Source == "any" || err == nil && prefix.Contains(from) {
				until, ok = g.Expires, true
			}
		}
	}
	return until, ok
}

// outside notes what no machine can know about itself.
func outside(c *config.Config) []Finding {
	if len(c.Doors) == 0 {
		return nil
	}
	// The knock itself stays out: people show such lists to others.
	d := &c.Doors[0]
	do := "from outside: knock at door " + d.Name + ", and connect"
	if _, ok := d.Knocks[0].Rule.(knock.Touched); ok {
		do = fmt.Sprintf("from outside: doorward knock %s --touch PORTS", cmp.Or(c.Gateway.Host, "HOST"))
		// Only a TCP port can be waited for: what is sent to a UDP port proves nothing.
		if i := slices.IndexFunc(d.Ports, func(r port.Range) bool { return r.Proto == port.TCP }); i >= 0 {
			do += fmt.Sprintf(" --wait %d", d.Ports[i].First)
		}
	}
	if _, ok := d.Knocks[0].Rule.(knock.Invited); ok {
		do = "from outside, with a profile of this gateway: doorward knock PROFILE " + d.Name
	}
	return []Finding{{Note, "network", "cannot see from here whether a router or a" +
		" provider's firewall lets knocks through", do}}
}
