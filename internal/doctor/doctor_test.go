//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/touch"
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
func machine(t *testing.T, files map[string]string) *Host {
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
	return &Host{Root: root, Now: time.Now}
}

func TestKernel(t *testing.T) {
	want(t, kernelFindings("6.12.0", true, nil),
		"ok: kernel: Linux 6.12.0 accepts doorward's nftables table and keeps others from changing it > ")
	want(t, kernelFindings("6.1.0", false, nil),
		"ok: kernel: Linux 6.1.0 accepts doorward's nftables table; others may flush it (the flags owner and persist need 6.9)")
	want(t, kernelFindings("6.1.0", false, fmt.Errorf("make: %w", unix.EPERM)),
		"warning: kernel: Linux 6.1.0; did not try whether it accepts doorward's nftables table > run doctor as root")
	want(t, kernelFindings("4.9.0", false, errors.New("no such thing")),
		"problem: kernel: Linux 4.9.0 does not accept doorward's nftables table: no such thing > use a kernel with nf_tables")
}

func TestConntrack(t *testing.T) {
	want(t, conntrackFindings("12\n", "262144\n"), "ok: conntrack: tracks 12 of at most 262144 connections")
	want(t, conntrackFindings("", ""), "ok: conntrack: is not in use yet")
	want(t, conntrackFindings("950\n", "1000\n"),
		"warning: conntrack: tracks 950 of at most 1000 connections: when it is full, new ones are dropped before"+
			" anybody can knock > sysctl net.netfilter.nf_conntrack_max=2000, and again in /etc/sysctl.d")
}

// A timeout that is too short concerns only the doors of its protocol.
func TestTimeouts(t *testing.T) {
	c := sshDoor(t)
	c.Doors = append(c.Doors, config.Door{Name: "vpn", Ports: []port.Range{{Proto: port.UDP, First: 51820, Last: 51820}}})
	look := func(tcp, udp string) []Finding {
		const dir = "/proc/sys/net/netfilter/"
		p := machine(t, map[string]string{dir + "nf_conntrack_count": "12\n", dir + "nf_conntrack_max": "262144\n",
			dir + "nf_conntrack_tcp_timeout_established": tcp, dir + "nf_conntrack_udp_timeout_stream": udp})
		return p.conntrack(c)[1:]
	}
	want(t, look("432000\n", "120\n"))
	want(t, look("7440\n", "120\n"))
	want(t, look("", ""))
	tcp := "warning: conntrack: forgets a silent TCP connection to door ssh after 2h3m59s, before TCP keepalive probes it (after 2h): then a session through a forwarded port, such as a container's, hangs, and so" +
		" does one that another firewall allows only as established; the fence keeps those of this machine's own services" +
		" > sysctl net.netfilter.nf_conntrack_tcp_timeout_established=7440, and again in /etc/sysctl.d"
	udp := "warning: conntrack: forgets a silent flow over UDP to door vpn after 30s, and whoever is silent for longer is no" +
		" longer seen to be in > sysctl net.netfilter.nf_conntrack_udp_timeout_stream=120, and again in /etc/sysctl.d"
	want(t, look("7439\n", "30\n"), tcp, udp)
	c.Doors = c.Doors[:1]
	want(t, look("7439\n", "30\n"), tcp)
	c.Doors = nil
	want(t, look("7439\n", "30\n"))
}

func TestClock(t *testing.T) {
	now := time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)
	want(t, clock(clockState{now, true, nil}), "ok: clock: says 2026-11-24 06:00:00 UTC, and is synchronised")
	want(t, clock(clockState{now, false, nil}), "warning: clock: says 2026-11-24 06:00:00 UTC, and is not synchronised")
	want(t, clock(clockState{now, false, unix.EPERM}), "note: clock: says 2026-11-24 06:00:00 UTC; cannot tell whether")
	want(t, clock(clockState{time.Unix(0, 0), false, nil}), "problem: clock: says 1970-01-01 00:00:00 UTC: logins would")
}

