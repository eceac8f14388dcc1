package setup

import (
	"fmt"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/tables"
)

// anyHost stands where the machine's name or address belongs.
const anyHost = "HOST"

// Visitor returns what a visitor types for the door's first knock, or does if no
// doorward command makes it. host is the gateway, "" if that is not known.
func Visitor(door *config.Door, host string) string {
	if host == "" {
		host = anyHost
	}
	knocks, ok := touching(door, host)
	if invited(door) {
		return "doorward knock " + profile.NameFor([]string{host}) + " " + door.Name
	}
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

// sshConfig returns lines for a visitor's ssh_config(5) that make ssh knock by itself;
// none if the door is not an SSH door, or its knock is made otherwise.
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

// touching returns the command that makes the door's first knock, if one does.
func touching(door *config.Door, host string) (command string, ok bool) {
	t, ok := door.Knocks[0].Rule.(knock.Touched)
	if !ok {
		return "", false
	}
	return "doorward knock " + host + " --touch " + joined(t.Touches()), true
}

// invited reports whether visitors are invited to make the door's first knock.
func invited(door *config.Door) bool {
	_, ok := door.Knocks[0].Rule.(knock.Invited)
	return ok
}

// patience says that a knock is not judged at once, if it is not.
func patience(door *config.Door) string {
	t, ok := door.Knocks[0].Rule.(knock.Touched)
	if !ok || t.Every() == 0 {
		return ""
	}
	return fmt.Sprintf(" (the gateway checks its listeners every %s, so it can take that long)", tables.Short(t.Every()))
}

// firstTCP returns the first TCP port of a door: a visitor can wait for a connection to
// it.
func firstTCP(door *config.Door) (n uint16, ok bool) {
	for _, r := range door.Ports {
		if r.Proto == port.TCP {
			return r.First, true
		}
	}
	return 0, false
}

// joined returns the ports as "59000,59002".
func joined(ports []uint16) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(ports), "[]"), " ", ",")
}
