package control

import "time"

// MetricSource is what the metrics listener asks of the daemon. Its method is called
// from a few goroutines at once.
type MetricSource interface {
	// ReadMetrics returns the gateway's present state in numbers. It takes no longer for
	// many grants and penalties than for few.
	ReadMetrics() GatewayMetrics
}

// GatewayMetrics is the gateway's state in numbers. Its counters start at 0 when the
// daemon starts.
type GatewayMetrics struct {
	Version  string
	Warnings int
	Problems []Problem
	Pending  bool // an applied configuration waits to be confirmed
	Config   ConfigMetrics

	FenceUp, FenceOwned bool // as in Fence
	FenceRepairs        uint64
	Store               StoreMetrics
	// Events counts the records of the audit trail, by door ("" for those of no door)
	// and by event.
	Events map[string]map[string]uint64
	Doors  []DoorMetrics
	// Touches counts those that were dropped because too many waited.
	Touches uint64
	// Datagrams counts the datagrams at knocks' ports that were dropped before they were
	// heard, and the answers that were withheld, by reason; nil if no knock hears any.
	Datagrams map[string]uint64
	// Turns are how long the turns of the gateway's loop took, and Waits how long what
	// was heard had to wait for its turn; nil where they are not measured. More may be
	// added to both while they are read.
	Turns, Waits *Spans
}

// ConfigMetrics is the configuration in use.
type ConfigMetrics struct {
	// ID differs from one text to another, and from one start of the daemon to the next.
	// It must not be a plain hash of the text: with that, whoever reads the metrics could
	// try knocks until one fits.
	ID       string
	Loaded   time.Time // when a configuration file was last taken into use
	LoadedOK bool      // the latest attempt to do so went well
}

// StoreMetrics is how well what must survive a restart can be saved.
type StoreMetrics struct {
	Up       bool   // it can be written to disk
	Failures uint64 // commits that failed
	Lost     uint64 // records missing from the audit trail because too many waited for the disk
	Commits  *Spans // how long commits took; nil where that is not measured. More may be added while it is read.
}

// The states of a door's service in DoorMetrics.
const (
	ServiceRunning = "running"
	ServiceStopped = "stopped"
	ServiceFailed  = "failed"  // it is down: it could not be started, or died
	ServiceUnknown = "unknown" // it has not been seen yet
)

// DoorMetrics is one door of GatewayMetrics. Its fields are as in Door, except those below.
type DoorMetrics struct {
	Name, State                 string
	Sessions, Grants, Penalties int
	PacketsRefused              uint64

	Service       string // ServiceRunning, ..., "" without a service
	StartFailures uint64 // of the service
	// Refusals counts the knocks that did not open the door, by a reason that Refusal
	// returned.
	Refusals map[string]uint64
	Logs     *bool // whether the logs of logins could be read in full at the latest look; nil where none are read

	LastKnock, LastGrant, LastLogin, LastDark time.Time // of the latest that is known, zero for none
}
