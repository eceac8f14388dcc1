//go:build linux

package packaging

import (
	"cmp"
	"os/exec"
	"runtime"
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
	l.m = systemdtest.BootSuite(t, suite, ns, before+":/before", now+":/now")
	l.key = authorize(t, l.m)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.m.Run("journalctl", "--no-pager", "--unit=doorward.service"))
		}
	})
	return l
}

// apt runs apt-get where nobody can be asked anything, as unattended upgrades do,
// and returns what it says.
func (l *life) apt(args string) string {
	l.Helper()
	said := l.m.Run("sh", "-c", "DEBIAN_FRONTEND=noninteractive exec apt-get -qq -y -o Dpkg::Use-Pty=0 "+args+" </dev/null")
	l.Logf("apt-get %s:\n%s", args, said)
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
	said := l.apt("install /before/*.deb")
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
	l.apt("install /now/*.deb")
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
	l.apt("install --reinstall /now/*.deb")
	l.is("doorward.service", "inactive", "enabled")
	l.m.Run("systemctl", "start", "doorward.service")
}

// remove removes it over the session that came by the door.
func (l *life) remove() {
	say := l.session()
	l.m.Run("doorward", "close", "ssh")
	l.dark()
	said := l.apt("remove doorward")
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
	said := l.apt("install /now/*.deb")
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
	l.apt("purge doorward doorward-client")
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
	l.says(l.apt("install /now/*.deb"), "doorward: not started. To begin, type: doorward init")
	l.guards()
	l.session()
}

// packagesOf builds today's packages, into one directory, and into another the same
// with the programs and the unit of the last commit that had no packages.
func packagesOf(t *testing.T) (before, now string) {
	t.Helper()
	now, before = t.TempDir(), t.TempDir()
	sh(t, "..", `FORMATS=deb build/packages.sh "$1" "$2"`, now, runtime.GOARCH)
	tree := t.TempDir()
	sh(t, "..", `git archive "$1" | tar -x -C "$2"`, released, tree)
	sh(t, tree, `CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/ ./cmd/doorwardd ./cmd/doorward
		for deb in "$1"/*.deb; do
			root=$PWD/$(basename "$deb")
			dpkg-deb --raw-extract "$deb" "$root"
			for program in sbin/doorwardd bin/doorward; do
				[ ! -e "$root/usr/$program" ] || cp "bin/${program#*bin/}" "$root/usr/$program"
			done
			for unit in "$root"/usr/lib/systemd/system/*; do
				[ ! -e "$unit" ] || cp packaging/doorward.service "$unit"
			done
			sed -i 's/^Version: .*/Version: 0.0.0~before/; s/(= .*)/(= 0.0.0~before)/' "$root/DEBIAN/control"
			dpkg-deb -Znone --root-owner-group --build "$root" "$2/" >/dev/null
		done`, now, before)
	return before, now
}

// sh runs a script in a directory of this machine.
func sh(t *testing.T, dir, script string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
}
