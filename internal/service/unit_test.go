//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

// testUnits are the units that are written into the machine.
var testUnits = map[string]string{
	"broken.service":      "[Service]\nType=notify\nExecStart=/bin/false\n",
	"dies.service":        "[Service]\nType=notify\nExecStart=/bin/sh -c 'kill -9 $$$$'\n",
	"plain.service":       "[Service]\nExecStart=/bin/sleep infinity\n",
	"brief.service":       "[Service]\nType=oneshot\nExecStart=/bin/true\n",
	"slow.service":        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 3600\n",
	"late.service":        "[Service]\nType=notify\nTimeoutStartSec=300ms\nExecStart=/bin/sleep infinity\n",
	"stays.service":       "[Service]\nKillSignal=SIGWINCH\nExecStart=/bin/sleep infinity\n",
	"needy.service":       "[Unit]\nRequires=broken.service\nAfter=broken.service\n[Service]\nExecStart=/bin/sleep infinity\n",
	"elsewhere.service":   "[Unit]\nConditionPathExists=/nonexistent\n[Service]\nExecStart=/bin/sleep infinity\n",
	"garbled.service":     "[Service]\nType=simple\n",
	"often.service":       "[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h\n[Service]\nType=notify\nExecStart=/bin/false\n",
	"again.service":       "[Service]\nType=notify\nRestart=always\nRestartSec=1h\nExecStart=/bin/false\n",
	"group.service":       "[Service]\nKillMode=control-group\nExecStart=/bin/sleep infinity\n",
	"main.service":        "[Service]\nKillMode=process\nExecStart=/bin/sleep infinity\n",
	"fed.service":         "[Service]\nKillMode=mixed\nExecStart=/bin/sleep infinity\n",
	"fed.socket":          "[Socket]\nListenStream=127.0.0.1:7001\n",
	"each.socket":         "[Socket]\nListenStream=127.0.0.1:7002\nAccept=yes\n",
	"each@.service":       "[Service]\nStandardInput=socket\nExecStart=/bin/cat\n",
	"ssh.socket.d/x.conf": "[Socket]\nListenStream=\nListenStream=192.0.2.1:22\n",
}

