//go:build linux

package doctor

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/ruleset"
)

func TestLetThrough(t *testing.T) {
	ports := []port.Range{{Proto: port.TCP, First: 22, Last: 22}, {Proto: port.UDP, First: 60000, Last: 61000}, {Proto: port.TCP, First: 59000, Last: 59000}}
	input := &ruleset.Chain{Family: "inet", Table: "filter", Name: "input"}
	for _, tt := range []struct {
		by   string
		base *ruleset.Chain
		zone string
		want string
	}{
		{"ufw", nil, "", "ufw allow proto tcp to any port 22,59000\nufw allow proto udp to any port 60000:61000"},
		{"firewalld", nil, "public", "firewall-cmd --zone=public --add-port=22/tcp --add-port=60000-61000/udp --add-port=59000/tcp\n" +
			"firewall-cmd --permanent --zone=public --add-port=22/tcp --add-port=60000-61000/udp --add-port=59000/tcp"},
		{"iptables", &ruleset.Chain{Family: "ip6", Table: "filter", Name: "INPUT"}, "",
			"ip6tables -t filter -I INPUT -p tcp -m multiport --dports 22,59000 -j ACCEPT\n" +
				"ip6tables -t filter -I INPUT -p udp -m multiport --dports 60000:61000 -j ACCEPT\nsave the rules as the others of this machine are"},
		{"nft", input, "", "nft insert rule inet filter input tcp dport { 22, 59000 } accept\n" +
			"nft insert rule inet filter input udp dport { 60000-61000 } accept\nadd the same to the file that the table is loaded from"},
	} {
		if d := cmp.Diff(tt.want, letThrough(tt.by, tt.base, tt.zone, ports)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.by, d)
		}
	}
	var many []port.Range
	for n := range uint16(14) {
		many = append(many, port.Range{Proto: port.TCP, First: n + 1, Last: n + 1})
	}
	many = append(many, port.Range{Proto: port.TCP, First: 100, Last: 200})
	if d := cmp.Diff([]string{"1,2,3,4,5,6,7,8,9,10,11,12,13,14", "100:200"}, multiport(many)); d != "" {
		t.Errorf("lists for xt_multiport (-want +got):\n%s", d)
	}
}

