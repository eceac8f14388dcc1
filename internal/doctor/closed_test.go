//go:build linux

package doctor

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/ruleset"
)

// TestClosedPorts: what doctor makes of the rules is what a real connection to a closed
// port gets.
func TestClosedPorts(t *testing.T) {
	chain := func(policy, rules string) []string {
		return []string{"nft", "table inet f { chain i { type filter hook input priority 0; policy " + policy + "; icmpv6 type nd-neighbor-solicit accept;" +
			" icmpv6 type nd-neighbor-advert accept; tcp dport 22 accept; " + rules + "; }; }"}
	}
	tables := func(program, reject string) []string {
		return strings.Fields(program + " -w -A INPUT -p tcp ! --dport 22 -j REJECT " + reject)
	}
	for _, tt := range []struct {
		name  string
		rules [][]string
		want  closed
		v4    error // the error of connecting to a closed port over IPv4; nil for silence
	}{
		{"nothing", nil, refused, unix.ECONNREFUSED},
		{"what drops other ports", [][]string{chain("accept", "tcp dport 25 drop")}, refused, unix.ECONNREFUSED},
		{"the policy drops", [][]string{chain("drop", "iif lo accept")}, silent, nil},
		{"a rule drops", [][]string{chain("accept", "meta l4proto { tcp, udp } drop")}, silent, nil},
		{"a reset", [][]string{chain("drop", "meta l4proto tcp reject with tcp reset")}, refused, unix.ECONNREFUSED},
		{"an ICMP error", [][]string{chain("drop", "reject with icmpx admin-prohibited")}, barred, unix.EHOSTUNREACH},
		{"iptables, a reset", [][]string{tables("iptables-nft", "--reject-with tcp-reset"), tables("ip6tables-nft", "--reject-with tcp-reset")},
			refused, unix.ECONNREFUSED},
		{"iptables, an ICMP error", [][]string{tables("iptables-nft", "--reject-with icmp-host-prohibited"), tables("ip6tables-nft", "--reject-with icmp6-adm-prohibited")},
			barred, unix.EHOSTUNREACH},
		{"IPv6 alone drops", [][]string{chain("drop", "meta nfproto ipv4 accept")}, mixed, unix.ECONNREFUSED},
		{"some sources", [][]string{chain("drop", "ip saddr 24.0.0.0/8 accept")}, mixed, nil},
		{"a rate", [][]string{chain("drop", "limit rate 1/hour burst 1 packets reject with tcp reset")}, mixed, unix.ECONNREFUSED},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nstest.Need(t, "nft", "ip", "iptables-nft")
			n, outside := nstest.New(t), nstest.New(t)
			_, eth := nstest.Link(outside, n, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
			n.Run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", eth)
			n.Run("ip", "route", "add", "default", "via", "2001:db8::1", "dev", eth)
			for _, argv := range tt.rules {
				n.Run(argv[0], argv[1:]...)
			}
			var got closed
			n.Do(func() error {
				rules, err := ruleset.Read(ownChain)
				if err != nil {
					t.Fatal(err)
				}
				j, f := fromStrangers(rules)
				if j == nil {
					t.Fatal(f)
				}
				got = j.closedPorts(port.TCP)
				return nil
			})
			if got != tt.want {
				t.Errorf("closed ports are %d, want %d", got, tt.want)
			}
			var met error
			outside.Do(func() error {
				c, err := net.DialTimeout("tcp", "192.0.2.2:1", 500*time.Millisecond)
				if err == nil {
					c.Close()
				}
				met = err
				return nil
			})
			timeout, _ := errors.AsType[net.Error](met)
			if tt.v4 == nil && (timeout == nil || !timeout.Timeout()) || tt.v4 != nil && !errors.Is(met, tt.v4) {
				t.Errorf("connecting to a closed port: error %v, want %v", met, tt.v4)
			}
		})
	}
}

func TestStandsOut(t *testing.T) {
	const scan = ": a port scan shows that there is something, though not what > "
	for _, tt := range []struct {
		refuse config.Refuse
		others closed
		want   []string
	}{
		{config.Drop, silent, []string{"ok: door ssh: gives strangers no answer, as this machine's other ports do > "}},
		{config.Drop, refused, []string{"note: door ssh: gives strangers no answer, while this machine's closed ports refuse them" + scan +
			`to have it look like a closed port, write refuse = "reject" in [door.ssh]`}},
		{config.Drop, barred, []string{"note: door ssh: does not answer strangers as another firewall does at other ports, with an ICMP error" + scan +
			"to have all of them look alike, let that firewall drop, or refuse with TCP resets"}},
		{config.Drop, mixed, nil},
		{config.Reject, silent, []string{"note: door ssh: refuses strangers, while another firewall gives them no answer at other ports" + scan +
			`to have it look like the others, write refuse = "drop" in [door.ssh]`}},
		{config.Reject, refused, []string{"ok: door ssh: refuses strangers, as this machine's closed ports do > "}},
		{config.Reject, mixed, nil},
	} {
		want(t, standsOut(&config.Door{Name: "ssh", Refuse: tt.refuse}, tt.others), tt.want...)
	}
}
