//go:build linux

package packaging

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

// released is the last commit before there were packages: upgrades from its
// programs and files are tried.
const released = "71694b71d23328706af16691179155ca6d5a0cc3"

// TestFromInstallToPurge lives with the packages on each Debian release: install,
// first configuration, knock, upgrade, remove, install again, purge.
func TestFromInstallToPurge(t *testing.T) {
	nstest.Need(t, "dpkg-deb", "ssh", "ssh-keygen")
	before, now := packagesOf(t)
	for _, suite := range systemdtest.Suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			l := newLife(t, suite, before, now)
			l.install()
			l.upgrade()
			l.remove()
			l.again()
			l.purge()
			l.afresh()
		})
	}
}

// life is a machine with an operator, a visitor and a stranger.
type life struct {
	*testing.T
	m                 *systemdtest.Machine
	visitor, stranger *nstest.NS
	key               string
}

func newLife(t *testing.T, suite, before, now string) *life {
	ns := nstest.New(t)
	l := &life{T: t, visitor: nstest.New(t), stranger: nstest.New(t)}
	nstest.Link(ns, l.visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	nstest.Link(ns, l.stranger, []string{"198.51.100.1/24"}, []string{"198.51.100.2/24"})
	l.m = systemdtest.BootSuite(t, suite, ns, before+":/before.deb", now+":/now.deb")
	l.key = authorize(t, l.m)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.m.Run("journalctl", "--no-pager", "--unit=doorward.service"))
		}
	})
	return l
}

// apt runs apt-get with the environment of an unattended upgrade, and returns what
// it says.
func (l *life) apt(args ...string) string {
	l.Helper()
	said := l.m.Run("env", append([]string{"DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"}, args...)...)
	l.Logf("apt-get %s:\n%s", strings.Join(args, " "), said)
	return said
}

// is holds that units are in a state of their own ("active", "inactive") and at
// boot ("enabled", "disabled", "not-found").
func (l *life) is(unit, active, enabled string) {
	l.Helper()
	if got := show(l.T, l.m, unit, "ActiveState"); got != active {
		l.Errorf("%s is %q, want %q", unit, got, active)
	}
	got, _ := l.m.System.Command(l.Context(), "systemctl", "is-enabled", unit).Output()
	state := cmp.Or(strings.TrimSpace(string(got)), "not-found") // systemd before 253 does not say it
	if state != enabled {
		l.Errorf("%s at boot is %q, want %q", unit, state, enabled)
	}
}

// says holds that a program has said something.
func (l *life) says(said string, words ...string) {
	l.Helper()
	for _, w := range words {
		if !strings.Contains(said, w) {
			l.Errorf("it does not say %q:\n%s", w, said)
		}
	}
}

func (l *life) fence() bool {
	return strings.Contains(l.m.Run("nft", "list", "tables"), "table inet doorward")
}

func (l *life) strangerReaches(port string) bool {
	return reaches(l.stranger, "198.51.100.1:"+port, time.Second)
}

// install installs the package from before, and guards SSH as the README says.
func (l *life) install() {
	said := l.apt("install", "/before.deb")
	l.says(said, "doorward: not started. To begin, type: doorward init")
	l.is("doorward.service", "inactive", "disabled")
	l.is("ssh.service", "active", "enabled")
	if l.fence() {
		l.Error("installing it guards something")
	}
	l.guards()
}

// guards begins to guard SSH, with a fresh configuration.
func (l *life) guards() {
	l.Helper()
	l.m.Run("doorward", "init", "--listen", "59000,59001,59002", "--touch", "59000,59002")
	l.m.Run("doorward", "polkit", "--install")
	l.m.Run("systemctl", "restart", "polkit.service") // it reads rules anew by itself, at some moment
	l.m.Run("systemctl", "enable", "--now", "doorward.service")
	l.dark()
	if l.strangerReaches("22") {
		l.Error("a stranger gets in")
	}
}

func (l *life) dark() {
	l.Helper()
	nstest.Eventually(l.T, "ssh.service is stopped", func() bool { return show(l.T, l.m, "ssh.service", "ActiveState") == "inactive" })
}

// session knocks and logs in.
func (l *life) session() (say func(string)) {
	l.Helper()
	knocks(l.T, l.visitor)
	nstest.Eventually(l.T, "the door opens", func() bool { return reaches(l.visitor, "192.0.2.1:22", time.Second) })
	say, _ = nstest.Session(l.T, l.visitor.Command(l.Context(), "ssh", append(sshTo(l.key), "cat")...), "")
	say("in")
	return say
}