// TestUnit runs all tests that need a real systemd, on one machine.
func TestUnit(t *testing.T) {
	nstest.Need(t, "ssh", "ssh-keygen")
	ns, visitor := nstest.New(t), nstest.New(t)
	nstest.Link(ns, visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	m := systemdtest.Boot(t, ns, os.Args[0]+":/helper")
	for _, units := range []map[string]string{testUnits, limitUnits} {
		for name, text := range units {
			m.Write("/etc/systemd/system/"+name, text, 0o644)
		}
	}
	m.Run("systemctl", "mask", "systemd-timesyncd.service")
	m.Run("systemctl", "daemon-reload")
	m.Run("systemctl", "start", "remembers.target")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", m.BusAddress())

	t.Run("start fails", func(t *testing.T) { testUnitStartFails(t, m) })
	t.Run("start and stop", func(t *testing.T) { testUnitStartStop(t, m) })
	t.Run("stop fails", func(t *testing.T) { testUnitStopFails(t, m) })
	t.Run("stop overtakes start", testUnitStopOvertakes)
	t.Run("aliases", func(t *testing.T) { testUnitAliases(t, m) })
	t.Run("facts", func(t *testing.T) { testUnitFacts(t, m) })
	t.Run("sockets", func(t *testing.T) { testUnitSockets(t, m) })
	t.Run("would be started again", func(t *testing.T) { testUnitTriggered(t, m) })
	t.Run("cuts sessions", testUnitCutsSessions)
	t.Run("watch", func(t *testing.T) { testUnitWatch(t, m) })
	t.Run("open session lives on", func(t *testing.T) { testUnitSession(t, m, visitor) })
	t.Run("no polkit", func(t *testing.T) { testUnitNoPolkit(t, m) })
	t.Run("allowed", func(t *testing.T) { testUnitAllowed(t, m) })
	t.Run("polkit", func(t *testing.T) { testUnitPolkit(t, m) })
	t.Run("start limit", testUnitLimit)
	t.Run("start limit of a socket's service", func(t *testing.T) { testUnitSocketLimit(t, m) })
	t.Run("start limit that it may not reset", func(t *testing.T) { testUnitMayNotReset(t, m) })
	t.Run("checked in vain", func(t *testing.T) { testUnitChecked(t, m) })
	t.Run("restart", func(t *testing.T) { testUnitRestart(t, m) })
	t.Run("others overtake a start", func(t *testing.T) { testUnitOvertaken(t, m) })
	t.Run("D-Bus goes and comes back", func(t *testing.T) { testUnitBusRestart(t, m) })
	t.Run("start limit that takes the machine down", func(t *testing.T) { testUnitDeadlyLimit(t, m) })
	t.Run("shutdown", func(t *testing.T) { testUnitShutdown(t, m) })
}

func unitStatus(t *testing.T, name string) Status {
	t.Helper()
	s, err := NewUnit(name, discard).Status(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testUnitStartFails(t *testing.T, m *systemdtest.Machine) {
	for _, tt := range []struct{ unit, want string }{
		{"nowhere.service", `unit "nowhere.service" does not exist; "systemctl list-unit-files --type=service" lists those that do`},
		{"nowhere.socket", `unit "nowhere.socket" does not exist; "systemctl list-unit-files --type=socket" lists those that do`},
		{"systemd-timesyncd.service", `unit "systemd-timesyncd.service" is masked, so that nothing may start it; ` +
			`"systemctl unmask systemd-timesyncd.service" lifts that`},
		{"garbled.service", `unit "garbled.service" cannot be loaded (bad-setting); see "systemctl status garbled.service"`},
		{"broken.service", `unit "broken.service" failed to start: exit-code, its main process ended with status 1; ` +
			`see "journalctl -u broken.service -n 20"`},
		{"dies.service", `unit "dies.service" failed to start: signal, its main process was ended by signal 9; ` +
			`see "journalctl -u dies.service -n 20"`},
		{"again.service", `unit "again.service" failed to start: exit-code, its main process ended with status 1; ` +
			`see "journalctl -u again.service -n 20"`},
		{"late.service", `unit "late.service" failed to start: timeout, it was not up within the time that its own TimeoutStartSec allows, ` +
			`or not down within TimeoutStopSec; see "journalctl -u late.service -n 20"`},
		{"brief.service", `unit "brief.service" does not run after its start: it ended at once without an error, or one of its conditions ` +
			`is not met; see "journalctl -u brief.service -n 20"`},
		{"needy.service", `unit "needy.service" was not started: a unit that it requires failed; ` +
			`see "systemctl list-dependencies needy.service" and "journalctl -u needy.service -n 20"`},
		{"elsewhere.service", `unit "elsewhere.service" does not run after its start: it ended at once without an error, or one of its ` +
			`conditions is not met; see "journalctl -u elsewhere.service -n 20"`},
		{"bad name.service", `start unit "bad name.service": Unit name bad name.service is not valid.`},
	} {
		t.Run(tt.unit, func(t *testing.T) {
			err := NewUnit(tt.unit, discard).Start(within(t, 20*time.Second))
			if err == nil {
				t.Fatal("Start succeeded")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("too often", func(t *testing.T) {
		u := NewUnit("often.service", discard)
		u.Start(within(t, 20*time.Second))
		err := u.Start(within(t, 20*time.Second))
		want := `unit "often.service" failed to start: exit-code, its main process ended with status 1; ` +
			`see "journalctl -u often.service -n 20"` // the limit is reset, and that changes nothing
		if err == nil || err.Error() != want {
			t.Errorf("Start = %v\nwant    %s", err, want)
		}
	})
	t.Run("not in time", func(t *testing.T) {
		u := NewUnit("slow.service", discard)
		err := u.Start(within(t, patience))
		want := `start of unit "slow.service" did not end within TIME (was inactive); see "journalctl -u slow.service -n 20": context deadline exceeded`
		if err == nil || withoutTime(err) != want || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Start = %v\nwant    %s", err, want)
		}
		if s := unitStatus(t, "slow.service"); s.State != Starting {
			t.Errorf("status is %+v", s)
		}
		if err := u.Stop(within(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
	})
	want := Status{State: Failed, Detail: `failed: exit-code, its main process ended with status 1; see "journalctl -u broken.service -n 20"`}
	if diff := cmp.Diff(want, unitStatus(t, "broken.service")); diff != "" {
		t.Error(diff)
	}
	want = Status{State: Starting, Detail: `systemd starts it again: exit-code, its main process ended with status 1; see "journalctl -u again.service -n 20"`}
	if diff := cmp.Diff(want, unitStatus(t, "again.service")); diff != "" {
		t.Error(diff)
	}
	if err := NewUnit("again.service", discard).Stop(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	if got := unitStatus(t, "nowhere.service"); got != (Status{Detail: "unit is not-found"}) {
		t.Errorf("status of no unit is %+v", got)
	}
}

func testUnitStartStop(t *testing.T, m *systemdtest.Machine) {
	for _, name := range []string{"plain.service", "ssh.service"} {
		u := NewUnit(name, discard)
		for range 2 {
			if err := u.Start(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
			if s := unitStatus(t, name); s.State != Running || s.PID == 0 || s.Detail != "" {
				t.Errorf("started %s: %+v", u, s)
			}
		}
		for range 2 {
			if err := u.Stop(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
			if s := unitStatus(t, name); s != (Status{}) {
				t.Errorf("stopped %s: %+v", u, s)
			}
		}
	}
	if err := NewUnit("nowhere.service", discard).Stop(within(t, 20*time.Second)); err != nil {
		t.Errorf("Stop of a unit that does not exist = %v, want nil, since it does not run", err)
	}
}

func testUnitStopFails(t *testing.T, m *systemdtest.Machine) {
	u := NewUnit("stays.service", discard)
	if err := u.Start(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	err := u.Stop(within(t, patience))
	want := `stop of unit "stays.service" did not end within TIME (was active); see "journalctl -u stays.service -n 20": context deadline exceeded`
	if err == nil || withoutTime(err) != want {
		t.Errorf("Stop = %v\nwant   %s", err, want)
	}
	if s := unitStatus(t, "stays.service"); s.State != Stopping {
		t.Errorf("status is %+v", s)
	}
	m.Run("systemctl", "kill", "--signal=KILL", "stays.service")
}

func testUnitStopOvertakes(t *testing.T) {
	u := NewUnit("slow.service", discard)
	seen := watcher(t, u.Watch)
	started := make(chan error, 1)
	ctx := within(t, 20*time.Second)
	go func() { started <- u.Start(ctx) }()
	await(t, seen, Starting)
	if err := u.Stop(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	want := `the start of unit "slow.service" was cancelled by another order for it`
	if err := <-started; err == nil || err.Error() != want {
		t.Errorf("Start = %v\nwant    %s", err, want)
	}
}

func testUnitSockets(t *testing.T, m *systemdtest.Machine) {
	fed := NewUnit("fed.socket", discard)
	if err := fed.Start(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if s := unitStatus(t, "fed.socket"); s != (Status{State: Running}) {
		t.Errorf("listening: %+v", s)
	}
	m.Run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7001")
	nstest.Eventually(t, "the socket has started its service", func() bool { return unitStatus(t, "fed.service").State == Running })
	m.Run("systemctl", "stop", "fed.socket")
	s := unitStatus(t, "fed.socket")
	if s.State != Running || s.PID == 0 || s.Detail != "fed.socket does not listen, but fed.service runs" {
		t.Errorf("service without its socket: %+v", s)
	}
	if err := fed.Stop(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if s := unitStatus(t, "fed.service"); s.State != Stopped {
		t.Errorf("the service of a stopped socket: %+v", s)
	}

	each := NewUnit("each.socket", discard)
	if err := each.Start(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	echo, _ := nstest.Session(t, m.Command(t.Context(), "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7002; while read l; do echo $l >&3; read -u 3 r; echo got $r; done"), "got ")
	echo("before")
	if err := each.Stop(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if s := unitStatus(t, "each.socket"); s != (Status{}) {
		t.Errorf("stopped: %+v", s)
	}
	echo("after")
}

func testUnitTriggered(t *testing.T, m *systemdtest.Machine) {
	m.Run("systemctl", "start", "fed.socket", "fed.service")
	var log strings.Builder
	u := NewUnit("fed.service", textLogger(&log))
	if err := u.Stop(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), `msg="unit is stopped, but another would start it again" unit=fed.service triggered_by=fed.socket`) {
		t.Errorf("log: %s", log.String())
	}
	want := Status{Detail: `fed.socket would start it again; "systemctl disable --now fed.socket", or name it as the door's unit`}
	if diff := cmp.Diff(want, unitStatus(t, "fed.service")); diff != "" {
		t.Error(diff)
	}
	m.Run("systemctl", "stop", "fed.socket")
	if s := unitStatus(t, "fed.service"); s != (Status{}) {
		t.Errorf("with its socket stopped: %+v", s)
	}
}

func testUnitCutsSessions(t *testing.T) {
	const advice = "stopping %[1]q ends every process of the unit, sessions too, because its KillMode is %[2]q; " +
		"\"systemctl edit %[1]s\" and add the lines [Service] and KillMode=process"
	for _, tt := range []struct {
		unit string
		want string
	}{
		{"group.service", fmt.Sprintf(advice, "group.service", "control-group")},
		{"fed.socket", fmt.Sprintf(advice, "fed.service", "mixed")},
		{"main.service", ""},
		{"ssh.service", ""},
		{"each.socket", ""},
	} {
		cuts, why, err := NewUnit(tt.unit, discard).CutsSessions(within(t, 10*time.Second))
		if err != nil || why != tt.want || cuts != (tt.want != "") {
			t.Errorf("%s: %v, %q, %v; want %q", tt.unit, cuts, why, err, tt.want)
		}
	}
}

func testUnitWatch(t *testing.T, m *systemdtest.Machine) {
	u := NewUnit("plain.service", discard)
	seen := watcher(t, u.Watch)
	if s := next(t, seen); s != (Status{}) {
		t.Errorf("first: %+v", s)
	}
	m.Run("systemctl", "start", "plain.service")
	if s := await(t, seen, Running); s.PID == 0 {
		t.Errorf("running: %+v", s)
	}
	m.Run("systemctl", "kill", "--signal=KILL", "plain.service")
	want := Status{State: Failed, Detail: `failed: signal, its main process was ended by signal 9; see "journalctl -u plain.service -n 20"`}
	if diff := cmp.Diff(want, await(t, seen, Failed)); diff != "" {
		t.Error(diff)
	}
	m.Run("systemctl", "start", "plain.service")
	await(t, seen, Running)
	m.Run("systemctl", "stop", "plain.service")
	await(t, seen, Stopped)
	// systemd executes itself again, and forgets the subscription to its signals.
	m.Run("systemctl", "daemon-reexec")
	m.Run("systemctl", "start", "plain.service")
	await(t, seen, Running)
	m.Run("systemctl", "stop", "plain.service")
	await(t, seen, Stopped)
}

func testUnitBusRestart(t *testing.T, m *systemdtest.Machine) {
	u := NewUnit("main.service", discard)
	seen := watcher(t, u.Watch)
	await(t, seen, Stopped)
	m.Run("systemctl", "stop", "dbus.socket", "dbus.service")
	// root's systemctl needs no D-Bus.
	m.Run("systemctl", "start", "main.service")
	err := u.Start(within(t, 20*time.Second))
	want := fmt.Sprintf(`start unit "main.service": cannot reach systemd over D-Bus at %q: dial unix %s: connect: connection refused; see "systemctl status dbus.service"`,
		m.BusAddress(), m.Path("/run/dbus/system_bus_socket"))
	gone := strings.Replace(want, "connection refused", "no such file or directory", 1) + "; a container needs the machine's socket mounted there"
	if err == nil || (err.Error() != want && err.Error() != gone) {
		t.Errorf("Start without D-Bus = %v\nwant %s", err, want)
	}
	m.Run("systemctl", "start", "dbus.socket", "dbus.service")
	await(t, seen, Running)
	nstest.Eventually(t, "systemd is back on the bus", func() bool {
		_, err := u.Status(within(t, 10*time.Second))
		return err == nil
	})
	if err := u.Stop(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	await(t, seen, Stopped)
}
