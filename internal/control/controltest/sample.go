package controltest

import (
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// Noon is a minute after the time of Guarded.
var Noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// Guarded returns a snapshot with a value in nearly every field.
func Guarded() control.Status {
	return control.Status{
		API: 1, Time: Noon.Add(-time.Minute), Version: "0.1.0", Started: Noon.Add(-26 * time.Hour),
		Config:   "/etc/doorward/doorward.toml",
		Warnings: []string{"door admin is in failsafe and ignores knocks: no log data"},
		Ended:    []control.Settled{},
		Problems: []control.Problem{},
		Fence:    control.Fence{Up: true, Owned: true, Repairs: 1},
		Events:   map[string]uint64{audit.EventGranted: 2},
		Doors: []control.Door{
			{
				Name: "admin", State: "failsafe", Since: Noon.Add(-3 * time.Minute), Reason: "no log data",
				Ports: []string{"8443/tcp"}, Service: "admin.service",
				Grants: []control.Grant{}, Penalties: []control.Penalty{}, Refusals: []audit.Record{},
			},
			{
				Name: "ssh", State: "open", Since: Noon.Add(-14 * time.Minute), Reason: "knock by 192.0.2.7",
				Ports: []string{"22/tcp", "60000-61000/udp"}, Service: "ssh.service", Running: true,
				LastSeen: new(Noon.Add(-3 * time.Second)), DarkAt: new(Noon.Add(59*time.Minute + 57*time.Second)), Sessions: 2, PacketsRefused: 1204,
				Grants: []control.Grant{
					{Source: "192.0.2.7", Expires: Noon.Add(28 * time.Second), For: []string{"touch"}},
					{Source: "2001:db8:1::/64", Expires: Noon.Add(8 * time.Hour), For: []string{"operator alice (uid 1000)", "touch"}},
				},
				GrantsTotal: 2, PenaltiesTotal: 1,
				Penalties: []control.Penalty{{Source: "198.51.100.23", Knock: "touch", Until: Noon.Add(250 * time.Second), Reason: "port 59001"}},
				Refusals: []audit.Record{
					{Time: Noon.Add(-50 * time.Second), Door: "ssh", Source: "198.51.100.23", Reason: "port \x1b[31m59001\u202e"},
				},
			},
			{
				Name: "vpn", State: "dark", Since: Noon.Add(-26 * time.Hour), Running: true, Ports: []string{"51820/udp"},
				Grants: []control.Grant{}, Penalties: []control.Penalty{},
				Refusals: []audit.Record{{Time: Noon.Add(-36 * time.Hour), Door: "vpn", Source: "203.0.113.4", Reason: "unfinished"}},
			},
		},
	}
}
