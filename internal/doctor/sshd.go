//go:build linux

package doctor

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/sshd"
)

const sshdConfigPath = "/" + sshd.Path

// sshdConfig compares the ports that sshd would listen on, whether or not it runs, with
// those that are guarded, and checks whether it logs logins.
func (h *Host) sshdConfig(c *config.Config) []Finding {
	i := slices.IndexFunc(c.Doors, func(d config.Door) bool { return d.SSH() })
	if i < 0 {
		return nil
	}
	s, ok := sshd.Read(os.DirFS(h.path("/")))
	if !ok {
		return nil
	}
	return append(sshdFindings(c, &c.Doors[i], s.Ports), sshdLogs(&c.Doors[i], s.Levels)...)
}

func sshdFindings(c *config.Config, d *config.Door, ports []uint16) []Finding {
	var all []Finding
	behind := false
	for _, n := range ports {
		p := port.Port{Proto: port.TCP, Number: n}
		if guardedByAny(c, p) {
			behind = true
			continue
		}
		all = append(all, Finding{Problem, sshdConfigPath, fmt.Sprintf("has sshd listen on %s, which no door guards", p),
			fmt.Sprintf("add %q to the ports of [door.%s], or take the port out of sshd_config", p, d.Name)})
	}
	if behind && len(all) == 0 {
		all = append(all, Finding{OK, sshdConfigPath, fmt.Sprintf("has sshd listen on %s, which is guarded", list(ports)), ""})
	}
	return all
}

// sshdLogs reports for whom sshd writes no line about a login: it writes that at INFO
// (auth_log() of OpenSSH's auth.c).
func sshdLogs(d *config.Door, levels []sshd.Level) []Finding {
	if d.Presence.Logins == config.LoginsOff {
		return nil
	}
	unit := "ssh.service"
	if d.Service != nil && strings.HasSuffix(d.Service.Unit, ".service") {
		unit = d.Service.Unit
	}
	var all []Finding
	seen := map[string]bool{"": slices.ContainsFunc(levels, func(l sshd.Level) bool { return l.Match == sshd.All })}
	for _, l := range levels {
		if seen[l.Match] {
			continue // sshd takes the first
		}
		seen[l.Match] = true
		if !slices.Contains([]string{"QUIET", "SILENT", "FATAL", "ERROR"}, l.Level) {
			continue
		}
		whose, verdict := "no login", Problem
		if l.Match != "" && l.Match != sshd.All {
			whose, verdict = fmt.Sprintf("no login that matches %q", l.Match), Warning
		}
		if d.Presence.Connections {
			verdict = Warning
		}
		all = append(all, Finding{verdict, sshdConfigPath, fmt.Sprintf("has LogLevel %s, at which sshd logs %s: door %s does not see them",
			l.Level, whose, d.Name), "set LogLevel INFO\nsystemctl try-reload-or-restart " + unit})
	}
	return all
}

func list(ports []uint16) string {
	var s []string
	for _, p := range ports {
		s = append(s, strconv.Itoa(int(p)))
	}
	return strings.Join(s, ", ")
}
