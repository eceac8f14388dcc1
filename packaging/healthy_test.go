//go:build linux

package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

// warned is whether a line of the daemon's log, after journald's prefix or with
// slog's level, asks for an operator.
func warned(line string) bool {
	return strings.Contains(line, "WARN") || strings.Contains(line, "ERROR") || strings.Contains(line, "repaired")
}

// TestAHealthyMachineHasNoWarnings opens doors with a real knock, logs in, and has
// them go dark, with the unit that Debian's sshd is and with the socket that it can
// be. Nothing was wrong, and so nothing may be said to be.
func TestAHealthyMachineHasNoWarnings(t *testing.T) {
	ns, visitor := nstest.New(t), nstest.New(t)
	nstest.Need(t, "ssh", "ssh-keygen")
	nstest.Link(ns, visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	m := systemdtest.Boot(t, ns, build(t, "cmd/doorwardd")+":/stub", build(t, "cmd/doorward")+":/usr/bin/doorward")
	install(t, m)
	m.Run("systemctl", "disable", "--now", "ssh.service")
	login := authorize(t, m)
	for _, unit := range []string{"ssh.socket", "ssh.service"} {
		t.Run(unit, func(t *testing.T) {
			m.Write("/etc/doorward/doorward.toml",
				strings.NewReplacer("ssh.service", unit, `idle = "1h"`, `idle = "1h", logins = "journal"`).Replace(sshDoor), 0o640)
			m.Run("doorward", "polkit", "--install")
			m.Run("systemctl", "restart", "polkit.service") // it reads rules anew by itself, at some moment
			m.Run("systemctl", "start", "doorward.service")
			for range 12 {
				knock(t, visitor)
				eventually(t, "the door opens", func() bool { return doorState(t, m) == "open" })
				visitor.Run("ssh", login...)
				m.Run("doorward", "close", "ssh")
				eventually(t, "the door is dark", func() bool { return doorState(t, m) == "dark" })
			}
			settled(t, m)
			m.Run("systemctl", "stop", "doorward.service")
			log := m.Run("journalctl", "--no-pager", "--output=cat", "--unit=doorward.service")
			for line := range strings.Lines(log) {
				if warned(line) {
					t.Errorf("nothing was wrong, and the log says: %s", line)
				}
			}
			t.Logf("the log:\n%s", log)
			m.Run("doorwardd", "--cleanup")
			m.Run("rm", "-rf", "/var/lib/doorward/store")
			m.Run("journalctl", "--rotate", "--vacuum-time=1s")
		})
	}
}

// settled waits until the daemon has heard the last of what its orders did, and
// holds that status has no warnings then.
func settled(t *testing.T, m *systemdtest.Machine) {
	t.Helper()
	s := daemonStatus(t, m)
	if len(s.Warnings) > 0 || s.Fence.Repairs > 0 || s.Events["repaired"]+s.Events["error"] > 0 {
		t.Errorf("nothing was wrong, and status has warnings %q, %d repairs of the fence and events %v",
			s.Warnings, s.Fence.Repairs, s.Events)
	}
}

func daemonStatus(t *testing.T, m *systemdtest.Machine) control.Status {
	t.Helper()
	var s control.Status
	if err := json.Unmarshal([]byte(m.Run("doorward", "status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// doorState is the state of the machine's one door.
func doorState(t *testing.T, m *systemdtest.Machine) string {
	t.Helper()
	return daemonStatus(t, m).Doors[0].State
}

// authorize lets a key of the visitor's log in as root, and returns the arguments
// with which ssh does.
func authorize(t *testing.T, m *systemdtest.Machine) []string {
	t.Helper()
	key := t.TempDir() + "/key"
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	m.Run("mkdir", "-p", "-m", "700", "/root/.ssh")
	m.Write("/root/.ssh/authorized_keys", string(public), 0o600)
	return []string{"-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectionAttempts=20", "root@192.0.2.1", "true"}
}

var _ = time.Second
