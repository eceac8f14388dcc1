package config

import "time"

// Where things are unless the configuration or the command line says otherwise,
// by the Filesystem Hierarchy Standard.
const (
	DefaultPath    = "/etc/doorward/doorward.toml"
	DefaultState   = "/var/lib/doorward"
	DefaultControl = "/run/doorward/control.sock"
)

// span is what a duration's key may hold.
type span struct {
	unset    time.Duration // the default
	min, max time.Duration
	orNone   bool   // zero is allowed and means none
	word     string // what may stand instead of a duration, "" for nothing
}

// The longest durations that make sense. Whatever is longer is a slip of the
// unit, and a grant of a month is already a door left open.
const (
	month = 30 * 24 * time.Hour
	// maxControl is sun_path of <linux/un.h> without its terminating zero.
	maxControl = 107
	// maxFile bounds what Load reads: a thousand doors fit many times over.
	maxFile = 1 << 20
	// maxUnit is UNIT_NAME_MAX of systemd's basic/unit-name.h.
	maxUnit = 255
	// maxName bounds a door's name; it is part of the names of nftables sets.
	maxName = 24
)

var (
	// A grant only has to last until the visitor's next command has connected.
	openForSpan = span{unset: 30 * time.Second, min: time.Second, max: month}

	// The article's hour.
	idleSpan = span{unset: time.Hour, min: time.Second, max: month, word: idleNever}

	// The article's minute: enough for a person with telnet, too short for a
	// slow scan to pass both by chance.
	withinSpan = span{unset: time.Minute, min: time.Second, max: time.Hour}

	// Looking more often than once a second is what "at once" is for.
	judgeSpan = span{min: time.Second, max: time.Hour}

	// The article's five minutes.
	penaltySpan = span{unset: 5 * time.Minute, min: time.Second, max: month, orNone: true}

	// A third of systemd's own DefaultTimeoutStartSec: a visitor is waiting.
	timeoutSpan = span{unset: 30 * time.Second, min: time.Second, max: time.Hour}
)
