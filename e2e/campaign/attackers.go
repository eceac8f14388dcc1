//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/internal/control"
)

// guesser owns a /48 and knows where the vault's listeners are. It guesses, each
// time from another subscriber's prefix, and in between begins more knocks than
// the gateway can keep. Nobody but the guesser may feel it, and it must not get
// in: a /48 has few guesses a day.
func (c *campaign) guesser(ctx context.Context, dice *rand.Rand) error {
	to := netip.MustParseAddr(server6)
	for sleep(ctx, between(dice, 0, 100*time.Millisecond)) {
		from := anyOf(netip.MustParsePrefix(guesser6), dice)
		order := dice.Perm(12)[:5]
		for _, i := range order {
			touch(from, netip.AddrPortFrom(to, 59100+uint16(i)))
		}
		c.count("guesses of the owner of a /48")
		s := judge.Span{Begin: c.now()}
		fd, r := connect(netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, vaultPort))
		s.End = c.now()
		if r == judge.In {
			hangUp(fd)
			if len(c.events.During(s, judge.Unguarded)) == 0 {
				c.broken("P1: the owner of a /48 was let in at %.3f after guesses, from %s with %v", s.Begin.Seconds(), from, order)
			}
		}
		for range dice.IntN(40) {
			d := c.doors[dice.IntN(len(c.doors))]
			touch(anyOf(netip.MustParsePrefix(guesser6), dice), netip.AddrPortFrom(to, d.right[0]))
		}
	}
	return nil
}

// touch touches a port and does not wait for anything.
func touch(from netip.Addr, to netip.AddrPort) {
	fd, r := connect(netip.AddrPortFrom(from, 0), to)
	if r == judge.In {
		hangUp(fd)
	}
}

// anyOf is an address of a /48.
func anyOf(p netip.Prefix, dice *rand.Rand) netip.Addr {
	a := p.Addr().As16()
	for i := 6; i < 16; i++ {
		a[i] = byte(dice.Uint32())
	}
	return netip.AddrFrom16(a)
}

// forger knows who visits, from which ports, and sends segments of every kind in
// their names. None may cost a visitor anything: grants of single use least of
// all.
func (c *campaign) forger(ctx context.Context, dice *rand.Rand) error {
	var raw [2]int
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("make a raw socket: %w", err)
		}
		defer unix.Close(fd)
		raw[i] = fd
	}
	kinds := []byte{flagSYN, flagSYN, flagSYN, flagRST, flagRST | flagACK, flagFIN | flagACK, flagACK, flagSYN | flagACK}
	for sleep(ctx, between(dice, 0, 20*time.Millisecond)) {
		e := c.live.any(dice)
		if e == nil || e.door.Datagrams {
			continue
		}
		seg := segment{from: e.maybeUsed(dice), to: e.door.target(e.source), flags: kinds[dice.IntN(len(kinds))],
			seq: dice.Uint32(), ack: dice.Uint32()}
		if dice.IntN(4) == 0 { // a port that is to be left alone
			seg.to = netip.AddrPortFrom(seg.to.Addr(), e.door.wrong[0][0])
		}
		if seg.flags == flagACK {
			seg.data = []byte("forged!!")
		}
		fd := raw[0]
		if e.source.Is6() {
			fd = raw[1]
		}
		if seg.send(fd) == nil {
			c.count("segments forged in a visitor's name")
		}
	}
	return nil
}

// maybeUsed is the episode's source with one of its latest ports, or its next.
func (e *episode) maybeUsed(dice *rand.Rand) netip.AddrPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	return netip.AddrPortFrom(e.source, 10000+e.ports+1-uint16(min(dice.IntN(6), int(e.ports))))
}

// returner comes again from the same port as before, when the grant is over: its last
// segments were lost on the way, so that the server's connection table still has an
// entry of the connection, which is over.
func (c *campaign) returner(ctx context.Context, dice *rand.Rand) error {
	web := *c.door("web")
	for sleep(ctx, between(dice, 0, time.Second)) {
		e := &episode{door: &web, source: c.net.lossySource(dice.IntN(2) == 0)}
		fd := c.enter(ctx, e)
		if fd < 0 {
			continue
		}
		from, err := localOf(fd)
		if err != nil || talk(fd, "I am in.", echoWithin) != nil {
			hangUp(fd)
			continue
		}
		c.leave(ctx, fd, from, dice)
		over := web.OpenFor + time.Second
		if !sleep(ctx, over) {
			break
		}
		s := judge.Span{Begin: c.now()}
		fd, r := connect(from, web.target(e.source))
		s.End = c.now()
		if fd >= 0 {
			hangUp(fd)
		}
		c.count("visitors who came again from the same port")
		// A machine that stalls gives grants late.
		late := judge.Span{Begin: s.Begin - over - web.Opens, End: s.End}
		if r == judge.In && len(c.events.During(late, judge.Unguarded, judge.Stall)) == 0 {
			c.broken("P1: %s was let in at %.3f by the entry of a connection that was over", from, s.Begin.Seconds())
		}
	}
	return nil
}

