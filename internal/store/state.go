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
	Armed    bool      `json:"armed"`   // armed by an operator in spite of missing log data
	ForAll   bool      `json:"for_all"` // opened to all (scope "door")
	// Ran is true if the service ran when the door was first guarded. Versions that did
	// not note that have false.
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
	// Times is how many the source had in a row, with this one. It is kept for a
	// while when the penalty is over. Zero: not said, as of a version that had
	// all penalties alike.
	Times  int    `json:"times,omitempty"`
	Reason string `json:"reason"`
}

// PenaltyKey names one Penalty.
type PenaltyKey struct {
	Door   string
	Knock  string
	Source netip.Prefix
}

// Left is how much of the penalty stands at now, read from the wall clock: never
// less than zero, never more than For. Until alone would do, but for a clock
// that stepped back while the daemon was not running (a machine without a
// battery-backed clock starts in the past): the penalty would then stand for
// longer than was said.
func (p Penalty) Left(now time.Time) time.Duration {
	return max(0, min(p.Until.Sub(now.Round(0)), p.For))
}

// Grant is leave for a source to open new connections to a door. Its key is
// Door, Source and By.
type Grant struct {
	Door   string
	Source netip.Prefix
	By     string // on whose behalf
	Until  time.Time
	// For is for how long it was given, the bound that Left puts on a clock
	// that stepped back. Zero: not said, Until alone counts.
	For time.Duration
}

// GrantKey names one Grant.
type GrantKey struct {
	Door   string
	Source netip.Prefix
	By     string
}

// Left is how much of the grant stands at now, as Penalty.Left has it.
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
	// For is how long there was to confirm it, the bound that Left puts on a
	// clock that stepped back.
	For time.Duration `json:"for,omitempty"`
	By  string        `json:"by"` // who applied Pending
	// Rejected was rolled back: nobody kept it. nil for none.
	Rejected []byte `json:"rejected,omitempty"`
	// ID tells Pending from all others. 0 without one, and of a version that gave none.
	ID uint64 `json:"id,omitempty"`
	// Ended are the latest that waited to be confirmed, the newest first.
	Ended []Ended `json:"ended,omitempty"`
}

// Ended is how a configuration that waited to be confirmed did not wait any more.
type Ended struct {
	ID   uint64    `json:"id"`
	Time time.Time `json:"time"`
	How  string    `json:"how"` // a word of the gateway's
	By   string    `json:"by"`  // who ended it, "" for nobody
}

// Left is how much time there is at now to confirm Pending, as Penalty.Left has
// it.
func (a Applied) Left(now time.Time) time.Duration {
	return max(0, min(a.Deadline.Sub(now.Round(0)), a.For))
}

// Mark is what a kind of knock remembers. Its key is Door, Knock and Key; what it
// means is the kind's business alone.
type Mark struct {
	Door  string
	Knock string
	Key   string // 1 to 128 bytes
	Value []byte // at most 1024 bytes; nil in a Change: forgotten
}

const (
	maxMarkKey   = 128
	maxMarkValue = 1024
)

// KnockKey names one knock of a door.
type KnockKey struct {
	Door  string
	Knock string
}

// Change is one commit: everything in it or nothing. What has a key replaces
// what was kept under that key. The Clear lists are carried out first, then the
// End lists, so that a key both ended and given is given; ending what is not kept
// is no error.
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
	Records        []audit.Record // their IDs are given by the store
}

// State is what was kept, as of the last Commit. Lists are in no particular order.
// All times are in UTC, exact to the nanosecond, and without a monotonic reading.
type State struct {
	BootID    string // boot that the last Commit happened in, "" before the first
	Rebooted  bool   // that was another boot than this one: the kernel has forgotten the grants
	Doors     []Door
	Penalties []Penalty
	// Grants reads them from the file, as often as it is ranged over, until the next
	// Commit. It is never nil.
	Grants  iter.Seq[Grant]
	Marks   []Mark
	Applied Applied
	// Unreadable counts what is kept but not understood, e.g. written by a later
	// version, without grants. Each is logged, grants as they are read; none of it
	// is deleted.
	Unreadable int
}

// AuditLimit bounds the audit trail; the oldest records go first, an eighth of
// the trail at once. Refusals, of which strangers can cause as many as they like,
// have at most half of it, and beyond that push out nothing but refusals; all others
// have what those do not take. A zero field stands for its default.
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