// firewallLab is a machine with a way to strangers, in a namespace of its own.
func firewallLab(t *testing.T) *nstest.NS {
	t.Helper()
	nstest.Need(t, "nft", "ip", "iptables-nft")
	n, outside := nstest.New(t), nstest.New(t)
	_, eth := nstest.Link(outside, n, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
	n.Run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", eth)
	n.Run("ip", "route", "add", "default", "via", "2001:db8::1", "dev", eth)
	return n
}

const firewallText = `[door.ssh]
ports  = ["22/tcp", "60000-61000/udp"]
[[door.ssh.knock]]
kind   = "touch"
listen = [59000, 59001]
touch  = [59000, 59001]
`

func fatesIn(t *testing.T, n *nstest.NS) (found []Finding) {
	t.Helper()
	c, err := config.Parse("f", []byte(firewallText))
	if err != nil {
		t.Fatal(err)
	}
	n.Do(func() error {
		rules, err := ruleset.Read(ownChain)
		if err == nil {
			found = fates(rules, c)
		}
		return err
	})
	return found
}

const allThrough = "ok: firewall: other rules let 22/tcp, 60000-61000/udp, 59000/tcp, 59001/tcp through > "

// TestFates: what blocks knocks is a problem until the commands that the finding names
// are typed, whoever wrote the rules.
func TestFates(t *testing.T) {
	policy := func(rules string) []string {
		return []string{"nft", "table inet filter { chain input { type filter hook input priority 0; policy drop; ct state established accept; iif lo accept; " + rules + "; }; }"}
	}
	for _, tt := range []struct {
		name  string
		rules [][]string
		want  []string
		cured bool // by the commands
	}{
		{"nothing", nil, nil, false},
		{"nothing drops", [][]string{{"nft", "table inet f { chain i { type filter hook input priority 0; tcp dport 80 accept; }; }"}},
			[]string{allThrough}, false},
		{"the policy", [][]string{policy("tcp dport 22 accept")}, []string{
			"problem: table inet filter, chain input: drops what strangers send to 60000-61000/udp, 59000/tcp, 59001/tcp (policy of chain input):" +
				" knocks and visitors do not arrive > nft insert rule inet filter input tcp dport { 59000, 59001 } accept\nnft insert rule inet filter input udp",
			"ok: firewall: other rules let 22/tcp through"}, true},
		{"some of a range", [][]string{policy("udp dport 60000-60500 accept; tcp dport { 22, 59000, 59001 } accept")}, []string{
			"problem: table inet filter, chain input: drops what strangers send to 60501-61000/udp (policy",
			"ok: firewall: other rules let 22/tcp, 60000-60500/udp, 59000/tcp, 59001/tcp through"}, true},
		{"IPv6 only", [][]string{policy("meta nfproto ipv4 accept")}, []string{
			"problem: table inet filter, chain input: drops what strangers send to 22/tcp, 60000-61000/udp, 59000/tcp, 59001/tcp over IPv6 (policy",
			"ok: firewall: other rules let 22/tcp, 60000-61000/udp, 59000/tcp, 59001/tcp over IPv4 through"}, true},
		{"before the fence", [][]string{{"iptables-nft", "-w", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "1024:65535", "--syn", "-j", "DROP"}},
			[]string{"problem: table ip raw, chain PREROUTING: drops what strangers send to 59000/tcp, 59001/tcp over IPv4 (rule with handle 2 of" +
				" chain PREROUTING): knocks and visitors do not arrive > iptables -t raw -I PREROUTING -p tcp -m multiport --dports 59000,59001 -j ACCEPT\nsave",
				"ok: firewall: other rules let 22/tcp, 60000-61000/udp through", "ok: firewall: other rules let 59000/tcp, 59001/tcp over IPv6 through"}, true},
		{"one address", [][]string{policy("ip saddr 198.51.100.7 accept; tcp dport { 22, 59000, 59001 } accept; udp dport 60000-61000 accept")},
			[]string{allThrough}, false},
		{"one address only", [][]string{policy("ip saddr 198.51.100.7 accept; meta nfproto ipv6 accept")}, []string{
			"problem: table inet filter, chain input: drops what strangers send to 22/tcp, 60000-61000/udp, 59000/tcp, 59001/tcp over IPv4 (", "ok: "}, true},
		{"one address only, meant so", [][]string{policy("ip saddr 198.51.100.0/24 tcp dport { 22, 59000, 59001 } accept; udp dport 60000-61000 accept; meta nfproto ipv6 accept")}, []string{
			"warning: table inet filter, chain input: may drop what strangers send to 22/tcp, 59000/tcp, 59001/tcp over IPv4: it depends on the source address (rule with handle",
			"ok: ", "ok: "}, false},
		{"a rate", [][]string{policy("tcp dport { 22, 59000, 59001 } limit rate 10/minute accept; udp dport 60000-61000 accept")}, []string{
			"warning: table inet filter, chain input: may drop what strangers send to 22/tcp, 59000/tcp, 59001/tcp: it depends on the rate (rule with handle",
			"ok: "}, false},
		{"another interface", [][]string{policy("iifname wg0 accept; tcp dport { 22, 59000, 59001 } accept")}, []string{
			"problem: table inet filter, chain input: drops what strangers send to 60000-61000/udp (policy of chain input)", "ok: "}, true},
		{"two chains", [][]string{policy("tcp dport 22 accept"), {"nft", "table inet late { chain i { type filter hook input priority 10; policy drop; }; }"}}, []string{
			"problem: table inet late, chain i: drops what strangers send to 22/tcp (policy of chain i)",
			"problem: table inet filter, chain input: drops what strangers send to 60000-61000/udp"}, false},
		{"the fence", [][]string{{"nft", "table inet doorward { chain i { type filter hook input priority 10; policy drop; }; }"}}, nil, false},
		{"at ingress", [][]string{{"sh", "-c", "nft \"table netdev n { chain i { type filter hook ingress device $(ip -o route get 198.51.100.1 |" +
			" sed 's/.* dev \\([^ ]*\\).*/\\1/') priority 0; tcp dport 59000 drop; }; }\""}}, []string{
			"problem: table netdev n, chain i: drops what strangers send to 59000/tcp (rule with handle 2 of chain i): knocks and visitors do not" +
				" arrive > nft insert rule netdev n i tcp dport { 59000 } accept", "ok: "}, true},
		{"published", [][]string{{"nft", "table ip n { chain p { type nat hook prerouting priority dstnat; tcp dport 22 dnat to 198.51.100.7; }; }"}}, []string{
			"ok: firewall: other rules let 22/tcp over IPv6 through", "ok: firewall: other rules let 60000-61000/udp, 59000/tcp, 59001/tcp through > "}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := firewallLab(t)
			for _, argv := range tt.rules {
				n.Run(argv[0], argv[1:]...)
			}
			found := fatesIn(t, n)
			want(t, found, tt.want...)
			if tt.cured {
				obey(t, found, func(argv ...string) { n.Run(argv[0], argv[1:]...) })
				want(t, fatesIn(t, n), allThrough)
			}
		})
	}
}

