//go:build linux

package service

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/systemdtest"
)

// testUnitAliases starts, stops and watches units by names that are not their own:
// Debian's sshd.service, a link to a failing unit, and an instance of a template's alias.
func testUnitAliases(t *testing.T, m *systemdtest.Machine) {
	m.Write("/etc/systemd/system/site@.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644)
	for alias, name := range map[string]string{"cracked.service": "broken.service", "web@.service": "site@.service",
		"nourished.socket": "fed.socket", "only@a.service": "site@.service", "same@a.service": "site@a.service",
		"differs@a.service": "site@b.service", "first.service": "site@first.service", "odd@.service": "plain.service",
		"mixed.socket": "plain.service", "chained.service": "cracked.service", "linked.service": "/opt/linked.service"} {
		m.Run("ln", "-s", name, "/etc/systemd/system/"+alias)
	}
	m.Run("systemctl", "stop", "ssh.service")
	m.Write("/opt/linked.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644)
	m.Run("systemctl", "daemon-reload")
	for _, tt := range []struct {
		alias string
		want  Names
	}{
		{"sshd.service", Names{ID: "ssh.service"}},
		{"web@a.service", Names{ID: "site@a.service"}},
		{"nourished.socket", Names{ID: "fed.socket", Feeds: []string{"fed.service"}}},
		{"plain.service", Names{ID: "plain.service"}},
	} {
		u := NewUnit(tt.alias, discard)
		seen := watcher(t, u.Watch)
		await(t, seen, Stopped)
		if err := u.Start(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		await(t, seen, Running)
		if err := u.Stop(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		await(t, seen, Stopped)
		want := tt.alias + " (" + tt.want.ID + ")"
		if tt.alias == tt.want.ID {
			want = tt.alias
		}
		if u.String() != want {
			t.Errorf("%s is called %q, want %q", tt.alias, u, want)
		}
		for by, got := range map[string]Names{"systemd": u.Names(), "links": NamesByLinks(m.Path("/"), tt.alias)} {
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("%s by %s: %s", tt.alias, by, d)
			}
		}
	}
	// The links must say the same about aliases as systemd.
	for _, name := range []string{"only@a.service", "only@b.service", "same@a.service", "differs@a.service", "first.service",
		"odd@a.service", "mixed.socket", "chained.service", "linked.service"} {
		f, err := NewUnit(name, discard).Facts(within(t, 10*time.Second))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := NamesByLinks(m.Path("/"), name); got.ID != f.ID {
			t.Errorf("%s is %s to systemd (%s), and %s by its links", name, f.ID, f.Load, got.ID)
		}
	}
	err := NewUnit("cracked.service", discard).Start(within(t, 20*time.Second))
	want := `unit "broken.service" failed to start: exit-code, its main process ended with status 1; see "journalctl -u broken.service -n 20"`
	if err == nil || err.Error() != want {
		t.Errorf("Start by an alias = %v\nwant %s", err, want)
	}
}

// testUnitFacts checks the facts about units themselves: a socket that does not listen
// is stopped, although its service runs.
func testUnitFacts(t *testing.T, m *systemdtest.Machine) {
	m.Run("systemctl", "start", "fed.socket")
	m.Run("systemctl", "start", "ssh.service", "fed.service")
	sshd := []RunDirectory{{"ssh.service", "sshd"}}
	socket := Names{ID: "ssh.socket", Feeds: []string{"ssh.service"}}
	for _, tt := range []struct {
		name string
		want Facts
	}{
		{"ssh.socket", Facts{Names: socket, Load: "loaded", Enabled: "disabled", Removes: sshd}},
		{"sshd.service", Facts{Names: Names{ID: "ssh.service"}, Load: "loaded", Own: Status{State: Running}, Enabled: "enabled",
			Removes: sshd}},
		{"fed.service", Facts{Names: Names{ID: "fed.service"}, Load: "loaded", Own: Status{State: Running}, Enabled: "static",
			FedBy: []string{"fed.socket"}}},
		{"nowhere.service", Facts{Names: Names{ID: "nowhere.service"}, Load: "not-found", Own: Status{Detail: "unit is not-found"}}},
	} {
		got, err := NewUnit(tt.name, discard).Facts(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		got.Own.PID = 0
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
	if s := unitStatus(t, "ssh.socket"); s.State != Running || s.Detail != "ssh.socket does not listen, but ssh.service runs" {
		t.Errorf("for a door, ssh.socket is %+v", s)
	}
	m.Write("/etc/systemd/system/ssh.service.d/keep.conf", "[Service]\nRuntimeDirectoryPreserve=yes\n", 0o644)
	m.Run("systemctl", "daemon-reload")
	got, err := NewUnit("ssh.service", discard).Facts(within(t, 10*time.Second))
	if err != nil || got.Removes != nil {
		t.Errorf("with the drop-in, the unit removes %v (%v)", got.Removes, err)
	}
	m.Run("rm", "-r", "/etc/systemd/system/ssh.service.d")
	m.Run("systemctl", "daemon-reload")
	m.Run("systemctl", "stop", "ssh.service", "fed.service", "fed.socket")
}
