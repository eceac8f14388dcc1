//go:build linux

package packaging

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/doctor"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

// TestAHealthyMachine opens doors with a real knock, logs in, and has them go dark,
// with the socket that Debian's sshd can be and with the unit that it is. Nothing is
// wrong, and so the log may not say that anything is. Then an operator comes who does
// what operators do.
func TestAHealthyMachine(t *testing.T) {
	t.Parallel()
	ns, visitor := nstest.New(t), nstest.New(t)
	nstest.Need(t, "ssh", "ssh-keygen")
	nstest.Link(ns, visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	m := systemdtest.Boot(t, ns, build(t, "cmd/doorwardd")+":/stub", build(t, "cmd/doorward")+":/usr/bin/doorward")
	install(t, m)
	key := authorize(t, m)
	t.Run("ssh.socket", func(t *testing.T) {
		m.Run("systemctl", "stop", "ssh.service")
		guard(t, m, "ssh.socket")
		for range 4 { // more would meet systemd's start limit, which is no fault either
			opens(t, m, visitor)
			logsIn(t, visitor, key)
			darkens(t, m)
		}
		wellSaid(t, m)
		m.Run("systemctl", "stop", "doorward.service")
		m.Run("doorwardd", "--cleanup")
		m.Run("find", "/var/lib/doorward", "-mindepth", "1", "-delete")
	})
	t.Run("ssh.service", func(t *testing.T) {
		m.Run("systemctl", "start", "ssh.service") // enabled, as it is on a stock Debian
		guard(t, m, "ssh.service")
		nstest.Eventually(t, "what ran before the door is stopped", func() bool {
			return show(t, m, "ssh.service", "ActiveState") == "inactive"
		})
		opens(t, m, visitor)
		inside, _ := nstest.Session(t, visitor.Command(t.Context(), "ssh", append(sshTo(key), "cat")...), "")
		inside("in")
		m.Run("systemctl", "reload", "ssh.service")
		m.Run("systemctl", "daemon-reload")
		m.Run("systemctl", "daemon-reexec")
		for range 3 {
			m.Run("systemctl", "restart", "ssh.service")
		}
		// What an upgrade of openssh-server does in the end.
		m.Run("deb-systemd-invoke", "restart", "ssh.service", "ssh.socket")
		logsIn(t, visitor, key)
		darkens(t, m)
		wellSaid(t, m)
		inside("after all that")
	})
	t.Run("an operator who stops it", func(t *testing.T) { testOperatorStops(t, m, visitor) })
	t.Run("a service that is long in stopping", func(t *testing.T) { testSlowStop(t, m, visitor) })
}

// testOperatorStops has the service stopped by hand behind an open door, and then
// for good. The door goes dark at an operator's word, and at nothing less.
func testOperatorStops(t *testing.T, m *systemdtest.Machine, visitor *nstest.NS) {
	m.Run("systemctl", "reset-failed", "ssh.service")
	opens(t, m, visitor)
	for _, order := range []string{"restart", "stop", "start", "stop"} {
		m.Run("systemctl", order, "ssh.service")
		if order == "stop" {
			nstest.Eventually(t, "the trail says how to stop it for good", func() bool {
				return strings.Contains(m.Run("doorward", "log"), `"doorward close ssh" stops it for good`)
			})
		}
	}
	halted := func() bool { return doorOf(t, m).State == "opening" }
	nstest.Eventually(t, "the second stop in a row is seen", halted)
	knocks(t, visitor)
	nstest.Eventually(t, "a right knock starts it", func() bool { return doorOf(t, m).State == "open" })
	if got := daemonStatus(t, m).Events; got["dark"] != 2 { // that of the start, and that of the test before
		t.Errorf("the door went dark under the operator: %v", got)
	}
	m.Run("systemctl", "mask", "--now", "ssh.service")
	nstest.Eventually(t, "the third stop in a row is seen", halted)
	knocks(t, visitor)
	nstest.Eventually(t, "the door is dark, since nothing can be started", func() bool {
		return doorOf(t, m).State == "dark" && strings.Contains(m.Run("doorward", "log"), "systemctl unmask ssh.service")
	})
	m.Run("systemctl", "unmask", "ssh.service")
}

// testSlowStop has a knock come while the service is on its way down.
func testSlowStop(t *testing.T, m *systemdtest.Machine, visitor *nstest.NS) {
	m.Write("/run/systemd/system/ssh.service.d/slow.conf",
		"[Service]\nExecStop=/bin/sh -c 'while ! [ -e /run/enough ]; do sleep 0.05; done'\n", 0o644)
	m.Run("systemctl", "daemon-reload")
	opens(t, m, visitor)
	m.Run("doorward", "close", "ssh")
	nstest.Eventually(t, "it is on its way down", func() bool { return show(t, m, "ssh.service", "ActiveState") == "deactivating" })
	knocks(t, visitor)
	m.Write("/run/enough", "", 0o644)
	nstest.Eventually(t, "the door opens again", func() bool { return doorOf(t, m).State == "open" })
	darkens(t, m)
}

// guard starts the daemon with a door whose service is unit.
func guard(t *testing.T, m *systemdtest.Machine, unit string) {
	t.Helper()
	m.Write("/etc/doorward/doorward.toml",
		strings.NewReplacer("ssh.service", unit, `idle = "1h"`, `idle = "1h", logins = "journal"`).Replace(sshDoor), 0o640)
	m.Run("doorward", "polkit", "--install")
	m.Run("systemctl", "restart", "polkit.service") // by itself it rereads rules only at some later moment
	m.Run("systemctl", "start", "doorward.service")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Run("journalctl", "--no-pager", "--unit=doorward.service"))
		}
	})
}

