package store

import (
	"iter"
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Door is what survives of one door. Its key is Name.
type Door struct {
	Name     string    `json:"-"`
	State    string    `json:"state"`
	Reason   string    `json:"reason"`
	Since    time.Time `json:"since"`
	Opened   time.Time `json:"opened"`
	LastSeen time.Time `json:"last_seen"`
	Armed    bool      `json:"armed"`   // armed by an operator despite missing log data
	ForAll   bool      `json:"for_all"` // opened to all (scope "door")
	// Ran is true if the service ran when the door was first guarded. It is false if an
	// earlier version, which did not record this, guarded it first.
	Ran bool `json:"ran,omitempty"`
}

// Penalty is the time for which a source's knocks at a door are ignored. Its
// key is Door, Knock and Source; door.Any stands for everybody.
type Penalty struct {
	Door   string        `json:"-"`
	Knock  string        `json:"-"` // "": every knock of the door
	Source netip.Prefix  `json:"-"`
	Until  time.Time     `json:"until"`
	For    time.Duration `json:"for"` // as given; 0 once it is over
	// Times is how many the source has had in a row, including this one. It is kept for a
	// while after the penalty has ended. Zero: unknown, from a version whose penalties
	// did not grow.
	Times  int    `json:"times,omitempty"`
	Reason string `json:"reason"`
}

// PenaltyKey names one Penalty.
type PenaltyKey struct {
	Door   string
	Knock  string
	Source netip.Prefix
}

// Left returns how much of the penalty is left at now, read from the wall clock: never
// less than zero, never more than For. Until alone would do, were it not for a clock that
// stepped back while the daemon was not running (a machine without a battery-backed clock
// starts in the past): the penalty would then last longer than was said.
func (p Penalty) Left(now time.Time) time.Duration {
	return max(0, min(p.Until.Sub(now.Round(0)), p.For))
}

// Grant is permission for a source to open new connections to a door. Its key is Door,
// Source and By.
type Grant struct {
	Door   string
	Source netip.Prefix
	By     string // on whose behalf
	Until  time.Time
	// For is how long it was given for, the limit that Left applies if the clock stepped
	// back. Zero: unknown, only Until counts.
	For time.Duration
}

// GrantKey names one Grant.
type GrantKey struct {
	Door   string
	Source netip.Prefix
	By     string
}

// Left returns how much of the grant is left at now, like Penalty.Left.
func (g Grant) Left(now time.Time) time.Duration {
	left := max(0, g.Until.Sub(now.Round(0)))
	if g.For > 0 {
		left = min(left, g.For)
	}
	return left
}

// Applied is the configuration text in use, and one that waits to be confirmed.
type Applied struct {
	Confirmed []byte    `json:"confirmed"`
	Pending   []byte    `json:"pending,omitempty"` // nil for none
	Deadline  time.Time `json:"deadline"`          // when Pending is rolled back
	// For is how long there was to confirm it, the limit that Left applies if the clock
	// stepped back.
	For time.Duration `json:"for,omitempty"`
	By  string        `json:"by"` // who applied Pending
	// Rejected was rolled back: nobody kept it. nil for none.
	Rejected []byte `json:"rejected,omitempty"`
	// ID identifies Pending. 0 if there is none, or from a version that did not assign
	// IDs.
	ID uint64 `json:"id,omitempty"`
	// Ended are the latest that waited to be confirmed, the newest first.
	Ended []Ended `json:"ended,omitempty"`
}

// Ended is how a configuration that waited to be confirmed stopped waiting.
type Ended struct {
	ID   uint64    `json:"id"`
	Time time.Time `json:"time"`
	How  string    `json:"how"` // one of the gateway's words
	By   string    `json:"by"`  // who ended it, "" for nobody
}

// Left returns how much time there is at now to confirm Pending, like Penalty.Left.
func (a Applied) Left(now time.Time) time.Duration {
	return max(0, min(a.Deadline.Sub(now.Round(0)), a.For))
}

// Mark is something that a kind of knock remembers. Its key is Door, Knock and Key; only
// the kind knows what it means.
type Mark struct {
	Door  string // "": it belongs to no door, and stays when doors go
	Knock string
	Key   string // 1 to 128 bytes
	Value []byte // at most 1024 bytes; nil in a Change: forgotten
}

const (
	maxMarkKey   = 128
	maxMarkValue = 1024
)

// KnockKey names one knock of a door, or what a kind of knock has under no door.
type KnockKey struct {
	Door  string
	Knock string
}

// Change is one commit: everything in it or nothing. What has a key replaces what was
// kept under that key. The Clear lists are applied first, then the End lists, so that a
// key that is both ended and given is given; ending what is not kept is not an error.
type Change struct {
	ClearGrants    []string // doors whose grants all end
	ClearPenalties []string // doors whose penalties all end
	Doors          []Door
	EndDoors       []string // doors that the configuration no longer has; their marks go, too
	EndKnocks      []KnockKey
	Penalties      []Penalty
	EndPenalties   []PenaltyKey
	Grants         []Grant
	EndGrants      []GrantKey
	Marks          []Mark
	Applied        *Applied       // nil leaves it as it is
	Records        []audit.Record // the store assigns their IDs
}

// State is what was kept, as of the last Commit. Lists are in no particular order.
// All times are in UTC, exact to the nanosecond, and without a monotonic reading.
type State struct {
	BootID    string // boot that the last Commit happened in, "" before the first
	Rebooted  bool   // that was a different boot: the kernel has forgotten the grants
	Doors     []Door
	Penalties []Penalty
	// Grants reads them from the file, as often as it is ranged over, until the next
	// Commit. It is never nil.
	Grants  iter.Seq[Grant]
	Marks   []Mark
	Applied Applied
	// Unreadable counts what is kept but not understood, e.g. written by a later version,
	// without grants. Each is logged, grants as they are read; nothing is deleted.
	Unreadable int
}

// AuditLimit limits the audit trail; the oldest records go first, an eighth of the trail
// at once. Refusals, of which strangers can cause as many as they like, have at most half
// of it, and beyond that push out only refusals. What visitors' knocks lead to has a quarter,
// and so have all other records; each has more where there is room, until one that has less
// than its share needs it. A zero field stands for its default.
type AuditLimit struct {
	Records int   // 100,000 by default
	Bytes   int64 // of the records as they are written, 64 MiB by default
}

func (l AuditLimit) orDefault() AuditLimit {
	if l.Records <= 0 {
		l.Records = 100_000
	}
	if l.Bytes <= 0 {
		l.Bytes = 64 << 20
	}
	return l
}
