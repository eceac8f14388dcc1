package setup

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/touch"
)

// machineOf returns a machine that has just these files, "path" or "path=content".
func machineOf(files ...string) Machine {
	root := fstest.MapFS{}
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		root[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return Machine{Root: root}
}

const (
	enabledSocket = "etc/systemd/system/sockets.target.wants/ssh.socket"
	sshService    = "usr/lib/systemd/system/ssh.service"
	socketFile    = "usr/lib/systemd/system/ssh.socket=[Unit]\nListenStream=1\n[Socket]\nListenStream=0.0.0.0:22\nListenStream=[::]:22\n"
)

// The ports that are proposed are those on which the SSH server listens, wherever they
// are configured.
func TestProposedPorts(t *testing.T) {
	listens := func(m Machine, ports ...uint16) Machine {
		m.SSHD = func() []uint16 { return ports }
		return m
	}
	const text2222 = "etc/ssh/sshd_config=Port 2222\n"
	for _, tt := range []struct {
		name string
		m    Machine
		door string
		unit string
		want []string
	}{
		{name: "nothing known", m: machineOf(), want: []string{"22/tcp"}},
		{name: "sshd_config", m: machineOf(sshService, text2222), want: []string{"2222/tcp"}},
		{name: "an include", m: machineOf(sshService, "etc/ssh/sshd_config=Include /etc/ssh/sshd_config.d/*.conf\n",
			"etc/ssh/sshd_config.d/a.conf=Port 2022\nPort 22\n"), want: []string{"22/tcp", "2022/tcp"}},
		{name: "loopback only", m: machineOf(sshService, "etc/ssh/sshd_config=ListenAddress 127.0.0.1\n"), want: []string{"22/tcp"}},
		{name: "where it listens now", m: listens(machineOf(sshService, text2222), 22, 222), want: []string{"22/tcp", "222/tcp"}},
		{name: "it does not run", m: listens(machineOf(sshService, text2222)), want: []string{"2222/tcp"}},
		{name: "a socket unit", m: listens(machineOf(sshService, enabledSocket, socketFile, text2222), 222), want: []string{"22/tcp"}},
		{name: "a socket unit without its file", m: machineOf(enabledSocket, text2222), want: []string{"2222/tcp"}},
		{name: "a drop-in that resets", m: machineOf(enabledSocket, socketFile,
			"etc/systemd/system/ssh.socket.d/override.conf=[Socket]\nListenStream=\nListenStream=2200\n"), want: []string{"2200/tcp"}},
		{name: "a drop-in that adds", m: machineOf(enabledSocket, socketFile,
			"run/systemd/generator/ssh.socket.d/addresses.conf=[Socket]\nListenStream = 192.0.2.1:2200\nListenStream=[::1]:2201\nListenStream=/run/x\nListenStream=vsock::22\n"),
			want: []string{"22/tcp", "2200/tcp"}},
		{name: "a drop-in that is masked", m: machineOf(enabledSocket, socketFile, "etc/systemd/system/ssh.socket.d/a.conf=",
			"run/systemd/generator/ssh.socket.d/a.conf=[Socket]\nListenStream=2200\n"), want: []string{"22/tcp"}},
		{name: "an administrator's own unit", m: machineOf(enabledSocket, socketFile,
			"etc/systemd/system/ssh.socket=[Socket]\nListenStream=2222\n"), want: []string{"2222/tcp"}},
		{name: "the service although the socket is enabled", m: machineOf(enabledSocket, socketFile, text2222), unit: "ssh.service",
			want: []string{"2222/tcp"}},
		{name: "another door", m: machineOf(sshService, text2222), door: "web"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := New()
			if p.Door = tt.door; p.Door == "" {
				p.Door = "ssh"
			}
			p.Unit = tt.unit
			if d := cmp.Diff(tt.want, p.ProposedPorts(tt.m)); d != "" {
				t.Errorf("ports (-want +got):\n%s", d)
			}
		})
	}
}

// A door in front of the server's port is one for SSH, whatever number that has.
func TestProposeKnowsTheServerByItsPort(t *testing.T) {
	m := machineOf(sshService, "etc/ssh/sshd_config=Port 2222\n", "var/log/auth.log")
	for ports, want := range map[string][]string{
		"2222/tcp": {"unit = \"ssh.service\"\n", "logins = \"auto\"\n"},
		"22/tcp":   {"unit = \"ssh.service\"\n"}, // by the configuration's own rule
		"443/tcp":  nil,
	} {
		p := New()
		p.Door, p.Ports = "a", []string{ports}
		if err := p.Propose(m); err != nil {
			t.Fatal(err)
		}
		text := p.Text()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: the text lacks %q:\n%s", ports, w, text)
			}
		}
		if want == nil && strings.Contains(text, "ssh") {
			t.Errorf("%s: the text has something of ssh:\n%s", ports, text)
		}
	}
}

