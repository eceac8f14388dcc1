package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// SSH reports whether an SSH server is behind the door, so that its logins are worth
// reading: for port 22/tcp, for the units of the distributions, and for a command
// whose program is sshd.
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

// door reads one [door.NAME].
func (c *checker) door(name string, v tables.Value) Door {
	doorName(v, name)
	d := Door{Name: name}
	t, ok := v.Table()
	if !ok {
		return d
	}
	before := t.Mistakes()
	d.Ports = c.ports(name, t.At("ports"))
	d.OpenFor, _ = t.At("open_for").Duration(openForSpan)
	singleUse := t.At("single_use")
	d.SingleUse = singleUse.Bool(false)
	d.Refuse = Refuse(t.At("refuse").Choice("drop", "reject"))
	d.Always = prefixes(t.At("always"))
	d.Shared = t.At("penalties").Choice("knock", "door") == 1
	if service := t.At("service"); service.Given() {
		d.Service = c.service(name, service)
	}
	presence, _ := t.At("presence").Table()
	d.Presence = readPresence(presence, &d)
	c.knocks(&d, t.At("knock"))
	t.Done()
	if t.Mistakes() == before { // else it may follow from another mistake
		d.idle(presence.At("idle"))
	}
	if d.SingleUse && d.forAll() {
		singleUse.Wrong(`a knock with scope = "door" opens to everybody`,
			`false, or scope = "source" for every knock`)
	}
	return d
}

// doorName checks a door's name.
func doorName(v tables.Value, name string) {
	if problem := NameProblem(name); problem != "" {
		v.Wrong(problem, NameForm).Value = ""
	}
}

// NameForm says what a door may be called.
var NameForm = fmt.Sprintf("1 to %d characters of a-z, 0-9, - and _, a letter first", maxName)

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
		return "a name with characters that are not allowed"
	}
	return ""
}

const ranges = `ports and ranges such as "22/tcp", "60000-61000/udp"`

// ports reads what a door guards.
func (c *checker) ports(door string, v tables.Value) []port.Range {
	elements, ok := v.List("lists of " + ranges)
	if ok && len(elements) == 0 {
		v.Wrong("empty: there is nothing to guard", "lists of "+ranges)
	}
	var guarded []port.Range
	for _, e := range elements {
		if n, ok := e.V.(int64); ok {
			e.Wrong("no protocol", ranges).Hint = fmt.Sprintf(`write "%d/tcp"`, n)
			continue
		}
		s, ok := e.Text(ranges)
		if !ok {
			continue
		}
		r, err := port.ParseRange(s)
		if err != nil {
			problem := strings.TrimPrefix(err.Error(), e.Spelled())
			e.Wrong(strings.TrimLeft(problem, ": "), "")
			continue
		}
		guarded = append(guarded, r)
		c.claims = append(c.claims, claim{e, door, 0, r, Knock{}})
	}
	return guarded
}

const prefixForm = `prefixes such as "203.0.113.0/24", "2001:db8::/48"`

// prefixes reads the prefixes that never need to knock. They may not lie within
// each other: one of the two would be a mistake, and more open than was meant.
func prefixes(v tables.Value) []netip.Prefix {
	if !v.Given() {
		return nil
	}
	elements, _ := v.List("lists of " + prefixForm)
	var found []netip.Prefix
	for _, e := range elements {
		s, ok := e.Text(prefixForm)
		if !ok {
			continue
		}
		p, ok := prefix(e, s)
		if !ok {
			continue
		}
		i := slices.IndexFunc(found, p.Overlaps)
		switch {
		case i < 0:
			found = append(found, p)
		case found[i] == p:
			e.Wrong("listed twice", "")
		default:
			wide, narrow := found[i], p
			if wide.Bits() > narrow.Bits() {
				wide, narrow = narrow, wide
			}
			e.Wrong(fmt.Sprintf("%q lies within %q", narrow, wide), "").Hint =
				"keep the one you mean"
		}
	}
	return found
}

// prefix reads one prefix.
func prefix(v tables.Value, s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		m := v.Wrong("not a prefix", prefixForm)
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			m.Problem = "no prefix length"
			m.Hint = fmt.Sprintf("write %q", netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		}
		return p, false
	}
	if p.Addr().Is4In6() {
		m := v.Wrong("an IPv4 prefix in IPv6 form", prefixForm)
		if p.Bits() >= 96 {
			plain := netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
			m.Hint = fmt.Sprintf("write %q", plain)
		}
		return p, false
	}
	if p != p.Masked() {
		v.Wrong(fmt.Sprintf("host bits are set after the first %d", p.Bits()),
			fmt.Sprintf("%q for the prefix, and %q for the one address",
				p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen())))
		return p, false
	}
	return p, true
}

