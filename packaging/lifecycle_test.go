//go:build linux

package packaging

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

// TestFromInstallToPurge lives with the packages on each Debian release: install,
// first configuration, knock, upgrade, remove, install again, purge.
func TestFromInstallToPurge(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "dpkg-deb", "ssh", "ssh-keygen")
	before, now, built := packagesOf(t)
	for _, suite := range systemdtest.Suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			l := newLife(t, suite, before, now, built)
			l.install()
			l.upgrade()
			l.invites()
			l.notRemoved()
			l.remove()
			l.again()
			l.purge()
			l.afresh()
			l.lockedOut()
			l.failedUpgrade()
			l.staysClosed()
			l.madeHere()
		})
	}
}

// life is a machine with an operator, a visitor and a stranger.
type life struct {
	*testing.T
	m                 *systemdtest.Machine
	visitor, stranger *nstest.NS
	key               string
	client            string   // the visitor's program, on this machine
	home              []string // the visitor's environment
	kept              string   // what must stay of the files beside the configuration
}

func newLife(t *testing.T, suite, before, now, built string) *life {
	ns := nstest.New(t)
	l := &life{T: t, visitor: nstest.New(t), stranger: nstest.New(t), client: built + "/doorward"}
	home := t.TempDir()
	l.home = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CONFIG_HOME=" + home + "/.config"}
	nstest.Link(ns, l.visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	nstest.Link(ns, l.stranger, []string{"198.51.100.1/24"}, []string{"198.51.100.2/24"})
	source, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	l.m = systemdtest.BootSuite(t, suite, ns, before+":/before", now+":/now", os.Args[0]+":/usr/sbin/panel",
		source+":/source", built+":/built")
	l.key = authorize(t, l.m)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.m.Run("journalctl", "--no-pager", "--unit=doorward.service", "--unit=ssh.service"))
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

// is checks that units are in a state of their own ("active", "inactive") and at boot
// ("enabled", "disabled", "not-found").
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

// says checks that a program has said something.
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
	l.guards("--force") // init was to learn that the package's file says nothing
}

