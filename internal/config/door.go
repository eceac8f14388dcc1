package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/port"
)

type rawDoor struct {
	Ports     value `toml:"ports"`
	OpenFor   value `toml:"open_for"`
	SingleUse value `toml:"single_use"`
	Refuse    value `toml:"refuse"`
	Always    value `toml:"always"`
	Service   value `toml:"service"`
	Presence  value `toml:"presence"`
	Knock     value `toml:"knock"`
}

type rawService struct {
	Unit    value `toml:"unit"`
	Start   value `toml:"start"`
	Stop    value `toml:"stop"`
	Status  value `toml:"status"`
	Timeout value `toml:"timeout"`
}

type rawPresence struct {
	Idle        value `toml:"idle"`
	Logins      value `toml:"logins"`
	Connections value `toml:"connections"`
}

// SSH says whether an SSH server is behind the door: its logins are worth
// reading. That is so for port 22/tcp, for the units of the distributions, and
// for a command whose program is sshd.
func (d *Door) SSH() bool {
	if port.Within(d.Ports, port.Port{Proto: port.TCP, Number: 22}) {
		return true
	}
	if d.Service == nil {
		return false
	}
	if len(d.Service.Start) > 0 && path.Base(d.Service.Start[0]) == "sshd" {
		return true
	}
	name := strings.TrimSuffix(strings.TrimSuffix(d.Service.Unit, ".service"), ".socket")
	return name == "ssh" || name == "sshd"
}

// door checks one [door.NAME] and notes in placed what it lays claim to.
func (c *checker) door(name string, v value, placed *places) Door {
	c.doorName(v, name)
	d := Door{Name: name}
	before := len(c.found)
	var raw rawDoor
	if !c.fields(v, &raw) {
		return d
	}
	d.Ports = c.ports(name, raw.Ports, placed)
	d.OpenFor, _ = c.duration(raw.OpenFor, openForSpan)
	d.SingleUse = c.boolean(raw.SingleUse, false)
	d.Refuse = Refuse(c.choice(raw.Refuse, "drop", "reject"))
	d.Always = c.prefixes(raw.Always)
	if raw.Service.given() {
		d.Service = c.service(name, raw.Service, placed)
	}
	d.Presence = c.presence(raw.Presence, &d)
	d.Knocks = c.knocks(name, raw.Knock, placed)
	if len(c.found) == before { // else it may follow from another mistake
		c.idle(raw.Presence, &d)
	}
	if d.SingleUse && d.anyScope(ScopeDoor) {
		c.wrong(raw.SingleUse, `a knock with scope = "door" opens to everybody`,
			`false, or scope = "source" for every knock`)
	}
	return d
}

// doorName checks a door's name.
func (c *checker) doorName(v value, name string) {
	if problem := NameProblem(name); problem != "" {
		c.wrong(v, problem, fmt.Sprintf(
			"1 to %d characters of a-z, 0-9, - and _, a letter first", maxName)).Value = ""
	}
}

// NameProblem says why name cannot be a door's, "" if it can. A name is also part
// of the names of nftables sets, and typed by people.
func NameProblem(name string) string {
	switch {
	case name == "":
		return "a door without a name"
	case len(name) > maxName:
		return fmt.Sprintf("a name of %d characters", len(name))
	case name[0] < 'a' || name[0] > 'z':
		return fmt.Sprintf("a name that starts with %q", name[:1])
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "":
		return "a name with other characters than allowed"
	}
	return ""
}

const ranges = `ports and ranges such as "22/tcp", "60000-61000/udp"`

