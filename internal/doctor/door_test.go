//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/presence"
)

// The findings say how a door knows that somebody is in, and where it cannot.
func TestPresence(t *testing.T) {
	const seen = "ok: door x: in use while there is: "
	visible, noLeave, none := error(nil), fmt.Errorf("list flows: %w", fs.ErrPermission), errors.New("no ctnetlink")
	for _, tt := range []struct {
		name, ports, presence string
		flows                 error
		want                  []string
	}{
		{"TCP", `"443/tcp"`, "", none, []string{seen + "a live TCP connection to 443/tcp (a socket of this machine, or a flow to" +
			" where the port is forwarded) > "}},
		{"UDP", `"51820/udp"`, "", visible, []string{seen + "a flow over UDP to 51820/udp that was answered, until a few" +
			" minutes after its last packet > "}},
		{"no leave", `"51820/udp"`, "", noLeave, []string{seen,
			"warning: door x: did not check whether UDP flows can be seen here > sudo doorward doctor"}},
		{"not seen", `"51820/udp"`, "", none, []string{seen, "problem: door x: would go dark while somebody is in, since UDP flows" +
			` cannot be seen here: no ctnetlink > set logins, or write idle = "never"`}},
		{"not seen beside logins", `"22/tcp", "60000-61000/udp"`, "", none, []string{seen + "a login in the journal or the auth log",
			"warning: door x: does not see who is in over UDP alone, since UDP flows cannot be seen here: no ctnetlink > where"}},
		{"never dark", `"51820/udp"`, `idle = "never"`, none, []string{"ok: door x: presence does not count: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := config.Parse("f", []byte("[door.x]\nports = ["+tt.ports+"]\n[door.x.presence]\n"+tt.presence+
				"\n[[door.x.knock]]\nkind = \"touch\"\nlisten = [20001, 20002]\ntouch = [20002]\n"))
			if err != nil {
				t.Fatal(err)
			}
			p := machine(t, nil)
			p.Flows = func() error { return tt.flows }
			want(t, p.presence(&c.Doors[0]), tt.want...)
		})
	}
}

func TestPortsOfOthers(t *testing.T) {
	const dir = "/proc/sys/net/ipv4/"
	p := machine(t, map[string]string{dir + "ip_local_port_range": "32768\t60999\n", dir + "ip_local_reserved_ports": "59002\n"})
	want(t, p.clashes(sshDoor(t)), "warning: ports: 59000/tcp and 59001/tcp (listeners of door ssh): this machine assigns ports"+
		" 32768 to 60999 to sockets that do not ask for one, such as those of outgoing connections: one of them may hold the port when it"+
		" is needed > echo net.ipv4.ip_local_reserved_ports=59000-59002 >/etc/sysctl.d/60-doorward.conf && sysctl -p"+
		" /etc/sysctl.d/60-doorward.conf")
	want(t, machine(t, nil).clashes(sshDoor(t)))
}

func TestCommands(t *testing.T) {
	p := machine(t, map[string]string{"/usr/sbin/sshd": "x"})
	s := &config.Service{Start: []string{"/usr/sbin/sshd", "-D"}}
	want(t, commands("door ssh", s, p.path), `problem: door ssh: its command "/usr/sbin/sshd" is not a program`)
	if err := os.Chmod(p.path("/usr/sbin/sshd"), 0o755); err != nil {
		t.Fatal(err)
	}
	want(t, commands("door ssh", s, p.path), "ok: door ssh: its command /usr/sbin/sshd is there")
	s.Stop = []string{"/usr/bin/none"}
	want(t, commands("door ssh", s, p.path), `problem: door ssh: its command "/usr/bin/none" is not a program`)
}

