//go:build linux

package doctor

import (
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/ruleset"
)

// aroundText has a door on this machine, one of a published port, and one whose
// port is redirected to another.
const aroundText = configText + `
[door.web]
ports = ["8080/tcp", "53/udp"]
[[door.web.knock]]
kind   = "touch"
listen = [59010, 59011]
touch  = [59010]
`

// TestWaysRound reads rules as the kernel has them, of nft and of iptables.
func TestWaysRound(t *testing.T) {
	nstest.Need(t, "nft", "iptables-nft", "ip6tables-nft", "ip")
	c, err := config.Parse("f", []byte(aroundText))
	if err != nil {
		t.Fatal(err)
	}
	nat := func(rules ...string) []string {
		return []string{"nft", "table ip nat { chain PREROUTING { type nat hook prerouting priority dstnat; " + strings.Join(rules, "; ") + "; }; }"}
	}
	const redirected = "note: 2222/tcp: is redirected to 22/tcp (table ip nat, chain PREROUTING), which door ssh guards: it opens only with a grant of that door"
	for _, tt := range []struct {
		name     string
		commands [][]string
		want     []string
	}{
		{"nothing", nil, nil},
		{"redirect", [][]string{nat("tcp dport 2222 redirect to :22")}, []string{redirected}},
		{"redirect, with more said", [][]string{nat("iifname eth0 ip saddr 198.51.100.0/24 tcp dport 2222 counter redirect to :22")},
			[]string{redirected}},
		{"redirect of a set", [][]string{nat("tcp dport { 2222, 3000-3010 } redirect to :22")}, []string{redirected,
			"note: 3000-3010/tcp: is redirected to 22/tcp"}},
		{"redirect of a range", [][]string{nat("tcp dport 3000-3010 redirect to :22")}, []string{
			"note: 3000-3010/tcp: is redirected to 22/tcp"}},
		{"redirect of all", [][]string{nat("meta l4proto tcp redirect to :22")}, []string{
			"note: every tcp port: is redirected to 22/tcp", "warning: 22/tcp: is where"}[:1]},
		{"redirect elsewhere", [][]string{nat("tcp dport 2222 redirect to :2200")}, nil},
		{"redirect of UDP", [][]string{nat("udp dport 2222 redirect to :22")}, nil},
		{"redirect in a chain that a map calls", [][]string{{"nft", `table ip nat {
				chain other { meta l4proto tcp redirect to :22; }
				chain PREROUTING { type nat hook prerouting priority dstnat; meta l4proto tcp th dport vmap { 2222 : goto other }; }
			}`}}, []string{"note: 2222/tcp: is redirected to 22/tcp (table ip nat, chain other)"}},
		{"of iptables", [][]string{{"iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "2222", "-j", "REDIRECT",
			"--to-ports", "22"}}, []string{redirected}},
		{"of ip6tables", [][]string{{"ip6tables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "2222", "-j", "REDIRECT",
			"--to-ports", "22"}}, []string{"note: 2222/tcp: is redirected to 22/tcp (table ip6 nat, chain PREROUTING)"}},
		{"DNAT to this machine", [][]string{nat("ip daddr 203.0.113.5 tcp dport 2222 dnat to 192.0.2.1:22")}, []string{redirected}},
		{"DNAT of a routed address", [][]string{nat("ip daddr 203.0.113.5 tcp dport 22 dnat to 192.0.2.1")}, []string{
			"note: 22/tcp: for other addresses is redirected to this machine (table ip nat, chain PREROUTING), which door ssh guards"}},
		{"a guarded port leads to one that is not", [][]string{nat("tcp dport 22 redirect to :2200")}, []string{
			`warning: 2200/tcp: is where 22/tcp of door ssh leads (table ip nat, chain PREROUTING), and no door guards it: whoever` +
				` connects to it directly needs no knock > add "2200/tcp" to the ports of [door.ssh]`}},
		{"published", [][]string{nat("tcp dport 8080 dnat to 198.51.100.7:80")}, []string{
			"note: 8080/tcp: is forwarded to 198.51.100.7:80 (table ip nat, chain PREROUTING): it opens only with a grant of door web;"}},
		{"published by iptables, twice", [][]string{
			{"iptables-nft", "-t", "nat", "-N", "DOCKER"},
			{"iptables-nft", "-t", "nat", "-A", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER"},
			{"iptables-nft", "-t", "nat", "-A", "DOCKER", "-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", "198.51.100.7:80"},
			{"iptables-nft", "-t", "nat", "-A", "DOCKER", "-p", "tcp", "--dport", "8081", "-j", "DNAT", "--to-destination", "198.51.100.7:80"},
			{"iptables-nft", "-t", "nat", "-A", "DOCKER", "-p", "tcp", "--dport", "8082", "-j", "DNAT", "--to-destination", "198.51.100.7:81"},
			{"iptables-nft", "-t", "nat", "-A", "DOCKER", "-p", "udp", "--dport", "8083", "-j", "DNAT", "--to-destination", "198.51.100.7:80"},
		}, []string{
			"note: 8080/tcp: is forwarded to 198.51.100.7:80 (table ip nat, chain DOCKER): it opens only with a grant of door web;",
			`warning: 8081/tcp: leads to 198.51.100.7:80 (table ip nat, chain DOCKER), as 8080/tcp does, which door web guards, and no door` +
				` guards this port: a way around it that needs no knock > add "8081/tcp" to the ports of [door.web]`}},
		{"published over UDP", [][]string{nat("udp dport 53 dnat to 198.51.100.7")}, []string{
			"note: 53/udp: is forwarded to 198.51.100.7:53"}},
		{"DNAT by a map", [][]string{nat("dnat to tcp dport map { 2222 : 192.0.2.1 }")}, []string{
			"note: 2222/tcp: is forwarded (table ip nat"}},
		{"tproxy", [][]string{{"nft", "table ip m { chain p { type filter hook prerouting priority mangle; tcp dport 2222 tproxy to :22 accept; }; }"}},
			[]string{"warning: 2222/tcp: is passed unchanged to the listener of 22/tcp (tproxy; table ip m, chain p): a way round door ssh"}},
		{"tproxy of iptables", [][]string{{"iptables-nft", "-t", "mangle", "-A", "PREROUTING", "-p", "tcp", "--dport", "2222", "-j", "TPROXY",
			"--on-port", "22", "--tproxy-mark", "1/1"}}, []string{"warning: 2222/tcp: is passed unchanged to the listener of 22/tcp"}},
		{"tproxy of a guarded port", [][]string{{"nft", "table ip m { chain p { type filter hook prerouting priority mangle; tcp dport 22 tproxy to :22 accept; }; }"}},
			nil},
		{"local routes", [][]string{{"ip", "route", "add", "local", "203.0.113.0/24", "dev", "lo", "table", "100"},
			{"ip", "-6", "route", "add", "local", "2001:db8:5::/48", "dev", "lo", "table", "1000"}}, []string{
			"note: route to 203.0.113.0/24: in table 100 delivers what is for other hosts to this machine: at guarded ports it needs a grant, too",
			"note: route to 2001:db8:5::/48: in table 1000 delivers"}},
		{"not on the way in", [][]string{{"nft", "table ip nat { chain OUTPUT { type nat hook output priority -100; tcp dport 2222 redirect to :22; }; }"}},
			nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := nstest.New(t)
			n.Run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
			for _, argv := range tt.commands {
				n.Run(argv[0], argv[1:]...)
			}
			var found []Finding
			n.Do(func() error {
				rules, err := ruleset.Read(ownChain)
				if err == nil {
					found = waysRound(rules.Detours(), c)
				}
				return err
			})
			want(t, found, tt.want...)
			if t.Failed() {
				t.Log(n.Run("nft", "--debug=netlink", "list", "ruleset"))
			}
		})
	}
}
