// Package service starts, stops and watches what runs behind a door: a systemd
// unit over D-Bus (Unit), or the operator's own commands (Command). It never
// decides when; it reports what it sees and leaves repairs to its caller. It
// starts no shell, and no program but those the operator wrote down.
//
// Stopping a service never means ending the sessions of those who are in: a unit is
// stopped as its KillMode says (CutsSessions says when that would cut them), and of a
// supervised command only the process that was started is ended.
package service

import "strconv"

// State is what a service was last seen doing.
type State uint8

// A service's states. Stopped is the zero State.
const (
	Stopped  State = iota // it is down because it was told to be: by whom is not known
	Starting              // on its way up, or about to be started again, by its manager or on somebody's order
	Running
	Stopping
	Failed // it is down although nobody stopped it
)

var stateNames = [...]string{"stopped", "starting", "running", "stopping", "failed"}

// String returns the state's name in lower case.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "state-" + strconv.Itoa(int(s))
}

// Status is the last known state of a service. Two are equal (==) if nothing has changed.
type Status struct {
	State  State
	PID    int    // main process, 0 when there is none or it is not known
	Detail string // for people: why it failed, what would start it again; may be ""
}
