package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
)

// choice is what a first configuration is to say. Its text is checked by
// config.Parse before it is written, so that nothing here has to be valid.
type choice struct {
	door      string
	ports     []string
	unit, why string // unit "" or "none": the service always runs
	kind      knock.Drafted
	chosen    map[string][]string // about the knock, by the names of the kind's choices
	keys      []string            // of each knock, as the kind writes them
	former    former              // what is written over
	keep      bool                // its knocks, where it has any
	logins    string              // what is to be said about logins, "" for a door without SSH
	unseen    string              // why nobody would be seen to be in, "" where they are
}

// text writes the configuration.
func (c *choice) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# doorward's configuration. The knock in it is a secret: who can read this file
# can open the door. After a change: doorward check, and then
# doorward apply --confirm 60s. Every key is explained by doorward init --reference.

[%s]
ports = [%s]
# How long a right knock lets its source open new connections. Those that stand
# live on.
open_for = "30s"
`, c.table(), quoted(c.ports))
	if c.managed() {
		fmt.Fprintf(&b, "\n[%s.service]\n", c.table())
		if c.why != "" {
			fmt.Fprintf(&b, "# %s\n", c.why)
		}
		fmt.Fprintf(&b, "unit = %q\n", c.unit)
	}
	fmt.Fprintf(&b, "\n[%s.presence]\n", c.table())
	switch {
	case c.unseen != "":
		fmt.Fprintf(&b, "# Flows over UDP cannot be seen here, so that nobody would be seen to be in:\n"+
			"# %s\nidle = \"never\"\n", c.unseen)
	case c.managed():
		fmt.Fprintf(&b, "# Nobody in for this long: %s is stopped.\nidle = \"1h\"\n", c.unit)
	default:
		b.WriteString("idle = \"1h\"\n")
	}
	if c.logins != "" {
		fmt.Fprintf(&b, "# %s\nlogins = \"auto\"\n", c.logins)
	}
	for _, keys := range c.keys {
		fmt.Fprintf(&b, "\n[[%s.knock]]\nkind = %q\n%s", c.table(), c.kind.Name(), keys)
	}
	return b.String()
}

// table is the path of the door's table. A name that is no bare key is quoted,
// for config.Parse to refuse it.
func (c *choice) table() string {
	if c.door != "" && strings.Trim(c.door, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "" {
		return "door." + c.door
	}
	return fmt.Sprintf("door.%q", c.door)
}

// managed says whether the door starts and stops a unit.
func (c *choice) managed() bool { return c.unit != "" && c.unit != "none" }

// quoted writes the strings of a TOML list.
func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(q, ", ")
}

// articleText is the article's configuration for this machine. Its numbers are
// the article's. What the article's machine called otherwise, the unit and the
// log, is what this one has, and the file says so.
func articleText(m machine, unit string) string {
	text := config.LikeTheArticle()
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
