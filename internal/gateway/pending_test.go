package gateway

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/store"
)

const (
	alices = "operator alice (uid 1000)"
	bobs   = "operator bob (uid 1001)"
)

// doorsInUse returns the names of the doors in use, and of those that the fence guards if
// they differ.
func (r *running) doorsInUse() string {
	s, _ := r.Status()
	var names []string
	for _, d := range s.Doors {
		names = append(names, d.Name)
	}
	var guarded []string
	r.m.do(func() {
		for _, d := range r.m.doors {
			guarded = append(guarded, d.Name)
		}
	})
	if !slices.Equal(names, guarded) {
		return fmt.Sprintf("%v, but the fence guards %v", names, guarded)
	}
	return strings.Join(names, " ")
}

// as gives an order in somebody's name.
func (r *running) as(by string, o control.ApplyRequest) (control.Reply, error) {
	return r.Do(r.t.Context(), control.Caller{Name: by}, o)
}

// insured applies the file as it is, with a minute to confirm it, and returns its ID.
func (r *running) insured(by string, force bool) uint64 {
	r.t.Helper()
	reply, err := r.as(by, control.ApplyRequest{Action: "apply", Confirm: "1m", Force: force})
	if err != nil || reply.Pending == 0 || !reply.Changed || reply.Until == nil {
		r.t.Fatalf("apply --confirm: %+v, %v", reply, err)
	}
	return reply.Pending
}

// last returns the latest record of an event that concerns no door.
func (m *machine) last(event string) (last audit.Record) {
	m.do(func() {
		for _, r := range m.trail {
			if r.Event == event && r.Door == "" {
				last = r
			}
		}
	})
	return last
}

// A configuration that waits to be confirmed is not replaced by a plain apply, by SIGHUP,
// or by an apply that has to be confirmed.
func TestAConfigurationThatWaitsIsNotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, sshDoor+webDoor)
		id := r.insured(alices, false)
		until := time.Now().Add(time.Minute)
		want := "nothing was changed: a configuration is waiting to be confirmed, by " + alices + ", until " + spelled(until)
		for _, text := range []string{sshDoor + webDoor, webDoor, sshDoor, "rubbish"} {
			write(t, path, text)
			for _, confirm := range []string{"", "1h"} {
				_, err := r.as(bobs, control.ApplyRequest{Action: "apply", Confirm: confirm})
				told, ok := errors.AsType[*control.Error](err)
				if !ok || told.Message != want || told.Code != control.CodeRefused ||
					told.Hint != "doorward apply --keep or doorward apply --undo, then try again; doorward apply --force discards it" {
					t.Errorf("apply %q: %+v, want %q", confirm, err, want)
				}
			}
			if _, err := r.Reload(t.Context()); err == nil || err.Error() != want {
				t.Errorf("SIGHUP: %v, want %q", err, want)
			}
			synctest.Wait()
			if got := m.last(audit.EventError); got.By != "SIGHUP" || got.Reason != want {
				t.Errorf("the trail has by %q: %q, want SIGHUP and %q", got.By, got.Reason, want)
			}
		}
		if s, _ := r.Status(); s.Pending == nil || s.Pending.ID != id || !s.Pending.Until.Equal(until) || s.Pending.By != alices {
			t.Errorf("pending is %+v, want %d", s.Pending, id)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.doorsInUse(); got != "ssh" {
			t.Errorf("in the end doors %s are in use, want ssh", got)
		}
	})
}