// obey types the commands of problems.
func obey(t *testing.T, found []Finding, run func(argv ...string)) {
	t.Helper()
	typed := map[string]bool{}
	for _, f := range found {
		for line := range strings.Lines(f.Do) {
			argv := strings.Fields(line)
			switch argv[0] {
			case "nft", "iptables", "ip6tables", "ufw", "firewall-cmd":
				if !typed[line] {
					run(argv...)
				}
				typed[line] = true
			}
		}
	}
	if len(typed) == 0 {
		t.Errorf("no command is named: %v", lines(found))
	}
}

// aside is the beginning of a shell script whose programs see copies of some directories
// of the machine, and an empty /run, while they run in a test's namespace.
const aside = `
set -eu
copies=$1
shift
mount -t tmpfs run /run
mount -t tmpfs log /var/log
mkdir /run/dbus
for d in $DIRECTORIES; do
	cp -a "$d" "$copies"
	mount --bind "$copies/${d##*/}" "$d"
done
`

// TestRealFirewalls: the same with the programs that most machines have.
func TestRealFirewalls(t *testing.T) {
	nstest.Need(t, "ufw", "firewalld", "firewall-cmd", "dbus-daemon", "unshare")
	for _, tt := range []struct {
		name, directories, start, where string
	}{
		{"ufw", "/etc/ufw /etc/default", "ufw --force enable", "problem: ufw (table ip filter, chain INPUT): drops what strangers send to"},
		{"firewalld", "/etc/firewalld", `dbus-daemon --system --nopidfile --fork
firewalld --nofork --nopid >/dev/null 2>&1 &
until firewall-cmd --state >/dev/null 2>&1; do sleep 0.05; done
`, "problem: firewalld (table inet firewalld, chain filter_INPUT): drops what strangers send to 60000-61000/udp, 59000/tcp"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := firewallLab(t)
			// The shell that started the firewall reads more commands, and ends
			// with all that it started when there are no more.
			shell := n.Command(t.Context(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
				aside+tt.start+"\nwhile read -r line; do $line; echo; echo done; done", "sh", t.TempDir())
			shell.Env = append(os.Environ(), "DIRECTORIES="+tt.directories)
			in, err := shell.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := shell.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := shell.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { in.Close(); shell.Wait() }()
			said := bufio.NewScanner(out)
			run := func(argv ...string) {
				t.Helper()
				fmt.Fprintln(in, strings.Join(argv, " "))
				for said.Scan() && said.Text() != "done" {
					t.Log(said.Text())
				}
				if said.Text() != "done" {
					t.Fatalf("%v did not end: %v", argv, said.Err())
				}
			}
			run("true")
			f := guard(t, n)
			found := fatesIn(t, n)
			if got := lines(found); !strings.HasPrefix(got[0], tt.where) {
				t.Errorf("found:\n%s\nwant first: %s", strings.Join(got, "\n"), tt.where)
			}
			obey(t, found, run)
			want(t, fatesIn(t, n), allThrough)
			stands(t, n, f)
		})
	}
}

