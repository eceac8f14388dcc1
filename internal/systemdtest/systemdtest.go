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
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"golang.org/x/sys/unix"
)

// Machine is a booted system. It is shut down when the test that booted it
// ends.
type Machine struct {
	Name string // its host name
	PID  int    // of its systemd, as this machine counts
	t    testing.TB
	cmd  *exec.Cmd     // systemd-nspawn
	done chan struct{} // closed when cmd has ended
	log  string        // file with the console's output
}

const (
	bootLimit = 60 * time.Second
	// haltLimit is how long a machine may take for an orderly end, and again for
	// a quick one.
	haltLimit = 10 * time.Second
	// look is how often a state is asked for that nothing announces.
	look = 20 * time.Millisecond
)

var serial atomic.Int32

// Boot boots a machine in ns and returns when it is up. Each of binds is a path
// of this machine that the new one sees too, read-only, as "PATH" or
// "PATH:PATH-INSIDE". Without root or the programs that it takes, the test is
// skipped as nstest.Need says.
func Boot(t testing.TB, ns *nstest.NS, binds ...string) *Machine {
	t.Helper()
	nstest.Need(t, "systemd-nspawn", "debootstrap", "unshare", "nsenter", "setpriv")
	root, lock, err := rootfs(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	m := &Machine{Name: fmt.Sprintf("%s%d-%d", namePrefix, os.Getpid(), serial.Add(1)), t: t, done: make(chan struct{})}
	if err := m.start(root, ns, binds); err != nil {
		t.Fatalf("boot: %v", err)
	}
	t.Cleanup(m.halt)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	if err := m.await(ctx); err != nil {
		t.Fatalf("boot: %v\n%s", err, m.Console())
	}
	return m
}

// start starts the container in a cgroup of its own: two containers in one
// would share the cgroups of their units, and end each other's processes.
func (m *Machine) start(root string, ns *nstest.NS, binds []string) error {
	removeGroups(m.t, leftGroups())
	groups, err := makeGroups(m.Name)
	if err != nil {
		return err
	}
	m.t.Cleanup(func() { removeGroups(m.t, groups) })
	m.log = filepath.Join(m.t.TempDir(), "console.log")
	out, err := os.Create(m.log)
	if err != nil {
		return err
	}
	defer out.Close()
	nspawn := []string{"systemd-nspawn", "--quiet", "--boot", "--machine=" + m.Name, "--directory=" + root,
		"--read-only", "--volatile=overlay", // several may share the tree; what they write is theirs, in memory
		"--register=no", "--keep-unit", "--console=pipe", "--network-namespace-path=" + ns.Path(),
		"--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON",
		// Not on its list of what is allowed, though without risk.
		"--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
		"--resolv-conf=off", "--timezone=off"}
	for _, b := range binds {
		nspawn = append(nspawn, "--bind-ro="+b)
	}
	// The shell only moves itself into the cgroups and becomes systemd-nspawn.
	script := `while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"`
	args := append([]string{"-c", script, "sh"}, groups...)
	m.cmd = exec.Command("sh", append(append(args, "--"), nspawn...)...)
	m.cmd.Stdout, m.cmd.Stderr = out, out
	// Should the test be killed, systemd-nspawn is too, and the next boot of any
	// test ends the machine. The signal comes when the thread that started it
	// ends, prctl(2): so one is kept for that.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() { // ends with systemd-nspawn, which halt sees to
		defer close(m.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			m.cmd.Wait()
		}
	}()
	return <-started
}

// await waits until the machine has booted.
func (m *Machine) await(ctx context.Context) error {
	for {
		if m.PID == 0 {
			m.PID = m.leader()
		}
		state := "no systemd yet"
		if m.PID != 0 {
			out, err := m.Command(ctx, "systemctl", "is-system-running").CombinedOutput()
			if state = strings.TrimSpace(string(out)); err == nil {
				return nil
			}
			if state == "degraded" {
				failed, _ := m.Command(ctx, "systemctl", "--failed", "--no-pager").CombinedOutput()
				return fmt.Errorf("units failed:\n%s", failed)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not up in time, last seen %q: %w", state, ctx.Err())
		case <-m.done:
			return fmt.Errorf("systemd-nspawn ended: %v", m.cmd.ProcessState)
		case <-time.After(look):
		}
	}
}

// leader is the pid of the container's systemd, 0 while there is none: the child
// of systemd-nspawn that is the first of a pid namespace.
func (m *Machine) leader() int {
	pid := strconv.Itoa(m.cmd.Process.Pid)
	raw, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	for _, child := range strings.Fields(string(raw)) {
		status, _ := os.ReadFile("/proc/" + child + "/status")
		if strings.Contains(string(status), "\nNSpid:\t"+child+"\t1\n") {
			n, _ := strconv.Atoi(child)
			return n
		}
	}
	return 0
}

// halt shuts the machine down, by force when it has to.
func (m *Machine) halt() {
	if m.t.Failed() {
		m.t.Logf("console of %s:\n%s", m.Name, m.Console())
	}
	// systemd-nspawn(1): SIGTERM is an orderly shutdown, a second one is not.
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM, syscall.SIGKILL} {
		m.cmd.Process.Signal(s)
		select {
		case <-m.done:
			return
		case <-time.After(haltLimit):
			m.t.Logf("%s is still up %v after %v", m.Name, haltLimit, s)
		}
	}
	m.t.Errorf("%s (process %d) cannot be ended", m.Name, m.cmd.Process.Pid)
}

// Command is exec.CommandContext inside the machine, as root. The process that
// it starts is nsenter; the program is nsenter's child and ends when nsenter is
// killed.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target=" + strconv.Itoa(m.PID), "--all", "--",
		"setpriv", "--pdeathsig=KILL", "--", name}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	cmd.WaitDelay = haltLimit
	return cmd
}

// CommandAs is Command as a user of the machine, with that user's groups and
// no capability.
func (m *Machine) CommandAs(ctx context.Context, user, name string, args ...string) *exec.Cmd {
	m.t.Helper()
	group := strings.TrimSpace(m.Run("id", "-g", user))
	return m.Command(ctx, "setpriv", append([]string{"--reuid=" + user, "--regid=" + group, "--init-groups",
		"--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--", name}, args...)...)
}

// Run runs a program in the machine and returns what it printed, on both
// outputs. A non-zero exit fails the test, and so does more than a minute. It
// works in the test's Cleanup too.
func (m *Machine) Run(name string, args ...string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.t.Context()), time.Minute)
	defer cancel()
	out, err := m.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Path is where this machine finds a file of that one.
func (m *Machine) Path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(m.PID), "root", inside)
}

// Write writes a file in the machine, making its directory.
func (m *Machine) Write(inside, content string, mode os.FileMode) {
	m.t.Helper()
	path := m.Path(inside)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		m.t.Fatal(err)
	}
	if err := unix.Chmod(path, uint32(mode.Perm())); err != nil { // whatever the umask is
		m.t.Fatal(err)
	}
}

// BusAddress is the D-Bus address of its system bus, for this machine's root.
func (m *Machine) BusAddress() string {
	return "unix:path=" + m.Path("/run/dbus/system_bus_socket")
}

// Console is what the machine has written to its console so far.
func (m *Machine) Console() string {
	raw, err := os.ReadFile(m.log)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
