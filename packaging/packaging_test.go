//go:build linux

package packaging

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

// install puts what a package brings into the machine, with a stand-in for the
// daemon.
func install(t *testing.T, m *systemdtest.Machine) {
	t.Helper()
	m.Run("cp", "/stub", "/usr/sbin/doorwardd")
	m.Run("sh", "-c", "[ -e /usr/bin/doorward ] || cp /stub /usr/bin/doorward")
	run := func(args ...string) error { _, err := m.System.Run(t.Context(), args[0], args[1:]...); return err }
	if err := Install(m.System.Write, run); err != nil {
		t.Fatal(err)
	}
	m.Write("/etc/doorward/doorward.toml", "", 0o640)
	m.Run("chgrp", "doorward", "/etc/doorward/doorward.toml")
	m.Write("/var/log/auth.log", "", 0o640)
	m.Run("chgrp", "adm", "/var/log/auth.log")
}

func TestOnASystem(t *testing.T) {
	t.Parallel()
	m := systemdtest.Boot(t, nstest.New(t), os.Args[0]+":/stub")
	install(t, m)
	t.Run("users and directories", func(t *testing.T) { testUsers(t, m) })
	t.Run("unit is well-formed", func(t *testing.T) { testVerify(t, m) })
	t.Run("unit is confined", func(t *testing.T) { testSecurity(t, m) })
	t.Run("talks to systemd alone", func(t *testing.T) { testBus(t, m) })
	t.Run("unit runs", func(t *testing.T) { testRuns(t, m) })
	t.Run("SysV script", func(t *testing.T) { testSysV(t, m) })
	t.Run("OpenRC script", func(t *testing.T) { testOpenRC(t, m) })
}

func TestGuardsBeforeTheNetworkIsUp(t *testing.T) {
	t.Parallel()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	conf, enabled := t.TempDir()+"/doorward.toml", t.TempDir()+"/enabled"
	for path, text := range map[string]string{conf: "", enabled: "[Unit]\nWants=doorward.service\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := systemdtest.Boot(t, nstest.New(t),
		os.Args[0]+":/usr/sbin/doorwardd", conf+":/etc/doorward/doorward.toml",
		here+"/doorward.service:/usr/lib/systemd/system/doorward.service",
		enabled+":/etc/systemd/system/sysinit.target.d/doorward.conf",
		here+"/doorward.sysusers:/usr/lib/sysusers.d/doorward.conf",
		here+"/doorward.tmpfiles:/usr/lib/tmpfiles.d/doorward.conf")
	if log := m.Run("journalctl", "--boot", "--no-pager"); strings.Contains(log, "ordering cycle") {
		t.Errorf("the boot had to break an ordering cycle: %s", log)
	}
	when := func(unit, property string) int {
		t.Helper()
		text := show(t, m, unit, property)
		n, err := strconv.Atoi(text)
		if err != nil || n == 0 {
			t.Fatalf("%s of %s is %q\n%s", property, unit, text, m.Run("journalctl", "--boot", "--no-pager", "--unit="+unit))
		}
		return n
	}
	ready := when("doorward.service", "ActiveEnterTimestampMonotonic")
	if network := when("network-pre.target", "ActiveEnterTimestampMonotonic"); ready > network {
		t.Errorf("the network may come up %d µs before the doors are guarded", ready-network)
	}
}

func testUsers(t *testing.T, m *systemdtest.Machine) {
	if got := m.Run("id", "-nG", "doorward"); got != "doorward adm systemd-journal\n" {
		t.Errorf("groups of doorward: %q", got)
	}
	want := "750 root:doorward\n700 doorward:doorward\n750 doorward:doorward\n"
	if got := m.Run("stat", "-c", "%a %U:%G", "/etc/doorward", "/var/lib/doorward", "/run/doorward"); got != want {
		t.Errorf("directories are\n%swant\n%s", got, want)
	}
}