// service reads a [door.NAME.service].
func (c *checker) service(door string, v tables.Value) *Service {
	s := &Service{}
	t, ok := v.Table()
	if !ok {
		return s
	}
	unit, start, stop, status := t.At("unit"), t.At("start"), t.At("stop"), t.At("status")
	s.Timeout, _ = t.At("timeout").Duration(timeoutSpan)
	t.Done()
	switch {
	case unit.Given() && start.Given():
		start.Wrong(`both "unit" and "start"`, "one of the two")
	case !unit.Given() && !start.Given():
		v.Wrong(`neither "unit" nor "start"`, "one of the two").Hint =
			"leave the table out for a service that always runs"
	}
	if unit.Given() {
		s.Unit = c.unit(door, unit)
		for _, other := range []tables.Value{stop, status} {
			if other.Given() && !start.Given() {
				other.Wrong(`belongs to "start": systemd stops and watches a unit`, "")
			}
		}
	}
	s.Start, s.Stop, s.Status = argv(start), argv(stop), argv(status)
	return s
}

const units = `units such as "ssh.service", "ssh.socket"`

// unit reads the name of a systemd unit, by the rules of systemd.unit(5).
func (c *checker) unit(door string, v tables.Value) string {
	s, ok := v.Text(units)
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
		problem = "not a unit name"
	case strings.HasSuffix(name, "@"):
		problem = "a template without an instance"
		hint = fmt.Sprintf("write an instance such as %q", strings.Replace(s, "@", "@1", 1))
	case strings.Trim(name, unitLetters) != "":
		problem = "has characters that are not allowed in a unit name"
	default:
		c.units = append(c.units, claimUnit{v, door, s})
		return s
	}
	v.Wrong(problem, units).Hint = hint
	return ""
}

const unitLetters = `abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\@`

const argvs = `lists such as ["/usr/sbin/sshd", "-D"]: a program's absolute path and its arguments`

// argv reads a command: a program and its arguments, never a line for a shell.
func argv(v tables.Value) []string {
	if !v.Given() {
		return nil
	}
	if s, ok := v.V.(string); ok {
		m := v.Wrong("a string, not a list: no shell splits it", argvs)
		if words := strings.Fields(s); len(words) > 0 {
			m.Hint = fmt.Sprintf(`write ["%s"]`, strings.Join(words, `", "`))
		}
		return nil
	}
	elements, ok := v.List(argvs)
	if ok && len(elements) == 0 {
		v.Wrong("empty", argvs)
	}
	var words []string
	for i, e := range elements {
		s, ok := e.Text(argvs)
		switch {
		case !ok:
		case i == 0:
			s, _ = e.File(tables.AbsolutePaths("/usr/sbin/sshd"))
		case strings.ContainsRune(s, 0):
			e.Wrong("has a zero byte", argvs)
		}
		words = append(words, s)
	}
	return words
}

// readPresence reads a [door.NAME.presence] for the door, whose ports, open_for and
// service have been read already.
func readPresence(t *tables.Table, d *Door) Presence {
	var p Presence
	switch idle := t.At("idle"); {
	case idle.V == idleNever:
	case !idle.Given():
		p.Idle = max(idleSpan.Unset, d.OpenFor) // the default follows a longer open_for
	default:
		p.Idle, _ = idle.Duration(idleSpan)
	}
	p.Logins, p.Files = logins(t.At("logins"))
	if p.Logins == LoginsAuto && !d.SSH() {
		p.Logins = LoginsOff
	}
	p.Connections = t.At("connections").Bool(true)
	t.Done()
	return p
}

const loginsForm = `"auto", "journal", "off", and lists of files, newest first`

// logins reads the key that says where logins are read from.
func logins(v tables.Value) (Logins, []string) {
	switch x := v.V.(type) {
	case nil:
		return LoginsAuto, nil
	case string:
		if strings.HasPrefix(x, "/") {
			v.Wrong("a file, not a list of files", loginsForm).Hint = fmt.Sprintf("write [%q]", x)
			return LoginsOff, nil
		}
		known := []Logins{LoginsAuto, LoginsJournal, LoginsOff}
		return known[v.Word(x, []string{"auto", "journal", "off"}, loginsForm)], nil
	}
	elements, ok := v.List(loginsForm)
	if ok && len(elements) == 0 {
		v.Wrong("empty", loginsForm).Hint = `write "off" to read no logins`
	}
	var files []string
	for _, e := range elements {
		s, ok := e.File(tables.AbsolutePaths("/var/log/auth.log"))
		if !ok {
			continue
		}
		if slices.Contains(files, s) {
			e.Wrong("listed twice", "")
		}
		files = append(files, s)
	}
	return LoginsFiles, files
}
