//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/e2e/lab"
)

// The network: the server, and one host outside that is everybody else. It has
// every address of these prefixes.
const (
	server4, server6   = "192.0.2.1", "2001:db8::1"
	outside4, outside6 = "192.0.2.2", "2001:db8::2"

	many4, many6     = "198.18.0.0/15", "2001:db8:f::/48"
	always4, always6 = "203.0.113.0/24", "2001:db8:a::/48"
)

// door is a door of the campaign: what the judge must know, and how visitors
// knock on it.
type door struct {
	judge.Door
	udp    bool
	port   uint16   // tried by the prober
	listen []uint16 // of its knock
	right  []uint16 // touches
	wrong  [][]uint16
}

// target is the door's port at the server's address of the source's family.
func (d *door) target(source netip.Addr) netip.AddrPort {
	to := netip.MustParseAddr(server4)
	if source.Is6() {
		to = netip.MustParseAddr(server6)
	}
	return netip.AddrPortFrom(to, d.port)
}

// The times of the doors are short, so that a campaign sees many grants and
// penalties begin and end.
const (
	within  = 1 * time.Second
	penalty = 4 * time.Second
	slow    = 6 * time.Second // for a right knock to open where a service must start
	idle    = 4 * time.Second // of ssh and panel
	judged  = 2 * time.Second // panel's judge
)

// doors are those whose grants belong to one source. The panel has a file of its
// own. Where no service must start, a right knock opens within quick.
func doors(quick time.Duration) []*door {
	disk := []judge.What{judge.Disk, judge.Damage, judge.Service, judge.NoLog}
	all := []*door{{
		Door: judge.Door{Name: "ssh", OpenFor: 3 * time.Second, Opens: slow, Excuses: disk},
		port: 22, listen: []uint16{59000, 59001, 59002}, right: []uint16{59000, 59002},
		wrong: [][]uint16{{59001}, {59000, 59001}},
	}, {
		Door: judge.Door{Name: "web", OpenFor: 2 * time.Second, Opens: quick},
		port: 8080, listen: []uint16{59010, 59011, 59012}, right: []uint16{59012, 59010},
		wrong: [][]uint16{{59011}, {59012, 59011}, {59010, 59012}},
	}, {
		Door: judge.Door{Name: "one", OpenFor: 4 * time.Second, Opens: quick, SingleUse: true},
		port: 9090, listen: []uint16{59020, 59021, 59022}, right: []uint16{59020, 59022},
		wrong: [][]uint16{{59021}, {59022, 59021}},
	}, {
		Door: judge.Door{Name: "game", OpenFor: 2 * time.Second, Opens: quick, Rejects: true},
		port: 60003, udp: true, listen: []uint16{59040, 59041, 59042}, right: []uint16{59040, 59041},
		wrong: [][]uint16{{59042}, {59040, 59042}},
	}}
	for _, d := range all {
		d.Within, d.Penalty = within, penalty
	}
	return all
}

const panelPort = 7070

