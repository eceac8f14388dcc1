//go:build linux

package packaging

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

const sshDoor = `
[door.ssh]
ports = ["22/tcp"]
open_for = "30s"
service = { unit = "ssh.service" }
presence = { idle = "1h" }

[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
`

// sentToAll sends the records to the journal and to the visitor's syslog server as well.
const sentToAll = `[gateway]
records = ["log", "journal", "udp:192.0.2.2:514"]
`

// TestTheDaemonInItsUnit knocks at the real daemon, in its unit, on a real
// system: from boot to an open door and back to a dark one.
func TestTheDaemonInItsUnit(t *testing.T) {
	t.Parallel()
	ns, visitor := nstest.New(t), nstest.New(t)
	nstest.Need(t, "ssh", "ssh-keygen")
	nstest.Link(ns, visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	m := systemdtest.Boot(t, ns, build(t, "cmd/doorwardd")+":/stub", build(t, "cmd/doorward")+":/usr/bin/doorward",
		build(t, "internal/sandbox/intruder")+":/intruder")
	install(t, m)
	m.Write("/etc/doorward/doorward.toml", sentToAll+sshDoor, 0o640)
	syslog := receive(t, visitor, "192.0.2.2:514")
	m.Run("systemctl", "disable", "--now", "ssh.service")
	m.Run("doorward", "polkit", "--install")
	m.Run("systemctl", "restart", "polkit.service") // by itself it rereads rules only at some later moment
	m.Run("useradd", "--uid", "1000", "alice")
	m.Run("systemctl", "start", "doorward.service")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Run("journalctl", "--no-pager", "--unit=doorward.service"))
		}
	})
	if got := m.Run("nft", "list", "tables"); !strings.Contains(got, "table inet doorward") {
		t.Fatalf("ready without its fence: %s", got)
	}
	if reaches(visitor, "192.0.2.1:22", time.Second) {
		t.Error("a stranger gets in")
	}
	hasPriority(t, m)

	knocks(t, visitor)
	nstest.Eventually(t, "the door opens", func() bool { return reaches(visitor, "192.0.2.1:22", time.Second) })
	if got := m.Run("systemctl", "is-active", "ssh.service"); got != "active\n" {
		t.Errorf("ssh.service is %q", got)
	}

	before := show(t, m, "doorward.service", "MainPID")
	m.Run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "doorward.service")
	nstest.Eventually(t, "it is started again", func() bool {
		return show(t, m, "doorward.service", "MainPID") != before && show(t, m, "doorward.service", "ActiveState") == "active"
	})
	if !reaches(visitor, "192.0.2.1:22", time.Second) {
		t.Error("the grant did not outlive kill -9")
	}
	m.Run("systemctl", "reload", "doorward.service")
	reloadIsRefused(t, m)
	closesAs(t, m)
	nstest.Eventually(t, "ssh.service is stopped", func() bool { return show(t, m, "ssh.service", "ActiveState") == "inactive" })
	if reaches(visitor, "192.0.2.1:22", time.Second) {
		t.Error("a closed door lets somebody in")
	}

	sendsRecords(t, m, syslog)
	logsInByTheJournal(t, m, visitor)
	startsAgainAfterAnUpgrade(t, m)

	// Without D-Bus the knock is in vain, and the trail says so; with D-Bus back, it
	// opens the door.
	m.Run("systemctl", "stop", "dbus.socket", "dbus.service")
	knocks(t, visitor)
	nstest.Eventually(t, "the failure is in the audit trail", func() bool {
		return strings.Contains(m.Run("doorward", "log"), "cannot reach systemd over D-Bus")
	})
	if reaches(visitor, "192.0.2.1:22", time.Second) {
		t.Error("a door whose service could not be started lets somebody in")
	}
	m.Run("systemctl", "start", "dbus.socket", "dbus.service")
	nstest.Eventually(t, "the door is dark again", func() bool {
		return strings.Contains(m.Run("doorward", "status", "ssh"), " dark ")
	})
	knocks(t, visitor)
	nstest.Eventually(t, "the door opens again", func() bool { return reaches(visitor, "192.0.2.1:22", time.Second) })

	m.Run("systemctl", "stop", "doorward.service")
	if got := m.Run("nft", "list", "tables"); !strings.Contains(got, "table inet doorward") {
		t.Error("the fence fell when the daemon was stopped")
	}
	if log := m.Run("journalctl", "--no-pager", "--unit=doorward.service"); strings.Contains(log, "not confined") {
		t.Errorf("the unit keeps the daemon from locking itself in:\n%s", log)
	}
	for _, program := range []string{"", "/usr/bin/journalctl"} {
		intrudes(t, m, program)
	}
}

