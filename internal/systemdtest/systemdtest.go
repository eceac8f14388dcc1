//go:build linux

// Package systemdtest boots a real systemd for tests, with journald, D-Bus,
// logind, polkit and OpenSSH, in a container inside a network namespace that
// the test made. Everything written in it is gone when it ends. The system is
// Debian's, made once by debootstrap and cached outside the repository, in
// $DOORWARD_CACHE or /var/cache/doorward-test.
//
// A boot takes about half a second: share one machine between subtests.
package systemdtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

// Machine is a System of a test: a failure in it fails the test. It is shut down
// when the test ends.
type Machine struct {
	*System
	t testing.TB
}

// Boot boots a machine in ns and returns when it is up. Each of binds is a path
// of this machine that the new one sees too, read-only, as "PATH" or
// "PATH:PATH-INSIDE". Without root or the necessary programs, the test is skipped,
// as described at nstest.Need.
func Boot(t testing.TB, ns *nstest.NS, binds ...string) *Machine {
	t.Helper()
	return BootSuite(t, Suites[0], ns, binds...)
}

// BootSuite is Boot for a given suite, one of Suites or Managed.
func BootSuite(t testing.TB, suite string, ns *nstest.NS, binds ...string) *Machine {
	t.Helper()
	nstest.Need(t, "systemd-nspawn", "debootstrap", "unshare", "nsenter", "setpriv")
	o := Options{Suite: suite, Network: ns.Path(), Console: filepath.Join(t.TempDir(), "console.log"), Binds: binds, Logf: t.Logf}
	system, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of %s:\n%s", system.Name, system.Console())
		}
		if err := system.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Machine{system, t}
}

// CommandAs is Command as a user of the machine, with that user's groups and
// without capabilities.
func (m *Machine) CommandAs(ctx context.Context, user, name string, args ...string) *exec.Cmd {
	m.t.Helper()
	group := strings.TrimSpace(m.Run("id", "-g", user))
	return m.Command(ctx, "setpriv", append([]string{"--reuid=" + user, "--regid=" + group, "--init-groups",
		"--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--", name}, args...)...)
}

// Run runs a program in the machine and returns what it printed, on both
// outputs. A non-zero exit fails the test, and so does a run of more than a minute.
// It works in the test's Cleanup functions too.
func (m *Machine) Run(name string, args ...string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.t.Context()), time.Minute)
	defer cancel()
	out, err := m.System.Run(ctx, name, args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// Write writes a file in the machine, and makes its directory.
func (m *Machine) Write(inside, content string, mode os.FileMode) {
	m.t.Helper()
	if err := m.System.Write(inside, content, mode); err != nil {
		m.t.Fatal(err)
	}
}

// BusAddress returns the D-Bus address of the machine's system bus, which root can use
// from outside.
func (m *Machine) BusAddress() string {
	return "unix:path=" + m.Path("/run/dbus/system_bus_socket")
}
