package gateway

import (
	"testing"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// Doors know nothing of the local API, so that each has its names.
func TestStatesAreTheirNames(t *testing.T) {
	for state, name := range map[door.State]string{
		door.Dark: control.StateDark, door.Opening: control.StateOpening, door.Open: control.StateOpen,
		door.Closing: control.StateClosing, door.Failsafe: control.StateFailsafe,
	} {
		if state.String() != name {
			t.Errorf("a door that is %q is %q to who asks", state, name)
		}
	}
}

// stateNow is the status as far as the loop knows it, without counts of guesses.
func (g *Gateway) stateNow(now time.Time) control.Status {
	s, doors := g.assemble(now)
	for i, d := range doors {
		s.Doors[i] = d.status(now)
	}
	return s
}