// firewallsOf returns the findings about the other firewalls of the namespace.
func firewallsOf(h *Host, c *config.Config) []Finding {
	rules, err := ruleset.Read(ownChain)
	return h.firewalls(c, rules, err)
}

// TestFirewallsOfOthers: what cannot be seen is reported, and not as fine.
func TestFirewallsOfOthers(t *testing.T) {
	n := firewallLab(t)
	firewalls := func(p *Host, before func()) (found []Finding) {
		t.Helper()
		n.Do(func() error {
			before()
			found = firewallsOf(p, sshDoor(t))
			return nil
		})
		return found
	}
	asRoot := func() {}
	want(t, firewalls(machine(t, nil), asRoot), "ok: firewall: no other firewall filters incoming traffic")
	want(t, firewalls(machine(t, map[string]string{"/proc/thread-self/net/ip_tables_names": "nat\nfilter\n"}), asRoot),
		"note: iptables-legacy: has the tables filter, nat, which cannot be read from here > iptables-legacy -S; see")
	active := machine(t, map[string]string{"/etc/ufw/ufw.conf": "# x\nENABLED=yes\n", "/proc/7/comm": "firewalld\n"})
	want(t, firewalls(active, asRoot),
		"note: ufw: is active, and its rules cannot be read from here: it must let in whom doorward lets in, and the knocks >"+
			" ufw allow proto tcp to any port 22,59000,59001,59002",
		"note: firewalld: is active, and its rules cannot be read from here: it must let in whom doorward lets in, and the knocks >"+
			" firewall-cmd --add-port=22/tcp --add-port=59000/tcp")
	// Do ends the thread, and nothing else runs on it.
	asNobody := func() { unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534) }
	want(t, firewalls(machine(t, nil), asNobody), "note: firewall: cannot see whether other rules let 22/tcp, 59000/tcp, 59001/tcp, 59002/tcp through: ask nf_tables: ")

	n.Run("nft", "table bridge b { chain i { type filter hook input priority 0; ether type arp accept; }; chain none { type filter hook input priority 1; }; }")
	want(t, firewalls(machine(t, nil), asRoot), "note: table bridge b, chain i: filters what comes in over a bridge: doctor does not follow its rules >")

	n.Run("nft", "flush ruleset; table inet f { chain i { type filter hook input priority 0; }; }")
	n.Do(func() error {
		rules, err := ruleset.Read(ownChain)
		want(t, fates(rules, &config.Config{}), "note: firewall: other firewalls filter incoming traffic (table inet f, chain i): what they do")
		return err
	})
}

// TestArrivals: strangers come in by the interfaces of default routes.
func TestArrivals(t *testing.T) {
	nstest.Need(t, "ip")
	n, outside := nstest.New(t), nstest.New(t)
	_, eth := nstest.Link(outside, n, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
	nstest.Link(outside, n, []string{"198.51.100.1/24"}, []string{"198.51.100.2/24"})
	ways := func() (all []string) {
		t.Helper()
		n.Do(func() error {
			own, err := ownAddresses()
			if err != nil {
				return err
			}
			found, err := arrivals(own)
			for _, w := range found {
				all = append(all, fmt.Sprintf("IPv6 %v, %s, %v", w.ipv6, strings.ReplaceAll(w.name, eth, "eth"), w.here))
			}
			return err
		})
		return all
	}
	want := func(what string, want ...string) {
		t.Helper()
		if d := cmp.Diff(want, ways()); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	want("no default route", "IPv6 false, , []", "IPv6 true, , []")
	n.Run("ip", "route", "add", "default", "via", "192.0.2.1")
	n.Run("ip", "route", "add", "default", "via", "198.51.100.1", "table", "100")
	n.Run("ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.1")
	want("a route for IPv4", "IPv6 false, eth, [192.0.2.2]", "IPv6 true, , []")
	n.Run("ip", "route", "add", "default", "via", "2001:db8::1")
	want("both", "IPv6 false, eth, [192.0.2.2]", "IPv6 true, eth, [2001:db8::2]")
	n.Run("ip", "route", "replace", "default", "nexthop", "via", "192.0.2.1", "nexthop", "via", "198.51.100.1")
	want("by two interfaces at once", "IPv6 false, , []", "IPv6 true, eth, [2001:db8::2]")
}
