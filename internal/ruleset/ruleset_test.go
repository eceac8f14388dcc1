//go:build linux

package ruleset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
)

var (
	stranger  = netip.MustParseAddr("192.0.2.1")
	here      = netip.MustParseAddr("192.0.2.2")
	stranger6 = netip.MustParseAddr("2001:db8::1")
	here6     = netip.MustParseAddr("2001:db8::2")
)

// syn returns a stranger's SYN to a port, arriving on eth0.
func syn(p uint16) Packet { return packet(port.TCP, p, false) }

func packet(proto port.Proto, number uint16, ipv6 bool) Packet {
	p := Packet{IPv6: ipv6, Ports: port.Range{Proto: proto, First: number, Last: number}, Source: stranger, Destination: here,
		Own: []netip.Addr{here, here6}, Interface: "eth0", Index: 7, Routed: true}
	if ipv6 {
		p.Source, p.Destination = stranger6, here6
	}
	return p
}

// say returns an answer as one line: what may become of the packet, and what that
// depends on.
func say(a Answer) string {
	var words []string
	for _, w := range []struct {
		is   bool
		word string
	}{{a.Passes, "passes"}, {a.Drops, "drops"}, {a.Away, "away"}} {
		if w.is {
			words = append(words, w.word)
		}
	}
	why := map[string]bool{}
	for _, d := range a.Doubts {
		if line := fmt.Sprintf(" (%s)", d.Why); !why[line] && !a.Certain() {
			words[len(words)-1] += line
			why[line] = true
		}
	}
	return strings.Join(words, ", ")
}

func nothing(*Chain) bool { return false }

// load reads the rules that commands make, in a new network namespace.
func load(t *testing.T, commands ...[]string) *Ruleset {
	t.Helper()
	n := nstest.New(t)
	for _, argv := range commands {
		n.Run(argv[0], argv[1:]...)
	}
	var all *Ruleset
	n.Do(func() (err error) { all, err = Read(nothing); return err })
	return all
}

