//go:build linux

package sealed

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/profile"
	kind "github.com/doorward/doorward/internal/sealed"
)

// Where a visitor is who is behind a router, and where they reach the gateway.
const (
	far4, far6         = "198.51.100.2", "2001:db8:1:1::2"
	beyond4, beyond6   = "203.0.113.1", "2001:db8:1:2::1"
	routerTo, routerAt = "203.0.113.2", "2001:db8:1:2::2"
)

// fate is what becomes of the nth datagram that goes one way between two sockets: when each
// copy of it goes on; none if it is lost.
type fate func(n int) []time.Duration

// router is a host that hands on what passes between others, and does to the datagrams of
// knocks what a test wants.
type router struct {
	tun *os.File

	mu                  sync.Mutex // guards what follows
	fate                fate
	seen                map[string]int // datagrams, by the addresses and ports
	lost, doubled, late int
	waiting             int // of what is late
}

// behindRouter has a visitor on the other side of a router, which passes all that it is sent
// through a TUN device: the kernel routes what comes over a cable to that, and what comes
// from that to the cables.
func (s *site) behindRouter() (far *lab.Host, r *router) {
	s.t.Helper()
	host, err := s.lab.Host("router")
	s.must(err)
	far, err = s.lab.Host("far")
	s.must(err)
	run := func(on *lab.Host, lines ...string) {
		s.t.Helper()
		for _, line := range lines {
			words := strings.Fields(line)
			_, err := on.Run(s.t.Context(), words[0], words[1:]...)
			s.must(err)
		}
	}
	run(host, "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	r = &router{fate: unharmed, seen: map[string]int{}}
	s.must(host.Do(func() (err error) { r.tun, err = openTUN("tun0"); return }))
	s.t.Cleanup(func() { r.tun.Close() })
	s.must(s.lab.Link(s.server, []string{beyond4 + "/24", beyond6 + "/64"}, host, []string{routerTo + "/24", routerAt + "/64"}))
	s.must(s.lab.Link(far, []string{far4 + "/24", far6 + "/64"}, host, []string{"198.51.100.1/24", "2001:db8:1:1::1/64"}))
	run(far, "ip route add default via 198.51.100.1", "ip route add default via 2001:db8:1:1::1")
	run(s.server, "ip route add 198.51.100.0/24 via "+routerTo, "ip route add 2001:db8:1:1::/64 via "+routerAt)
	run(host, "ip link set tun0 up")
	for _, family := range []string{"-4", "-6"} {
		run(host, "ip "+family+" route add default dev tun0 table 100", "ip "+family+" rule add pref 100 iif tun0 lookup main", "ip "+family+" rule add pref 200 lookup 100")
	}
	go r.run()
	return far, r
}

// openTUN makes a TUN device: whole packets, which have no checksum to be filled in.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// run hands packets on until the device is closed.
func (r *router) run() {
	b := make([]byte, 64<<10)
	for {
		n, err := r.tun.Read(b)
		if err != nil {
			return
		}
		p := bytes.Clone(b[:n])
		for _, after := range r.judge(p) {
			if after == 0 {
				_, _ = r.tun.Write(p) // what does not get through is lost
				continue
			}
			time.AfterFunc(after, func() { r.handOn(p) })
		}
	}
}

// judge says when each copy of a packet goes on.
func (r *router) judge(p []byte) []time.Duration {
	way, ok := knockWay(p)
	if !ok {
		return []time.Duration{0}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.fate(r.seen[way])
	r.seen[way]++
	switch len(all) {
	case 0:
		r.lost++
	case 1:
	default:
		r.doubled++
	}
	for _, after := range all {
		if after > 0 {
			r.late++
			r.waiting++
		}
	}
	return all
}

// handOn hands a packet on that was late.
func (r *router) handOn(p []byte) {
	_, _ = r.tun.Write(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
}

// knockWay is between which sockets a datagram of a knock goes; false if it is none.
func knockWay(p []byte) (string, bool) {
	var protocol byte
	var head, addresses int
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		protocol, head, addresses = p[9], int(p[0]&15)*4, 12
	case len(p) >= 40 && p[0]>>4 == 6:
		protocol, head, addresses = p[6], 40, 8
	default:
		return "", false
	}
	if protocol != unix.IPPROTO_UDP || len(p) < head+8 {
		return "", false
	}
	ports := p[head : head+4]
	return string(p[addresses : head+4]), binary.BigEndian.Uint16(ports) == port || binary.BigEndian.Uint16(ports[2:]) == port
}

// does changes what becomes of datagrams from now on, and waits until all that was late has
// come.
func (s *site) does(r *router, f fate) {
	s.t.Helper()
	r.mu.Lock()
	r.fate = f
	r.mu.Unlock()
	s.until("all that is late comes", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.waiting > 0 {
			return fmt.Errorf("%d datagrams wait", r.waiting)
		}
		return nil
	})
}

func unharmed(int) []time.Duration { return []time.Duration{0} }

// atRandom loses one in four, but no three in a row of all, has one in four come twice, and
// holds each up for so long that what is sent after it overtakes it.
func atRandom(seed uint64) fate {
	dice, lost := rand.New(rand.NewPCG(seed, 0)), 0
	late := func() time.Duration { return time.Duration(dice.IntN(300)) * time.Millisecond }
	return func(int) []time.Duration {
		switch n := dice.IntN(4); {
		case n == 0 && lost < 2:
			lost++
			return nil
		case n == 1:
			lost = 0
			return []time.Duration{late(), late()}
		}
		lost = 0
		return []time.Duration{late()}
	}
}

// Whatever a router loses, doubles and has overtaken, a visitor with the program gets in by
// a knock, once, and what comes late opens nothing that was given back.
func TestThroughABadRouter(t *testing.T) {
	s := newSite(t, "")
	s.start()
	far, r := s.behindRouter()
	s.visitor = far
	l := newLaptop(s)
	made := do[kind.Invite](s, kind.OrderInvite, kind.InviteArgs{Door: "web", For: "bob"})
	line := profile.Invite{Expires: made.Expires, Secret: s.peer.Profile, Code: [16]byte(made.Code), Fingerprint: s.peer.Fingerprint,
		Port: made.Port, Door: made.Door, Name: "gate", Hosts: []string{beyond6, beyond4}}.String()
	s.does(r, atRandom(1))
	l.want(0, "open until ", "accept", line)
	s.does(r, unharmed)
	l.want(0, "closed for ", "knock", "gate", "--close")
	s.has("web")
	for i, tt := range []struct {
		name string
		fate fate
	}{
		{"each first is lost", func(n int) []time.Duration {
			if n == 0 {
				return nil
			}
			return []time.Duration{0}
		}},
		{"each comes three times", func(int) []time.Duration { return []time.Duration{0, 20 * time.Millisecond, 400 * time.Millisecond} }},
		{"each second overtakes the first", func(n int) []time.Duration { return []time.Duration{time.Duration(1-n%2) * 300 * time.Millisecond} }},
		{"at random", atRandom(2)}, {"at random again", atRandom(3)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			family, at, own := "-4", beyond4, far4
			if i%2 == 0 {
				family, at, own = "-6", beyond6, far6
			}
			before := s.trail(audit.EventGranted, own)
			s.does(r, tt.fate)
			l.want(0, "open until ", "knock", "gate", family)
			s.admits(far, at, "8080")
			l.want(0, "closed for "+own, "knock", "gate", family, "--close")
			s.does(r, unharmed)
			s.has("web")
			s.refuses(far, at, "8080")
			if n := s.trail(audit.EventGranted, own) - before; n != 1 {
				t.Errorf("over %s, one knock led to %d grants", family, n)
			}
		})
	}
	if r.lost < 5 || r.doubled < 5 || r.late < 10 {
		t.Errorf("%d datagrams were lost, %d doubled and %d late: the router does too little", r.lost, r.doubled, r.late)
	}
}