func opens(t *testing.T, m *systemdtest.Machine, visitor *nstest.NS) {
	t.Helper()
	knocks(t, visitor)
	nstest.Eventually(t, "the door opens", func() bool { return doorOf(t, m).State == "open" })
}

func darkens(t *testing.T, m *systemdtest.Machine) {
	t.Helper()
	m.Run("doorward", "close", "ssh")
	nstest.Eventually(t, "the door is dark", func() bool { return doorOf(t, m).State == "dark" })
}

// wellSaid checks that neither the log nor status nor doctor has a warning.
func wellSaid(t *testing.T, m *systemdtest.Machine) {
	t.Helper()
	s := daemonStatus(t, m)
	if len(s.Warnings) > 0 || s.Fence.Repairs > 0 || s.Events["repaired"]+s.Events["error"] > 0 {
		t.Errorf("nothing was wrong, and status has the warnings %q, %d repairs of the fence and events %v",
			s.Warnings, s.Fence.Repairs, s.Events)
	}
	for _, f := range findings(t, m) {
		// The unit is not enabled here, the clock is the host's, and the knock's ports
		// are among those of outgoing connections.
		if f.Verdict != doctor.OK && f.Verdict != doctor.Note && !slices.Contains([]string{"boot", "clock", "ports"}, f.Where) {
			t.Errorf("nothing was wrong, and doctor finds %+v", f)
		}
	}
	var said []string
	for line := range strings.Lines(m.Run("journalctl", "--no-pager", "--output=json", "--unit=doorward.service", "SYSLOG_IDENTIFIER=doorwardd")) {
		var entry struct {
			Message  string `json:"MESSAGE"`
			Priority string `json:"PRIORITY"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("journalctl printed %q: %v", line, err)
		}
		said = append(said, entry.Message)
		if entry.Priority != "6" { // informational, syslog(3)
			t.Errorf("nothing was wrong, and the log says, at priority %s: %s", entry.Priority, entry.Message)
		}
	}
	if len(said) < 10 {
		t.Errorf("the log has no more than %q: it proves nothing", said)
	}
}

func daemonStatus(t *testing.T, m *systemdtest.Machine) (s control.Status) {
	t.Helper()
	if err := json.Unmarshal([]byte(m.Run("doorward", "status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// doorOf is the machine's one door.
func doorOf(t *testing.T, m *systemdtest.Machine) control.Door {
	t.Helper()
	return daemonStatus(t, m).Doors[0]
}
