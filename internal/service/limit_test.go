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

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

// limitUnits are started more often than systemd allows.
var limitUnits = map[string]string{
	// Without this unit, systemd would forget the others while they are down, and how
	// often they were started.
	"remembers.target": "[Unit]\nAfter=touched.service deadly.service reached.service reached.socket patient.service never.service checked.service\n",
	"touched.service":  "[Service]\nExecStart=/bin/sleep infinity\n",
	"deadly.service":   "[Unit]\nStartLimitAction=poweroff\n[Service]\nExecStart=/bin/sleep infinity\n",
	"reached.service":  "[Unit]\nStartLimitIntervalSec=1h\n[Service]\nStandardInput=socket\nKillMode=process\nExecStart=/bin/sleep infinity\n",
	"reached.socket":   "[Socket]\nListenStream=127.0.0.1:7003\n",
	"patient.service":  "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=2s\n[Service]\nExecStart=/bin/sleep infinity\n",
	"never.service":    "[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h\n[Service]\nExecStart=/bin/sleep infinity\n",
	"checked.service":  "[Service]\nExecStartPre=/bin/sh -c '! [ -e /run/checked ]'\nExecStart=/bin/sleep infinity\n",
	"notifies.service": "[Service]\nType=notify\nNotifyAccess=all\n" +
		"ExecStart=/bin/sh -c 'while ! [ -e /run/notify ]; do sleep 0.05; done; systemd-notify --ready; exec sleep infinity'\n",
	"lingers.service": "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sh -c 'while [ -e /run/linger ]; do sleep 0.05; done'\n",
}