// ports reads what a door guards.
func (c *checker) ports(door string, v value, placed *places) []port.Range {
	elements, ok := c.list(v, "lists of "+ranges)
	if ok && len(elements) == 0 {
		c.wrong(v, "empty: there is nothing to guard", "lists of "+ranges)
	}
	var guarded []port.Range
	for _, e := range elements {
		if n, ok := e.v.(int64); ok {
			c.wrong(e, "no protocol", ranges).Hint = fmt.Sprintf(`write "%d/tcp"`, n)
			continue
		}
		s, ok := c.str(e, ranges)
		if !ok {
			continue
		}
		r, err := port.ParseRange(s)
		if err != nil {
			problem := strings.TrimPrefix(err.Error(), e.text())
			c.wrong(e, strings.TrimLeft(problem, ": "), "")
			continue
		}
		guarded = append(guarded, r)
		placed.guarded = append(placed.guarded, claim{e, door, r})
	}
	return guarded
}

const prefixForm = `prefixes such as "203.0.113.0/24", "2001:db8::/48"`

// prefixes reads the prefixes that never need to knock. They may not lie within
// each other: one of two is then a mistake, and more is open than was meant.
func (c *checker) prefixes(v value) []netip.Prefix {
	if !v.given() {
		return nil
	}
	elements, _ := c.list(v, "lists of "+prefixForm)
	var found []netip.Prefix
	for _, e := range elements {
		s, ok := c.str(e, prefixForm)
		if !ok {
			continue
		}
		p, ok := c.prefix(e, s)
		if !ok {
			continue
		}
		i := slices.IndexFunc(found, p.Overlaps)
		switch {
		case i < 0:
			found = append(found, p)
		case found[i] == p:
			c.wrong(e, "listed twice", "")
		default:
			wide, narrow := found[i], p
			if wide.Bits() > narrow.Bits() {
				wide, narrow = narrow, wide
			}
			c.wrong(e, fmt.Sprintf("%q lies within %q", narrow, wide), "").Hint =
				"keep the one that is meant"
		}
	}
	return found
}

// prefix reads one prefix.
func (c *checker) prefix(v value, s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		m := c.wrong(v, "not a prefix", prefixForm)
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			m.Problem = "no prefix length"
			m.Hint = fmt.Sprintf("write %q", netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		}
		return p, false
	}
	if p.Addr().Is4In6() {
		m := c.wrong(v, "an IPv4 prefix in IPv6 form", prefixForm)
		if p.Bits() >= 96 {
			plain := netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
			m.Hint = fmt.Sprintf("write %q", plain)
		}
		return p, false
	}
	if p != p.Masked() {
		c.wrong(v, fmt.Sprintf("bits are set after the first %d", p.Bits()),
			fmt.Sprintf("%q, which is the prefix, and %q, which is the one address",
				p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen())))
		return p, false
	}
	return p, true
}

// service checks a [door.NAME.service].
func (c *checker) service(door string, v value, placed *places) *Service {
	s := &Service{}
	var raw rawService
	if !c.fields(v, &raw) {
		return s
	}
	s.Timeout, _ = c.duration(raw.Timeout, timeoutSpan)
	switch {
	case raw.Unit.given() && raw.Start.given():
		c.wrong(raw.Start, `both "unit" and "start"`, "one of the two")
	case !raw.Unit.given() && !raw.Start.given():
		c.wrong(v, `neither "unit" nor "start"`, "one of the two").Hint =
			"leave the table out for a service that always runs"
	}
	if raw.Unit.given() {
		s.Unit = c.unit(door, raw.Unit, placed)
		for _, other := range []value{raw.Stop, raw.Status} {
			if other.given() && !raw.Start.given() {
				c.wrong(other, `belongs to "start": systemd stops and watches a unit`, "")
			}
		}
	}
	s.Start = c.argv(raw.Start)
	s.Stop = c.argv(raw.Stop)
	s.Status = c.argv(raw.Status)
	return s
}

const units = `units such as "ssh.service", "ssh.socket"`

