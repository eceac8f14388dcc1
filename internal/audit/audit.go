// Package audit has the record of the audit trail: who knocked, what was
// decided and why. It is the one type that the store keeps, the control API
// returns and the metrics count, so the package is below them all and imports no
// other package of doorward. Sums turns floods of records into few.
package audit

import (
	"log/slog"
	"time"
)

// Record is one line of the audit trail.
type Record struct {
	ID     uint64     `json:"id"` // rises by one with each record
	Time   time.Time  `json:"time"`
	Door   string     `json:"door"`            // "" for the gateway as a whole
	Event  string     `json:"event"`           // one of the Event constants
	Source string     `json:"source"`          // who: an address, "any", "" for none
	By     string     `json:"by"`              // what asked: "touch", "operator alice (uid 1000)", "idle", ...
	Reason string     `json:"reason"`          // why, for people
	Until  *time.Time `json:"until,omitempty"` // of a grant or a penalty
	// Count is how many events the record sums up; 0 if it is about a single one. Source is
	// then the network, or the address, that all of them came from, or "".
	Count uint64 `json:"count,omitempty"`
	// Visit: it tells what a visitor's knock has led to, and nobody ordered it.
	Visit bool `json:"visit,omitempty"`

	*Operator         // who ordered it, nil unless an operator did
	Login     *Login  `json:"login,omitempty"`  // with EventLogin
	Config    *Config `json:"config,omitempty"` // with EventApplied
	// Prev and Hash chain the record to those before it, so that a removal shows; see
	// Ends. Records of versions before the chain have neither.
	Prev *Prev  `json:"prev,omitempty"`
	Hash string `json:"hash,omitempty"`
}

// Operator is the process that gave an order, as the kernel knows it. Only SudoUser is
// the process's own claim, which proves nothing. So may LoginUID be, of a process that
// does not come from a login: it may set that once (audit_set_loginuid_perm in the
// kernel's kernel/audit.c).
type Operator struct {
	UID      uint32  `json:"by_uid"`
	LoginUID *uint32 `json:"by_login,omitempty"` // who logged in, however they changed users since; nil when not known
	PID      int32   `json:"by_pid"`
	SudoUser string  `json:"by_sudo_user,omitempty"`
}

// Login is a login through a door, according to the service's log.
type Login struct {
	User   string `json:"user"`
	Port   uint16 `json:"port"`   // at the visitor's end
	Method string `json:"method"` // "publickey", "password", ...
	Grant  *Grant `json:"grant"`  // what let it in, null when that is not known
}

// Grant is what let a connection in.
type Grant struct {
	Source string    `json:"source"` // whom it was given to: an address, a prefix, "any"
	By     string    `json:"by"`     // by whose order or knock: "touch", "operator alice (uid 1000)", "always", ...
	Since  time.Time `json:"since"`  // when it was given, zero when that is not known

	Whose []string `json:"-"` // each of those that By names; nil with "always"
}

// Config is a change of the configuration in use.
type Config struct {
	Before string `json:"before"` // SHA-256 of the text before, in hex; "" for none
	After  string `json:"after"`
	// Changed are the keys whose values differ, such as "door.ssh.open_for", sorted;
	// never null. Values are left out, since some are secret.
	Changed []string `json:"changed"`
	// Salt is 128 random bits. Without it, whoever gets the record's hash, but not Before
	// and After, could test guesses of the knock's ports against the hash.
	Salt string `json:"salt"`
}

// Times returns how many events the record stands for.
func (r Record) Times() uint64 { return max(1, r.Count) }

// Events returns all of the Event constants, sorted.
func Events() []string {
	return []string{
		EventAlarm, EventApplied, EventArmed, EventDark, EventError, EventExpired, EventFailsafe, EventGranted, EventKeys, EventLogin,
		EventOpened, EventRefused, EventRepaired, EventRevoked, EventStarted, EventStopped,
	}
}

// The events of the audit trail.
const (
	EventOpened   = "opened"   // the door went from dark to open
	EventGranted  = "granted"  // a source got a grant
	EventRevoked  = "revoked"  // a grant ended before its time
	EventExpired  = "expired"  // a grant ended at its time
	EventRefused  = "refused"  // a knock was refused; Until is the end of a penalty, if there is one
	EventDark     = "dark"     // the door went dark
	EventFailsafe = "failsafe" // no log data: the door is dark and ignores knocks
	EventArmed    = "armed"    // a failsafe or a penalty ended
	EventRepaired = "repaired" // the fence, a listener or a service was not as it should be, and was repaired
	EventError    = "error"    // something an operator must know went wrong
	EventStarted  = "started"  // the daemon guards the doors
	EventStopped  = "stopped"  // the daemon stopped; the fence remains
	EventLogin    = "login"    // somebody logged in through the door
	EventApplied  = "applied"  // a configuration was taken into use, kept, or rolled back
	EventKeys     = "keys"     // who may knock was changed, by an order or in a file
	EventAlarm    = "alarm"    // somebody has knocked with what must not be used any more
)

// Level returns the level at which an event is logged: info, unless an operator should
// know of it or act on it.
func Level(event string) slog.Level {
	switch event {
	case EventFailsafe, EventError:
		return slog.LevelError
	case EventRepaired, EventAlarm:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}