// guards begins to guard SSH, with a fresh configuration.
func (l *life) guards(more ...string) {
	l.Helper()
	l.m.Run("doorward", append([]string{"init", "--listen", "59000,59001,59002", "--touch", "59000,59002"}, more...)...)
	l.m.Run("doorward", "polkit", "--install")
	l.m.Run("systemctl", "restart", "polkit.service") // by itself it rereads rules only at some later moment
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
	l.m.Run("doorward", "open", "ssh", "--source", "192.0.2.2", "--for", "1h") // an upgrade may take longer than a knock lets in
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

// notRemoved checks that it stays, and goes on opening doors, where a removal could
// lock somebody out, or would expose what nobody can tell any more.
func (l *life) notRemoved() {
	for _, tt := range []struct{ name, breaks, mends, says string }{
		{"an SSH server that does not start", "echo nonsense >>/etc/ssh/sshd_config", "sed -i /nonsense/d /etc/ssh/sshd_config; systemctl reset-failed ssh",
			"a way into this machine is closed: ssh.service does not run; start it, or, if it is not to run: systemctl mask ssh.service"},
		{"a configuration with a mistake", "echo nonsense >>/etc/doorward/doorward.toml", "sed -i /nonsense/d /etc/doorward/doorward.toml",
			"hint: or, to open every door: systemctl stop doorward; doorwardd --retire --all"},
	} {
		l.m.Run("sh", "-c", tt.breaks)
		said, err := l.m.System.Run(l.Context(), "apt-get", "-qq", "-y", "remove", "doorward")
		if err == nil {
			l.Fatalf("%s: it is removed although nobody could get in any more:\n%s", tt.name, said)
		}
		l.says(said+err.Error(), tt.says, "NOT REMOVED. The daemon runs again, and knocks open doors as before.")
		l.is("doorward.service", "active", "enabled")
		l.m.Run("sh", "-c", tt.mends)
		l.dark()
		if !l.fence() || l.strangerReaches("22") {
			l.Errorf("%s: the door is open", tt.name)
		}
	}
	l.m.Run("systemctl", "restart", "doorward.service")
	l.dark()
}

// remove removes it over the session that came by the door.
func (l *life) remove() {
	say := l.session()
	l.m.Run("doorward", "close", "ssh")
	l.dark()
	said := l.apt("remove doorward")
	l.says(said, "no knock opens anything", "door ssh (22/tcp) is open to everybody: ssh.service was stopped, and runs again")
	say("after the removal")
	l.is("doorward.service", "inactive", "disabled") // what systemd makes of the init script, a conffile
	l.is("ssh.service", "active", "enabled")
	if !l.strangerReaches("22") {
		l.Error("sshd cannot be reached")
	}
	if listening := l.m.Run("ss", "-Hltn"); strings.Contains(listening, ":5900") {
		l.Errorf("somebody holds the knock's ports still:\n%s", listening)
	}
}

// again installs it again, over the configuration that a removal leaves.
func (l *life) again() {
	said := l.apt("install /now/*.deb")
	l.says(said, "doorward: not enabled. The configuration from before is there: doorward check; systemctl enable --now doorward\n")
	l.is("doorward.service", "inactive", "disabled")
	l.is("ssh.service", "active", "enabled")
	l.m.Run("systemctl", "enable", "--now", "doorward.service")
	l.dark()
	l.session()
	l.m.Run("doorward", "close", "ssh")
	l.dark()
	l.seals("after it was removed and installed again")
}

// purge purges it while it runs and its door is dark, on a machine whose D-Bus is down
// and where what a door had started lives on.
func (l *life) purge() {
	l.m.Run("doorward", "close", "ssh")
	l.dark()
	l.m.Run("systemctl", "stop", "dbus.socket", "dbus.service")
	l.m.Run("sh", "-c", "setpriv --reuid=doorward --regid=doorward --clear-groups sleep infinity >/dev/null 2>&1 & echo $! >/tmp/pid")
	said := l.apt("purge doorward doorward-client 2>&1")
	l.says(said, "door ssh (22/tcp) is open to everybody: ssh.service was stopped, and runs again", "THE USER doorward IS LEFT.")
	l.m.Run("systemctl", "start", "dbus.socket", "dbus.service")
	// Both have lost their connection, and whoever logs in waits for the first.
	l.m.Run("systemctl", "restart", "systemd-logind.service", "polkit.service")
	l.m.Run("sh", "-c", "kill $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do :; done; userdel doorward")
	l.is("ssh.service", "active", "enabled")
	l.gone()
	if !l.strangerReaches("22") {
		l.Error("sshd cannot be reached")
	}
}

// gone checks that nothing of doorward is left.
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

// lockedOut types what the README tells those who are locked out to type, and nothing
// else.
func (l *life) lockedOut() {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		l.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Locked out?\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := codeBlocks(section)
	if len(blocks) != 2 {
		l.Fatalf("want two blocks of commands in the README's section, and not %q", blocks)
	}
	for i, block := range blocks {
		l.m.Run("doorward", "close", "ssh")
		l.dark()
		// What people try first does not help, and says what does.
		out, err := l.m.System.Run(l.Context(), "doorwardd", "--cleanup")
		if err == nil {
			l.Fatal("the fence goes while the daemon runs")
		}
		l.says(out+err.Error(), "systemctl stop doorward", "doorward open DOOR --source any --for 1h")
		l.m.System.Run(l.Context(), "systemctl", "start", "ssh") // may fail already, "canceled"
		l.dark()
		nstest.Eventually(l.T, "the trail says how to open the door", func() bool {
			return strings.Contains(l.m.Run("doorward", "log"), `"doorward open ssh --source any --for 1h" lets everybody in`)
		})
		if l.strangerReaches("22") {
			l.Error("somebody gets in already: it proves nothing")
		}
		for _, line := range block {
			l.m.Run("sh", "-c", line)
		}
		if !l.strangerReaches("22") {
			l.Errorf("after block %d, %q, nobody gets in", i+1, block)
		}
	}
	l.m.Run("systemctl", "start", "doorward.service")
	l.dark()
}

// failedUpgrade upgrades to a daemon that cannot start.
func (l *life) failedUpgrade() {
	const text = "/etc/doorward/doorward.toml"
	l.m.Run("cp", "-p", text, "/root/good.toml")
	l.m.Run("sh", "-c", "echo nonsense >>"+text+"; find /var/lib/doorward -mindepth 1 -delete")
	said := l.apt("install --reinstall /now/*.deb 2>&1")
	l.says(said, "THE DAEMON DOES NOT RUN AFTER THE UPGRADE. The doors stay closed, and no knock opens one.")
	if !l.fence() {
		l.Error("the fence fell with the daemon")
	}
	for _, block := range codeBlocks(said) {
		for _, line := range block {
			l.m.Run("sh", "-c", line)
		}
	}
	l.is("ssh.service", "active", "enabled")
	if !l.strangerReaches("22") {
		l.Error("after the commands that were named nobody gets in")
	}
	l.m.Run("cp", "-p", "/root/good.toml", text)
	l.m.Run("systemctl", "start", "doorward.service")
	l.dark()
}

// panelDoor is a door beside SSH, to which nobody needs to get to have the machine.
const panelDoor = `
[door.panel]
ports = ["7777/tcp"]
service = { unit = "panel.service" }
presence = { idle = "1h" }

[[door.panel.knock]]
kind = "touch"
listen = [59003, 59004, 59005]
touch = [59003, 59005]
`

// staysClosed removes doorward from a machine with a panel that relies on it, and with
// an SSH server that nothing else starts, as doctor suggests.
func (l *life) staysClosed() {
	l.m.Write("/etc/systemd/system/panel.service", "[Service]\nExecStart=/usr/sbin/panel\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	l.m.Run("systemctl", "enable", "panel.service")
	closes := func() string {
		l.Helper()
		l.m.Run("sh", "-c", `printf '%s' "$1" >>/etc/doorward/doorward.toml`, "sh", panelDoor)
		l.m.Run("systemctl", "disable", "ssh.service")
		l.m.Run("doorward", "polkit", "--install")
		l.m.Run("systemctl", "restart", "polkit.service")
		l.m.Run("systemctl", "start", "panel.service")
		l.m.Run("systemctl", "enable", "--now", "doorward.service")
		l.m.Run("doorward", "apply")
		nstest.Eventually(l.T, "panel.service is stopped", func() bool { return show(l.T, l.m, "panel.service", "ActiveState") == "inactive" })
		l.dark()
		return l.apt("remove doorward")
	}
	said := closes()
	l.is("ssh.service", "active", "enabled")
	l.is("panel.service", "inactive", "enabled")
	l.says(said, "ssh.service is enabled now: after a boot nothing else would have started it.",
		"door panel (7777/tcp) STAYS CLOSED until the next boot: panel.service is stopped\n", "    systemctl disable panel.service\n")
	if !l.strangerReaches("22") || !l.fence() {
		l.Error("sshd cannot be reached, or the fence around the panel has gone")
	}
	l.m.Run("systemctl", "start", "panel.service")
	if l.strangerReaches("7777") {
		l.Error("the panel is exposed")
	}
	l.m.Run("systemctl", "stop", "panel.service")
	// What to type, as it says, opens it.
	_, commands, _ := strings.Cut(said, "type as root:\n")
	for _, line := range codeBlocks(commands)[0] {
		l.m.Run("sh", "-c", strings.TrimSpace(line))
	}
	if l.fence() {
		l.Error("the commands that it says do not take the fence down")
	}
	nstest.Eventually(l.T, "the panel can be reached", func() bool { return l.strangerReaches("7777") })

	// A purge in a later boot leaves alone what that has not started.
	l.m.Run("systemctl", "stop", "panel.service")
	l.m.Run("sed", "-i", "s/^boot .*/boot 01234567-89ab-cdef-0123-456789abcdef/", "/etc/doorward/removed")
	l.apt("purge doorward")
	l.is("panel.service", "inactive", "enabled")

	// One in the same boot opens it, also what nothing but somebody's hand had started.
	l.m.Run("systemctl", "disable", "panel.service")
	l.apt("install /now/*.deb")
	l.guards()
	closes()
	l.says(l.apt("purge doorward doorward-client"), "doorward: panel.service was stopped, and runs again\n", "doorward: the fence is removed")
	l.is("ssh.service", "active", "enabled")
	l.is("panel.service", "active", "disabled")
	l.gone()
	for _, port := range []string{"22", "7777"} {
		nstest.Eventually(l.T, "after a purge port "+port+" can be reached", func() bool { return l.strangerReaches(port) })
	}
}

// madeHere does with make what was done with packages.
func (l *life) madeHere() {
	made := func(script string, args ...string) string {
		l.Helper()
		return l.m.Run("env", append([]string{"BIN=/built", "sh", "/source/build/" + script, "", "/usr/local"}, args...)...)
	}
	made("install.sh")
	l.is("doorward.service", "inactive", "disabled")
	l.guards()
	say := l.session()
	l.m.Run("doorward", "close", "ssh")
	l.dark()
	l.says(made("uninstall.sh"), "door ssh (22/tcp) is open to everybody: ssh.service was stopped, and runs again")
	say("after make uninstall")
	l.is("doorward.service", "inactive", "not-found")
	l.is("ssh.service", "active", "enabled")
	if l.fence() || !l.strangerReaches("22") {
		l.Error("after make uninstall sshd cannot be reached")
	}
	if left := l.m.Run("find", "/usr/local", "-type", "f"); left != "" {
		l.Errorf("make uninstall leaves:\n%s", left)
	}
	made("install.sh")
	l.m.Run("systemctl", "enable", "--now", "doorward.service") // with the configuration from before
	l.dark()
	l.m.Run("rm", "/usr/local/sbin/doorwardd")
	l.says(made("uninstall.sh", "purge"), "doorwardd is not there. So the fence goes as a whole")
	if !l.strangerReaches("22") {
		l.Error("without the program make uninstall leaves sshd closed")
	}
	made("uninstall.sh", "purge") // once more, without the unit
	l.is("ssh.service", "active", "enabled")
	l.gone()
}