// By force another configuration replaces the one that waits to be confirmed, and status
// says so; what was kept last is what comes back.
func TestForce(t *testing.T) {
	vpn := strings.Replace(webDoor, "door.web", "door.vpn", -1)
	for _, tt := range []struct {
		name, text string
		confirm    string
		then       func(r *running)
		want       string            // doors in the end
		ends       []control.Settled // without ID and Time
	}{
		{"for good", vpn, "", func(*running) { time.Sleep(time.Hour) }, "vpn",
			[]control.Settled{{By: bobs, End: control.EndReplaced}}},
		{"the same for good", webDoor, "", func(*running) { time.Sleep(time.Hour) }, "web",
			[]control.Settled{{By: bobs, Kept: true, End: control.EndKept}}},
		{"the one before for good", sshDoor, "", func(*running) { time.Sleep(time.Hour) }, "ssh",
			[]control.Settled{{By: bobs, End: control.EndReplaced}}},
		{"insured, and nobody confirms", vpn, "1m", func(*running) { time.Sleep(time.Minute) }, "ssh",
			[]control.Settled{{End: control.EndExpired}, {By: bobs, End: control.EndReplaced}}},
		{"insured, and undone", vpn, "1m", func(r *running) { r.order(control.ApplyRequest{Action: "undo"}) }, "ssh",
			[]control.Settled{{By: alices, End: control.EndUndone}, {By: bobs, End: control.EndReplaced}}},
		{"insured, and kept", vpn, "1m", func(r *running) { r.order(control.ApplyRequest{Action: "keep"}) }, "vpn",
			[]control.Settled{{By: alices, Kept: true, End: control.EndKept}, {By: bobs, End: control.EndReplaced}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, path := newMachine(), configPath(t)
				r := run(t, m, path, sshDoor)
				write(t, path, webDoor)
				first := r.insured(alices, false)
				write(t, path, tt.text)
				reply, err := r.as(bobs, control.ApplyRequest{Action: "apply", Confirm: tt.confirm, Force: true})
				if err != nil || !reply.Changed || (tt.confirm != "") != (reply.Pending > first) {
					t.Fatalf("apply --force: %+v, %v", reply, err)
				}
				tt.then(r)
				synctest.Wait()
				if got := r.doorsInUse(); got != tt.want {
					t.Errorf("in the end doors %s are in use, want %s", got, tt.want)
				}
				s, _ := r.Status()
				got := slices.Clone(s.Ended)
				if len(got) == 0 || got[len(got)-1].ID != first || s.Pending != nil || s.Settled == nil || *s.Settled != got[0] {
					t.Errorf("ended %+v, the latest %+v, pending %+v", got, s.Settled, s.Pending)
				}
				for i := range got {
					got[i].ID, got[i].Time = 0, time.Time{}
				}
				if d := cmp.Diff(tt.ends, got); d != "" {
					t.Errorf("ended (-want +got):\n%s", d)
				}
			})
		})
	}
}

// An order with an ID is about that configuration and no other, and its answer says what
// became of it.
func TestAnOrderMeansOneConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		begun := time.Now()
		order := func(action string, id uint64) string {
			reply, err := r.as(bobs, control.ApplyRequest{Action: action, ID: id})
			if told, ok := errors.AsType[*control.Error](err); ok {
				return "error: " + told.Message + " (" + told.Hint + ")"
			}
			return fmt.Sprint(reply.Message, " ", reply.Changed)
		}
		check := func(got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		}
		check(order("keep", 0), "error: no configuration is waiting to be confirmed (doorward log)")
		check(order("undo", 7), "error: no configuration 7 is waiting, and none that did is known (doorward log)")
		write(t, path, webDoor)
		lapsed := r.insured(alices, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		lapse := "nobody confirmed it in time, and the previous configuration is in use again, at " + spelled(begun.Add(time.Minute))
		check(order("keep", 0), "error: no configuration is waiting to be confirmed; the latest that was: "+lapse+" (doorward log)")
		check(order("keep", lapsed), fmt.Sprintf("error: configuration %d is no longer waiting: %s (doorward log)", lapsed, lapse))
		check(order("undo", lapsed), "already done: "+lapse+" false")

		kept := r.insured(alices, false)
		check(order("keep", kept), "the new configuration is kept true")
		keep := "kept by " + bobs + ", at " + spelled(begun.Add(time.Minute))
		check(order("keep", kept), "already done: "+keep+" false")
		write(t, path, sshDoor)
		waits := r.insured(alices, false)
		more := fmt.Sprintf("; %d waits, by %s, until %s (doorward apply --%%s --id %[1]d, if that is meant)", waits, alices, spelled(begun.Add(2*time.Minute)))
		check(order("undo", kept), fmt.Sprintf("error: configuration %d is no longer waiting: %s", kept, keep)+fmt.Sprintf(more, "undo"))
		check(order("keep", lapsed), fmt.Sprintf("error: configuration %d is no longer waiting: %s", lapsed, lapse)+fmt.Sprintf(more, "keep"))
		check(order("undo", 7), "error: no configuration 7 is waiting, and none that did is known"+fmt.Sprintf(more, "undo"))
		if got := r.doorsInUse(); got != "ssh" {
			t.Errorf("doors %s are in use, want ssh", got)
		}
		check(order("undo", waits), "the previous configuration is in use again: undone by "+bobs+" true")
		check(r.doorsInUse(), "web")
	})
}