// config is the daemon's. Port 8081 is for connections that live for long.
const config = `[gateway]
state = %[1]q
control = %[2]q

[door.ssh]
ports = ["22/tcp"]
open_for = "3s"
[door.ssh.service]
start = [%[3]q, "-D", "-f", %[4]q]
[door.ssh.presence]
idle = "4s"
logins = [%[5]q, "%[5]s.1"]
[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
within = "1s"
penalty = "4s"

[door.web]
ports = ["8080/tcp", "8081/tcp"]
open_for = "2s"
always = ["203.0.113.0/24", "2001:db8:a::/48"]
[door.web.presence]
logins = "off"
[[door.web.knock]]
kind = "touch"
listen = [59010, 59011, 59012]
touch = [59012, 59010]
order = "given"
within = "1s"
penalty = "4s"

[door.one]
ports = ["9090/tcp"]
open_for = "4s"
single_use = true
[door.one.presence]
logins = "off"
[[door.one.knock]]
kind = "touch"
listen = [59020, 59021, 59022]
touch = [59020, 59022]
within = "1s"
penalty = "4s"

[door.game]
ports = ["60000-60010/udp"]
open_for = "2s"
refuse = "reject"
[door.game.presence]
logins = "off"
[[door.game.knock]]
kind = "touch"
listen = [59040, 59041, 59042]
touch = [59040, 59041]
within = "1s"
penalty = "4s"

[door.panel]
ports = ["7070/tcp"]
open_for = "4s"
[door.panel.service]
start = [%[6]q, "--start", "--oknodo", "--background", "--make-pidfile", "--pidfile", %[7]q, "--exec", %[8]q, "--", "TCP6-LISTEN:7070,fork,reuseaddr,ipv6only=0", "PIPE"]
stop = [%[6]q, "--stop", "--oknodo", "--retry", "TERM/2/KILL/2", "--remove-pidfile", "--pidfile", %[7]q]
status = [%[6]q, "--status", "--pidfile", %[7]q]
[door.panel.presence]
idle = "4s"
logins = "off"
[[door.panel.knock]]
kind = "touch"
listen = [59030, 59031, 59032]
touch = [59030, 59032]
within = "1s"
judge = "every 2s"
penalty = "4s"
scope = "door"
`

// extra is the door that a configuration which is applied has more.
const extra = `
[door.extra]
ports = ["7777/tcp"]
[door.extra.presence]
logins = "off"
[[door.extra.knock]]
kind = "touch"
listen = [59050, 59051]
touch = [59050]
`

// network is the hosts, and what runs on the server beside the daemon.
type network struct {
	*lab.Lab
	server, outside *lab.Host
	ssh             *lab.SSH
	authLog         string
	config          string // text of the configuration, without the extra door
	configPath      string
	state           string   // directory, on a disk of its own
	panel           []string // starts the panel's service
	closes          []func()
	next            atomic.Uint32 // number of the next source
}

// stateDisk is the size of the state's disk.
const stateDisk = "48m"

func newNetwork(ctx context.Context) (n *network, err error) {
	n = &network{}
	if n.Lab, err = lab.New(); err != nil {
		return nil, err
	}
	if err = n.build(ctx); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *network) close() error {
	for _, f := range n.closes {
		f()
	}
	return n.Lab.Close()
}

func (n *network) build(ctx context.Context) (err error) {
	if n.server, err = n.Host("server"); err != nil {
		return err
	}
	if n.outside, err = n.Host("outside"); err != nil {
		return err
	}
	for _, h := range []*lab.Host{n.server, n.outside} {
		// A link is usable as soon as it is up, and keeps its addresses.
		for _, line := range []string{"sysctl -qw net.ipv6.conf.all.accept_dad=0", "sysctl -qw net.ipv6.conf.default.accept_dad=0",
			"sysctl -qw net.ipv6.conf.all.keep_addr_on_down=1"} {
			if err := n.run(ctx, h, line); err != nil {
				return err
			}
		}
	}
	err = n.Link(n.server, []string{server4 + "/24", server6 + "/64"}, n.outside, []string{outside4 + "/24", outside6 + "/64"})
	if err != nil {
		return err
	}
	for _, line := range []string{
		"sysctl -qw net.ipv6.ip_nonlocal_bind=1",
		"ip route add local " + many4 + " dev lo", "ip route add local " + always4 + " dev lo",
		"ip -6 route add local " + many6 + " dev lo", "ip -6 route add local " + always6 + " dev lo",
	} {
		if err := n.run(ctx, n.outside, line); err != nil {
			return err
		}
	}
	if err := n.routes(ctx); err != nil {
		return err
	}
	if n.authLog, err = n.server.Isolate(); err != nil {
		return err
	}
	n.state = n.Path("state")
	if err := n.run(ctx, n.server, "mkdir "+n.state); err != nil {
		return err
	}
	if err := n.run(ctx, n.server, "mount -t tmpfs -o size="+stateDisk+" tmpfs "+n.state); err != nil {
		return err
	}
	if err := n.configure(); err != nil {
		return err
	}
	if err := n.serve(); err != nil {
		return err
	}
	return n.linked(ctx)
}

