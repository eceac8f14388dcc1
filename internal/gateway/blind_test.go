package gateway

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// vpnDoor is a door whose presence depends on flows.
const vpnDoor = `
[door.vpn]
ports = ["51820/udp"]
[[door.vpn.knock]]
kind = "touch"
listen = [59100, 59101, 59102]
touch = [59100, 59101]
`

// A door that would go dark although somebody is in does not come into use. At the start
// it is guarded all the same, with a warning.
func TestFlowsThatCannotBeSeen(t *testing.T) {
	const why = `door.vpn.presence.idle: "1h": the default does not work here: flows over UDP cannot be seen here: no ctnetlink; ` +
		`the door would go dark while people are using it: allowed are "never"`
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		m.do(func() { m.noFlows = errors.New("no ctnetlink") })
		write(t, path, sshDoor+vpnDoor)
		for _, confirm := range []string{"", "1m"} {
			got := r.order(control.ApplyRequest{Action: "apply", Confirm: confirm})
			if want := "error: nothing was changed: " + path + ":13: " + why; got != want {
				t.Errorf("apply: %q, want %q", got, want)
			}
		}
		if s, _ := r.Status(); len(s.Doors) != 1 || len(m.doors) != 1 || s.Pending != nil {
			t.Errorf("doors %v, guarded %v, pending %v; want the one before", s.Doors, m.doors, s.Pending)
		}
		write(t, path, sshDoor+strings.Replace(vpnDoor, "[[", "[door.vpn.presence]\nidle = \"never\"\n[[", 1))
		if got := r.order(control.ApplyRequest{Action: "apply"}); got != path+" is in use: 2 doors" {
			t.Errorf("apply of a door that never goes dark by itself: %q", got)
		}

		r.stop()
		write(t, path, sshDoor+vpnDoor)
		r = restart(t, m, path)
		s, _ := r.Status()
		want := path + ":13: " + why + `; name a source of logins, or set idle = "never"`
		if len(m.doors) != 2 || len(s.Warnings) != 1 || s.Warnings[0] != want {
			t.Errorf("at the start %d doors are guarded, with warnings %q; want 2 and %q", len(m.doors), s.Warnings, want)
		}
		m.do(func() { m.noFlows = nil })
		if got := r.order(control.ApplyRequest{Action: "apply"}); got != path+" is already in use: nothing has changed" {
			t.Errorf("apply where flows can be seen: %q", got)
		}
		if s, _ := r.Status(); len(s.Warnings) != 0 {
			t.Errorf("warnings %q, want none", s.Warnings)
		}
	})
}

// The answer to apply says what becomes of a service that a door no longer has.
func TestApplySaysWhatBecomesOfTheServiceBefore(t *testing.T) {
	other := strings.Replace(sshDoor, `"ssh.service"`, `"sshd.service"`, 1)
	none := strings.Replace(sshDoor, "[door.ssh.service]\nunit = \"ssh.service\"\n", "", 1)
	for _, tt := range []struct {
		name, text string
		open       bool
		want       string
	}{
		{"another while it runs", other, true, "; door ssh has another service now, and the one before, ssh.service, keeps running"},
		{"another while it is stopped", other, false, ""},
		{"none while it runs", none, true, "; door ssh has no service now, and the one before, ssh.service, keeps running"},
		{"none while it is stopped", none, false,
			"; door ssh has no service now, and the one before, ssh.service, is stopped: start it if it is needed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := configPath(t)
				r := run(t, newMachine(), path, sshDoor)
				if tt.open {
					r.touch(visitor, 59000, 59002)
				}
				write(t, path, tt.text)
				got := r.order(control.ApplyRequest{Action: "apply"})
				if want := path + " is in use: 1 door" + tt.want; got != want {
					t.Errorf("apply: %q, want %q", got, want)
				}
			})
		})
	}
}

// A look for logins at their former place says nothing about the place where they are
// read now.
func TestALookElsewhereEndsTheOneUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		looks, ended := 0, false
		r := runWith(t, m, path, sshDoor, func(w *World) {
			w.Look = func(c config.Door) func(context.Context) Observation {
				return func(ctx context.Context) Observation {
					hangs := false
					if m.do(func() { looks++; hangs = looks == 2 }); !hangs {
						return Observation{}
					}
					<-ctx.Done()
					m.do(func() { ended = true })
					return Observation{Seen: door.Seen{NoData: "the journal has no entry"}}
				}
			}
		})
		time.Sleep(time.Minute) // until the second look is in progress
		synctest.Wait()
		write(t, path, strings.Replace(sshDoor, `"journal"`, `["/var/log/auth.log"]`, 1))
		r.order(control.ApplyRequest{Action: "apply"})
		synctest.Wait()
		if !ended || looks != 3 {
			t.Errorf("the look in progress has ended: %v; %d looks, want it ended and another one", ended, looks)
		}
		r.wantState("dark")
	})
}
