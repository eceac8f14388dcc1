package gateway

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// operatorAt is operator alice at a process of hers.
func operatorAt(pid int32) control.Caller {
	return control.Caller{Name: "operator alice (uid 1000)",
		Operator: &audit.Operator{UID: 1000, LoginUID: new(uint32(1000)), PID: pid}}
}

// signed returns the audit trail's records since the last call: their sources, and the
// processes that gave the orders.
func (m *machine) signed(from *int) (all []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.trail[*from:] {
		pid := "nobody's"
		if r.Operator != nil {
			pid = fmt.Sprint(r.PID)
		}
		all = append(all, fmt.Sprintf("%s %s by %s", r.Event, r.Source, pid))
	}
	*from = len(m.trail)
	return all
}

// Each record that follows from an order, and no other, has who gave it, even if a
// service has to start or stop first.
func TestRecordsHaveWhoOrderedThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.slow = make(chan struct{})
		path := configPath(t)
		r := run(t, m, path, sshDoor)
		from := len(m.trail)
		give := func(by control.Caller, request control.Request) {
			t.Helper()
			order, err := request.Order()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Do(t.Context(), by, order); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		want := func(want ...string) {
			t.Helper()
			if got := m.signed(&from); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		give(operatorAt(1), control.OpenRequest{Door: "ssh", Source: "192.0.2.7"})
		give(operatorAt(2), control.OpenRequest{Door: "ssh", Source: "192.0.2.8"})
		give(control.Caller{Name: "SIGHUP"}, control.ArmRequest{Door: "ssh"})
		want("armed  by nobody's")
		r.touch(visitor, 59000, 59002)
		close(m.slow)
		m.slow = nil
		synctest.Wait()
		want("opened 192.0.2.7 by 1", "granted 192.0.2.7 by 1", "granted 192.0.2.8 by 2", "granted 192.0.2.2 by nobody's")
		give(operatorAt(3), control.CloseRequest{Door: "ssh", Source: "192.0.2.8"})
		want("revoked 192.0.2.8 by 3")
		give(operatorAt(4), control.CloseRequest{Door: "ssh"})
		want("dark  by 4")
		write(t, path, sshDoor+"within = \"30s\"\n")
		give(operatorAt(5), control.ApplyRequest{Action: "apply", Confirm: "1m"})
		give(operatorAt(6), control.ApplyRequest{Action: "undo"})
		want("applied  by 5", "applied  by 6")
		if n := len(r.callers.later); n > 1 {
			t.Errorf("%d orders are remembered that are over", n)
		}
	})
}

// The record of an order that waits has who gave it, even if something else takes effect
// first: a door that goes dark, a grant that the kernel ends.
func TestOrdersOfOthersDoNotTakeTheSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.slowStop = make(chan struct{})
		r := run(t, m, configPath(t), sshDoor)
		give := func(by control.Caller, request control.Request) {
			t.Helper()
			order, err := request.Order()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Do(t.Context(), by, order); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		give(operatorAt(1), control.OpenRequest{Door: "ssh", Source: "192.0.2.7"})
		from := len(m.trail)
		give(operatorAt(2), control.CloseRequest{Door: "ssh"})
		give(operatorAt(3), control.OpenRequest{Door: "ssh", Source: "192.0.2.8"})
		give(operatorAt(4), control.CloseRequest{Door: "ssh"}) // cancels the order, and closes nothing
		give(operatorAt(5), control.OpenRequest{Door: "ssh", Source: "192.0.2.9"})
		close(m.slowStop)
		m.slowStop = nil
		synctest.Wait()
		if got, want := m.signed(&from), []string{"revoked 192.0.2.8 by 4", "dark  by 2", "opened 192.0.2.9 by 5", "granted 192.0.2.9 by 5"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if n := len(r.callers.later); n > 0 {
			t.Errorf("%d orders are remembered that are over", n)
		}
	})
}

// When a door goes, the orders that waited for it are forgotten.
func TestOrdersOfADoorThatGoesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		m.slow = make(chan struct{})
		r := run(t, m, path, sshDoor)
		order, err := control.OpenRequest{Door: "ssh", Source: "192.0.2.7"}.Order()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Do(t.Context(), operatorAt(1), order); err != nil {
			t.Fatal(err)
		}
		write(t, path, openDoor)
		r.order(control.ApplyRequest{Action: "apply"})
		for k := range r.callers.later {
			if k.door != "" {
				t.Errorf("%+v is remembered, although its door has gone", k)
			}
		}
	})
}