// upgrade upgrades while somebody is in and a stranger tries to get in.
func (l *life) upgrade() {
	say := l.session()
	pid := show(l.T, l.m, "doorward.service", "MainPID")
	end := besiege(l.T, l.stranger, "198.51.100.1", 22)
	l.apt("install", "/now.deb")
	say("after the upgrade")
	logsIn(l.T, l.visitor, l.key) // by the grant that stands
	tried, in := end()
	if len(in) > 0 {
		l.Errorf("of %d connections that a stranger tried while it was upgraded %d got in, the first %s", tried, len(in), in[0])
	}
	if got := show(l.T, l.m, "doorward.service", "MainPID"); got == pid {
		l.Error("the daemon from before runs on")
	}
	l.is("doorward.service", "active", "enabled")
	l.m.Run("doorward", "close", "ssh")
	l.dark()
	say("after all")

	l.m.Run("systemctl", "stop", "doorward.service")
	l.apt("install", "--reinstall", "/now.deb")
	l.is("doorward.service", "inactive", "enabled")
	l.m.Run("systemctl", "start", "doorward.service")
}

// remove removes it over the session that came by the door.
func (l *life) remove() {
	say := l.session()
	l.m.Run("doorward", "close", "ssh")
	l.dark()
	said := l.apt("remove", "doorward")
	l.says(said, "no knock opens anything", "door ssh (22/tcp) is open to everybody: ssh.service was stopped, and runs again")
	say("after the removal")
	l.is("doorward.service", "inactive", "not-found")
	l.is("ssh.service", "active", "enabled")
	if !l.strangerReaches("22") {
		l.Error("sshd cannot be reached")
	}
	if listening := l.m.Run("ss", "-Hltn"); strings.Contains(listening, ":5900") {
		l.Errorf("somebody holds the knock's ports still:\n%s", listening)
	}
}

// again installs it anew, over the configuration that a removal leaves.
func (l *life) again() {
	said := l.apt("install", "/now.deb")
	l.says(said, "doorward: not enabled. The configuration from before is there: doorward check; systemctl enable --now doorward\n")
	l.is("doorward.service", "inactive", "disabled")
	l.is("ssh.service", "active", "enabled")
	l.m.Run("systemctl", "enable", "--now", "doorward.service")
	l.dark()
	l.session()
}

// purge purges it while it runs and its door is dark.
func (l *life) purge() {
	l.m.Run("doorward", "close", "ssh")
	l.dark()
	l.apt("purge", "doorward")
	l.is("ssh.service", "active", "enabled")
	l.gone()
	if !l.strangerReaches("22") {
		l.Error("sshd cannot be reached")
	}
}

// gone holds that nothing of doorward is left.
func (l *life) gone() {
	l.Helper()
	if l.fence() {
		l.Error("the table is left")
	}
	left := l.m.Run("sh", "-c", `ls -d /etc/doorward /var/lib/doorward /run/doorward /etc/polkit-1/rules.d/*doorward* \
		/etc/systemd/system/*/doorward.service 2>/dev/null; getent passwd doorward; getent group doorward; `+
		`find / -xdev -name '*doorward*' -not -path '/proc/*' -not -path '/var/log/*' -not -path '/etc/doorward-test-recipe'`+
		` -not -path '/tmp/*' 2>/dev/null; true`)
	if left != "" {
		l.Errorf("left after a purge:\n%s", left)
	}
}

// afresh installs it after a purge, as on a new machine.
func (l *life) afresh() {
	l.says(l.apt("install", "/now.deb"), "doorward: not started. To begin, type: doorward init")
	l.guards()
	l.session()
}

// packagesOf builds the packages of the last commit that had none and of this tree.
func packagesOf(t *testing.T) (before, now string) {
	t.Helper()
	top, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	old := t.TempDir()
	archive := exec.CommandContext(t.Context(), "sh", "-ec", `git archive "$1" | tar -x -C "$2"`, "sh", released, old)
	archive.Dir = top
	if out, err := archive.CombinedOutput(); err != nil {
		t.Fatalf("git archive: %v\n%s", err, out)
	}
	return deb(t, old, "0.1~before"), deb(t, top, "0.1")
}

// deb builds a tree's package.
func deb(t *testing.T, tree, version string) string {
	t.Helper()
	dir := t.TempDir()
	root := dir + "/root"
	sh := func(dir, script string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-ec", script, "sh"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	sh(tree, `go build -buildvcs=false -trimpath -o "$1/usr/sbin/" ./cmd/doorwardd; go build -buildvcs=false -trimpath -o "$1/usr/bin/" ./cmd/doorward
		install -D -m 644 packaging/doorward.service "$1/usr/lib/systemd/system/doorward.service"
		install -D -m 644 packaging/doorward.sysusers "$1/usr/lib/sysusers.d/doorward.conf"
		install -D -m 644 packaging/doorward.tmpfiles "$1/usr/lib/tmpfiles.d/doorward.conf"
		install -D -m 644 packaging/doorward-dbus.conf "$1/usr/share/dbus-1/system.d/doorward.conf"`, root)
	if err := os.MkdirAll(root+"/DEBIAN", 0o755); err != nil {
		t.Fatal(err)
	}
	var control bytes.Buffer
	control.WriteString("Package: doorward\nVersion: " + version + "\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\nDescription: x\n")
	if err := os.WriteFile(root+"/DEBIAN/control", control.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(".", `install -m 755 scripts/* "$1/DEBIAN/"; chmod -R g-w "$1"; dpkg-deb --root-owner-group --build "$1" "$1.deb"; chmod 644 "$1.deb"`, root)
	return root + ".deb"
}
