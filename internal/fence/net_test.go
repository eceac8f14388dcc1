//go:build linux

package fence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"golang.org/x/sys/unix"
)

// How a guarded host looks to a visitor.
const (
	reached  = "open"
	dark     = "dark"     // silence
	rejected = "rejected" // a reset or an ICMP error
)

// silence is how long a port must not answer to count as dark. On a link inside one
// machine, an answer arrives within a millisecond.
const silence = 250 * time.Millisecond

// patience is how long an answer that must come may take on a busy machine.
const patience = 15 * time.Second

// place is a guarded host and a visitor on one link, both with both families.
type place struct {
	t             testing.TB
	host, visitor *nstest.NS
	hostIf        string
	f             *Fence
}

const (
	hostIP     = "192.0.2.1"
	hostIP6    = "2001:db8::1"
	visitorIP  = "192.0.2.2"
	visitorIP6 = "2001:db8::2"
)

func newPlace(t testing.TB) *place {
	t.Helper()
	nstest.Need(t, "nft", "ip")
	p := &place{t: t, host: nstest.New(t), visitor: nstest.New(t)}
	p.hostIf, _ = nstest.Link(p.host, p.visitor,
		[]string{hostIP + "/24", hostIP6 + "/64"}, []string{visitorIP + "/24", visitorIP6 + "/64"})
	awaitLink(t, p.visitor, hostIP, hostIP6)
	return p
}

// awaitLink waits until packets get through, since the kernel brings up the carrier of a
// new link asynchronously. Nothing listens on port 9.
func awaitLink(t testing.TB, n *nstest.NS, addrs ...string) {
	t.Helper()
	for _, a := range addrs {
		eventually(t, "a link to "+a, func() bool { return look(n, "tcp", at(a, 9)) == rejected })
	}
}

// guard raises the fence.
func (p *place) guard(doors ...Door) {
	p.t.Helper()
	if p.f == nil {
		p.f = openIn(p.t, p.host, false)
	}
	p.do(p.f.Guard(doors))
}

func (p *place) do(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) give(g ...Grant) { p.t.Helper(); p.do(p.f.Change(Changes{Give: g})) }

func (p *place) revoke(g ...Grant) { p.t.Helper(); p.do(p.f.Change(Changes{Revoke: g})) }

// listen echoes what it receives over TCP and UDP, on all addresses of n.
func listen(t testing.TB, n *nstest.NS, number int) {
	t.Helper()
	var u net.PacketConn
	n.Do(func() (err error) {
		u, err = net.ListenPacket("udp", fmt.Sprintf(":%d", number))
		return err
	})
	t.Cleanup(func() { u.Close() })
	echoAt(t, n, fmt.Sprintf(":%d", number))
	go func() { // ends with the socket
		b := make([]byte, 1500)
		for {
			k, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(b[:k], from)
		}
	}()
}

// echoAt echoes what it receives over TCP on an address.
func echoAt(t testing.TB, n *nstest.NS, addr string) {
	t.Helper()
	var l net.Listener
	n.Do(func() (err error) { l, err = net.Listen("tcp", addr); return })
	serve(t, l)
}

// serve echoes what connections to a listener send.
func serve(t testing.TB, l net.Listener) {
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection or the test
				defer c.Close()
				defer context.AfterFunc(t.Context(), func() { c.Close() })()
				io.Copy(c, c)
			}()
		}
	}()
}

// look tries a new connection from n and returns how the port looks. Over UDP, it sends a
// datagram and waits for its echo.
func look(n *nstest.NS, network, addr string) string { return lookFor(n, network, addr, silence) }

// lookFor is like look, but waits for an answer for a given time.
func lookFor(n *nstest.NS, network, addr string, wait time.Duration) string {
	c, err := dialFrom(n, network, "", addr, wait)
	if err == nil {
		defer c.Close()
		err = echo(c, wait)
	}
	switch {
	case err == nil:
		return reached
	case errors.Is(err, syscall.ECONNREFUSED):
		return rejected
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return dark
	}
	return err.Error()
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

func dialFrom(n *nstest.NS, network, from, addr string, wait time.Duration) (net.Conn, error) {
	var c net.Conn
	var err error
	n.Do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			})
		}}
		switch {
		case from != "" && strings.HasPrefix(network, "tcp"):
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
		case from != "":
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
		}
		c, err = d.DialContext(ctx, network, addr)
		return nil
	})
	return c, err
}

// echo sends something and waits for it to come back.
func echo(c net.Conn, wait time.Duration) error {
	const word = "knock knock"
	c.SetDeadline(time.Now().Add(wait))
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	b := make([]byte, len(word))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != word {
		return fmt.Errorf("echo %q", b)
	}
	return nil
}

// want checks how addresses look from a namespace.
func want(t testing.TB, n *nstest.NS, network, addr, how string) {
	t.Helper()
	wait := silence
	if how != dark {
		wait = patience
	}
	if got := lookFor(n, network, addr, wait); got != how {
		t.Errorf("%s %s is %s, want %s", network, addr, got, how)
	}
}

// eventually waits for a condition, and fails the test if it does not become true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(10 * time.Millisecond) // between polls
	}
}

func at(host string, number int) string { return net.JoinHostPort(host, fmt.Sprint(number)) }