// leave ends a connection in one of several ways, of which the server's
// connection table learns little.
func (c *campaign) leave(ctx context.Context, fd int, from netip.AddrPort, dice *rand.Rand) {
	defer hangUp(fd)
	switch dice.IntN(3) {
	case 0: // the server sends its FIN, the client does not
		if _, err := unix.Write(fd, []byte(goodbye)); err == nil {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(echoWithin.Milliseconds()))
		}
	case 1: // the server's socket goes, and the connection table never hears of it
		if _, err := c.net.server.Run(ctx, "nft", fmt.Sprintf("table inet lossy { chain out { type filter hook output priority -400; "+
			"ip daddr %s tcp flags rst drop; ip6 daddr %s tcp flags rst drop\n}\n}", lossy4, lossy6)); err != nil {
			return
		}
		_, _ = c.net.server.Run(ctx, "ss", "-K", "dst", from.Addr().String(), "dport", "=", fmt.Sprint(from.Port()))
	}
}

// localOf is the local end of a socket.
func localOf(fd int) (netip.AddrPort, error) {
	a, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("an address of neither IPv4 nor IPv6: %v", a)
}

// flow talks in datagrams until an operator closes the door to its source: from
// then on nobody answers it, whatever the connection table remembers.
func (c *campaign) flow(ctx context.Context, dice *rand.Rand) error {
	game := *c.door("game")
	client := control.NewClient(c.net.machine.socket())
	for sleep(ctx, between(dice, time.Second, 3*time.Second)) {
		e := &episode{door: &game, source: c.net.source(dice.IntN(2) == 0)}
		for _, port := range game.right {
			touch(e.source, netip.AddrPortFrom(game.target(e.source).Addr(), port))
		}
		fd, err := conversation(e.from(), game.target(e.source))
		if err != nil {
			continue
		}
		answered := 0
		for begun := c.now(); c.now()-begun < game.OpenFor+time.Second; {
			if say(fd) == judge.In {
				answered++
			}
			if !sleep(ctx, 100*time.Millisecond) {
				break
			}
		}
		order := control.CloseRequest{Door: game.Name, Source: e.source.String()}
		s := judge.Span{Begin: c.now()}
		_, err = client.Close(ctx, order)
		if err == nil && answered > 5 && ctx.Err() == nil {
			r := say(fd)
			s.End = c.now()
			c.count("flows that an operator ended")
			if r == judge.In && len(c.events.During(s, judge.Unguarded)) == 0 {
				c.broken("P2: a flow of %s goes on after an operator closed door game to it at %.3f", e.source, s.Begin.Seconds())
			}
		}
		unix.Close(fd)
	}
	return nil
}

// conversation is a socket for datagrams between two ends.
func conversation(from, to netip.AddrPort) (int, error) {
	fd, err := socket(from, unix.SOCK_DGRAM)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// say sends a datagram and waits for its echo. One of an earlier datagram, which comes late
// on a machine that stalled, is none.
func say(fd int) judge.Result {
	text := strconv.FormatInt(time.Now().UnixNano(), 10)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return result(err)
	}
	for {
		r := result(outcome(fd, unix.POLLIN))
		if r != judge.In {
			return r
		}
		b := make([]byte, 64)
		n, err := unix.Read(fd, b)
		if err != nil { // an ICMP error, which comes before what was received earlier
			return result(err)
		}
		if string(b[:n]) == text {
			return r
		}
	}
}

// localUser is somebody on the server itself, without any privilege: touches
// listeners over loopback and the server's own addresses, as the knock wants it,
// which must open nothing (see the inspector).
func (c *campaign) localUser(ctx context.Context, dice *rand.Rand) error {
	own := []string{"127.0.0.1", "::1", server4, server6}
	for sleep(ctx, between(dice, 0, 200*time.Millisecond)) {
		d := c.doors[dice.IntN(len(c.doors))]
		to := netip.MustParseAddr(own[dice.IntN(len(own))])
		from := to
		if to.IsLoopback() && dice.IntN(2) == 0 { // another of the machine's addresses
			from = netip.MustParseAddr(server4)
			if to.Is6() {
				from = netip.MustParseAddr(server6)
			}
		}
		for _, port := range d.right {
			touch(from, netip.AddrPortFrom(to, port))
		}
		c.count("knocks of a local user")
	}
	return nil
}

// asker asks for metrics, many times at once. A visitor must not feel it.
func (c *campaign) asker(ctx context.Context, dice *rand.Rand) error {
	for sleep(ctx, between(dice, 0, 500*time.Millisecond)) {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				err := c.net.server.Do(func() error { return ask1(ctx) })
				if err == nil {
					c.count("answers with metrics")
				}
			})
		}
		all.Wait()
	}
	return nil
}

// ask1 asks for the metrics once. The dial happens on the caller's thread.
func ask1(ctx context.Context) error {
	fd, r := connect(netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort(metrics))
	if r != judge.In {
		return fmt.Errorf("connect to %s: %s", metrics, r)
	}
	f := newFile(fd)
	defer f.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metrics+"/metrics", nil)
	if err != nil {
		return err
	}
	req.Close = true
	if err := req.Write(f); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return err
}