// linked waits until both families get through: a link takes a while.
func (n *network) linked(ctx context.Context) error {
	return lab.Until(ctx, 10*time.Second, "a link", func() error {
		return n.outside.Do(func() error {
			for _, pair := range [][2]string{{outside4, server4}, {outside6, server6}} {
				from := netip.AddrPortFrom(netip.MustParseAddr(pair[0]), 0)
				fd, r := connect(from, netip.AddrPortFrom(netip.MustParseAddr(pair[1]), 7777))
				if r != judge.In {
					return fmt.Errorf("to %s: %s", pair[1], r)
				}
				hangUp(fd)
			}
			return nil
		})
	})
}

// run runs a command line without quotes.
func (n *network) run(ctx context.Context, h *lab.Host, line string) error {
	f := strings.Fields(line)
	_, err := h.Run(ctx, f[0], f[1:]...)
	return err
}

// routes tells the server where everybody is. They go with the link.
func (n *network) routes(ctx context.Context) error {
	for _, line := range []string{
		"ip route replace " + many4 + " via " + outside4, "ip route replace " + always4 + " via " + outside4,
		"ip -6 route replace " + many6 + " via " + outside6, "ip -6 route replace " + always6 + " via " + outside6,
	} {
		if err := n.run(ctx, n.server, line); err != nil {
			return err
		}
	}
	return nil
}

func (n *network) configure() (err error) {
	if n.ssh, err = n.SSH(22); err != nil {
		return err
	}
	starter, err := exec.LookPath("start-stop-daemon")
	if err != nil {
		return err
	}
	socat, err := exec.LookPath("socat")
	if err != nil {
		return err
	}
	pidFile := n.Path("panel.pid")
	n.config = fmt.Sprintf(config, n.state, n.socket(), n.ssh.Program, n.ssh.Config, n.authLog, starter, pidFile, socat)
	n.panel = []string{starter, "--start", "--oknodo", "--background", "--make-pidfile", "--pidfile", pidFile,
		"--exec", socat, "--", "TCP6-LISTEN:7070,fork,reuseaddr,ipv6only=0", "PIPE"}
	n.configPath, err = n.Write("doorward.toml", n.config)
	return err
}

func (n *network) socket() string { return n.Path("control.sock") }

// serve runs the services that are always there: they echo.
func (n *network) serve() error {
	return n.server.Do(func() error {
		for _, port := range []int{8080, 8081, 9090, 7777} {
			l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			n.closes = append(n.closes, func() { l.Close() })
			go accept(l) // ends when l is closed
		}
		c, err := net.ListenPacket("udp", ":60003")
		if err != nil {
			return err
		}
		n.closes = append(n.closes, func() { c.Close() })
		go func() { // ends when c is closed
			b := make([]byte, 64)
			for {
				size, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				c.WriteTo(b[:size], from)
			}
		}()
		return nil
	})
}

func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { // ends with the connection
			defer c.Close()
			b := make([]byte, 64)
			for size, err := c.Read(b); err == nil; size, err = c.Read(b) {
				c.Write(b[:size])
			}
		}()
	}
}

// source is an address that nobody has had yet (or not for hours). Over IPv6
// each is a subscriber's, with a /64 of its own: neighbours in one may push out
// each other's knocks, and the flood has one to itself.
func (n *network) source(six bool) netip.Addr {
	i := n.next.Add(1)
	if six {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0xf, byte(i >> 8 & 0x7f), byte(i), 15: 2})
	}
	return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
}

// neighbour is one address of the prefixes that need no knock.
func (n *network) neighbour(six bool) netip.Addr {
	i := byte(n.next.Add(1))
	if six {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0xa, 15: i})
	}
	return netip.AddrFrom4([4]byte{203, 0, 113, i})
}
