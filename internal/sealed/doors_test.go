package sealed

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What an order or a change costs does not grow with the doors that go by the same files:
// each key is looked at once, and there is one ring for all of them.
func TestDoorsThatShareFiles(t *testing.T) {
	s := newSite(t, strings.Join([]string{newKey("alice").line(""), newKey("bob").line("")}, "\n"))
	looked := 0
	all, more := s.kept.entries(func(KeyEntry) bool { looked++; return true })
	if len(all) != 2 || more != 0 || looked != 2 {
		t.Fatalf("%d keys are listed, %d more, and %d were looked at, want 2, 0 and 2", len(all), more, looked)
	}
	var doors []string
	for _, u := range s.uses {
		doors = append(doors, u.Door)
	}
	for _, e := range all {
		if diff := cmp.Diff(doors, e.Doors); len(doors) < 2 || diff != "" {
			t.Errorf("%s is known at (-want +got):\n%s", e.Name, diff)
		}
	}
	first := s.kept.desk(s.uses[0].Door, rule(s.uses[0].Rule))
	for _, u := range s.uses {
		if d := s.kept.desk(u.Door, rule(u.Rule)); d == nil || d.ring != first.ring {
			t.Errorf("door %s has a ring of its own", u.Door)
		}
	}
}
