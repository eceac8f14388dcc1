// Package config turns doorward.toml into a checked Config. The file's keys are
// a promise to its users: reference.toml documents every one of them. No other package
// sees raw values: durations are time.Duration, ports are port.Range, and an invalid
// value is an error that names file, line, key, value and what is allowed. All mistakes
// of a file are reported at once.
//
// The package opens no sockets and changes nothing on the machine.
package config

import (
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
)

// Config is one checked configuration file. It is not changed after Parse, so
// goroutines may share it.
type Config struct {
	Gateway Gateway
	Doors   []Door // in the order of their names, names unique
}

// Gateway is what concerns the daemon as a whole.
type Gateway struct {
	State   string // directory for what must survive a restart, absolute
	Control string // path of the control socket, absolute
	Metrics string // "host:port" of the metrics listener, "" for none
	Records Records
	Host    string // name or address by which visitors reach this machine, "" if it is not given
}

// AtStart returns what the daemon reads only when it starts. Host is left out: the
// daemon does not use it, and the commands give it to visitors.
func (g Gateway) AtStart() Gateway {
	g.Host = ""
	return g
}

// Refuse is what a stranger's new connection gets.
type Refuse uint8

// Drop is silence; Reject is a TCP reset or an ICMP port-unreachable.
const (
	Drop Refuse = iota
	Reject
)

// Door is one guarded service.
type Door struct {
	Name      string        // 1 to 24 characters of a-z, 0-9, - and _, starting with a letter
	Ports     []port.Range  // at least one; no two doors' ports overlap
	OpenFor   time.Duration // how long a grant lets its source open new connections
	SingleUse bool          // the first new connection spends the grant
	Refuse    Refuse
	Always    []netip.Prefix // prefixes that never need to knock, masked
	Service   *Service       // nil: the service always runs
	Presence  Presence
	Knocks    []Knock // at least one; no two hear anything at the same place, unless their kind shares it
	Shared    bool    // a penalty applies to the whole door, not to one knock
}

// Service is what runs behind a door: a systemd unit, or commands. Exactly one
// of Unit and Start is set.
type Service struct {
	Unit    string        // e.g. "ssh.service" or "ssh.socket"
	Start   []string      // argv, absolute program path
	Stop    []string      // nil: the started process is supervised and ended
	Status  []string      // exit status 0 says that it runs
	Timeout time.Duration // how long a start or stop may take; default 30s
}

// Logins says where a door's logins are read from.
type Logins uint8

// LoginsAuto means the journal or an auth log, whichever can be read at each check.
const (
	LoginsOff Logins = iota
	LoginsAuto
	LoginsJournal
	LoginsFiles
)

// Presence is how a door knows that somebody is in.
type Presence struct {
	Idle        time.Duration // nobody in for this long: the door goes dark; 0: never by itself
	Logins      Logins        // never LoginsAuto for a door that is not an SSH door
	Files       []string      // for LoginsFiles: newest first, absolute paths
	Connections bool          // live connections to the door's ports count
}

// Knock is one way to ask for a door.
type Knock struct {
	// Name tells the door's knocks apart: the kind's name, with "-2" and so on for
	// those of the same kind after the first, in the file's order.
	Name string
	Kind string // the kind's name
	knock.Rule
}
