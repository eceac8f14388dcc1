//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/presence"
	"github.com/doorward/doorward/internal/service"
)

const configText = `[door.ssh]
ports  = ["22/tcp"]
always = ["198.51.100.0/24"]
[door.ssh.service]
unit = "ssh.service"
[[door.ssh.knock]]
kind   = "touch"
listen = [59000, 59001, 59002]
touch  = [59000, 59002]
`

func sshDoor(t *testing.T) *config.Config {
	t.Helper()
	c, err := config.Parse("f", []byte(configText))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lines writes findings as one line each.
func lines(found []Finding) []string {
	var all []string
	for _, f := range found {
		all = append(all, fmt.Sprintf("%s: %s: %s > %s", f.Verdict, f.Where, f.What, f.Do))
	}
	return all
}

// want compares findings with beginnings of lines.
func want(t *testing.T, found []Finding, beginnings ...string) {
	t.Helper()
	got := lines(found)
	same := len(got) == len(beginnings)
	for i := 0; same && i < len(got); i++ {
		same = strings.HasPrefix(got[i], beginnings[i])
	}
	if !same {
		t.Errorf("found:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(beginnings, "\n"))
	}
}

// machine makes files under a root of its own.
func machine(t *testing.T, files map[string]string) *Patient {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Patient{Root: root, Now: time.Now}
}

func TestKernel(t *testing.T) {
	want(t, kernelFindings("6.12.0", true, nil),
		"ok: kernel: Linux 6.12.0 takes doorward's nftables table and keeps others from changing it > ")
	want(t, kernelFindings("6.1.0", false, nil),
		"ok: kernel: Linux 6.1.0 takes doorward's nftables table; others may flush it (the flags owner and persist need 6.9)")
	want(t, kernelFindings("6.1.0", false, fmt.Errorf("make: %w", unix.EPERM)),
		"warning: kernel: Linux 6.1.0; whether it takes doorward's nftables table was not tried > run doctor as root")
	want(t, kernelFindings("4.9.0", false, errors.New("no such thing")),
		"problem: kernel: Linux 4.9.0 does not take doorward's nftables table: no such thing > a kernel with nf_tables")
}

func TestConntrack(t *testing.T) {
	want(t, conntrackFindings("12\n", "262144\n"), "ok: conntrack: tracks 12 of at most 262144 connections")
	want(t, conntrackFindings("", ""), "ok: conntrack: is not in use yet")
	want(t, conntrackFindings("950\n", "1000\n"),
		"warning: conntrack: tracks 950 of at most 1000 connections: when it is full, new ones are dropped before"+
			" anybody can knock > sysctl net.netfilter.nf_conntrack_max=2000, and again in /etc/sysctl.d")
}

func TestClock(t *testing.T) {
	now := time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)
	want(t, clock(clockState{now, true, nil}), "ok: clock: says 2026-11-24 06:00:00 UTC, and is synchronised")
	want(t, clock(clockState{now, false, nil}), "warning: clock: says 2026-11-24 06:00:00 UTC, and is not synchronised")
	want(t, clock(clockState{now, false, unix.EPERM}), "note: clock: says 2026-11-24 06:00:00 UTC; whether")
	want(t, clock(clockState{time.Unix(0, 0), false, nil}), "problem: clock: says 1970-01-01 00:00:00 UTC: logins would")
}

func TestDaemon(t *testing.T) {
	up := control.Fence{Up: true}
	tests := []struct {
		name   string
		status control.Status
		err    error
		want   []string
	}{
		{"well", control.Status{Version: "1.0", Fence: up}, nil, []string{"ok: daemon: doorward 1.0 answers at /s > "}},
		{"none", control.Status{}, errors.New("no daemon answers at /s"),
			[]string{"warning: daemon: no daemon answers at /s > systemctl start doorward"}},
		{"not ours", control.Status{}, fmt.Errorf("dial: %w", unix.EACCES),
			[]string{"problem: daemon: /s may not be opened by you > run doctor as root"}},
		{"fence down", control.Status{}, nil,
			[]string{"ok: daemon", "problem: fence: is down: nothing is guarded > journalctl"}},
		{"fence differs", control.Status{Fence: control.Fence{Up: true, Mismatch: "a chain is missing"}}, nil,
			[]string{"ok: daemon", "problem: fence: differs from what it should be: a chain is missing > "}},
		{"failsafe, pending, warned", control.Status{Fence: up, Warnings: []string{"disk full"}, Pending: &control.Pending{},
			Doors: []control.Door{{Name: "web", State: "dark"}, {Name: "ssh", State: "failsafe", Reason: "no log data"}}}, nil,
			[]string{"ok: daemon", "warning: daemon: disk full > doorward status",
				"warning: daemon: a configuration waits to be confirmed until ",
				"problem: door ssh: is in failsafe, dark and deaf: no log data > mend its log, or doorward arm ssh"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { want(t, daemonFindings("/s", tt.status, tt.err), tt.want...) })
	}
}

func TestCapabilities(t *testing.T) {
	c := sshDoor(t)
	low := sshDoor(t)
	low.Doors[0].Knocks[0].Listen[0] = 81
	want(t, capabilities(7, "Name:\tx\nCapEff:\t0000000000001400\n", c), "ok: daemon (pid 7): has CAP_NET_ADMIN > ")
	want(t, capabilities(7, "CapEff:\t0000000000001400\n", low),
		"ok: daemon (pid 7): has CAP_NET_ADMIN and CAP_NET_BIND_SERVICE > ")
	want(t, capabilities(7, "CapEff:\t0000000000001000\n", low),
		"problem: daemon (pid 7): lacks CAP_NET_BIND_SERVICE, which it needs to listen on port 81 > compare")
	want(t, capabilities(7, "CapEff:\t0000000000000000\n", c),
		"problem: daemon (pid 7): lacks CAP_NET_ADMIN, which it needs to change nftables > ")
	want(t, capabilities(7, "", c), "note: daemon (pid 7): its capabilities cannot be read")
}

func TestChains(t *testing.T) {
	c := sshDoor(t)
	tests := []struct {
		name  string
		chain baseChain
		want  []string
	}{
		{"passes all", baseChain{table: "inet filter", name: "input", hook: "input"}, nil},
		{"input, policy drop", baseChain{table: "inet filter", name: "input", hook: "input", policy: true}, []string{
			"note: table inet filter, chain input: drops all that it does not know at input, after doorward's fence: it must" +
				" let in whom doorward lets in > nft list chain inet filter input; see that it lets 22/tcp, 59000/tcp," +
				" 59001/tcp, 59002/tcp through"}},
		{"input, a rule", baseChain{table: "ip f", name: "in", hook: "input", drops: true}, []string{
			"note: table ip f, chain in: drops packets at input, after doorward's fence"}},
		{"early", baseChain{table: "ip raw", name: "PREROUTING", hook: "prerouting", priority: -300, drops: true}, []string{
			"warning: table ip raw, chain PREROUTING: drops packets at prerouting, priority -300, before doorward's fence:" +
				" knocks and visitors may never arrive > nft list chain ip raw PREROUTING; see"}},
		{"ingress", baseChain{table: "netdev n", name: "i", hook: "ingress", priority: 10, drops: true}, []string{
			"warning: table netdev n, chain i: drops packets at ingress, priority 10, before"}},
		{"late prerouting", baseChain{table: "ip nat", name: "p", hook: "prerouting", priority: -100, drops: true}, []string{
			"note: table ip nat, chain p: drops packets at prerouting, after"}},
		{"notrack", baseChain{table: "ip raw", name: "p", hook: "prerouting", priority: -300, notrack: true}, []string{
			"warning: table ip raw, chain p: takes packets out of connection tracking (notrack)"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { want(t, chainFindings([]baseChain{tt.chain}, c), tt.want...) })
	}
}

func TestManagers(t *testing.T) {
	c := sshDoor(t)
	c.Doors[0].Ports = append(c.Doors[0].Ports, port.Range{Proto: port.UDP, First: 60000, Last: 61000})
	want(t, managers("# x\nENABLED=yes\n", true, c),
		"note: ufw: is active: it must let in whom doorward lets in, and the touches > ufw allow 22/tcp;"+
			" ufw allow 60000:61000/udp; ufw allow 59000/tcp; ufw allow 59001/tcp; ufw allow 59002/tcp",
		"note: firewalld: is active: it must let in whom doorward lets in, and the touches >"+
			" firewall-cmd --permanent --add-port=22/tcp; firewall-cmd --permanent --add-port=60000-61000/udp;")
	want(t, managers("ENABLED=no\n", false, c))
}

func TestParseSocket(t *testing.T) {
	const rest = " 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0"
	tests := []struct {
		file, line string
		want       string // "" for none
	}{
		{"tcp", "  sl  local_address rem_address   st", ""},
		{"tcp", "   0: 0100007F:E678" + rest, "59000/tcp 127.0.0.1 4242"},
		{"tcp", "   0: 00000000:0016" + rest, "22/tcp 0.0.0.0 4242"},
		{"tcp", "   0: 00000000:0016" + strings.Replace(rest, " 0A ", " 01 ", 1), ""},
		{"tcp6", "   0: 00000000000000000000000001000000:0016" + rest, "22/tcp ::1 4242"},
		{"tcp6", "   0: B80D0120000000000000000002000000:0016" + rest, "22/tcp 2001:db8::2 4242"},
		{"tcp6", "   0: 0000000000000000FFFF00000100007F:0016" + rest, "22/tcp 127.0.0.1 4242"},
		{"udp", "   0: 00000000:0035" + strings.Replace(rest, " 0A ", " 07 ", 1), "53/udp 0.0.0.0 4242"},
		{"udp", "   0: 00000000:0035" + rest, ""},
		{"tcp", "   0: 000000:0016" + rest, ""},
		{"tcp", "   0: 00000000:XXXX" + rest, ""},
	}
	for _, tt := range tests {
		got := ""
		if l, inode, ok := parseSocket(tt.file, tt.line); ok {
			got = fmt.Sprint(l.port, " ", l.addr, " ", inode)
		}
		if got != tt.want {
			t.Errorf("%s %q: %q, want %q", tt.file, tt.line, got, tt.want)
		}
	}
}

func tcp(n uint16) port.Port { return port.Port{Proto: port.TCP, Number: n} }

func TestTaken(t *testing.T) {
	c := sshDoor(t)
	all4, lo := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("127.0.0.1")
	want(t, taken(c, nil, 0))
	want(t, taken(c, []listener{{tcp(59000), all4, 5, "doorwardd"}, {tcp(59001), all4, 5, "x"}}, 5),
		"ok: door ssh: doorward listens on 59000/tcp, 59001/tcp")
	want(t, taken(c, []listener{{tcp(59001), all4, 5, "doorwardd"}, {tcp(59001), lo, 9, "nginx"}}, 5),
		"problem: 59001/tcp: is taken by nginx (pid 9): door ssh cannot listen for its knock > end that, or change the"+
			" knock: doorward rotate --door ssh")
	want(t, taken(c, []listener{{tcp(59001), all4, 0, ""}}, 0),
		"problem: 59001/tcp: is taken by a process that only root can see")
	want(t, taken(c, []listener{{port.Port{Proto: port.UDP, Number: 59000}, all4, 9, "x"}}, 0))
}

func TestElsewhere(t *testing.T) {
	c := sshDoor(t)
	all4, all6, lo := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::"), netip.MustParseAddr("127.0.0.1")
	sshd := func(n uint16, a netip.Addr) listener { return listener{tcp(n), a, 30, "sshd"} }
	want(t, elsewhere(c, []listener{sshd(22, all4), sshd(22, all6), {tcp(80), all4, 9, "nginx"}}),
		"ok: door ssh: behind it is sshd (pid 30) on 22/tcp > ")
	want(t, elsewhere(c, []listener{sshd(22, all4), sshd(2222, all4), sshd(2222, all6), sshd(2223, lo)}),
		"ok: door ssh",
		`problem: 2222/tcp: sshd (pid 30) listens here: a way in round door ssh that needs no knock > add "2222/tcp" to the`+
			" ports of [door.ssh], or take the port out of sshd_config")
	want(t, elsewhere(c, []listener{sshd(2222, all6)}), "problem: 2222/tcp")
	want(t, elsewhere(c, []listener{{tcp(22), all4, 9, "proxy"}, {tcp(443), all4, 9, "proxy"}}),
		"ok: door ssh: behind it is proxy (pid 9) on 22/tcp",
		"note: 443/tcp: proxy (pid 9), which is behind door ssh, listens here too, and no door guards this port")
	// systemd's sockets are other services'.
	want(t, elsewhere(c, []listener{{tcp(22), all4, 1, "systemd"}, {tcp(80), all4, 1, "systemd"}}))
}

func TestProcessName(t *testing.T) {
	p := machine(t, map[string]string{
		"/proc/1/comm": "sshd\n", "/proc/1/cmdline": "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups\x00",
		"/proc/2/comm": "sshd\n", "/proc/2/cmdline": "/usr/sbin/sshd\x00-D\x00",
		"/proc/3/comm": "sshd\n", "/proc/3/cmdline": "sshd: alice@pts/0\x00",
		"/proc/4/comm": "nginx\n",
	})
	for pid, name := range map[int]string{1: "sshd", 2: "sshd", 3: "a forwarding of an ssh session", 4: "nginx", 5: ""} {
		if got := p.processName(pid); got != name {
			t.Errorf("process %d is %q, want %q", pid, got, name)
		}
	}
	if !p.running("nginx") || p.running("firewalld") {
		t.Error("nginx runs, and firewalld does not")
	}
}

func TestSSHDConfig(t *testing.T) {
	tests := []struct {
		name, text string
		want       []uint16
	}{
		{"nothing", "# Port 2222\nPermitRootLogin no\n", []uint16{22}},
		{"ports", "Port 22\nport = 2222\n  PORT \"2223\"\n", []uint16{22, 2222, 2223}},
		{"addresses without ports", "Port 2222\nListenAddress 192.0.2.1\nListenAddress 2001:db8::1\n", []uint16{2222}},
		{"addresses with ports", "Port 22\nListenAddress 192.0.2.1:2222\nListenAddress [2001:db8::1]:2223\nListenAddress gate:2224\n",
			[]uint16{2222, 2223, 2224}},
		{"loopback", "ListenAddress 127.0.0.1:2222\nListenAddress [::1]:2222\nListenAddress localhost\n", nil},
		{"includes", "Include /etc/ssh/sshd_config.d/*.conf\nPort 22\n", []uint16{22, 2022, 2023}},
		{"relative include", "Include sshd_config.d/b.conf\n", []uint16{2023}},
		{"a match block ends it", "Port 22\nMatch user x\nPort 2222\n", []uint16{22}},
		{"a circle", "Include sshd_config.d/loop\nPort 22\n", []uint16{22}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := machine(t, map[string]string{
				"/etc/ssh/sshd_config":          tt.text,
				"/etc/ssh/sshd_config.d/a.conf": "Port 2022\nMatch user y\n",
				"/etc/ssh/sshd_config.d/b.conf": "Port 2023\n",
				"/etc/ssh/sshd_config.d/loop":   "Include sshd_config.d/loop\n",
			})
			s := &sshdPorts{p: p}
			s.file(p.read(sshdConfigPath), 0)
			if d := cmp.Diff(tt.want, s.list()); d != "" {
				t.Error(d)
			}
		})
	}
	p := machine(t, map[string]string{"/etc/ssh/sshd_config": "Port 22\nPort 2222\n"})
	want(t, p.sshdConfig(sshDoor(t)), "problem: /etc/ssh/sshd_config: has sshd listen on 2222/tcp, which no door guards >"+
		` add "2222/tcp" to the ports of [door.ssh], or take the port out of sshd_config`)
	p = machine(t, map[string]string{"/etc/ssh/sshd_config": "\n"})
	want(t, p.sshdConfig(sshDoor(t)), "ok: /etc/ssh/sshd_config: has sshd listen on 22, which is guarded")
	want(t, p.sshdConfig(&config.Config{}))
}

// units are systemd's, by name; those that are missing do not exist.
type units map[string]fakeUnit

type fakeUnit struct {
	status service.Status
	cuts   string
}

func (u units) unit(name string) Unit { return asked{u, name} }

type asked struct {
	units units
	name  string
}

func (a asked) Status(context.Context) (service.Status, error) {
	u, ok := a.units[a.name]
	if !ok {
		return service.Status{}, fmt.Errorf("unit %q does not exist", a.name)
	}
	return u.status, nil
}

func (a asked) CutsSessions(context.Context) (bool, string, error) {
	return a.units[a.name].cuts != "", a.units[a.name].cuts, nil
}

func TestUnit(t *testing.T) {
	running := service.Status{State: service.Running}
	tests := []struct {
		name  string
		units units
		files map[string]string
		want  []string
	}{
		{"runs", units{"ssh.service": {status: running}}, nil, []string{"ok: door ssh: its unit ssh.service is running > "}},
		{"stopped, its socket too", units{"ssh.service": {}, "ssh.socket": {}}, nil,
			[]string{"ok: door ssh: its unit ssh.service is stopped > "}},
		{"none", units{}, nil,
			[]string{`problem: door ssh: its unit ssh.service cannot be asked about: unit "ssh.service" does not exist`}},
		{"failed", units{"ssh.service": {status: service.Status{State: service.Failed, Detail: "exit status 255"}}}, nil,
			[]string{"warning: door ssh: its unit ssh.service is failed: exit status 255 > journalctl -u ssh.service"}},
		{"cuts sessions", units{"ssh.service": {status: running, cuts: "KillMode=control-group ends them"}}, nil, []string{
			"ok: door ssh", "problem: door ssh: going dark would end open sessions: KillMode=control-group ends them >" +
				" systemctl edit ssh.service"}},
		{"socket beside it", units{"ssh.service": {status: running}, "ssh.socket": {status: running}}, nil, []string{
			"ok: door ssh", "problem: door ssh: ssh.socket is active beside ssh.service: it holds the port, and starts the" +
				` service behind doorward's back > systemctl disable --now ssh.socket; or write unit = "ssh.socket"`}},
		{"enabled", units{"ssh.service": {status: running}},
			map[string]string{"/etc/systemd/system/multi-user.target.wants/ssh.service": ""}, []string{
				"ok: door ssh", "note: door ssh: ssh.service also starts by itself at boot, and doorward stops it when nobody" +
					" has been in for 1h0m0s; that is a way in should doorward itself not start > to have it run only"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := machine(t, tt.files)
			p.Unit = tt.units.unit
			want(t, p.unit(t.Context(), &sshDoor(t).Doors[0]), tt.want...)
		})
	}
}

func TestCommands(t *testing.T) {
	p := machine(t, map[string]string{"/usr/sbin/sshd": "x"})
	s := &config.Service{Start: []string{"/usr/sbin/sshd", "-D"}}
	want(t, commands("door ssh", s, p.path), `problem: door ssh: its command "/usr/sbin/sshd" is no program`)
	if err := os.Chmod(p.path("/usr/sbin/sshd"), 0o755); err != nil {
		t.Fatal(err)
	}
	want(t, commands("door ssh", s, p.path), "ok: door ssh: its command /usr/sbin/sshd is there")
	s.Stop = []string{"/usr/bin/none"}
	want(t, commands("door ssh", s, p.path), `problem: door ssh: its command "/usr/bin/none" is no program`)
}

func TestBoot(t *testing.T) {
	want(t, machine(t, nil).boot(), "note: boot: there is no systemd here")
	systemd := map[string]string{"/run/systemd/system/x": ""}
	want(t, machine(t, systemd).boot(), "warning: boot: doorward.service is not installed")
	systemd["/lib/systemd/system/doorward.service"] = ""
	want(t, machine(t, systemd).boot(),
		"warning: boot: doorward.service is not enabled: after a boot nothing is guarded > systemctl enable doorward.service")
	systemd["/etc/systemd/system/multi-user.target.wants/doorward.service"] = ""
	want(t, machine(t, systemd).boot(), "ok: boot: doorward.service is enabled")
}

// fakeLog answers like a presence.Log.
type fakeLog struct {
	login    presence.Login
	found    bool
	err      error
	warnings []string
}

func (l *fakeLog) Last(context.Context) (presence.Login, bool, error) { return l.login, l.found, l.err }
func (l *fakeLog) Warnings() []string                                 { return l.warnings }
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
		{"no login", fakeLog{}, []string{"ok: door ssh: /var/log/auth.log can be read, and has no login yet > "}},
		{"no data", fakeLog{err: fmt.Errorf("%w: nothing anywhere", presence.ErrNoData)}, []string{
			"problem: door ssh: would go to failsafe, dark and deaf: no log data: nothing anywhere > "}},
		{"too slow", fakeLog{err: context.DeadlineExceeded}, []string{"warning: door ssh: its logins could not be read: context"}},
		{"odd stamps", fakeLog{warnings: []string{"line 3 has a stamp from the future"}}, []string{
			"ok: door ssh", "warning: door ssh: line 3 has a stamp from the future > "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want(t, loginFindings(t.Context(), "ssh", &tt.log, now), tt.want...)
		})
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
			"warning: your session: comes from 192.0.2.1 through door ssh: it lives on whatever happens, but a new one needs" +
				" the knock > keep this session open until a new one has got in; apply with doorward apply --confirm 60s"}},
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
	p := machine(t, map[string]string{"/good": configText, "/bad": "[door.ssh]\n"})
	for path, line := range map[string]string{
		"/good": "ok: configuration: /good: door ssh > ",
		"/bad":  "problem: configuration: /bad has mistakes > doorward check /bad",
		"/none": "problem: configuration: /none does not exist > doorward init writes one",
	} {
		p.Config = path
		_, found := p.configuration()
		want(t, found, line)
	}
	// The knock is nobody's business who gets to see the list.
	if got := strings.Join(lines(outside(sshDoor(t))), ""); strings.Contains(got, "59000") {
		t.Errorf("it tells the knock: %s", got)
	}
}