func TestProposedHost(t *testing.T) {
	const name = "etc/hostname=Gate.example.org\n"
	public := netip.MustParseAddr("203.0.113.7")
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("100.64.0.1"),
		netip.MustParseAddr("fe80::1"), public}
	for _, tt := range []struct {
		name, file string
		addresses  []netip.Addr
		want       string
	}{
		{"a name", name, addresses, "gate.example.org"},
		{"no domain", "etc/hostname=gate\n", addresses, "203.0.113.7"},
		{"a name of a LAN", "etc/hostname=gate.local\n", nil, ""},
		{"a name of a cloud", "etc/hostname=ip-10-0-0-1.ec2.internal\n", addresses[:2], ""},
		{"no name at all", "etc/hostname=-oProxyCommand=x.y\n", nil, ""},
		{"nothing", "x", nil, ""},
	} {
		m := machineOf(tt.file)
		m.Addresses = func() []netip.Addr { return tt.addresses }
		p := New()
		if got := p.ProposedHost(m); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	former := config.Config{Gateway: config.Gateway{Host: "door.example.org"}}
	p := New()
	p.Former.config = &former
	if got := p.ProposedHost(machineOf(name)); got != "door.example.org" {
		t.Errorf("%q is proposed, want door.example.org of the previous file", got)
	}
}

// No port of a knock is one that has a name or that scanners try first.
func TestDrawnPorts(t *testing.T) {
	m := machineOf("etc/services=webmin 10000/tcp\nbinkp 24554/tcp # x\nudponly 24555/udp\n")
	named := m.named()
	if d := cmp.Diff(map[port.Port]bool{{Proto: port.TCP, Number: 10000}: true,
		{Proto: port.TCP, Number: 24554}: true, {Proto: port.UDP, Number: 24555}: true}, named); d != "" {
		t.Fatalf("named ports (-want +got):\n%s", d)
	}
	for range 50 {
		p := New()
		p.Door, p.Kind = "ssh", touch.Kind{}
		if err := p.Propose(m); err != nil {
			t.Fatal(err)
		}
		c, err := config.Parse("f", []byte(p.Text()))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range c.Doors[0].Knocks[0].Rule.(touch.Rule).Listen {
			if slices.Contains(scanned[:], n) || n == 24554 {
				t.Fatalf("port %d is drawn", n)
			}
		}
	}
}

const leftText = `[gateway]
host = "gate.example.org"
[door.ssh]
ports = ["2222/tcp", "60000-61000/udp"]
service.unit = "ssh.service"
[[door.ssh.knock]]
kind = "touch"
listen = [24117, 25633, 28904]
touch = [28904, 24117]
`

// What one command of a firewall opens is said once.
func TestFirewallsToOpen(t *testing.T) {
	unsure := []string{"nft -a list chain ip6 filter x", "make sure that it lets them through"}
	allow, add, more := []string{"ufw allow 1"}, []string{"firewall-cmd --add-port=1/tcp"}, []string{"firewall-cmd --add-port=2/tcp"}
	got := firewallsToOpen([]Firewall{
		{"ufw (table ip6 filter, chain INPUT)", unsure},
		{"ufw (table ip filter, chain INPUT)", allow},
		{"firewalld (table inet firewalld, chain filter_INPUT)", add},
		{"firewalld (table inet firewalld, chain filter_PREROUTING)", add},
		{"firewalld (table inet firewalld, chain filter_PREROUTING)", more},
		{"firewalld (table inet firewalld, chain filter_PREROUTING)", unsure},
		{"table inet filter, chain input", unsure},
		{"table inet filter, chain early", unsure},
	})
	want := []Firewall{
		{"ufw (table ip filter, chain INPUT)", allow},
		{"firewalld (table inet firewalld, chain filter_INPUT)", add},
		{"firewalld (table inet firewalld, chain filter_PREROUTING)", more},
		{"table inet filter, chain input", unsure},
		{"table inet filter, chain early", unsure},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("left to open (-want +got):\n%s", diff)
	}
	only := []Firewall{{"ufw (table ip6 filter, chain INPUT)", unsure}}
	if diff := cmp.Diff(only, firewallsToOpen(only)); diff != "" {
		t.Errorf("one that may be in the way, alone (-want +got):\n%s", diff)
	}
}