func testVerify(t *testing.T, m *systemdtest.Machine) {
	// Also finds ordering cycles of what is pulled in.
	out, err := m.System.Run(t.Context(), "systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", "doorward.service")
	if err != nil && out == "" {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		// systemd 252 says so and goes on; 254 knows it.
		if !strings.Contains(line, "Unknown key 'FileDescriptorStorePreserve'") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	m.Run("systemctl", "enable", "doorward.service")
	before := " " + show(t, m, "doorward.service", "Before") + " "
	for _, target := range []string{"network-pre.target", "sysinit.target"} {
		if !strings.Contains(before, " "+target+" ") {
			t.Errorf("it starts before %q, not before %s", before, target)
		}
	}
	after := show(t, m, "doorward.service", "After")
	for _, late := range []string{"sysinit.target", "basic.target", "dbus.s", "network"} {
		if strings.Contains(after, late) {
			t.Errorf("it starts after %q, which may itself wait for the network: %s", late, after)
		}
	}
}

// testBus holds the D-Bus policy of the daemon's user. Others may ask logind.
func testBus(t *testing.T, m *systemdtest.Machine) {
	ask := func(user, name, object, iface, method string) string {
		t.Helper()
		out, err := m.CommandAs(t.Context(), user, "busctl", "call", name, object, iface, method).CombinedOutput()
		if err == nil {
			return "answered"
		}
		return string(out)
	}
	logind := []string{"org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "ListSessions"}
	if got := ask("nobody", logind[0], logind[1], logind[2], logind[3]); got != "answered" {
		t.Errorf("another user, of logind: %q; the machine is not as it should be for this test", got)
	}
	if got := ask("doorward", logind[0], logind[1], logind[2], logind[3]); !strings.Contains(got, "Access denied") {
		t.Errorf("the daemon's user, of logind: %q, want access denied", got)
	}
	if got := ask("doorward", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
		"org.freedesktop.systemd1.Manager", "ListUnits"); got != "answered" {
		t.Errorf("the daemon's user, of systemd: %q, want an answer", got)
	}
}

func testSecurity(t *testing.T, m *systemdtest.Machine) {
	const most = 2.2 // setpriority, for the threads that visitors wait for, counts 0.2
	out := m.Run("systemd-analyze", "security", "--no-pager", "doorward.service")
	found := regexp.MustCompile(`Overall exposure level for doorward\.service: ([0-9.]+)`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no exposure level in\n%s", out)
	}
	level, err := strconv.ParseFloat(found[1], 64)
	if err != nil || level > most {
		t.Errorf("exposure level is %q, want at most %v\n%s", found[1], most, out)
	}
	t.Logf("exposure level %v", level)
}

// show is a property of a unit.
func show(t *testing.T, m *systemdtest.Machine, unit, property string) string {
	t.Helper()
	return strings.TrimSpace(m.Run("systemctl", "show", "-P", property, unit))
}

// stubFile is what the stand-in has written.
func stubFile(m *systemdtest.Machine, name string) string {
	raw, err := os.ReadFile(m.Path(stubDir + "/" + name))
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

func testRuns(t *testing.T, m *systemdtest.Machine) {
	m.Run("systemctl", "start", "doorward.service")
	if report := stubFile(m, "report"); report != "" {
		t.Errorf("the daemon's privileges are not as they should be:\n%s", report)
	}
	pid := show(t, m, "doorward.service", "MainPID")
	// Of all its threads: one has given up its ambient set, to start a command.
	status := m.Run("sh", "-c", "cat /proc/"+pid+"/task/*/status")
	for _, line := range []string{
		"CapInh:\t0000000000001400", "CapPrm:\t0000000000001400", "CapEff:\t0000000000001400",
		"CapBnd:\t0000000000001400", "CapAmb:\t0000000000001400", // NET_BIND_SERVICE is bit 10, NET_ADMIN 12
		"NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(status, line+"\n") {
			t.Errorf("its status lacks %q:\n%s", line, status)
		}
	}
	own, _, _ := strings.Cut(stubFile(m, "own.pid"), " ")
	m.Run("systemctl", "reload", "doorward.service")
	if got := stubFile(m, "reloaded"); got != "1" {
		t.Errorf("it was reloaded %s times, want once", got)
	}
	m.Write("/etc/doorward/bad", "", 0o644)
	if out, err := m.System.Run(t.Context(), "systemctl", "reload", "doorward.service"); err == nil {
		t.Errorf("a reload that changes nothing succeeds: %s", out)
	}
	m.Run("rm", "/etc/doorward/bad")

	m.Run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "doorward.service")
	nstest.Eventually(t, "it is started again", func() bool {
		again := show(t, m, "doorward.service", "MainPID")
		return again != "0" && again != pid && show(t, m, "doorward.service", "ActiveState") == "active"
	})
	m.Run("systemctl", "stop", "doorward.service")
	if got := m.Run("cat", "/proc/"+own+"/comm"); got != "sleep\n" {
		t.Errorf("what it supervises is %q after kill -9, restart and stop", got)
	}
	m.Run("kill", own)
	m.Run("systemctl", "disable", "doorward.service")
}

// script runs an init script and returns its output and exit status.
func script(t *testing.T, m *systemdtest.Machine, args ...string) (string, int) {
	t.Helper()
	cmd := m.Command(t.Context(), args[0], args[1:]...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%q: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func testSysV(t *testing.T, m *systemdtest.Machine) {
	m.Run("rm", "-rf", "/run/doorward", stubDir)
	const path = "/etc/init.d/doorward"
	expect := func(verb, text string, code int) {
		t.Helper()
		// As where there is no systemd: see 40-systemd of Debian's package systemd.
		out, got := script(t, m, "env", "SYSTEMCTL_SKIP_REDIRECT=true", path, verb)
		if got != code || !regexp.MustCompile("^"+text+"$").MatchString(out) {
			t.Errorf("%s: exit status %d and %q, want %d and %q", verb, got, out, code, text)
		}
	}
	expect("status", "doorward: not running\n", 3)
	expect("stop", "doorward: stopped; the doors stay guarded .doorwardd --cleanup opens them.\n", 0)
	expect("start", "doorward: the doors are guarded\n", 0)
	if report := stubFile(m, "report"); report != "" {
		t.Errorf("before start has returned:\n%s", report)
	}
	expect("start", "doorward: already running\n", 0)
	expect("status", "doorward: running, process [0-9]+\n", 0)
	expect("reload", "doorward.toml is in use\n", 0)
	m.Write("/etc/doorward/bad", "", 0o600)
	expect("reload", "doorward.toml:1: it is bad\n", 1)
	m.Run("rm", "/etc/doorward/bad")
	own, _, _ := strings.Cut(stubFile(m, "own.pid"), " ")
	expect("restart", "doorward: stopped.*\ndoorward: the doors are guarded\n", 0)
	pid := strings.TrimSpace(m.Run("cat", "/run/doorwardd.pid"))
	m.Run("kill", "-KILL", pid)
	nstest.Eventually(t, "it is gone", func() bool { _, err := os.Stat(m.Path("/proc/" + pid)); return err != nil })
	expect("status", "doorward: not running, but /run/doorwardd.pid is there\n", 1)
	expect("start", "doorward: the doors are guarded\n", 0)
	expect("stop", "doorward: stopped.*\n", 0)
	m.Write("/etc/doorward/bad", "", 0o600)
	expect("start", "doorward.toml:1: it is bad\n", 1)
	expect("status", "doorward: not running\n", 3)
	m.Run("rm", "/etc/doorward/bad")
	expect("dance", "usage: /etc/init.d/doorward {start|stop|restart|reload|force-reload|status}\n", 2)
	if got := m.Run("cat", "/proc/"+own+"/comm"); got != "sleep\n" {
		t.Errorf("what it supervises is %q after stop", got)
	}
	m.Run("kill", own)
}

func testOpenRC(t *testing.T, m *systemdtest.Machine) {
	text, err := os.ReadFile("doorward.openrc")
	if err != nil {
		t.Fatal(err)
	}
	m.Write("/etc/init.d/doorward", string(text), 0o755)
	m.Run("rm", "-rf", "/run/doorward", stubDir)
	// As if OpenRC had booted the machine.
	m.Write("/run/openrc/softlevel", "default", 0o644)
	for _, d := range []string{"starting", "started", "stopping", "inactive", "wasinactive", "failed",
		"exclusive", "scheduled", "hotplugged", "options", "daemons", "tmp"} {
		m.Run("mkdir", "-p", "/run/openrc/"+d)
	}
	m.Write("/etc/init.d/localmount", "#!/sbin/openrc-run\nstart() { :; }\n", 0o755)
	const path = "/etc/init.d/doorward"
	expect := func(verb, text string, code int) {
		t.Helper()
		out, got := script(t, m, path, "--nocolor", verb)
		if got != code || !strings.Contains(out, text) {
			t.Errorf("%s: exit status %d and %q, want %d and %q in it", verb, got, out, code, text)
		}
	}
	daemonPID := func() string {
		out, _ := script(t, m, "pgrep", "--parent", strings.TrimSpace(m.Run("cat", "/run/doorward.pid")))
		return strings.TrimSpace(out)
	}
	expect("status", " * status: stopped\n", 3)
	expect("start", " * Starting doorward ... [ ok ]\n", 0)
	m.Run("test", "-S", "/run/doorward/control.sock")
	if report := stubFile(m, "report"); report != "" {
		t.Errorf("before start has returned:\n%s", report)
	}
	own, _, _ := strings.Cut(stubFile(m, "own.pid"), " ")
	expect("status", " * status: started\n", 0)
	expect("reload", "doorward.toml is in use\n", 0)
	m.Write("/etc/doorward/bad", "", 0o600)
	expect("reload", "doorward.toml:1: it is bad\n", 1)
	m.Run("rm", "/etc/doorward/bad")
	pid := daemonPID()
	m.Run("kill", "-KILL", pid)
	nstest.Eventually(t, "it is started again", func() bool { again := daemonPID(); return again != "" && again != pid })
	expect("stop", " * Stopping doorward ... [ ok ]\n", 0)
	expect("status", " * status: stopped\n", 3)
	m.Write("/etc/doorward/bad", "", 0o600)
	expect("start", "doorward.toml:1: it is bad\n", 1)
	m.Run("rm", "/etc/doorward/bad")
	if got := m.Run("cat", "/proc/"+own+"/comm"); got != "sleep\n" {
		t.Errorf("what it supervises is %q after stop", got)
	}
	m.Run("kill", own)
}
