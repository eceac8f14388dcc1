// Package control is how an operator's commands talk to the daemon: JSON over
// HTTP on a unix socket, its types, its server and its client. The server
// answers from a snapshot of the gateway and hands orders to it; it decides
// nothing itself. Who may connect is the socket's file mode (0660, group
// doorward); who did connect is read from the kernel (SO_PEERCRED) and written
// into the audit trail.
package control

import (
	"encoding/json"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Status is the answer to GET /v1/status: what the gateway knew at Time. Scripts
// rely on its JSON.
type Status struct {
	API           int       `json:"api"` // APIVersion
	Time          time.Time `json:"time"`
	Version       string    `json:"version"`
	Started       time.Time `json:"started"`
	Config        string    `json:"config"`            // path of the configuration file
	Warnings      []string  `json:"warnings"`          // what an operator should act on, never null
	Pending       *Pending  `json:"pending,omitempty"` // an applied configuration that waits to be confirmed
	Settled       *Settled  `json:"settled,omitempty"` // how the latest Pending ended, null before the first
	Ended         []Settled `json:"ended"`             // how the latest eight ended, newest first; never null
	Problems      []Problem `json:"problems"`          // why the doors are not guarded, or not usable, as they should be; never null
	ConfigHash    string    `json:"config_hash"`       // SHA-256 of the configuration in use, in hex
	ConfigDiffers bool      `json:"config_differs"`    // the file is not the same as what is in use, or cannot be read
	Fence         Fence     `json:"fence"`
	Doors         []Door    `json:"doors"` // sorted by name
	// Events counts the audit records since the start, by event. Under "refused" those are
	// knocks; packets are counted by Door.PacketsRefused.
	Events map[string]uint64 `json:"events"`
}

// Problem is something for which /healthz fails.
type Problem struct {
	Code    string `json:"code"` // one of the Problem constants
	Door    string `json:"door"` // "" for the gateway as a whole
	Message string `json:"message"`
}

// The codes of Problems.
const (
	ProblemFence     = "fence_down"     // the doors are not guarded
	ProblemStore     = "nothing_saved"  // a restart would forget what happens now
	ProblemService   = "service_failed" // a service could not be started
	ProblemFailsafe  = "failsafe"       // a door ignores knocks: there is no log data
	ProblemListeners = "knocks_unheard" // nobody could knock at a door
	ProblemEnding    = "ending"         // the daemon is shutting down
)

// Pending is an applied configuration that is undone unless it is confirmed in
// time.
type Pending struct {
	ID    uint64    `json:"id"` // no two have the same
	Until time.Time `json:"until"`
	By    string    `json:"by"`
}

// Settled is how a pending configuration ended: kept, undone or replaced.
type Settled struct {
	ID   uint64    `json:"id"` // the Pending's
	Time time.Time `json:"time"`
	By   string    `json:"by"` // "operator alice (uid 1000)", "" for nobody
	Kept bool      `json:"kept"`
	End  string    `json:"end"` // one of the End constants
}

// The ends of a pending configuration.
const (
	EndKept     = "kept"
	EndUndone   = "undone"   // somebody undid it
	EndExpired  = "expired"  // nobody kept it in time, so the daemon undid it
	EndRebooted = "rebooted" // the machine booted before it was kept, so the daemon undid it
	EndReplaced = "replaced" // another one is in use, by force or since a start of the daemon
)

// Words returns how it ended, for people.
func (s Settled) Words() string {
	switch {
	case s.End == EndKept:
		return "kept by " + s.By
	case s.End == EndUndone:
		return s.By + " undid it"
	case s.End == EndExpired:
		return "nobody confirmed it in time, and the previous configuration is in use again"
	case s.End == EndRebooted:
		return "the machine rebooted before it was confirmed, and the previous configuration is in use again"
	case s.By == "":
		return "the daemon was started with another file, or one that could not be used"
	}
	return s.By + " replaced it"
}

// WentBack reports whether the configuration that was in use before is in use again.
func (s Settled) WentBack() bool {
	return s.End == EndUndone || s.End == EndExpired || s.End == EndRebooted
}

// Fence is the state of the nftables table.
type Fence struct {
	Up       bool   `json:"up"`
	Owned    bool   `json:"owned"`    // the kernel keeps others from changing the table
	Repairs  uint64 `json:"repairs"`  // times it was repaired since the start
	Mismatch string `json:"mismatch"` // what differs now, "" for nothing
}

// The states of a Door.
const (
	StateDark     = "dark"
	StateOpening  = "opening"
	StateOpen     = "open"
	StateClosing  = "closing"
	StateFailsafe = "failsafe"
)

// Door is one door of Status.
type Door struct {
	Name     string     `json:"name"`
	State    string     `json:"state"` // one of the State constants
	Since    time.Time  `json:"since"`
	Reason   string     `json:"reason"`    // why it is in this state, for people
	Ports    []string   `json:"ports"`     // "22/tcp", "60000-61000/udp"
	Service  string     `json:"service"`   // "ssh.service", by an alias "sshd.service (ssh.service)", a command's argv[0], or "" for none
	Running  bool       `json:"running"`   // the service was running when last seen; true if there is none
	LastSeen *time.Time `json:"last_seen"` // latest presence, null before the first
	DarkAt   *time.Time `json:"dark_at"`   // when the door goes dark unless it is used, null unless open, and with idle = "never"
	Sessions int        `json:"sessions"`  // live connections and flows that came in by the door's ports
	// PacketsRefused counts packets that the fence dropped or rejected at this door. A
	// client that is kept out sends several for each attempt.
	PacketsRefused uint64         `json:"packets_refused"`
	Grants         []Grant        `json:"grants"`    // the 1,000 that were given last, never null
	Penalties      []Penalty      `json:"penalties"` // the 1,000 latest, never null
	Refusals       []audit.Record `json:"refusals"`  // the last few, newest first, never null
	// GrantsTotal and PenaltiesTotal are how many there are, including those that are not
	// listed.
	GrantsTotal    int `json:"grants_total"`
	PenaltiesTotal int `json:"penalties_total"`

	Always  []string  `json:"always"`  // prefixes that need not knock, never null
	Live    []Session `json:"live"`    // the 1,000 latest of who is in, never null; Sessions counts all
	Guesses Guesses   `json:"guesses"` // refused knocks of the last hour and day
}

// Grant lets one source open new connections to a door.
type Grant struct {
	Source  string     `json:"source"` // an address, a prefix, or "any"
	Expires time.Time  `json:"expires"`
	For     []string   `json:"for"`   // on whose behalf: the kind of a knock, "operator alice (uid 1000)", ...
	Given   *time.Time `json:"given"` // when it was given, the latest if several times; null when not known
}

// Session is a live connection or flow that came in by the door.
type Session struct {
	Source string       `json:"source"` // its address
	Port   uint16       `json:"port"`   // at the visitor's end
	To     string       `json:"to"`     // the door's port, "22/tcp"
	Since  *time.Time   `json:"since"`  // when it was first seen, or logged in; null when that is not known
	User   string       `json:"user"`   // who logged in by it, "" when that is not known
	Grant  *audit.Grant `json:"grant"`  // what let it in, null when that is not known
}

// Guesses counts a door's refused knocks.
type Guesses struct {
	Hour GuessesOf `json:"hour"`
	Day  GuessesOf `json:"day"`
}

// GuessesOf counts the refused knocks of a span of time. Knocks of penalised sources are
// ignored, and not counted.
type GuessesOf struct {
	// Since is when the span begins: an hour ago or up to five minutes earlier, or a day
	// ago or up to an hour earlier. It is later if the audit trail does not have all
	// refusals from before the daemon's start.
	Since   time.Time     `json:"since"`
	Refused uint64        `json:"refused"`
	Top     []GuessesFrom `json:"top"` // the ten prefixes with the highest Refused-Error, in descending order; never null
}

// GuessesFrom counts the refused knocks from one prefix.
type GuessesFrom struct {
	Prefix  string `json:"prefix"`  // an IPv4 /24, an IPv6 /48, or "any" with scope = "door"
	Refused uint64 `json:"refused"` // at most this many, and at least Refused-Error
	Error   uint64 `json:"error"`   // by how much Refused may be too high
}

// Penalty is the time for which a source's knocks are ignored.
type Penalty struct {
	Source string    `json:"source"` // an address, or "any" with scope = "door"
	Knock  string    `json:"knock"`  // which knock of the door ignores the source, "" for all
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// The bodies of orders follow. A key that is present in one must have a value: "" and
// null are refused, since a value that was lost on the way would often widen the order.
// Keys without a value are left out, as the zero values of these types are.

// OpenRequest is the body of POST /v1/open.
type OpenRequest struct {
	Door   string `json:"door,omitempty"`
	Source string `json:"source,omitempty"` // an address or prefix; "any" opens to all
	For    string `json:"for,omitempty"`    // a duration, "" for the door's open_for
	// Wait is how long, as a duration, the answer may wait until the door is open for the
	// source or it is certain that it will not be; "" does not wait.
	Wait string `json:"wait,omitempty"`
}

// CloseRequest is the body of POST /v1/close. Without a Source the door goes
// dark. Established sessions are left alone.
type CloseRequest struct {
	Door string `json:"door,omitempty"`
	// Source limits the order to the grants of an address, of a prefix and all that lies
	// in it, or, with "any", to the grant to everybody.
	Source string `json:"source,omitempty"`
}

// ArmRequest is the body of POST /v1/arm, which ends the failsafe and forgets the
// penalties of one door, or of all doors if Door is "". With a Source, only that
// source's penalties are forgotten.
type ArmRequest struct {
	Door   string `json:"door,omitempty"`
	Source string `json:"source,omitempty"`
}

// ApplyRequest is the body of POST /v1/apply.
type ApplyRequest struct {
	Action string `json:"action,omitempty"` // "apply" (reads the daemon's configuration file again), "keep" or "undo"
	ID     uint64 `json:"id,omitempty"`     // with "keep" and "undo": which Pending is meant, 0 for whichever there is
	// Force, with "apply", applies the file even if another configuration waits to be
	// confirmed, which is given up, and even if the file was rolled back before.
	Force   bool   `json:"force,omitempty"`
	Confirm string `json:"confirm,omitempty"` // with "apply": a duration after which it is undone unless kept; "" keeps it at once
}

// Reply is the answer to the orders above when they were carried out.
type Reply struct {
	Message string `json:"message"` // one sentence for people
	// Until is when what was ordered ends by itself: a grant, or the time to confirm.
	Until *time.Time `json:"until,omitempty"`

	Door    string `json:"door"`    // "" for all, or for none in particular
	Source  string `json:"source"`  // "" for all, or for none in particular
	State   string `json:"state"`   // the door's, "" without one
	Changed bool   `json:"changed"` // false if things were so already
	// Covered is what still lets the source, or a part of it, in after a CloseRequest. It
	// is empty when the grant to everybody was closed.
	Covered []Cover `json:"covered,omitempty"`
	// Pending is the ID of the configuration that waits, after an ApplyRequest.
	Pending uint64 `json:"pending,omitempty"`
	// Ended is how many grants ended by a KindRequest.
	Ended int `json:"ended,omitempty"`
	// Result is what a kind of knock answers to a KindRequest: an object of its own.
	Result json.RawMessage `json:"result,omitempty"`
}

// Cover is something that lets a source in, or a part of it.
type Cover struct {
	Source string     `json:"source"` // the grant's, or the always prefix
	By     string     `json:"by"`     // "touch", "operator alice (uid 1000)", CoverAlways
	Until  *time.Time `json:"until"`  // null for always, and for a grant that waits for the service
}

// Error is the answer to an order that was not carried out, with a 4xx or 5xx
// status. It is also the client's error.
type Error struct {
	Code    string `json:"code"`  // one of the Code constants; "" from daemons older than the codes
	Message string `json:"error"` // what, where, the value, what is allowed
	Hint    string `json:"hint"`  // what to type next, may be ""
	Cause   error  `json:"-"`     // what the client met, nil for nothing
}

// The codes of Errors.
const (
	CodeUsage      = "usage"       // the order cannot be understood
	CodeDown       = "daemon_down" // no daemon answers
	CodePermission = "permission"  // the client is not allowed to do this
	CodeNoDoor     = "no_such_door"
	CodeRefused    = "refused"  // the order was understood, and not carried out
	CodeFailed     = "failed"   // the order was begun, and did not succeed
	CodeTimeout    = "timeout"  // the order did not succeed in time, but may yet
	CodeBusy       = "busy"     // too many clients are being served; the same may succeed later
	CodeInternal   = "internal" // something broke
)

// Unwrap returns the Cause.
func (e *Error) Unwrap() error { return e.Cause }

// Error returns the message without the hint.
func (e *Error) Error() string { return e.Message }

// LogQuery selects records of the audit trail:
// GET /v1/log?door=&source=&since=&until=&event=&after=&oldest=&limit=&follow=.
type LogQuery struct {
	Door   string    // may be one that is no longer there
	Source string    // what concerns an address or a prefix: what it is in, what is in it, and everybody; "any": everybody alone
	Since  time.Time // not before, zero for the beginning
	Until  time.Time // before, zero for the end
	Events []string  // only these, empty for all
	After  uint64    // only records with a higher ID, the oldest Limit of them
	Oldest bool      // the oldest Limit of them, not the newest, even if After is 0
	Limit  int       // at most this many, 0 for 100; no more than 10,000: a longer trail is read in pages, by After
	Follow bool      // keep the connection and send new records as they come (one JSON object a line)
}

// LogPage is what a LogQuery selects. What is not a record is in headers of the
// answer, Doorward-Through and so on.
type LogPage struct {
	Records []audit.Record // in the order of their IDs
	// Through is the ID up to which the page has everything selected; the next page begins
	// after it. It is at least After. With Oldest the page may end before it has Limit
	// records.
	Through uint64
	Last    uint64 // the highest ID that a record has
	// Gone is set with Oldest: records with IDs above After, up to this one, are no
	// longer in the trail, since newer ones have taken their place. It is 0 for none.
	Gone uint64
}