// TestJudge reads rules as nft and iptables write them. Each expected answer follows
// from the kernel's sources.
func TestJudge(t *testing.T) {
	nstest.Need(t, "nft", "iptables-nft", "ip6tables-nft")
	in := func(rules ...string) [][]string {
		return [][]string{{"nft", "table inet filter { chain input { type filter hook input priority filter; policy drop; " +
			strings.Join(rules, "; ") + "; }; }"}}
	}
	text := func(s string) [][]string { return [][]string{{"nft", s}} }
	iptables := func(lines ...string) (all [][]string) {
		for _, l := range lines {
			all = append(all, strings.Fields("iptables-nft -w "+l))
		}
		return all
	}
	for _, tt := range []struct {
		name   string
		rules  [][]string
		packet Packet
		want   string
	}{
		{"nothing", nil, syn(22), "passes"},
		{"policy", in("accept")[:0], syn(22), "passes"},
		{"policy drops", in("tcp dport 23 accept"), syn(22), "drops"},
		{"accepted", in("tcp dport 22 accept"), syn(22), "passes"},
		{"the protocol counts", in("udp dport 22 accept"), syn(22), "drops"},
		{"a set of ports", in("tcp dport { 20-30, 80 } accept"), syn(22), "passes"},
		{"a set of ports without it", in("tcp dport { 20-21, 23-80 } accept"), syn(22), "drops"},
		{"not in a set", in("tcp dport != { 20-21, 23-80 } accept"), syn(22), "passes"},
		{"a range of ports, some", in("udp dport 60000-60500 accept"),
			Packet{Ports: port.Range{Proto: port.UDP, First: 60000, Last: 61000}}, "passes, drops (port)"},
		{"a range of ports, all", in("udp dport 60000-61000 accept"),
			Packet{Ports: port.Range{Proto: port.UDP, First: 60000, Last: 61000}}, "passes"},
		{"state", in("ct state vmap { established : accept, related : accept, invalid : drop }", "ct state new tcp dport 22 accept"), syn(22), "passes"},
		{"established only", in("ct state established,related accept"), syn(22), "drops"},
		{"loopback", in("iif lo accept", "iifname lo accept"), syn(22), "drops"},
		{"loopback, and any other interface", in("iif lo accept", "iifname lo accept", "iifname { lo } accept"), Packet{Ports: syn(22).Ports}, "drops"},
		{"its interface", in("iifname eth0 tcp dport 22 accept"), syn(22), "passes"},
		{"another interface", in("iifname eth1 tcp dport 22 accept"), syn(22), "drops"},
		{"any interface", in("iifname eth1 tcp dport 22 accept"), Packet{Ports: syn(22).Ports}, "passes, drops (interface)"},
		{"interfaces by a beginning", in(`iifname "eth*" tcp dport 22 accept`), syn(22), "passes"},
		{"source", in("ip saddr 192.0.2.0/24 accept"), syn(22), "passes"},
		{"another source", in("ip saddr 198.51.100.0/25 accept"), syn(22), "drops"},
		{"any source", in("ip saddr 198.51.100.0/25 accept"), Packet{Ports: syn(22).Ports}, "passes, drops (source address)"},
		{"IPv6 source", in("ip6 saddr 2001:db8::/32 accept"), packet(port.TCP, 22, true), "passes"},
		{"IPv6 only", in("meta nfproto ipv6 accept"), syn(22), "drops"},
		{"a blocked source", text("table ip f { set bad { type ipv4_addr; flags interval; elements = { 192.0.2.0/31, 203.0.113.7 }; };" +
			" chain i { type filter hook input priority 0; ip saddr @bad drop; }; }"), syn(22), "drops"},
		{"concatenated", in("ip saddr . tcp dport { 192.0.2.0/24 . 20-25 } accept"), syn(22), "passes"},
		{"concatenated, another", in("ip saddr . tcp dport { 192.0.2.0/24 . 23-25, 198.51.100.1 . 22 } accept"), syn(22), "drops"},
		{"a map of chains", text("table inet f { chain ssh { accept; }; chain i { type filter hook input priority 0; policy drop;" +
			" tcp dport vmap { 22 : jump ssh, 23 : drop }; }; }"), syn(22), "passes"},
		{"returns", text("table inet f { chain a { tcp dport 22 return; accept; }; chain i { type filter hook input priority 0; policy drop;" +
			" jump a; }; }"), syn(22), "drops"},
		{"goes and does not come back", text("table inet f { chain a { tcp dport 23 accept; }; chain i { type filter hook input priority 0;" +
			" policy drop; goto a; accept; }; }"), syn(22), "drops"},
		{"a later chain drops", text("table inet a { chain i { type filter hook input priority 0; accept; }; };" +
			" table inet b { chain i { type filter hook input priority 10; drop; }; }"), syn(22), "drops"},
		{"rejects", in("tcp dport 22 reject with tcp reset", "accept"), syn(22), "drops"},
		{"a rate", in("tcp dport 22 limit rate 10/minute accept"), syn(22), "passes, drops (rate)"},
		{"a rate of log lines", in(`limit rate 10/minute log prefix "x"`, "tcp dport 22 accept"), syn(22), "passes"},
		{"objects", text(`table inet f { counter c { }; limit l { rate 1/minute; }; chain i { type filter hook input priority 0; policy drop;` +
			` counter name "c" limit name "l" tcp dport 22 accept; }; }`), syn(22), "passes, drops (state of an object)"},
		{"a counter with a name", text(`table inet f { counter c { }; chain i { type filter hook input priority 0; policy drop;` +
			` counter name "c" tcp dport 22 accept; }; }`), syn(22), "passes"},
		{"a mark that was set", text("table inet f { chain p { type filter hook prerouting priority -150; tcp dport 22 meta mark set 7; };" +
			" chain i { type filter hook input priority 0; policy drop; meta mark 7 accept; }; }"), syn(22), "passes"},
		{"a mark that not all are given", text("table inet f { chain p { type filter hook prerouting priority -150; limit rate 1/minute accept; meta mark set 7; };" +
			" chain i { type filter hook input priority 0; policy drop; meta mark 7 accept; }; }"), syn(22), "passes, drops (mark)"},
		{"a mark that nobody sets", in("meta mark and 0x8000 == 0x8000 drop", "accept"), syn(22), "passes"},
		{"SYN", in("tcp flags & (fin|syn|rst|ack) == syn accept"), syn(22), "passes"},
		{"no SYN", in("tcp flags & (fin|syn|rst|ack) != syn accept"), syn(22), "drops"},
		{"fragments", in("ip frag-off & 0x1fff != 0 drop", "accept"), syn(22), "passes"},
		{"options", in("tcp option maxseg size 1-500 drop", "accept"), syn(22), "passes, drops (options)"},
		{"extension headers", in("exthdr rt exists drop", "rt type 0 drop", "accept"), packet(port.TCP, 22, true), "passes"},
		{"iptables, extension headers", [][]string{strings.Fields("ip6tables-nft -w -A INPUT -m rt --rt-type 0 -j DROP")}, packet(port.TCP, 22, true), "passes"},
		{"local", in("fib daddr type local accept"), syn(22), "passes"},
		{"the way back", in("meta nfproto ipv6 fib saddr . mark . iif oif missing drop", "accept"), packet(port.TCP, 22, true), "passes"},
		{"untracked", text("table inet f { chain p { type filter hook prerouting priority raw; tcp dport 22 notrack; };" +
			" chain i { type filter hook input priority 0; policy drop; ct state untracked accept; }; }"), syn(22), "passes"},
		{"untracked, and so not redirected", text("table ip n { chain raw { type filter hook prerouting priority raw; tcp dport 22 notrack; };" +
			" chain p { type nat hook prerouting priority dstnat; tcp dport 22 redirect to :2222; }; };" +
			" table inet f { chain i { type filter hook input priority 0; policy drop; tcp dport 2222 accept; }; }"), syn(22), "drops"},
		{"untracked, in the same chain", text("table ip r { chain p { type filter hook prerouting priority raw; policy drop; notrack; ct state untracked accept; }; }"),
			syn(22), "passes"},
		{"before it has a connection", text("table ip r { chain p { type filter hook prerouting priority raw; policy drop; ct mark 0 accept; ct state new accept; }; }"),
			syn(22), "drops"},
		{"chains of one priority", text("table inet a { chain i { type filter hook input priority 0; meta mark set 1; }; };" +
			" table inet b { chain i { type filter hook input priority 0; meta mark 1 drop; }; }"), syn(22), "passes, drops (mark)"},
		{"chains of one priority, of which the first drops", text("table inet a { chain i { type filter hook input priority 0; meta mark 0 drop; }; };" +
			" table inet b { chain i { type filter hook input priority 0; meta mark set 1; }; }"), syn(22), "passes, drops (mark)"},
		{"redirected", text("table ip n { chain p { type nat hook prerouting priority dstnat; tcp dport 22 redirect to :2222; }; };" +
			" table inet f { chain i { type filter hook input priority 0; policy drop; tcp dport 2222 accept; }; }"), syn(22), "passes"},
		{"redirected, and blocked there", text("table ip n { chain p { type nat hook prerouting priority dstnat; tcp dport 22 redirect to :2222; }; };" +
			" table inet f { chain i { type filter hook input priority 0; policy drop; tcp dport 22 accept; }; }"), syn(22), "drops"},
		{"published", append(text("table ip n { chain p { type nat hook prerouting priority dstnat; tcp dport 22 dnat to 198.51.100.7; }; }"), in()...), syn(22), "passes, away"},
		{"ingress of another interface", text("table netdev n { chain i { type filter hook ingress device lo priority 0; drop; }; }"), syn(22), "passes"},
		{"what others are asked", text("table inet f { chain i { type filter hook forward priority 0; policy drop; }; }"), syn(22), "passes"},
		{"iptables", iptables("-P INPUT DROP", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-A INPUT -i lo -j ACCEPT",
			"-A INPUT -p tcp -m multiport --dports 21,22,80:90 -m comment --comment x -j ACCEPT"), syn(22), "passes"},
		{"iptables, established only", iptables("-P INPUT DROP", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"), syn(22), "drops"},
		{"iptables, all but invalid ones", iptables("-P INPUT DROP", "-A INPUT -m conntrack ! --ctstate INVALID -j ACCEPT"), syn(22), "passes"},
		{"iptables, other ports", iptables("-P INPUT DROP", "-A INPUT -p tcp -m multiport --dports 21,80:90 -j ACCEPT"), syn(22), "drops"},
		{"iptables, a range of several", iptables("-P INPUT DROP", "-A INPUT -p tcp -m multiport --dports 21,80:90 -j ACCEPT"), syn(85), "passes"},
		{"iptables, new ones", iptables("-P INPUT DROP", "-A INPUT -m state --state NEW -p tcp --syn --dport 22 -j ACCEPT"), syn(22), "passes"},
		{"iptables, for this machine", iptables("-A INPUT -m addrtype --dst-type LOCAL -j RETURN", "-A INPUT -j DROP"), syn(22), "passes"},
		{"iptables, not for this machine", iptables("-A INPUT -m addrtype --dst-type BROADCAST -j DROP"), syn(22), "passes"},
		{"iptables, refused", iptables("-A INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset"), syn(22), "drops"},
		{"iptables, recent", iptables("-A INPUT -p tcp --dport 22 -m recent --name x --rcheck -j DROP"), syn(22),
			`passes, drops (match "recent" of iptables)`},
		{"iptables, redirected", iptables("-t nat -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2222",
			"-P INPUT DROP", "-A INPUT -p tcp --dport 2222 -j ACCEPT"), syn(22), "passes"},
		{"iptables, published", iptables("-t nat -A PREROUTING -p tcp --dport 22 -j DNAT --to-destination 198.51.100.7:80", "-P INPUT DROP"), syn(22), "passes, away"},
		{"iptables, of IPv4 only", iptables("-P INPUT DROP"), packet(port.TCP, 22, true), "passes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := load(t, tt.rules...)
			if d := cmp.Diff(tt.want, say(all.Judge(tt.packet))); d != "" {
				t.Errorf("the answer (-want +got):\n%s", d)
				for _, c := range all.Chains {
					t.Logf("%+v", *c)
				}
			}
		})
	}
}

// TestReadLeavesOut checks that sets that no rule uses, and tables that are skipped,
// are not read, however much is in them.
func TestReadLeavesOut(t *testing.T) {
	nstest.Need(t, "nft")
	n := nstest.New(t)
	n.Run("nft", `table inet f {
			set used { type inet_service; elements = { 22 }; }
			set unused { type ipv4_addr; elements = { 192.0.2.1 }; }
			chain i { type filter hook input priority 0; tcp dport @used accept; tcp dport { 23, 24 } drop; }
		}
		table inet skipped { set s { type inet_service; elements = { 22 }; }; chain i { tcp dport @s drop; }; }`)
	var all *Ruleset
	n.Do(func() (err error) { all, err = Read(func(c *Chain) bool { return c.Table == "skipped" }); return err })
	var got []string
	for _, s := range all.Sets {
		got = append(got, s.Table+" "+strings.TrimRight(s.Name, "0123456789"))
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{"f __set", "f used"}, got); d != "" || len(all.Chains) != 1 {
		t.Errorf("%d chains, want 1; the sets (-want +got):\n%s", len(all.Chains), d)
	}
}