func TestBoot(t *testing.T) {
	want(t, machine(t, nil).boot(), "note: boot: there is no systemd here")
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		want(t, machine(t, map[string]string{mark: ""}).boot(), "note: boot: this is a container: after a boot nothing is guarded"+
			" until its engine starts it again > see that the engine does: restart: always in a compose file")
	}
	want(t, machine(t, map[string]string{"/run/.containerenv": "", "/run/systemd/system/x": ""}).boot(),
		"warning: boot: doorward.service is not installed")
	systemd := map[string]string{"/run/systemd/system/x": ""}
	want(t, machine(t, systemd).boot(), "warning: boot: doorward.service is not installed")
	for _, dir := range []string{"/usr/lib", "/usr/local/lib", "/etc"} {
		unit := map[string]string{"/run/systemd/system/x": "", dir + "/systemd/system/doorward.service": ""}
		want(t, machine(t, unit).boot(), "warning: boot: doorward.service is not enabled: after a boot nothing is guarded"+
			" > systemctl enable doorward.service")
	}
	systemd["/etc/systemd/system/multi-user.target.wants/doorward.service"] = ""
	want(t, machine(t, systemd).boot(), "ok: boot: doorward.service is enabled")
}

// fakeLog answers like a presence.Log.
type fakeLog struct {
	login    presence.Login
	found    bool
	err      error
	warnings []string
	over     []string
}

func (l *fakeLog) Last(context.Context) (presence.Login, bool, error) { return l.login, l.found, l.err }
func (l *fakeLog) Warnings() []string                                 { return l.warnings }
func (l *fakeLog) PassedOver() []string                               { return l.over }
func (l *fakeLog) String() string                                     { return "/var/log/auth.log" }

func TestLogins(t *testing.T) {
	now := time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)
	alice := presence.Login{Time: now.Add(-90 * time.Minute), User: "alice", Source: netip.MustParseAddr("192.0.2.1")}
	tests := []struct {
		name string
		log  fakeLog
		want []string
	}{
		{"a login", fakeLog{login: alice, found: true}, []string{
			"ok: door ssh: /var/log/auth.log can be read; the last login was alice's from 192.0.2.1, 1h30m0s ago > "}},
		{"no address", fakeLog{login: presence.Login{Time: alice.Time, User: "alice"}, found: true}, []string{
			"ok: door ssh: /var/log/auth.log can be read; the last login was alice's from an unknown address, 1h30m0s ago > "}},
		{"no login", fakeLog{}, []string{"ok: door ssh: /var/log/auth.log can be read, and has no login yet > "}},
		{"no data", fakeLog{err: fmt.Errorf("%w: nothing anywhere", presence.ErrNoData)}, []string{
			"problem: door ssh: would go to failsafe, dark and ignoring knocks: no log data: nothing anywhere > "}},
		{"too slow", fakeLog{err: context.DeadlineExceeded}, []string{"warning: door ssh: its logins could not be read: context"}},
		{"odd stamps", fakeLog{warnings: []string{"line 3 has a stamp from the future"}}, []string{
			"ok: door ssh", "warning: door ssh: line 3 has a stamp from the future > "}},
		{"rotations of other forms", fakeLog{over: []string{"/var/log/auth.log.1.xz", "/var/log/auth.log-22112026"}}, []string{
			"ok: door ssh", "warning: door ssh: /var/log/auth.log.1.xz, /var/log/auth.log-22112026 cannot be read, or their names do not" +
				" tell how old they are: logins in them do not count > have logrotate compress by gzip, zstd or bzip2, "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want(t, loginFindings(t.Context(), "ssh", &tt.log, now, true), tt.want...)
		})
	}
}

// TestLoginsWithoutRoot: what an operator may not read says nothing about what the
// daemon may read.
func TestLoginsWithoutRoot(t *testing.T) {
	log := fakeLog{err: fmt.Errorf("%w: permission denied", presence.ErrNoData), warnings: []string{"permission denied"}}
	want(t, loginFindings(t.Context(), "ssh", &log, time.Now(), false),
		"note: door ssh: cannot see whether there is log data for the daemon: you may not read any > sudo doorward doctor")
}