// testUnitLimit starts and stops a unit as often as somebody who tries out a door: more
// than five times in ten seconds, after which systemd starts nothing.
func testUnitLimit(t *testing.T) {
	var log strings.Builder
	u := NewUnit("touched.service", textLogger(&log))
	for i := range 7 {
		if err := u.Start(within(t, 20*time.Second)); err != nil {
			t.Fatalf("start %d: %v", i+1, err)
		}
		if err := u.Stop(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if want := `level=INFO msg="the unit had reached its start limit; that is reset, and it is started again" unit=touched.service starts=5 within=10s`; !strings.Contains(log.String(), want) {
		t.Errorf("the log does not say %s:\n%s", want, log.String())
	}
	if strings.Contains(log.String(), "WARN") {
		t.Errorf("all went well, but there is a warning:\n%s", log.String())
	}
}

// testUnitDeadlyLimit starts a unit whose start limit would power off the machine.
func testUnitDeadlyLimit(t *testing.T, m *systemdtest.Machine) {
	u := NewUnit("deadly.service", discard)
	for i := range 7 {
		if err := errors.Join(u.Start(within(t, 20*time.Second)), u.Stop(within(t, 20*time.Second))); err != nil {
			t.Fatalf("start %d: %v", i+1, err)
		}
	}
	if got := strings.TrimSpace(m.Run("sh", "-c", "systemctl is-system-running || true")); got == "stopping" {
		t.Fatal("the machine shuts down, because doorward started a unit too often")
	}
}

// testUnitShutdown shuts the machine down, and the unit with it: nobody has ordered the
// unit to stop, and nobody can start it. D-Bus stays longer than the unit, as on Fedora.
func testUnitShutdown(t *testing.T, m *systemdtest.Machine) {
	for _, unit := range []string{"dbus.service", "dbus.socket"} {
		m.Write("/run/systemd/system/"+unit+".d/late.conf", "[Unit]\nDefaultDependencies=no\n", 0o644)
	}
	m.Run("systemctl", "daemon-reload")
	m.Write("/run/linger", "", 0o644)
	m.Run("systemctl", "start", "lingers.service", "touched.service")
	m.Run("systemctl", "poweroff", "--no-block")
	nstest.Eventually(t, "the unit is down", func() bool {
		return strings.TrimSpace(m.Run("systemctl", "show", "--value", "-p", "ActiveState", "touched.service")) == "inactive"
	})
	if s := unitStatus(t, "touched.service"); s != (Status{State: Stopping}) {
		t.Errorf("while the machine shuts down, the unit is %+v", s)
	}
	want := `start unit "touched.service": Transaction for touched.service/start is destructive`
	if err := NewUnit("touched.service", discard).Start(within(t, 20*time.Second)); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Start = %v\nwant    %s ...", err, want)
	}
	m.Run("rm", "/run/linger")
}

// testUnitSocketLimit starts the service of a socket by a connection each time.
func testUnitSocketLimit(t *testing.T, m *systemdtest.Machine) {
	u := NewUnit("reached.socket", discard)
	for i := range 7 {
		if err := u.Start(within(t, 20*time.Second)); err != nil {
			t.Fatalf("start %d: %v", i+1, err)
		}
		m.Run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7003")
		nstest.Eventually(t, fmt.Sprintf("connection %d starts the service", i+1), func() bool {
			return unitStatus(t, "reached.service").State == Running
		})
		if err := u.Stop(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
}

// testUnitMayNotReset has a polkit rule that was made before the daemon reset start
// limits, and so does not allow that.
func testUnitMayNotReset(t *testing.T, m *systemdtest.Machine) {
	rule := ""
	for line := range strings.Lines(PolkitRule("doorward", []Names{{ID: "patient.service"}, {ID: "never.service"}})) {
		if !strings.Contains(line, "reset-failed") {
			rule += line
		}
	}
	m.Write("/etc/polkit-1/rules.d/49-doorward.rules", rule, 0o644)
	m.Run("systemctl", "restart", "polkit.service") // otherwise it would read the rules again at some later moment
	order := func(args ...string) string {
		t.Helper()
		args = append([]string{helperWord, "unit"}, args...)
		cmd := m.CommandAs(t.Context(), "doorward", "/helper", args...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for range 3 {
		for _, verb := range []string{"start", "stop"} {
			if got := order(verb, "patient.service"); got != "done" {
				t.Errorf("%s: %s", verb, got)
			}
		}
	}
	for _, o := range []struct{ verb, want string }{
		{"start", "done"}, {"stop", "done"}, {"start-or-wait", `unit "never.service" was not started again, because it was started ` +
			`1 times within 1h0m0s already (its StartLimitBurst), the last time with the result "start-limit-hit", and that time was not over soon enough: ` +
			`context canceled; "systemctl reset-failed never.service" forgets that, and "doorward polkit --install" lets the daemon do it`},
	} {
		if got := order(o.verb, "never.service"); got != o.want {
			t.Errorf("%s: %s\nwant %s", o.verb, got, o.want)
		}
	}
}

// testUnitChecked breaks the configuration of a unit that ran before, as one may do with
// that of sshd: its failure has nothing to do with a start limit.
func testUnitChecked(t *testing.T, m *systemdtest.Machine) {
	u := NewUnit("checked.service", discard)
	if err := errors.Join(u.Start(within(t, 20*time.Second)), u.Stop(within(t, 20*time.Second))); err != nil {
		t.Fatal(err)
	}
	m.Write("/run/checked", "", 0o644)
	want := `unit "checked.service" failed to start: exit-code; see "journalctl -u checked.service -n 20"`
	for range 2 {
		if err := u.Start(within(t, 20*time.Second)); err == nil || err.Error() != want {
			t.Errorf("Start = %v\nwant    %s", err, want)
		}
	}
}

// testUnitRestart restarts a unit that stops slowly, as an operator or an upgrade does:
// it never counts as down.
func testUnitRestart(t *testing.T, m *systemdtest.Machine) {
	m.Run("systemctl", "start", "lingers.service")
	seen := watcher(t, NewUnit("lingers.service", discard).Watch)
	before := await(t, seen, Running)
	for range 3 {
		m.Write("/run/linger", "", 0o644)
		m.Run("systemctl", "restart", "--no-block", "lingers.service")
		await(t, seen, Stopping)
		m.Run("rm", "/run/linger")
		s := next(t, seen)
		for ; s.State != Running; s = next(t, seen) {
			if s.State == Stopped || s.State == Failed {
				t.Fatalf("during a restart, the unit is %v", s.State)
			}
		}
		if s.PID == before.PID {
			t.Error("the unit was not restarted")
		}
		before = s
	}
	for range 5 {
		m.Run("systemctl", "restart", "lingers.service")
	}
	m.Run("systemctl", "stop", "lingers.service")
	for s := next(t, seen); s.State != Stopped; s = next(t, seen) {
		if s.State == Failed {
			t.Fatalf("after an ordered stop, the unit is %+v", s)
		}
	}
	if s := unitStatus(t, "lingers.service"); s != (Status{}) {
		t.Errorf("stopped: %+v", s)
	}
}

// testUnitOvertaken gives an operator's orders while a start is under way.
func testUnitOvertaken(t *testing.T, m *systemdtest.Machine) {
	for _, tt := range []struct {
		order string
		ends  State
	}{{"restart", Running}, {"stop", Stopped}} {
		u := NewUnit("notifies.service", discard)
		seen := watcher(t, u.Watch)
		await(t, seen, Stopped)
		started := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		go func() { started <- u.Start(ctx) }()
		await(t, seen, Starting)
		m.Run("systemctl", tt.order, "--no-block", "notifies.service")
		m.Write("/run/notify", "", 0o644)
		err := <-started
		if s := unitStatus(t, "notifies.service").State; s != tt.ends || (err == nil) != (s == Running) || err != nil && !errors.Is(err, ErrOvertaken) {
			t.Errorf("after %s, the unit is %v, and Start = %v", tt.order, s, err)
		}
		m.Run("rm", "/run/notify")
		m.Run("systemctl", "stop", "notifies.service")
	}
}