// hasPriority checks that the loop's and the listener's two threads have the priority that the
// unit lets them have, and no others. A manager that may not raise the limit, as in some
// containers, starts the daemon all the same.
func hasPriority(t *testing.T, m *systemdtest.Machine) {
	t.Helper()
	if got := show(t, m, "doorward.service", "LimitNICE"); got != "30" { // as setrlimit(2) has it: 20 less the nice value
		t.Errorf("the unit sets LimitNICE=%s, want 30", got)
	}
	pid := show(t, m, "doorward.service", "MainPID")
	limit := m.Run("sh", "-c", "grep '^Max nice priority' /proc/"+pid+"/limits")
	want := 0
	if slices.Contains(strings.Fields(limit), "30") {
		want = 3
	}
	nices := make(map[string]int)
	for line := range strings.Lines(m.Run("sh", "-c", "cat /proc/"+pid+"/task/*/stat")) {
		_, rest, _ := strings.Cut(line, ") ")
		nices[strings.Fields(rest)[19-3]]++ // field 19, proc_pid_stat(5)
	}
	if nices["-10"] != want || len(nices) != min(2, 1+want) {
		t.Errorf("threads by nice value: %v, want %d with -10; %s", nices, want, limit)
	}
}

// receive returns what comes to a UDP port of a network, until the test ends.
func receive(t *testing.T, ns *nstest.NS, address string) <-chan string {
	t.Helper()
	var conn net.PacketConn
	ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	got := make(chan string, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 1<<16); ; {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			got <- string(buf[:n])
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return got
}

// sendsRecords checks that a grant can be found in the journal by its fields, and that,
// from inside the sandbox, records reach a journal that was restarted, and a syslog
// server.
func sendsRecords(t *testing.T, m *systemdtest.Machine, syslog <-chan string) {
	t.Helper()
	find := func(fields ...string) map[string]string {
		var entry map[string]string
		nstest.Eventually(t, "the journal has "+strings.Join(fields, " "), func() bool {
			out := m.Run("journalctl", append([]string{"--output=json", "--no-pager", "--lines=1"}, fields...)...)
			entry = nil
			return json.Unmarshal([]byte(out), &entry) == nil && entry != nil
		})
		return entry
	}
	got := find("_SYSTEMD_UNIT=doorward.service", "DOORWARD_EVENT=granted", "DOORWARD_DOOR=ssh")
	for field, want := range map[string]string{"MESSAGE": "door ssh: granted 192.0.2.2 by touch", "PRIORITY": "6",
		"SYSLOG_IDENTIFIER": "doorwardd", "DOORWARD_SOURCE": "192.0.2.2", "DOORWARD_BY": "touch"} {
		if !strings.HasPrefix(got[field], want) {
			t.Errorf("of a grant the journal has %s=%q, want %q", field, got[field], want)
		}
	}
	m.Run("systemctl", "restart", "systemd-journald.service")
	m.Run("doorward", "arm", "ssh")
	find("DOORWARD_EVENT=armed")
	limit := time.After(10 * time.Second)
	for {
		select {
		case message := <-syslog:
			if strings.Contains(message, ` armed [doorward@32473 `) {
				return
			}
		case <-limit:
			t.Error("the syslog server did not receive the record of arm")
			return
		}
	}
}

// closesAs closes the door as root, which alice has become, and checks that the daemon,
// from inside its unit, knows who it was, even if a user was added since it locked
// itself in.
func closesAs(t *testing.T, m *systemdtest.Machine) {
	t.Helper()
	m.Run("sh", "-c", "useradd bob && echo 1000 > /proc/self/loginuid && SUDO_USER=alice exec doorward close ssh")
	nstest.Eventually(t, "the order is in the trail", func() bool {
		for line := range strings.Lines(m.Run("doorward", "log", "--json")) {
			var r audit.Record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if r.Event != audit.EventDark || r.Operator == nil {
				continue
			}
			if r.By != "operator root (uid 0), logged in as alice (uid 1000)" || r.UID != 0 || r.PID <= 1 ||
				r.LoginUID == nil || *r.LoginUID != 1000 || r.SudoUser != "alice" {
				t.Errorf("it was ordered by %s", line)
			}
			return true
		}
		return false
	})
}

// logins are the audit trail's.
func logins(t *testing.T, m *systemdtest.Machine) (all []string) {
	t.Helper()
	for line := range strings.Lines(m.Run("doorward", "log", "--json")) {
		var r audit.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Login != nil && r.Login.Grant != nil {
			all = append(all, r.Login.User+" from "+r.Source+" by "+r.Login.Grant.By)
		}
	}
	return all
}

// reloadIsRefused checks that a reload fails, with the reason, while a configuration
// waits to be kept.
func reloadIsRefused(t *testing.T, m *systemdtest.Machine) {
	t.Helper()
	m.Write("/etc/doorward/doorward.toml", sentToAll+sshDoor+"within = \"30s\"\n", 0o640)
	m.Run("doorward", "apply", "--confirm", "1h")
	m.Run("doorward", "diff") // the daemon can read the file from inside its sandbox
	if out, err := m.System.Run(t.Context(), "systemctl", "reload", "doorward.service"); err == nil {
		t.Errorf("a reload makes permanent what waits to be kept: %s", out)
	}
	if log := m.Run("journalctl", "--no-pager", "--unit=doorward.service"); !strings.Contains(log, "a configuration is waiting to be confirmed, by operator root (uid 0), until ") {
		t.Errorf("the log does not say why the reload failed:\n%s", log)
	}
	m.Run("doorward", "apply", "--undo")
	m.Write("/etc/doorward/doorward.toml", sentToAll+sshDoor, 0o640)
}

// startsAgainAfterAnUpgrade replaces a library of journalctl, which the daemon that is
// locked in could no longer use, and checks that the next one can.
func startsAgainAfterAnUpgrade(t *testing.T, m *systemdtest.Machine) {
	t.Helper()
	before := show(t, m, "doorward.service", "MainPID")
	m.Run("sh", "-c", `lib=$(ls /usr/lib/*/libzstd.so.1) && cp -L "$lib" "$lib.new" && mv "$lib.new" "$lib"`)
	nstest.Eventually(t, "the daemon is started again after an upgrade", func() bool {
		return show(t, m, "doorward.service", "MainPID") != before && show(t, m, "doorward.service", "ActiveState") == "active"
	})
	// journald may read what the last daemon has said after what the next one says.
	nstest.Eventually(t, "the log says why", func() bool {
		return strings.Contains(m.Run("journalctl", "--no-pager", "--unit=doorward.service"), `libzstd.so.1" was replaced`)
	})
	if got := m.Run("nft", "list", "tables"); !strings.Contains(got, "table inet doorward") {
		t.Error("the fence fell meanwhile")
	}
}

// intrudes runs the intruder (internal/sandbox/intruder) in the daemon's place: in its
// unit, as its user, with its permission to ask polkit, and locked in with a program
// that it may start, "" for none.
func intrudes(t *testing.T, m *systemdtest.Machine, program string) {
	t.Helper()
	unit, err := files.ReadFile("doorward.service")
	if err != nil {
		t.Fatal(err)
	}
	text := string(unit)
	for old, now := range map[string]string{
		"ExecStart=/usr/sbin/doorwardd -c /etc/doorward/doorward.toml": "ExecStart=/intruder /var/log /var/lib/doorward/store \"" + program + "\"\nStandardOutput=truncate:/run/intruder",
		"Type=notify": "Type=oneshot", "Restart=always\nRestartSec=1s\nWatchdogSec=30s\n": "",
	} {
		if !strings.Contains(text, old) {
			t.Fatalf("the unit has no %q", old)
		}
		text = strings.Replace(text, old, now, 1)
	}
	m.Write("/etc/systemd/system/intruder.service", text, 0o644)
	m.Write("/var/log/log", "Accepted", 0o644)
	m.Run("systemctl", "daemon-reload")
	m.Run("systemctl", "start", "systemd-logind.service", "intruder.service")
	tries := m.Run("cat", "/run/intruder")
	count := map[string]int{}
	for line := range strings.Lines(tries) {
		kind, _, _ := strings.Cut(line, ": ")
		count[kind]++
		if (kind == "work") != strings.HasSuffix(line, ": done\n") {
			t.Errorf("%s", line)
		}
	}
	if count["work"] < 14 || count["crime"] < 60 || len(count) != 2 {
		t.Errorf("it tried %v:\n%s", count, tries)
	}
	for _, denied := range []string{"stop another unit: Interactive authentication required",
		"start a unit of its own: Interactive authentication required", "talk to another on D-Bus: "} {
		if !strings.Contains(tries, denied) {
			t.Errorf("want %q", denied)
		}
	}
	if got := show(t, m, "systemd-logind.service", "ActiveState"); got != "active" {
		t.Errorf("another unit is %q", got)
	}
	t.Logf("the intruder:\n%s", tries)
}

// logsInByTheJournal logs in with the real ssh, and checks that the login, as the
// journal has it, is presence.
func logsInByTheJournal(t *testing.T, m *systemdtest.Machine, visitor *nstest.NS) {
	t.Helper()
	m.Write("/etc/doorward/doorward.toml",
		sentToAll+strings.Replace(sshDoor, `idle = "1h"`, `idle = "1h", logins = "journal", connections = false`, 1), 0o640)
	m.Run("ln", "-sf", "/usr/share/zoneinfo/Asia/Kathmandu", "/etc/localtime") // after the daemon's start, as cloud-init does
	m.Run("doorward", "apply")
	key := authorize(t, m)
	knocks(t, visitor)
	nstest.Eventually(t, "the door opens", func() bool { return reaches(visitor, "192.0.2.1:22", time.Second) })
	begun := time.Now().Truncate(time.Second)
	logsIn(t, visitor, key)
	nstest.Eventually(t, "the login is seen", func() bool {
		var s control.Status
		if err := json.Unmarshal([]byte(m.Run("doorward", "status", "--json")), &s); err != nil {
			t.Fatal(err)
		}
		return s.Doors[0].LastSeen != nil && !s.Doors[0].LastSeen.Before(begun)
	})
	nstest.Eventually(t, "the login is recorded", func() bool {
		return slices.Equal(logins(t, m), []string{"root from 192.0.2.2 by touch"})
	})
	// Locked in, it still reads the journal and the time zone.
	for line := range strings.Lines(m.Run("journalctl", "--unit=doorward", "--output=cat", "--no-pager")) {
		if strings.Contains(line, "journalctl") || strings.Contains(line, "the time zone") {
			t.Errorf("it complains: %s", line)
		}
	}
	m.Run("doorward", "close", "ssh")
	nstest.Eventually(t, "ssh.service is stopped", func() bool { return show(t, m, "ssh.service", "ActiveState") == "inactive" })
}

// authorize lets a key of the visitor's log in as root, and returns its file.
func authorize(t *testing.T, m *systemdtest.Machine) string {
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
	return key
}

// sshTo are ssh's arguments for a login with a key.
func sshTo(key string) []string {
	return []string{"-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "root@192.0.2.1"}
}

// logsIn logs in and out with the real ssh.
func logsIn(t *testing.T, visitor *nstest.NS, key string) {
	t.Helper()
	visitor.Run("ssh", append(sshTo(key), "true")...)
}

// knocks touches the door's ports from ns.
func knocks(t *testing.T, ns *nstest.NS) {
	t.Helper()
	for _, port := range []string{"59000", "59002"} {
		if !reaches(ns, "192.0.2.1:"+port, 10*time.Second) {
			t.Fatalf("port %s cannot be touched", port)
		}
	}
}

// reaches says whether a connection from ns succeeds within d.
func reaches(ns *nstest.NS, address string, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	ok := false
	ns.Do(func() error {
		if c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address); err == nil {
			ok = true
			c.Close()
		}
		return nil
	})
	return ok
}
