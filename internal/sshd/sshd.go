// Package sshd reads from sshd_config(5) what doorward needs to know: on which ports
// OpenSSH's server would listen, and at which level it logs. It asks no server, so that
// the answer is the same for one that does not run.
package sshd

import (
	"cmp"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Path is where the configuration is, below the root directory.
const Path = "etc/ssh/sshd_config"

// Config is what an sshd_config says, with all files that it includes.
type Config struct {
	// Ports are those that sshd would listen on for others than this machine itself,
	// in ascending order: at least one, unless every ListenAddress is a loopback one.
	Ports  []uint16
	Levels []Level // in their order
}

// Level is a LogLevel, in capitals, and for whom it holds: Match is the rest of the
// Match line, "" outside of one.
type Level struct{ Level, Match string }

// All is the Match of a block for everybody. A LogLevel in it takes precedence over one
// outside of any block.
const All = "all"

// Read reads the configuration below the machine's root directory. ok is false where
// there is none that can be read.
func Read(root fs.FS) (c Config, ok bool) {
	text, err := fs.ReadFile(root, Path)
	if err != nil || len(text) == 0 {
		return Config{}, false
	}
	s := &conf{root: root}
	s.file(string(text), 0)
	return Config{Ports: s.list(), Levels: s.levels}, true
}

// conf collects Port and ListenAddress, which may both be given several times (a
// ListenAddress without a port stands for every Port), and LogLevel, of which the first
// counts, separately for each Match.
type conf struct {
	root    fs.FS
	ports   []uint16
	own     []uint16 // of ListenAddress lines that name a port
	address bool     // there is a ListenAddress without a port, not loopback
	only    bool     // there is any ListenAddress

	match  string // for whom what follows holds, as the Match line says it; "" outside of one
	levels []Level
}

// maxInclude is how deep sshd lets files include one another (servconf.c,
// SERVCONF_MAX_DEPTH).
const maxInclude = 16

// file reads one file. Match lines do not matter for Port and ListenAddress: in a block
// of "Match all" they mean the same as outside of one, and in any other block sshd
// accepts neither. A block ends with its file, at the latest.
func (s *conf) file(text string, depth int) {
	outer := s.match
	defer func() { s.match = outer }()
	for line := range strings.Lines(text) {
		f := words(line)
		if len(f) < 2 {
			continue
		}
		switch strings.ToLower(f[0]) {
		case "port":
			s.ports = appendPort(s.ports, f[1])
		case "listenaddress":
			s.listen(f[1])
		case "loglevel":
			s.levels = append(s.levels, Level{strings.ToUpper(f[1]), s.match})
		case "match":
			if s.match = strings.Join(f[1:], " "); strings.EqualFold(s.match, All) {
				s.match = cmp.Or(outer, All)
			}
		case "include":
			if depth < maxInclude {
				s.include(f[1:], depth+1)
			}
		}
	}
}

// words cuts a line up as sshd does: at blanks, after the keyword also at one
// "=", and not within quotes, which may stand inside a word. A "#" that begins a
// word begins a comment.
func words(line string) []string {
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

func (s *conf) include(patterns []string, depth int) {
	for _, pattern := range patterns {
		if !path.IsAbs(pattern) {
			pattern = path.Join("/", path.Dir(Path), pattern)
		}
		// fs.Glob wants names without a slash in front and without "..".
		found, err := fs.Glob(s.root, strings.TrimPrefix(path.Clean(pattern), "/"))
		if err != nil {
			continue
		}
		for _, name := range found {
			if text, err := fs.ReadFile(s.root, name); err == nil {
				s.file(string(text), depth)
			}
		}
	}
}

func (s *conf) listen(addr string) {
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

func (s *conf) list() []uint16 {
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
