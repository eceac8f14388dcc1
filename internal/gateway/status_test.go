package gateway

import (
	"testing"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// Package door does not know the local API, so each has names of its own for states.
func TestStatesAreTheirNames(t *testing.T) {
	for state, name := range map[door.State]string{
		door.Dark: control.StateDark, door.Opening: control.StateOpening, door.Open: control.StateOpen,
		door.Closing: control.StateClosing, door.Failsafe: control.StateFailsafe,
	} {
		if state.String() != name {
			t.Errorf("a door that is %q is %q in the API", state, name)
		}
	}
}

// stateNow returns the status as the loop knows it, without counts of guesses.
func (g *Gateway) stateNow(now time.Time) control.Status {
	s, briefs := g.assemble(now)
	s.Doors = statuses(now, briefs)
	return s
}
