package control

import "time"

// MetricSource is what the metrics listener asks of the daemon. Its method is called
// from a few goroutines at once.
type MetricSource interface {
	// ReadMetrics returns how things stand, in numbers. It takes no longer for many
	// grants and penalties than for few.
	ReadMetrics() GatewayMetrics
}

// GatewayMetrics is how things stand, in numbers. Its counters are of the time since the
// daemon's start.
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
	// Touches are those that were thrown away because too many waited.
	Touches uint64
	// Datagrams are those at knocks' ports that came to nothing before they were heard,
	// by why; nil where no knock hears any.
	Datagrams map[string]uint64
	// Turns are how long the turns of the gateway's loop took, and Waits how long what
	// was heard had to wait for its turn; nil where they are not measured. They go on.
	Turns, Waits *Spans
}

// ConfigMetrics is the configuration in use.
type ConfigMetrics struct {
	// ID is another one for another text. It is none that the text can be guessed by, as
	// a plain hash is: who reads the metrics could try knocks until one fits.
	ID       string
	Loaded   time.Time // when a configuration file was last taken into use
	LoadedOK bool      // the latest attempt to do so went well
}

// StoreMetrics is what survives a restart.
type StoreMetrics struct {
	Up       bool   // a restart would forget nothing
	Failures uint64 // commits that the disk did not take
	Lost     uint64 // records of the audit trail that were too many to wait for the disk
	Commits  *Spans // how long they took; nil where that is not measured. They go on.
}

// The states of a door's service in DoorMetrics.
const (
	ServiceRunning = "running"
	ServiceStopped = "stopped"
	ServiceFailed  = "failed"  // it is down: it could not be started, or died
	ServiceUnknown = "unknown" // it was not seen yet
)

// DoorMetrics is one door of GatewayMetrics. Its fields are as in Door, except those below.
type DoorMetrics struct {
	Name, State                 string
	Sessions, Grants, Penalties int
	PacketsRefused              uint64

	Service       string // ServiceRunning, ..., "" without a service
	StartFailures uint64 // of the service
	// Refusals counts knocks that came to nothing, by why, which Refusal returns.
	Refusals map[string]uint64
	Logs     *bool // the logs that tell of logins could be read in full at the latest look; nil where none are read

	LastKnock, LastGrant, LastLogin, LastDark time.Time // the latest that is known of, zero for none
}