// unit reads the name of a systemd unit, by the rules of systemd.unit(5).
func (c *checker) unit(door string, v value, placed *places) string {
	s, ok := c.str(v, units)
	if !ok {
		return ""
	}
	name, isService := strings.CutSuffix(s, ".service")
	name, isSocket := strings.CutSuffix(name, ".socket")
	problem, hint := "", ""
	switch {
	case s == "":
		problem = "empty"
	case isService == isSocket:
		problem = "ends neither in .service nor in .socket"
		if !strings.ContainsAny(s, "./ ") {
			hint = fmt.Sprintf("write %q", s+".service")
		}
	case name == "" || len(s) > maxUnit || strings.HasPrefix(name, "@"):
		problem = "no unit's name"
	case strings.HasSuffix(name, "@"):
		problem = "a template without an instance"
		hint = fmt.Sprintf("write an instance such as %q", strings.Replace(s, "@", "@1", 1))
	case strings.Trim(name, unitLetters) != "":
		problem = "has characters that no unit's name has"
	default:
		placed.units = append(placed.units, claimUnit{v, door, s})
		return s
	}
	c.wrong(v, problem, units).Hint = hint
	return ""
}

const unitLetters = `abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\@`

const argvs = `lists such as ["/usr/sbin/sshd", "-D"]: a program's absolute path and its arguments`

// argv reads a command: a program and its arguments, never a line for a shell.
func (c *checker) argv(v value) []string {
	if !v.given() {
		return nil
	}
	if s, ok := v.v.(string); ok {
		m := c.wrong(v, "a string, not a list: no shell takes it apart", argvs)
		if words := strings.Fields(s); len(words) > 0 {
			m.Hint = fmt.Sprintf(`write ["%s"]`, strings.Join(words, `", "`))
		}
		return nil
	}
	elements, ok := c.list(v, argvs)
	if ok && len(elements) == 0 {
		c.wrong(v, "empty", argvs)
	}
	var words []string
	for i, e := range elements {
		s, ok := c.str(e, argvs)
		switch {
		case !ok:
		case i == 0:
			c.absolute(e, s, absolutePaths("/usr/sbin/sshd"))
		case strings.ContainsRune(s, 0):
			c.wrong(e, "has a zero byte", argvs)
		}
		words = append(words, s)
	}
	return words
}

// presence checks a [door.NAME.presence] for the door, whose other fields are
// read already.
func (c *checker) presence(v value, d *Door) Presence {
	var raw rawPresence
	c.fields(v, &raw)
	p := Presence{Connections: c.boolean(raw.Connections, true)}
	switch {
	case raw.Idle.v == idleNever:
	case !raw.Idle.given():
		p.Idle = max(idleSpan.unset, d.OpenFor) // the default follows a longer open_for
	default:
		p.Idle, _ = c.duration(raw.Idle, idleSpan)
	}
	p.Logins, p.Files = c.logins(raw.Logins)
	if p.Logins == LoginsAuto && !d.SSH() {
		p.Logins = LoginsOff
	}
	return p
}

const loginsForm = `"auto", "journal", "off", and lists of files, newest first`

// logins reads where logins are read from.
func (c *checker) logins(v value) (Logins, []string) {
	switch x := v.v.(type) {
	case nil:
		return LoginsAuto, nil
	case string:
		if strings.HasPrefix(x, "/") {
			c.wrong(v, "a file, not a list of files", loginsForm).Hint = fmt.Sprintf("write [%q]", x)
			return LoginsOff, nil
		}
		known := []Logins{LoginsAuto, LoginsJournal, LoginsOff}
		return known[c.word(v, x, []string{"auto", "journal", "off"}, loginsForm)], nil
	}
	elements, ok := c.list(v, loginsForm)
	if ok && len(elements) == 0 {
		c.wrong(v, "empty", loginsForm).Hint = `write "off" to read no logins`
	}
	var files []string
	for _, e := range elements {
		form := absolutePaths("/var/log/auth.log")
		s, ok := c.str(e, form)
		if !ok || !c.absolute(e, s, form) {
			continue
		}
		if slices.Contains(files, s) {
			c.wrong(e, "listed twice", "")
		}
		files = append(files, s)
	}
	return LoginsFiles, files
}
