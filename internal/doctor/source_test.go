//go:build linux

package doctor

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
)

// The findings are about what rules do with the one address, whatever they do with
// others.
func TestFirewallsAndOneAddress(t *testing.T) {
	n := firewallLab(t)
	ports := []port.Range{{Proto: port.TCP, First: 22, Last: 22}, {Proto: port.TCP, First: 443, Last: 443}}
	firewalls := func(source string) (found []Finding) {
		t.Helper()
		n.Do(func() error {
			do, err := Firewalls(netip.MustParseAddr(source))
			if err == nil {
				found = do(ports)
			}
			return err
		})
		return found
	}
	want(t, firewalls("198.51.100.7"))
	n.Run("nft", `table inet filter {
		set known { type ipv4_addr; elements = { 203.0.113.9 }; }
		chain input { type filter hook input priority 0; policy drop; ct state established accept
			ip saddr 198.51.100.7 accept
			ip saddr @known tcp dport 22 accept
			ip saddr 203.0.113.66 tcp dport 22 limit rate 1/minute accept
		}; }`)
	const where = "table inet filter, chain input: "
	want(t, firewalls("198.51.100.7"))
	want(t, firewalls("203.0.113.9"), "problem: "+where+"drops what 203.0.113.9 sends to 443/tcp (policy of chain input): knocks and visitors do not arrive > "+
		"nft insert rule inet filter input tcp dport { 443 } accept")
	want(t, firewalls("2001:db8:1::7"), "problem: "+where+"drops what 2001:db8:1::7 sends to 22/tcp, 443/tcp (policy of chain input): knocks")
	want(t, firewalls("203.0.113.66"),
		"problem: "+where+"drops what 203.0.113.66 sends to 443/tcp (policy",
		"warning: "+where+"may drop what 203.0.113.66 sends to 22/tcp: it depends on the rate (rule with handle")
	// It comes in where the way back to it leads out.
	_, lan := nstest.Link(nstest.New(t), n, []string{"198.51.100.1/24"}, []string{"198.51.100.2/24"})
	n.Run("nft", "flush ruleset; table inet f { chain i { type filter hook input priority 0; iifname "+lan+" drop; }; }")
	want(t, firewalls("198.51.100.7"), "problem: table inet f, chain i: drops what 198.51.100.7 sends to 22/tcp, 443/tcp (rule with handle")
	want(t, firewalls("203.0.113.9"))
	n.Do(func() error { // Do ends the thread
		unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534)
		if _, err := Firewalls(netip.MustParseAddr("192.0.2.9")); err == nil {
			t.Error("the rules are read without CAP_NET_ADMIN")
		}
		return nil
	})
}
