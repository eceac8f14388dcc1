//go:build linux

package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
)

// packet is a knock that only says where it is heard and what it needs.
type packet struct {
	knock.Rule
	at    []knock.Place
	needs knock.Needs
}

func (k packet) Hears() []knock.Place { return k.at }
func (k packet) Needs() knock.Needs   { return k.needs }

// packetDoor guards 443/tcp behind datagrams to the ports.
func packetDoor(needs knock.Needs, ports ...uint16) *config.Config {
	r := packet{needs: needs}
	for _, p := range ports {
		r.at = append(r.at, knock.Place{Medium: knock.Datagrams, Port: p})
	}
	return &config.Config{Doors: []config.Door{{Name: "web", Ports: []port.Range{{Proto: port.TCP, First: 443, Last: 443}},
		Knocks: []config.Knock{{Name: "packet-2", Kind: "packet", Rule: r}}}}}
}

func TestCapabilitiesOfKnocks(t *testing.T) {
	c := packetDoor(knock.Needs{Capabilities: []string{"CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_NEW"}}, 53)
	want(t, capabilities(7, "CapEff:\t0000000000001400\n", c),
		"problem: daemon (pid 7): lacks CAP_NET_RAW, which it needs for knock packet-2 of door web > compare its unit",
		"problem: daemon (pid 7): lacks CAP_NEW, which it needs for knock packet-2 of door web > ")
	c = packetDoor(knock.Needs{Capabilities: []string{"CAP_NET_RAW"}}, 53)
	want(t, capabilities(7, "CapEff:\t0000000000003400\n", c),
		"ok: daemon (pid 7): has CAP_NET_ADMIN, CAP_NET_BIND_SERVICE and CAP_NET_RAW > ")
	want(t, capabilities(7, "CapEff:\t0000000000003000\n", c),
		"problem: daemon (pid 7): lacks CAP_NET_BIND_SERVICE, which it needs to listen on port 53 > ")
}

func TestFilesOfKnocks(t *testing.T) {
	p := machine(t, map[string]string{"/etc/doorward/a.key": "x", "/etc/doorward/b.key": "x"})
	if err := os.Chmod(p.path("/etc/doorward/b.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := packetDoor(knock.Needs{Files: []string{"/etc/doorward/a.key", "/etc/doorward/b.key", "/etc/doorward/c.key"}}, 62000)
	missing := "problem: /etc/doorward/c.key: does not exist, and knock packet-2 of door web needs it > create it, or change the knock"
	want(t, p.needs(&c.Doors[0], &reader{name: "the user doorward", uid: os.Geteuid() + 1}),
		"ok: /etc/doorward/a.key: is there for knock packet-2 of door web > ",
		fmt.Sprintf("problem: /etc/doorward/b.key: the user doorward may not read it (-rw-------, owner %d, group %d), and knock"+
			" packet-2 of door web needs it > chgrp doorward %s && chmod g+r ", os.Geteuid(), os.Getegid(), p.path("/etc/doorward/b.key")),
		missing)
	want(t, p.needs(&c.Doors[0], nil), "ok: /etc/doorward/a.key", "ok: /etc/doorward/b.key", missing)
	want(t, p.needs(&sshDoor(t).Doors[0], nil))
}

func TestTakenDatagrams(t *testing.T) {
	c := packetDoor(knock.Needs{}, 62000, 62001)
	all4 := netip.MustParseAddr("0.0.0.0")
	udp := func(n uint16, pid int, name string) listener {
		return listener{port.Port{Proto: port.UDP, Number: n}, all4, pid, name}
	}
	want(t, taken(c, []listener{udp(62000, 5, "doorwardd"), {tcp(62001), all4, 9, "nginx"}}, 5),
		"ok: door web: doorward listens on 62000/udp > ")
	want(t, taken(c, []listener{udp(62001, 9, "dnsmasq")}, 5), "problem: 62001/udp: is taken by dnsmasq (pid 9): door web cannot"+
		" listen for its knock > stop it, or change the knock: packet-2 of door web in the configuration")
}

func TestOutside(t *testing.T) {
	const cannot = "note: network: cannot see from here whether a router or a provider's firewall lets knocks through > from outside: "
	want(t, outside(&config.Config{}))
	want(t, outside(sshDoor(t)), cannot+"doorward knock HOST --touch PORTS --wait 22")
	named := sshDoor(t)
	named.Gateway.Host = "gate.example.org"
	want(t, outside(named), cannot+"doorward knock gate.example.org --touch PORTS --wait 22")
	want(t, outside(packetDoor(knock.Needs{}, 62000)), cannot+"knock at door web, and connect")
	c := sshDoor(t)
	c.Doors[0].Ports = []port.Range{{Proto: port.UDP, First: 51820, Last: 51820}}
	if got := lines(outside(c)); len(got) != 1 || !strings.HasSuffix(got[0], "--touch PORTS") {
		t.Errorf("%q, want no --wait for a UDP port", got)
	}
}

// TestDatagrams looks in a real network namespace for what keeps datagrams from a
// knock: a firewall that lets only TCP in, and a socket that is connected and does not
// listen.
func TestDatagrams(t *testing.T) {
	nstest.Need(t, "nft", "nsenter")
	n := nstest.New(t)
	n.Run("nft", `table inet filter {
		chain input {
			type filter hook input priority filter; policy drop;
			tcp dport { 443, 62000, 62001 } accept
			udp dport 62001 accept
		}
	}`)
	n.Do(func() error {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 62000}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	})
	c := packetDoor(knock.Needs{}, 62000, 62001)
	p := &Host{}
	var walls, busy []Finding
	n.Do(func() error {
		walls = firewallsOf(p, c)
		sockets, err := p.connected(c)
		busy = taken(c, sockets, 0)
		return err
	})
	for _, beginning := range []string{
		"problem: table inet filter, chain input: drops what strangers send to 62000/udp (policy of chain input): ",
		"ok: firewall: other rules let 443/tcp, 62001/udp through",
	} {
		if !slices.ContainsFunc(lines(walls), func(l string) bool { return strings.HasPrefix(l, beginning) }) {
			t.Errorf("not found: %s\n%s", beginning, strings.Join(lines(walls), "\n"))
		}
	}
	us := fmt.Sprintf("%s (pid %d)", p.processName(os.Getpid()), os.Getpid())
	want(t, busy, "problem: 62000/udp: is taken by "+us+": door web cannot listen for its knock")
}