// No two configurations have the same ID, even over a restart, or if the store was lost.
func TestIDsAreNotGivenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		seen := map[uint64]bool{}
		for i := range 2 * keptEnds {
			write(t, path, webDoor)
			id := r.insured(alices, false)
			if seen[id] {
				t.Fatalf("%d was given before: %v", id, seen)
			}
			seen[id] = true
			r.order(control.ApplyRequest{Action: "undo"})
			write(t, path, sshDoor)
			if i%4 == 0 {
				r.stop()
				if i > keptEnds {
					m.do(func() { m.applied = store.Applied{} })
					time.Sleep(2 * keptEnds * time.Second)
				}
				r = restart(t, m, path)
			}
		}
		if s, _ := r.Status(); len(s.Ended) > keptEnds {
			t.Errorf("%d ends are remembered, want at most %d", len(s.Ended), keptEnds)
		}
		r.stop() // what follows is a store of a version without IDs
		time.Sleep(2 * keptEnds * time.Second)
		write(t, path, webDoor)
		m.do(func() {
			m.applied = store.Applied{Confirmed: []byte(sshDoor), Pending: []byte(webDoor),
				Deadline: time.Now().Add(time.Minute).Round(0), For: time.Minute, By: alices}
		})
		r = restart(t, m, path)
		if s, _ := r.Status(); s.Pending == nil || s.Pending.ID == 0 || seen[s.Pending.ID] {
			t.Errorf("pending is %+v, want an ID that was not given before", s.Pending)
		}
	})
}

// Status says how a configuration ended that waited, even if another daemon ended it.
func TestEndsOverARestart(t *testing.T) {
	for _, tt := range []struct {
		name  string
		while func(t *testing.T, m *machine, path string)
		end   string
		words string
		doors string
		trail string // the reason of the record about it
	}{
		{"time is up", func(*testing.T, *machine, string) { time.Sleep(time.Hour) }, control.EndExpired,
			"nobody confirmed it in time, and the previous configuration is in use again", "ssh",
			"the previous configuration is in use: PATH was rolled back"},
		{"a reboot", func(_ *testing.T, m *machine, _ string) { m.do(func() { m.rebooted = true }) }, control.EndRebooted,
			"the machine rebooted before it was confirmed, and the previous configuration is in use again", "ssh",
			"the previous configuration is in use: PATH was rolled back"},
		{"another file", func(t *testing.T, _ *machine, path string) { write(t, path, sshDoor+webDoor) }, control.EndReplaced,
			"the daemon was started with another file, or one that could not be used", "ssh web",
			"PATH has changed since it was last used, and is in use from this start on"},
		{"no file", func(t *testing.T, _ *machine, path string) { os.Remove(path) }, control.EndReplaced,
			"the daemon was started with another file, or one that could not be used", "ssh",
			"the previous configuration is in use: PATH cannot be used: read configuration: open PATH: no such file or directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, path := newMachine(), configPath(t)
				r := run(t, m, path, sshDoor)
				write(t, path, webDoor)
				id := r.insured(alices, false)
				r.stop()
				tt.while(t, m, path)
				for range 2 {
					r = restart(t, m, path)
					s, _ := r.Status()
					if len(s.Ended) != 1 || s.Ended[0].ID != id || s.Ended[0].End != tt.end || s.Ended[0].By != "" || s.Ended[0].Words() != tt.words {
						t.Errorf("ended are %+v, want %d: %s", s.Ended, id, tt.words)
					}
					if got := r.doorsInUse(); got != tt.doors {
						t.Errorf("doors %s are in use, want %s", got, tt.doors)
					}
					r.stop()
				}
				if tt.doors == "ssh" { // it was rolled back
					write(t, path, webDoor)
					r = restart(t, m, path)
					if got := r.doorsInUse(); got != "ssh" {
						t.Errorf("with the same file again doors %s are in use, want ssh", got)
					}
				}
				got := m.last(audit.EventApplied)
				if want := strings.ReplaceAll(tt.trail, "PATH", path); got.Reason != want || got.Config == nil ||
					got.Config.Before != config.Hash([]byte(webDoor)) || got.Config.After != r.hash {
					t.Errorf("the trail has %q with %+v, want %q", got.Reason, got.Config, want)
				}
			})
		})
	}
}

