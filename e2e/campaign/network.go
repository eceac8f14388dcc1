//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/e2e/lab"
)

// The network: the server, and one host outside that is everybody else. It has
// every address of these prefixes. What is sent from lossy ones to end a
// connection is lost on the way. The guesser owns a /48 and knows where the
// listeners are.
const (
	server4, server6   = "192.0.2.1", "2001:db8::1"
	outside4, outside6 = "192.0.2.2", "2001:db8::2"

	many4, many6     = "198.18.0.0/15", "2001:db8:8000::/33"
	always4, always6 = "203.0.113.0/24", "2001:db8:a::/48"
	lossy4, lossy6   = "198.51.100.0/24", "2001:db8:b::/48"
	guesser6         = "2001:db8:e::/48"
)

// prefixes are those of the host outside.
func prefixes() []string {
	return []string{many4, always4, lossy4, many6, always6, lossy6, guesser6}
}

// door is a door of the campaign: what the judge must know, and how visitors
// knock on it.
type door struct {
	judge.Door
	port   uint16   // tried by the prober
	listen []uint16 // of its knock
	right  []uint16 // touches
	wrong  [][]uint16
	sealed *safe // its knock is not of touches; nil if it is
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
		Door: judge.Door{Name: "ssh", OpenFor: 3 * time.Second, Opens: slow, Excuses: disk, Starts: true},
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
		Door: judge.Door{Name: "game", OpenFor: 2 * time.Second, Opens: quick, Rejects: true, Datagrams: true},
		port: 60003, listen: []uint16{59040, 59041, 59042}, right: []uint16{59040, 59041},
		wrong: [][]uint16{{59042}, {59040, 59042}},
	}, { // its service is a command, which the launcher runs
		Door: judge.Door{Name: "echo", OpenFor: 3 * time.Second, Opens: slow, Excuses: disk},
		port: 8888, listen: []uint16{59060, 59061, 59062}, right: []uint16{59060, 59061},
		wrong: [][]uint16{{59062}, {59060, 59062}},
	}}
	for _, sealed := range []struct {
		name string
		port uint16
	}{{"safe", 7272}, {"attic", 7373}, {"cellar", 7474}} { // touches are nothing to these
		at := []uint16{safes[sealed.name].knocked}
		all = append(all, &door{Door: judge.Door{Name: sealed.name, OpenFor: 2 * time.Second, Opens: quick},
			port: sealed.port, listen: at, right: at, wrong: [][]uint16{at}, sealed: safes[sealed.name]})
	}
	for _, d := range all {
		d.Within, d.Penalty = within, penalty
	}
	return all
}

// network is the hosts, and what runs on the server beside the daemon.
type network struct {
	*lab.Lab
	server, outside *lab.Host // the server's network alone; see machine
	machine         *machine
	ssh             *lab.SSH
	closes          []func()
	next            atomic.Uint32 // number of the next source
}

func newNetwork(ctx context.Context, bin string) (n *network, err error) {
	n = &network{}
	if n.Lab, err = lab.New(); err != nil {
		return nil, err
	}
	if err = n.build(ctx, bin); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *network) close() error {
	for _, f := range n.closes {
		f()
	}
	var err error
	if n.machine != nil {
		err = n.machine.Close()
	}
	return errors.Join(err, n.Lab.Close())
}

func (n *network) build(ctx context.Context, bin string) (err error) {
	if n.server, err = n.Host("server"); err != nil {
		return err
	}
	if n.outside, err = n.Host("outside"); err != nil {
		return err
	}
	if n.ssh, err = n.SSH(22); err != nil {
		return err
	}
	if n.machine, err = bootMachine(ctx, n.Lab, n.server, bin, n.ssh); err != nil {
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
	// A server that has sent its FIN forgets a client that says nothing.
	if err := n.run(ctx, n.server, "sysctl -qw net.ipv4.tcp_fin_timeout=1"); err != nil {
		return err
	}
	lines := []string{"sysctl -qw net.ipv6.ip_nonlocal_bind=1"}
	for _, p := range prefixes() {
		lines = append(lines, "ip route add local "+p+" dev lo")
	}
	for _, line := range lines {
		if err := n.run(ctx, n.outside, line); err != nil {
			return err
		}
	}
	if err := n.lossy(ctx); err != nil {
		return err
	}
	if err := n.routes(ctx); err != nil {
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

// routes gives the server its routes to everybody. They go with the link.
func (n *network) routes(ctx context.Context) error {
	for _, p := range prefixes() {
		via := outside4
		if strings.Contains(p, ":") {
			via = outside6
		}
		if err := n.run(ctx, n.server, "ip route replace "+p+" via "+via); err != nil {
			return err
		}
	}
	return nil
}

// lossy loses what ends connections of the lossy prefixes, at the host outside.
func (n *network) lossy(ctx context.Context) error {
	_, err := n.outside.Run(ctx, "nft", fmt.Sprintf("table inet lossy { chain out { type filter hook output priority 0; "+
		"ip saddr %s tcp flags & (fin | rst) != 0 drop; ip6 saddr %s tcp flags & (fin | rst) != 0 drop\n}\n}", lossy4, lossy6))
	return err
}

// serve runs the services that are always there: they echo.
func (n *network) serve() error {
	return n.server.Do(func() error {
		for _, port := range []int{8080, 8081, 9090, 7777, vaultPort, 7272, 7373, 7474} {
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

// goodbye has the server end the connection.
const goodbye = "goodbye!"

func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { // ends with the connection
			defer c.Close()
			b := make([]byte, 64)
			for size, err := c.Read(b); err == nil && string(b[:size]) != goodbye; size, err = c.Read(b) {
				c.Write(b[:size])
			}
		}()
	}
}

// source is an address that nobody has had yet (or not for hours). Over IPv6
// each is another site's, with a /48 of its own: neighbours share penalties.
func (n *network) source(six bool) netip.Addr {
	i := n.next.Add(1)
	if six {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0x80 | byte(i>>8&0x7f), byte(i), 15: 2})
	}
	return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
}

// lossySource is an address whose last segments are lost.
func (n *network) lossySource(six bool) netip.Addr {
	i := byte(n.next.Add(1))
	if six {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0xb, i, 15: 2})
	}
	return netip.AddrFrom4([4]byte{198, 51, 100, i})
}

// neighbour is one address of the prefixes that need no knock.
func (n *network) neighbour(six bool) netip.Addr {
	i := byte(n.next.Add(1))
	if six {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0xa, 15: i})
	}
	return netip.AddrFrom4([4]byte{203, 0, 113, i})
}
