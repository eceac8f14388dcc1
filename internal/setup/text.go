package setup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/config"
)

// Text writes the configuration.
func (p *Plan) Text() string {
	var b strings.Builder
	b.WriteString(`# doorward's configuration. Only root and the group doorward may read it: a knock of
# touches is a secret. After a change: doorward check, and then
# doorward apply --confirm 60s. Every key is explained by doorward init --reference.
`)
	if p.Host != "" {
		fmt.Fprintf(&b, `
[gateway]
# How visitors reach this machine: doorward invite and share write it down for them.
host = %q
`, p.Host)
	}
	fmt.Fprintf(&b, `
[%s]
ports = [%s]
# How long a right knock lets its source open new connections. Open ones stay open.
open_for = "30s"
`, p.table(), quoted(p.Ports))
	if p.managed() {
		fmt.Fprintf(&b, "\n[%s.service]\n", p.table())
		if p.why != "" {
			fmt.Fprintf(&b, "# %s\n", p.why)
		}
		fmt.Fprintf(&b, "unit = %q\n", p.Unit)
	}
	fmt.Fprintf(&b, "\n[%s.presence]\n", p.table())
	switch {
	case p.unseen != "":
		fmt.Fprintf(&b, "# Flows over UDP cannot be seen here, so that nobody would be seen to be in:\n"+
			"# %s\nidle = \"never\"\n", p.unseen)
	case p.managed():
		fmt.Fprintf(&b, "# Nobody in for this long: %s is stopped.\nidle = \"1h\"\n", p.Unit)
	default:
		b.WriteString("idle = \"1h\"\n")
	}
	if p.logins != "" {
		fmt.Fprintf(&b, "# %s\nlogins = \"auto\"\n", p.logins)
	}
	for _, k := range p.knocks {
		fmt.Fprintf(&b, "\n[[%s.knock]]\nkind = %q\n%s", p.table(), k.kind, k.keys)
	}
	return b.String()
}

// table returns the path of the door's table. A name that is not a bare key is quoted,
// and config.Parse refuses it.
func (p *Plan) table() string {
	if p.Door != "" && strings.Trim(p.Door, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "" {
		return "door." + p.Door
	}
	return fmt.Sprintf("door.%q", p.Door)
}

// quoted writes the strings of a TOML list.
func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(q, ", ")
}

// Article returns the article's configuration for this machine. Its numbers are the
// article's. The unit and the log are those that this machine has, and where they have
// other names the file says so.
func Article(m Machine, unit, host string) string {
	text := config.LikeTheArticle()
	if host != "" {
		text = strings.Replace(text, "\n[", fmt.Sprintf("\n[gateway]\nhost = %q\n\n[", host), 1)
	}
	why := "this one is your choice"
	if unit == "" {
		unit, why, _ = m.sshUnit()
	}
	const itsUnit = "sshd.service"
	if unit != "" && unit != itsUnit {
		text = replaceLine(text, `unit = "`+itsUnit+`"`, fmt.Sprintf(
			"# The article's is %s; %s\nunit = %q", itsUnit, why, unit))
	}
	log := m.authLog()
	switch {
	case log == authLogs[0]:
	case log != "":
		text = strings.ReplaceAll(text, authLogs[0], log)
		text = replaceLine(text, "logins = [", fmt.Sprintf(
			"# The article's is %s, which is not here; this machine has %s.\nlogins = [", authLogs[0], log))
	case m.hasJournal():
		start := strings.Index(text, "logins = [")
		end := start + strings.Index(text[start:], "]") + 1
		text = text[:start] + fmt.Sprintf("# The article's is %s, which is not here; this machine has the journal.\n"+
			"logins = \"journal\"", authLogs[0]) + text[end:]
	}
	return text
}

// replaceLine replaces a line of text.
func replaceLine(text, line, by string) string {
	lines := strings.Split(text, "\n")
	if i := slices.Index(lines, line); i >= 0 {
		lines[i] = by
	}
	return strings.Join(lines, "\n")
}
