package config

import (
	"time"

	"github.com/doorward/doorward/internal/tables"
)

// Where things are unless the configuration or the command line says otherwise,
// by the Filesystem Hierarchy Standard.
const (
	DefaultPath    = "/etc/doorward/doorward.toml"
	DefaultState   = "/var/lib/doorward"
	DefaultControl = "/run/doorward/control.sock"
)

// ShortestGrant and LongestGrant bound how long a grant may last, whether open_for or
// an operator says so.
const (
	ShortestGrant = time.Second
	LongestGrant  = month
)

const (
	// month is the longest duration that makes sense. Whatever is longer is a slip of
	// the unit, and a grant of a month is already a door left open.
	month = 30 * 24 * time.Hour
	// maxControl is sun_path of <linux/un.h> without its terminating zero.
	maxControl = 107
	// MaxFile is the maximum size of a configuration file, in bytes: a thousand doors
	// fit many times over.
	MaxFile = 1 << 20
	// maxUnit is UNIT_NAME_MAX of systemd's basic/unit-name.h.
	maxUnit = 255
	// maxName bounds a door's name; it is part of the names of nftables sets.
	maxName = 24
)

var (
	// A grant only has to last until the visitor's next command has connected.
	openForSpan = tables.Span{Unset: 30 * time.Second, Min: ShortestGrant, Max: LongestGrant}

	// The article's hour.
	idleSpan = tables.Span{Unset: time.Hour, Min: time.Second, Max: month, Word: idleNever}

	// A third of systemd's own DefaultTimeoutStartSec: a visitor is waiting.
	timeoutSpan = tables.Span{Unset: 30 * time.Second, Min: time.Second, Max: time.Hour}
)
