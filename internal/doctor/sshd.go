//go:build linux

package doctor

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
)

const sshdConfigPath = "/etc/ssh/sshd_config"

// sshdConfig compares the ports that sshd would listen on with those that are
// guarded, for sshd need not run to be in the way, and looks whether it logs logins.
func (p *Patient) sshdConfig(c *config.Config) []Finding {
	i := slices.IndexFunc(c.Doors, func(d config.Door) bool { return d.SSH() })
	text := p.read(sshdConfigPath)
	if i < 0 || text == "" {
		return nil
	}
	s := &sshdConf{p: p}
	s.file(text, 0)
	return append(sshdFindings(c, &c.Doors[i], s.list()), sshdLogs(&c.Doors[i], s.levels)...)
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

// sshdLogs says for whom sshd writes no line about a login: it writes that at INFO
// (auth_log() of OpenSSH's auth.c).
func sshdLogs(d *config.Door, levels []sshdLevel) []Finding {
	if d.Presence.Logins == config.LoginsOff {
		return nil
	}
	unit := "ssh.service"
	if d.Service != nil && strings.HasSuffix(d.Service.Unit, ".service") {
		unit = d.Service.Unit
	}
	var all []Finding
	seen := map[string]bool{"": slices.ContainsFunc(levels, func(l sshdLevel) bool { return l.match == matchAll })}
	for _, l := range levels {
		if seen[l.match] {
			continue // sshd takes the first
		}
		seen[l.match] = true
		if !slices.Contains([]string{"QUIET", "SILENT", "FATAL", "ERROR"}, l.level) {
			continue
		}
		whose, verdict := "no login", Problem
		if l.match != "" && l.match != matchAll {
			whose, verdict = fmt.Sprintf("no login that matches %q", l.match), Warning
		}
		if d.Presence.Connections {
			verdict = Warning
		}
		all = append(all, Finding{verdict, sshdConfigPath, fmt.Sprintf("has LogLevel %s, at which sshd logs %s: door %s does not see them",
			l.level, whose, d.Name), "set LogLevel INFO; systemctl try-reload-or-restart " + unit})
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

// sshdConf collects Port and ListenAddress as sshd_config(5) has them, which may
// both be there several times (a ListenAddress without a port means all of Port),
// and LogLevel, of which the first counts, in each Match block anew.
type sshdConf struct {
	p       *Patient
	ports   []uint16
	own     []uint16 // of ListenAddress lines that name a port
	address bool     // there is a ListenAddress without a port, not loopback
	only    bool     // there is any ListenAddress

	match  string // for whom what follows holds, as the Match line says it; "" outside of one
	levels []sshdLevel
}

// sshdLevel is a LogLevel and for whom it holds.
type sshdLevel struct{ level, match string }

// matchAll is a block for everybody. LogLevel in it comes before the one outside.
const matchAll = "all"

// maxInclude is how deep sshd lets files include one another (servconf.c,
// SERVCONF_MAX_DEPTH).
const maxInclude = 16

// file reads one file. "Match all" is no other place than none, and in any other
// Match block sshd takes neither Port nor ListenAddress, so that Match lines do not
// matter for them. A block ends with its file, at the latest.
func (s *sshdConf) file(text string, depth int) {
	outer := s.match
	defer func() { s.match = outer }()
	for line := range strings.Lines(text) {
		f := sshdWords(line)
		if len(f) < 2 {
			continue
		}
		switch strings.ToLower(f[0]) {
		case "port":
			s.ports = appendPort(s.ports, f[1])
		case "listenaddress":
			s.listen(f[1])
		case "loglevel":
			s.levels = append(s.levels, sshdLevel{strings.ToUpper(f[1]), s.match})
		case "match":
			if s.match = strings.Join(f[1:], " "); strings.EqualFold(s.match, matchAll) {
				s.match = cmp.Or(outer, matchAll)
			}
		case "include":
			if depth < maxInclude {
				s.include(f[1:], depth+1)
			}
		}
	}
}

// sshdWords cuts a line up as sshd does: at blanks, after the keyword also at one
// "=", and not within quotes, which may stand inside a word. A "#" that begins a
// word begins a comment.
func sshdWords(line string) []string {
	var all []string
	word, in, equals := []byte(nil), false, false
	end := func() {
		if in {
			all = append(all, string(word))
		}
		word, in = nil, false
	}
	var quote byte
	for i := range len(line) {
		c := line[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word = append(word, c)
		case c == '"' || c == '\'':
			quote, in = c, true
		case c == '=' && !equals && len(all) < 2 && (len(all) == 1) != in:
			end()
			equals = true
		case strings.IndexByte(" \t\r\n\f", c) >= 0:
			end()
		case c == '#' && !in:
			return all
		default:
			word, in = append(word, c), true
		}
	}
	end()
	return all
}

func (s *sshdConf) include(patterns []string, depth int) {
	for _, pattern := range patterns {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(sshdConfigPath), pattern)
		}
		found, err := filepath.Glob(s.p.path(pattern))
		if err != nil {
			continue
		}
		for _, name := range found {
			s.file(s.p.read(strings.TrimPrefix(name, strings.TrimSuffix(s.p.Root, "/"))), depth)
		}
	}
}

func (s *sshdConf) listen(addr string) {
	s.only = true
	host, number := addr, ""
	if a, err := netip.ParseAddr(addr); err != nil || a.Is4() {
		if h, n, ok := cutPort(addr); ok {
			host, number = h, n
		}
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); host == "localhost" || err == nil && a.IsLoopback() {
		return
	}
	if number == "" {
		s.address = true
		return
	}
	s.own = appendPort(s.own, number)
}

// cutPort takes the port off host:port or [address]:port.
func cutPort(s string) (host, number string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.IndexByte(s, ':') != i && !strings.HasPrefix(s, "[") || strings.HasSuffix(s, "]") {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func (s *sshdConf) list() []uint16 {
	all := s.own
	if !s.only || s.address {
		ports := s.ports
		if len(ports) == 0 {
			ports = []uint16{22}
		}
		all = append(all, ports...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// appendPort reads a number or, as sshd does too, a name in /etc/services.
func appendPort(all []uint16, s string) []uint16 {
	n, err := net.LookupPort("tcp", s)
	if err != nil || n < 1 || n > 65535 {
		return all
	}
	return append(all, uint16(n))
}
