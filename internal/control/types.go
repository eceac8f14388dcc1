// Package control is how an operator's commands talk to the daemon: JSON over
// HTTP on a unix socket, its types, its server and its client. The server
// answers from a snapshot of the gateway and hands orders to it; it decides
// nothing itself. Who may connect is the socket's file mode (0660, group
// doorward); who did connect is read from the kernel (SO_PEERCRED) and written
// into the audit trail.
package control

import (
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Status is the answer to GET /v1/status: what the gateway knew at Time. Its
// JSON is a promise to scripts.
type Status struct {
	Time     time.Time `json:"time"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Config   string    `json:"config"`            // path of the configuration file
	Warnings []string  `json:"warnings"`          // what an operator should act on, never null
	Pending  *Pending  `json:"pending,omitempty"` // an applied configuration that waits to be confirmed
	Settled  *Settled  `json:"settled,omitempty"` // how the latest Pending ended, null before the first
	Fence    Fence     `json:"fence"`
	Doors    []Door    `json:"doors"` // sorted by name
	// Events counts the audit records since the start, by event.
	Events map[string]uint64 `json:"events"`
}

// Pending is a configuration that goes back to the one before unless it is
// confirmed.
type Pending struct {
	Until time.Time `json:"until"`
	By    string    `json:"by"`
}

// Settled is how a pending configuration ended: kept, or gone back from.
type Settled struct {
	Time time.Time `json:"time"`
	By   string    `json:"by"` // "operator alice (uid 1000)", "" when its time was up
	Kept bool      `json:"kept"`
}

// Fence is the state of the nftables table.
type Fence struct {
	Up       bool   `json:"up"`
	Owned    bool   `json:"owned"`    // the kernel keeps others from changing the table
	Repairs  uint64 `json:"repairs"`  // times it was put right since the start
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
	Name      string         `json:"name"`
	State     string         `json:"state"` // StateDark, ...
	Since     time.Time      `json:"since"`
	Reason    string         `json:"reason"`    // why it is in this state, for people
	Ports     []string       `json:"ports"`     // "22/tcp", "60000-61000/udp"
	Service   string         `json:"service"`   // "ssh.service", by an alias "sshd.service (ssh.service)", a command's argv[0], or "" for none
	Running   bool           `json:"running"`   // the service was last seen to run; true when there is none
	LastSeen  *time.Time     `json:"last_seen"` // latest presence, null before the first
	DarkAt    *time.Time     `json:"dark_at"`   // when idleness will end it, null unless open, and with idle = "never"
	Sessions  int            `json:"sessions"`  // who came in by the door's ports and is there still
	Refused   uint64         `json:"refused"`   // packets the fence refused at this door
	Grants    []Grant        `json:"grants"`    // never null
	Penalties []Penalty      `json:"penalties"` // never null
	Refusals  []audit.Record `json:"refusals"`  // the last few, newest first, never null
}

// Grant is leave for one source to open new connections to a door.
type Grant struct {
	Source  string    `json:"source"` // an address, a prefix, or "any"
	Expires time.Time `json:"expires"`
	For     []string  `json:"for"` // on whose behalf: by which kind of knock, "operator alice", ...
}

// Penalty is the time for which a source's knocks are ignored.
type Penalty struct {
	Source string    `json:"source"` // an address, or "any" with scope = "door"
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// OpenRequest is the body of POST /v1/open.
type OpenRequest struct {
	Door   string `json:"door"`
	Source string `json:"source"` // an address or prefix; "any" opens to all
	For    string `json:"for"`    // a duration, "" for the door's open_for
}

// CloseRequest is the body of POST /v1/close. Without a Source the door goes
// dark; sessions that stand are left alone.
type CloseRequest struct {
	Door   string `json:"door"`
	Source string `json:"source"` // revoke this source's grants only
}

// ArmRequest is the body of POST /v1/arm: ends a failsafe and its deafness, and
// forgets penalties, of one door or (Door "") of all; with a Source, that
// source's penalty alone.
type ArmRequest struct {
	Door   string `json:"door"`
	Source string `json:"source"`
}

// ApplyRequest is the body of POST /v1/apply.
type ApplyRequest struct {
	Action  string `json:"action"`  // "apply" (reads the daemon's configuration file anew), "keep" or "undo"
	Confirm string `json:"confirm"` // with "apply": a duration after which it is undone unless kept; "" keeps it at once
}

// Reply is the answer to the orders above when they were carried out.
type Reply struct {
	Message string `json:"message"` // one sentence for people
	// Until is when what was ordered ends by itself: a grant, or the time to confirm.
	Until *time.Time `json:"until,omitempty"`
}

// Error is the answer to an order that was not carried out, with a 4xx or 5xx
// status. It is also the client's error.
type Error struct {
	Message string `json:"error"` // what, where, the value, what is allowed
	Hint    string `json:"hint"`  // what to type next, may be ""
	Cause   error  `json:"-"`     // what the client met, nil for nothing
}

// Unwrap returns what the client met, nil for nothing.
func (e *Error) Unwrap() error { return e.Cause }

// Error returns the message without the hint.
func (e *Error) Error() string { return e.Message }

// LogQuery selects records of the audit trail: GET /v1/log?door=&source=&after=&limit=.
type LogQuery struct {
	Door   string
	Source string
	After  uint64 // only records with a higher ID
	Limit  int    // the newest so many, 0 for 100
	Follow bool   // keep the connection and send new records as they come (one JSON object a line)
}