// All that is left to do is listed, in order, and its commands can be pasted.
func TestLeft(t *testing.T) {
	parse := func(text string) *config.Config {
		c, err := config.Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	lines := func(w Written) (all []string) {
		for _, s := range w.Left() {
			all = append(all, s.Words)
			for _, l := range s.Lines {
				all = append(all, "| "+l)
			}
		}
		return all
	}
	const session = "Keep the session that you are in open until a new one has got in. It lives on, whatever the door does."
	const provider = "In the provider's firewall (a security group, a router), if there is one, allow from everywhere:"
	got := lines(Written{Config: parse(leftText), File: config.DefaultPath, Sudo: true, Firewalls: []Firewall{{
		Name: "ufw (table ip filter, chain INPUT)", Steps: []string{"ufw allow proto tcp to any port 2222", "save the rules"}}}})
	if d := cmp.Diff([]string{
		session,
		"Let the daemon start and stop ssh.service:",
		"| sudo doorward polkit --install",
		"In this machine's firewall, ufw (table ip filter, chain INPUT), let knocks and visitors through:",
		"| sudo ufw allow proto tcp to any port 2222",
		"| # save the rules",
		provider,
		"| TCP 2222, 24117, 25633, 28904",
		"| UDP 60000-61000",
		"Have the machine looked over:",
		"| sudo doorward doctor",
		"Guard the door, now and after each boot:",
		"| sudo systemctl enable --now doorward",
		"Try it from another machine, in a new session:",
		"| doorward knock gate.example.org --touch 28904,24117 --wait 2222 -- ssh USER@gate.example.org -p 2222",
		"Or have ssh, scp and git knock by themselves, in the visitor's ~/.ssh/config:",
		"| Host gate.example.org",
		"|     Port 2222",
		"|     ProxyCommand doorward knock %h --touch 28904,24117 --wait %p --stdio",
		"Give the knock to others, encrypted to their SSH keys:",
		"| sudo doorward share --to alice.pub",
	}, got); d != "" {
		t.Errorf("a new file (-want +got):\n%s", d)
	}

	invited := "[gateway]\nhost = \"gate.example.org\"\n[door.ssh]\nports = [\"22/tcp\"]\n[[door.ssh.knock]]\nkind = \"sealed\"\nport = 28511\ncarriers = [\"udp\", \"tcp\"]\n"
	want := []string{
		session,
		provider,
		"| TCP 22, 28511",
		"| UDP 28511",
		"Have the machine looked over:",
		"| sudo doorward doctor",
		"Guard the door, now and after each boot:",
		"| sudo systemctl enable --now doorward",
		"Invite yourself, and later others. It prints a line, which is a secret until it is used:",
		"| sudo doorward invite --door ssh --for YOU",
		"On your machine, with your SSH key in its agent, and that line for LINE:",
		"| doorward accept LINE",
		"| doorward ssh-config gate --install",
		"Try it from there, in a new session:",
		"| ssh USER@gate.example.org",
	}
	if d := cmp.Diff(want, lines(Written{Config: parse(invited), File: config.DefaultPath, Sudo: true, Equipped: true})); d != "" {
		t.Errorf("visitors are invited (-want +got):\n%s", d)
	}
	want = slices.Insert(want, 1, "Put the text in place as FILE, readable by root and the group doorward only:",
		"| sudo install -m 0640 -g doorward FILE /etc/doorward/doorward.toml",
		"Make the gateway's key, if it is not there yet:", "| sudo doorward keys identity /etc/doorward/sealed.key")
	if d := cmp.Diff(want, lines(Written{Config: parse(invited), File: "-", Sudo: true})); d != "" {
		t.Errorf("the file was printed (-want +got):\n%s", d)
	}

	udp := "[door.vpn]\nports = [\"51820/udp\"]\n" + strings.ReplaceAll(leftText[strings.Index(leftText, "[[door"):], "door.ssh", "door.vpn")
	got = lines(Written{Config: parse(udp), File: "/root/my file", Rewritten: true})
	if d := cmp.Diff([]string{
		session,
		provider,
		"| TCP 24117, 25633, 28904",
		"| UDP 51820",
		"Have the machine looked over:",
		"| doorward doctor -c '/root/my file'",
		"Have the daemon use the file; it goes back by itself unless you keep it. If no daemon runs yet, start it:",
		"| doorward apply --confirm 60s",
		"| doorwardd -c '/root/my file'",
		"Try it from another machine, in a new session:",
		"| doorward knock HOST --touch 28904,24117",
		"Give the knock to others, encrypted to their SSH keys:",
		"| doorward share -c '/root/my file' --host HOST --to alice.pub",
	}, got); d != "" {
		t.Errorf("another file (-want +got):\n%s", d)
	}
}
