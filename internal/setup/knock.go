package setup

import (
	"fmt"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// anyHost stands where the machine's name or address belongs.
const anyHost = "HOST"

// Visitor is what a visitor types for the door's first knock, or does, if no command
// of this program's makes it. host is where to, "" if that is not known.
func Visitor(door *config.Door, host string) string {
	if host == "" {
		host = anyHost
	}
	knocks, ok := touching(door, host)
	if !ok {
		return door.Knocks[0].Words() + ", and connect"
	}
	n, ok := firstTCP(door)
	if !ok {
		return knocks
	}
	knocks += fmt.Sprintf(" --wait %d", n)
	if !door.SSH() {
		return knocks
	}
	knocks += " -- ssh USER@" + host
	if n != 22 {
		knocks += fmt.Sprintf(" -p %d", n)
	}
	return knocks
}

// sshConfig are lines of a visitor's ssh_config(5) that knock by themselves; none if
// the door or its knock is not one for that.
func sshConfig(door *config.Door, host string) (lines []string) {
	if host == "" {
		host = anyHost
	}
	knocks, ok := touching(door, "%h")
	n, tcp := firstTCP(door)
	if !ok || !tcp || !door.SSH() {
		return nil
	}
	lines = []string{"Host " + host}
	if n != 22 {
		lines = append(lines, fmt.Sprintf("    Port %d", n))
	}
	return append(lines, "    ProxyCommand "+knocks+" --wait %p --stdio")
}

// touching is the command that makes the door's first knock, if one does.
func touching(door *config.Door, host string) (command string, ok bool) {
	t, ok := door.Knocks[0].Rule.(knock.Touched)
	if !ok {
		return "", false
	}
	return "doorward knock " + host + " --touch " + joined(t.Touches()), true
}

// patience says that a knock is not judged at once, if it is not.
func patience(door *config.Door) string {
	t, ok := door.Knocks[0].Rule.(knock.Touched)
	if !ok || t.Every() == 0 {
		return ""
	}
	return fmt.Sprintf(" (the gateway looks at its listeners every %s, so that it can take as long)", tables.Short(t.Every()))
}

// firstTCP is the first TCP port of a door, to which a visitor can wait to connect.
func firstTCP(door *config.Door) (n uint16, ok bool) {
	for _, r := range door.Ports {
		if r.Proto == port.TCP {
			return r.First, true
		}
	}
	return 0, false
}

// joined is "59000,59002".
func joined(ports []uint16) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(ports), "[]"), " ", ",")
}
