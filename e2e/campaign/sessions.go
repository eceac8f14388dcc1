//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/e2e/lab"
)

const (
	holdFor   = 40 * time.Second // how long a session is kept
	talkEvery = 250 * time.Millisecond
	// talkWithin is how long an answer may take: the link may be down, and TCP
	// tries again later and later.
	talkWithin = 20 * time.Second
)

// holder holds one session after the other, on a port of web's that the prober
// leaves alone. A session that stands must never be cut (P3).
func (c *campaign) holder(ctx context.Context, six bool) error {
	web := *c.door("web")
	web.port = 8081
	for sleep(ctx, time.Second) {
		e := &episode{door: &web, source: c.net.source(six)}
		fd := c.enter(ctx, e)
		if fd < 0 {
			continue // what keeps a right knock out is the judge's to say, of others
		}
		begun, echoes := c.now(), 0
		var err error
		for err == nil && c.now()-begun < holdFor && sleep(ctx, talkEvery) {
			err = talk(fd, fmt.Sprintf("%08d", echoes), talkWithin)
			echoes++
		}
		hangUp(fd)
		if err != nil {
			c.broken("P3: a session of %s at door web was cut %.3f s after its begin, at %.3f: %v\n%s", e.source,
				(c.now() - begun).Seconds(), c.now().Seconds(), err, c.happened(judge.Span{Begin: c.now() - talkWithin, End: c.now()}))
		}
		c.count("sessions held")
		c.add("echoes of sessions", echoes)
	}
	return nil
}

// enter knocks and connects, and returns the connection, -1 for none.
func (c *campaign) enter(ctx context.Context, e *episode) int {
	for _, port := range e.door.right {
		fd, _ := connect(e.from(), netip.AddrPortFrom(e.door.target(e.source).Addr(), port))
		if fd >= 0 {
			hangUp(fd)
		}
	}
	for begun := c.now(); c.now()-begun < c.quick; {
		if fd, _ := connect(e.from(), e.door.target(e.source)); fd >= 0 {
			return fd
		}
		if !sleep(ctx, 20*time.Millisecond) {
			break
		}
	}
	return -1
}

// talk sends a line of eight bytes and waits for its echo, so long.
func talk(fd int, line string, within time.Duration) error {
	if _, err := unix.Write(fd, []byte(line)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	got := make([]byte, 0, len(line))
	for deadline := time.Now().Add(within); len(got) < len(line); {
		b := make([]byte, len(line)-len(got))
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			if time.Now().After(deadline) {
				return fmt.Errorf("no echo within %s", within)
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case n == 0:
			return errors.New("the server ended it")
		default:
			got = append(got, b[:n]...)
		}
	}
	if string(got) != line {
		return fmt.Errorf("got the echo %q of %q", got, line)
	}
	return nil
}

// happened lists what happened in a span.
func (c *campaign) happened(s judge.Span) string {
	out := ""
	for _, w := range c.events.During(s) {
		out += fmt.Sprintf("%9.3f - %9.3f      %s\n", w.Begin.Seconds(), min(w.End, c.now()).Seconds(), w.What)
	}
	return out
}

// login logs in with the real ssh, stays for a while and leaves, over and over.
// A session that stands must never be cut, whatever becomes of the sshd that
// listens.
func (c *campaign) login(ctx context.Context) error {
	for i := 0; sleep(ctx, 3*time.Second); i++ {
		to, from := server4, outside4
		if i%2 == 1 {
			to, from = server6, outside6
		}
		ssh := *c.door("ssh")
		e := &episode{door: &ssh, source: netip.MustParseAddr(from)}
		fd := -1
		if err := c.net.outside.Do(func() error { fd = c.enter(ctx, e); return nil }); err != nil {
			return err
		}
		if fd < 0 {
			continue
		}
		hangUp(fd)
		p, err := c.net.outside.Start("ssh", c.net.ssh.Client(to, 3, "cat")...)
		if err != nil {
			return err
		}
		c.stay(ctx, p)
		_ = p.Kill()
		if !sleep(ctx, 8*time.Second) { // so that the door goes dark now and then
			break
		}
	}
	return nil
}

// stay types into a session for a while.
func (c *campaign) stay(ctx context.Context, p *lab.Process) {
	for n, begun := 0, c.now(); c.now()-begun < 15*time.Second; n++ {
		line := fmt.Sprintf("line %d of a session\n", n)
		err := p.Type(line)
		if err == nil {
			err = p.Says(context.WithoutCancel(ctx), line, talkWithin)
		}
		if err != nil && n > 0 {
			c.broken("P3: a login over ssh was cut at %.3f, after %d lines: %v\n%s", c.now().Seconds(), n, err,
				c.happened(judge.Span{Begin: c.now() - talkWithin, End: c.now()}))
		}
		if err != nil {
			return // it was never in
		}
		if n == 0 {
			c.count("logins over ssh")
		}
		if !sleep(ctx, 2*talkEvery) {
			return
		}
	}
}