func TestDaemon(t *testing.T) {
	up := control.Fence{Up: true}
	tests := []struct {
		name   string
		status control.Status
		want   []string
	}{
		{"well", control.Status{Version: "1.0", Fence: up}, []string{"ok: daemon: doorward 1.0 answers at /s > "}},
		{"fence down", control.Status{},
			[]string{"ok: daemon", "problem: fence: is down: nothing is guarded > journalctl"}},
		{"fence differs", control.Status{Fence: control.Fence{Up: true, Mismatch: "a chain is missing"}},
			[]string{"ok: daemon", "problem: fence: differs from what it should be: a chain is missing > "}},
		{"failsafe, pending, warned", control.Status{Fence: up, Warnings: []string{"disk full"}, Pending: &control.Pending{},
			Doors: []control.Door{{Name: "web", State: "dark"}, {Name: "ssh", State: "failsafe", Reason: "no log data"}}},
			[]string{"ok: daemon", "warning: daemon: disk full > doorward status",
				"warning: daemon: a configuration waits to be confirmed until ",
				"problem: door ssh: is in failsafe and ignores knocks: no log data > repair its log, or: doorward arm ssh"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { want(t, daemonFindings("/s", tt.status), tt.want...) })
	}
}

// TestNoDaemon: a daemon that was never started is not one that has died.
func TestNoDaemon(t *testing.T) {
	none := errors.New("no daemon answers at /s")
	state := map[string]string{"/var/lib/doorward/state": "x"}
	enabled := map[string]string{"/etc/systemd/system/multi-user.target.wants/doorward.service": ""}
	is := func(state service.State, detail string) units {
		return units{daemonUnit: {facts: service.Facts{Own: service.Status{State: state, Detail: detail}}}}
	}
	const warning = "warning: daemon: no daemon answers at /s > systemctl start doorward\njournalctl -u doorward says why it does not run"
	for _, tt := range []struct {
		name  string
		files map[string]string
		units units
		err   error
		want  string
	}{
		{"never started", nil, is(service.Stopped, ""), none,
			"note: daemon: has not been started yet: nothing is guarded > systemctl enable --now doorward"},
		{"without systemd", nil, nil, none, "note: daemon: has not been started yet"},
		{"it has run", state, is(service.Stopped, ""), none, warning},
		{"it is meant to run", enabled, is(service.Stopped, ""), none, warning},
		{"it has failed", nil, is(service.Failed, "exit-code"), none,
			"problem: daemon: its unit doorward.service has failed: exit-code > journalctl -u doorward"},
		{"its socket is gone", state, is(service.Running, ""), none, "problem: daemon: its unit doorward.service is active, but it cannot be asked:" +
			" no daemon answers at /s > journalctl -u doorward\nsystemctl restart doorward"},
		{"not ours", nil, nil, fmt.Errorf("dial: %w", unix.EACCES),
			"problem: daemon: /s: permission denied > run doctor as root, or join the group doorward"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := machine(t, tt.files)
			h.Control, h.Unit = "/s", tt.units.unit
			want(t, h.absent(t.Context(), &config.Config{Doors: make([]config.Door, 1)}, tt.err), tt.want)
		})
	}
	h := machine(t, nil)
	h.Control, h.Unit = "/s", units(nil).unit
	want(t, h.absent(t.Context(), &config.Config{}, none),
		"note: daemon: has not been started yet: nothing is guarded > first a configuration: doorward init")
	h.Config = config.DefaultPath
	_, found := h.configuration()
	want(t, found, "note: configuration: there is none yet > doorward init writes one")
	h = machine(t, state)
	h.Config = config.DefaultPath
	_, found = h.configuration()
	want(t, found, "problem: configuration: /etc/doorward/doorward.toml does not exist > doorward init writes one")
}

func TestCapabilities(t *testing.T) {
	c := sshDoor(t)
	low := sshDoor(t)
	low.Doors[0].Knocks[0].Rule.(touch.Rule).Listen[0] = 81
	want(t, capabilities(7, "Name:\tx\nCapEff:\t0000000000001400\n", c), "ok: daemon (pid 7): has CAP_NET_ADMIN > ")
	want(t, capabilities(7, "CapEff:\t0000000000001400\n", low),
		"ok: daemon (pid 7): has CAP_NET_ADMIN and CAP_NET_BIND_SERVICE > ")
	want(t, capabilities(7, "CapEff:\t0000000000001000\n", low),
		"problem: daemon (pid 7): lacks CAP_NET_BIND_SERVICE, which it needs to listen on port 81 > compare")
	want(t, capabilities(7, "CapEff:\t0000000000000000\n", c),
		"problem: daemon (pid 7): lacks CAP_NET_ADMIN, which it needs to change nftables > ")
	want(t, capabilities(7, "", c), "note: daemon (pid 7): its capabilities cannot be read")
}

func tcp(n uint16) port.Port { return port.Port{Proto: port.TCP, Number: n} }

func TestTaken(t *testing.T) {
	c := sshDoor(t)
	all4, lo := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("127.0.0.1")
	want(t, taken(c, nil, 0))
	want(t, taken(c, []listener{{tcp(59000), all4, 5, "doorwardd"}, {tcp(59001), all4, 5, "x"}}, 5),
		"ok: door ssh: doorward listens on 59000/tcp, 59001/tcp")
	want(t, taken(c, []listener{{tcp(59001), all4, 5, "doorwardd"}, {tcp(59001), lo, 9, "nginx"}}, 5),
		"problem: 59001/tcp: is taken by nginx (pid 9): door ssh cannot listen for its knock > stop it, or change the"+
			" knock: doorward rotate --door ssh")
	want(t, taken(c, []listener{{tcp(59001), all4, 0, ""}, {tcp(59002), all4, 0, ""}}, 0),
		"note: door ssh: only root can see who listens on 59001/tcp, 59002/tcp > sudo doorward doctor")
	want(t, taken(c, []listener{{tcp(59001), all4, 1, "systemd"}}, 0), "note: door ssh: systemd holds 59001/tcp: for the"+
		" daemon, which does not run, or for a socket unit > systemctl list-sockets")
	want(t, taken(c, []listener{{tcp(59001), all4, 1, "systemd"}}, 5), "problem: 59001/tcp: is taken by systemd (pid 1)")
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
	for pid, name := range map[int]string{1: "sshd", 2: "sshd", 3: "a port forwarding of an SSH session", 4: "nginx", 5: ""} {
		if got := p.processName(pid); got != name {
			t.Errorf("process %d is %q, want %q", pid, got, name)
		}
	}
	if !p.running("nginx") || p.running("firewalld") {
		t.Error("nginx runs, and firewalld does not")
	}
}

func TestSSHDConfig(t *testing.T) {
	p := machine(t, map[string]string{"/etc/ssh/sshd_config": "Port 22\nPort 2222\n"})
	want(t, p.sshdConfig(sshDoor(t)), "problem: /etc/ssh/sshd_config: has sshd listen on 2222/tcp, which no door guards >"+
		` add "2222/tcp" to the ports of [door.ssh], or take the port out of sshd_config`)
	p = machine(t, map[string]string{"/etc/ssh/sshd_config": "\n"})
	want(t, p.sshdConfig(sshDoor(t)), "ok: /etc/ssh/sshd_config: has sshd listen on 22, which is guarded")
	want(t, p.sshdConfig(&config.Config{}))
}
