package gateway

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// A knock that was right once is not right again: neither after a restart, nor after a
// change of its rule, nor after the rule was gone while it could still come back.
func TestMarksComeBack(t *testing.T) {
	withLetters(t)
	other := strings.Replace(letterDoor, letterKnock, letterKnock+"first = false\n", 1)
	without := strings.Replace(letterDoor, letterKnock, "", 1)
	apply := control.ApplyRequest{Action: "apply"}
	for _, tt := range []struct {
		name string
		then func(t *testing.T, r *running) *running
		kept bool
	}{
		{"a restart", func(t *testing.T, r *running) *running {
			r.stop()
			return restart(t, r.m, r.path)
		}, true},
		{"another rule", func(t *testing.T, r *running) *running {
			write(t, r.path, other)
			r.order(apply)
			return r
		}, true},
		{"another place in the file", func(t *testing.T, r *running) *running {
			write(t, r.path, strings.Replace(letterDoor, letterKnock, strings.Replace(letterKnock, "5005", "5006", 1)+letterKnock, 1))
			r.order(apply)
			r.stop()
			return restart(t, r.m, r.path)
		}, true},
		{"a knock that went and was undone", func(t *testing.T, r *running) *running {
			write(t, r.path, without)
			r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
			r.stop()
			r = restart(t, r.m, r.path)
			r.order(control.ApplyRequest{Action: "undo"})
			return r
		}, true},
		{"a door that went and was undone", func(t *testing.T, r *running) *running {
			write(t, r.path, webDoor)
			r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
			r.stop()
			r = restart(t, r.m, r.path)
			r.order(control.ApplyRequest{Action: "undo"})
			return r
		}, true},
		{"a knock that went for good", func(t *testing.T, r *running) *running {
			write(t, r.path, without)
			r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
			r.order(control.ApplyRequest{Action: "keep"})
			if r.m.do(func() {}); len(r.m.marks) != 0 {
				t.Errorf("marks %v are kept of a knock that is gone", r.m.marks)
			}
			write(t, r.path, letterDoor)
			r.order(apply)
			return r
		}, false},
		{"a file without it at a start", func(t *testing.T, r *running) *running {
			r.stop()
			write(t, r.path, webDoor)
			restart(t, r.m, r.path).stop()
			write(t, r.path, letterDoor)
			return restart(t, r.m, r.path)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				r := run(t, m, configPath(t), letterDoor)
				r.write(visitor, "open 1")
				if len(m.marks) != 1 {
					t.Fatalf("marks %v, want one", m.marks)
				}
				r = tt.then(t, r)
				m.do(func() { clear(m.grants) })
				r.write(visitor6, "open 1")
				if _, again := m.grants[grantKey{"ssh", door.Source(visitor6)}]; again == tt.kept {
					t.Errorf("the same again opens: %t, marks %v", again, m.marks)
				}
			})
		})
	}
}