// A file that was rolled back does not come into use by SIGHUP or by a plain apply until
// it changes, not even after a restart; by an apply that has to be confirmed it does.
func TestAFileThatWasRolledBackIsNotReloaded(t *testing.T) {
	const rolled = "nothing was changed: PATH was rolled back, and has not changed since"
	for _, restarts := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m, path := newMachine(), configPath(t)
			r := run(t, m, path, sshDoor)
			write(t, path, webDoor)
			r.insured(alices, false)
			time.Sleep(time.Minute)
			synctest.Wait()
			if restarts {
				r.stop()
				r = restart(t, m, path)
			}
			want := strings.Replace(rolled, "PATH", path, 1)
			_, err := r.as(alices, control.ApplyRequest{Action: "apply"})
			told, ok := errors.AsType[*control.Error](err)
			if !ok || told.Message != want || told.Code != control.CodeRefused || told.Hint != "change it, or doorward apply --confirm 60s; "+
				"doorward apply --force uses it for good" {
				t.Errorf("apply: %+v, want %q", err, want)
			}
			if _, err := r.Reload(t.Context()); err == nil || err.Error() != want {
				t.Errorf("SIGHUP: %v, want %q", err, want)
			}
			synctest.Wait()
			if got := m.last(audit.EventError); got.By != "SIGHUP" || got.Reason != want {
				t.Errorf("the trail has by %q: %q, want SIGHUP and %q", got.By, got.Reason, want)
			}
			r.insured(alices, false)
			if got := r.doorsInUse(); got != "web" {
				t.Errorf("after an apply that has to be confirmed doors %s are in use, want web", got)
			}
			r.order(control.ApplyRequest{Action: "undo"})
			if _, err := r.as(alices, control.ApplyRequest{Action: "apply", Force: true}); err != nil || r.doorsInUse() != "web" {
				t.Errorf("by force: %v; doors %s are in use, want web", err, r.doorsInUse())
			}
			if _, err := r.Reload(t.Context()); err != nil {
				t.Errorf("SIGHUP, when it is in use: %v", err)
			}
			write(t, path, webDoor+"# changed\n")
			if _, err := r.Reload(t.Context()); err != nil {
				t.Errorf("SIGHUP, when it has changed: %v", err)
			}
		})
	}
}

// The trail records the reload of a file with mistakes, but does not quote the file, which
// may be a part of a knock.
func TestTheTrailOfAReloadTellsNoPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, strings.Replace(sshDoor, "touch = [59000, 59002]", "touch = [59000, 59009]", 1))
		_, err := r.Reload(t.Context())
		synctest.Wait()
		want := "nothing was changed: " + path + " cannot be used; doorward apply says why"
		if got := m.last(audit.EventError); err == nil || !strings.Contains(err.Error(), "59009") || got.Reason != want {
			t.Errorf("%v; the trail has %q, want %q", err, got.Reason, want)
		}
		write(t, path, webDoor)
		m.do(func() { m.taken, m.trail = []uint16{60002}, nil })
		_, err = r.Reload(t.Context())
		synctest.Wait()
		if got := m.last(audit.EventError); err == nil || !strings.Contains(err.Error(), "60002") || got.Reason != want {
			t.Errorf("%v; the trail has %q, want %q", err, got.Reason, want)
		}
	})
}