// TestOnce: what doctor and the daemon both found is said once.
func TestOnce(t *testing.T) {
	const install = "sudo doorward polkit --install"
	others := []Finding{{Warning, "configuration", "idle is short", ""}, {Problem, "door ssh", "is in failsafe and ignores knocks: no log data", ""},
		{Warning, "door ssh", "line 3 has a stamp from the future", ""}, {Problem, "door web", "polkit does not let it", install}}
	alone := Finding{Warning, "daemon", `door ssh: the daemon may not; "` + install + `" allows it`, "doorward status"}
	all := append([]Finding{{OK, "daemon", "answers", ""},
		{Warning, "daemon", "door ssh is in failsafe and ignores knocks: no log data", "doorward status"},
		{Warning, "daemon", "door ssh: line 3 has a stamp from the future", "doorward status"},
		{Warning, "daemon", "idle is short", "doorward status"},
		{Warning, "daemon", `door web: the daemon may not; "` + install + `" allows it`, "doorward status"}, alone}, others...)
	want := append([]Finding{{OK, "daemon", "answers", ""}, alone}, others...)
	if d := cmp.Diff(want, once(all)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestReader(t *testing.T) {
	p := machine(t, map[string]string{
		"/etc/passwd":    "root:x:0:0::/:\ndoorward:x:998:997::/:\n",
		"/etc/group":     "root:x:0:\nadm:x:4:\nsystemd-journal:x:101:\nextra:x:50:alice,doorward\nother:x:60:alice\n",
		"/proc/7/status": "Name:\tdoorwardd\nUid:\t998\t998\t998\t998\nGid:\t997\t997\t997\t997\nGroups:\t4 101 \n",
		"/proc/8/status": "Uid:\t0\t0\t0\t0\n",
	})
	type who struct {
		Name string
		UID  int
		GIDs []int
	}
	show := func(r *reader) who { return who{r.name, r.uid, r.gids} }
	if d := cmp.Diff(who{"the user doorward", 998, []int{997, 4, 101, 50}}, show(p.daemonReader(0))); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(who{"the daemon (pid 7)", 998, []int{997, 997, 997, 997, 4, 101}}, show(p.daemonReader(7))); d != "" {
		t.Error(d)
	}
	if r := p.daemonReader(8); r != nil {
		t.Errorf("root is %v, want nobody in particular", r)
	}
	if r := machine(t, nil).daemonReader(0); r != nil {
		t.Errorf("without the user it is %v, want nobody", r)
	}

	r := &reader{name: "the user doorward", uid: 998, gids: []int{4}}
	for _, tt := range []struct {
		mode     os.FileMode
		uid, gid int
		want     bool
	}{
		{0o640, 0, 4, true}, {0o640, 0, 0, false}, {0o600, 0, 4, false}, {0o644, 0, 0, true},
		{0o040, 998, 4, false}, {0o400, 998, 0, true}, {0o604, 0, 4, false},
	} {
		if got := readable(tt.mode, tt.uid, tt.gid, r); got != tt.want {
			t.Errorf("%v of %d:%d is readable: %v, want %v", tt.mode, tt.uid, tt.gid, got, tt.want)
		}
	}
	secure := filepath.Join(t.TempDir(), "secure")
	if err := os.WriteFile(secure, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, mayRead(r, secure), "problem: "+secure+": the user doorward may not read it (-rw-------, owner")
	want(t, mayRead(nil, secure))
	want(t, mayReadConfiguration(r, secure), "problem: configuration: the user doorward may not read "+secure+
		" (-rw-------, owner")
	want(t, mayReadConfiguration(nil, secure))
	want(t, mayRead(r, "the journal"))
}

func TestSSHConnection(t *testing.T) {
	const own = "192.0.2.1 50000 192.0.2.2 22"
	p := machine(t, map[string]string{
		fmt.Sprintf("/proc/%d/status", os.Getpid()): "PPid:\t70\n",
		"/proc/70/status": "PPid:\t60\n", "/proc/70/environ": "SUDO_USER=alice\x00PATH=/\x00",
		"/proc/60/status": "PPid:\t1\n", "/proc/60/environ": "A=b\x00SSH_CONNECTION=" + own + "\x00",
	})
	if got := p.sshConnection(); got != own {
		t.Errorf("got %q, want %q", got, own)
	}
	if got := machine(t, nil).sshConnection(); got != "" {
		t.Errorf("got %q, want none", got)
	}
}

func TestOwnSession(t *testing.T) {
	c := sshDoor(t)
	now := time.Now()
	grants := func(source string) control.Status {
		return control.Status{Doors: []control.Door{{Name: "ssh",
			Grants: []control.Grant{{Source: source, Expires: now.Add(time.Minute)}}}}}
	}
	tests := []struct {
		name       string
		connection string
		status     control.Status
		want       []string
	}{
		{"none", "", control.Status{}, nil},
		{"garbled", "a b c d", control.Status{}, nil},
		{"always", "198.51.100.7 50000 192.0.2.2 22", control.Status{}, []string{
			"ok: your session: comes from 198.51.100.7, which never needs to knock at door ssh (198.51.100.0/24)"}},
		{"unguarded", "192.0.2.1 50000 192.0.2.2 2222", control.Status{}, []string{
			"ok: your session: came in at 2222/tcp, which no door guards"}},
		{"stranger", "192.0.2.1 50000 192.0.2.2 22", grants("192.0.2.9"), []string{
			"warning: your session: comes from 192.0.2.1 through door ssh: it stays open whatever happens, but a new one needs" +
				" the knock > keep this session open until a new one has got in; apply with doorward apply --confirm 60s"}},
		{"behind a fence that stands", "192.0.2.1 50000 192.0.2.2 22", control.Status{Fence: control.Fence{Up: true}}, []string{
			"note: your session: comes from 192.0.2.1 through door ssh: it stays open whatever happens, but a new one needs" +
				" the knock > keep this session open until a new one has got in; apply with"}},
		{"granted", "::ffff:192.0.2.1 50000 ::ffff:192.0.2.2 22", grants("192.0.2.1"), []string{
			"ok: your session: comes from 192.0.2.1, which has a grant at door ssh until "}},
		{"granted by prefix", "fe80::1%eth0 50000 fe80::2%eth0 22", grants("fe80::/64"), []string{
			"ok: your session: comes from fe80::1, which has a grant"}},
		{"open to all", "192.0.2.1 50000 192.0.2.2 22", grants("any"), []string{"ok: your session"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { want(t, ownSession(c, tt.connection, tt.status, now), tt.want...) })
	}
}

func TestConfiguration(t *testing.T) {
	p := machine(t, map[string]string{"/good": configText, "/empty": "# comments\n", "/bad": "[door.ssh]\n"})
	for path, line := range map[string]string{
		"/good":  "ok: configuration: /good: door ssh > ",
		"/empty": "note: configuration: /empty has no doors yet > doorward init",
		"/bad":   "problem: configuration: /bad has mistakes > doorward check /bad",
		"/none":  "problem: configuration: /none does not exist > doorward init writes one",
	} {
		p.Config = path
		_, found := p.configuration()
		want(t, found, line)
	}
	if err := os.Chmod(p.path("/good"), 0o666); err != nil {
		t.Fatal(err)
	}
	p.Config = "/good"
	_, found := p.configuration()
	want(t, found, "problem: configuration: "+p.path("/good")+" may be written by everybody: allowed is its owner alone, "+
		"and the file names what is run as root > chown root:doorward "+p.path("/good")+" && chmod 0640 "+p.path("/good"))
	// People show the list to others, so that the knock must not be in it.
	if got := strings.Join(lines(outside(sshDoor(t))), ""); strings.Contains(got, "59000") {
		t.Errorf("it gives the knock away: %s", got)
	}
}
