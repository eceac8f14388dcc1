//go:build linux

package presence

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/conntrack"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/sockdiag"
)

// tracks makes n track connections, as the fence does, and label UDP flows to port 51820,
// as the fence labels those that it lets in.
func tracks(n *nstest.NS) {
	n.Run("nft", `table inet t {
		chain pre { type filter hook prerouting priority -150; iif != lo udp dport 51820 ct label set 127
		}
		chain out { type filter hook output priority 0; ct state new accept
		}
	}`)
}

// gateway returns a server that tracks connections, and a visitor.
func gateway(t *testing.T) (server, visitor *nstest.NS) {
	nstest.Need(t, "nft", "conntrack")
	server, visitor = nstest.Gate(t)
	tracks(server)
	return server, visitor
}

// echoes answers datagrams to a port from one socket, as WireGuard does.
func echoes(t testing.TB, n *nstest.NS, address string) net.PacketConn {
	t.Helper()
	var server net.PacketConn
	n.Do(func() (err error) { server, err = net.ListenPacket("udp", address); return })
	t.Cleanup(func() { server.Close() })
	go func() { // ends with the socket
		b := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			server.WriteTo(b[:n], from)
		}
	}()
	return server
}

// connections lists who is in at n, as "tcp LOCAL REMOTE", sorted. An ephemeral remote
// port is written as "*".
func connections(t testing.TB, n *nstest.NS, list ...string) []string {
	t.Helper()
	var all []string
	n.Do(func() error {
		found, err := NewWatcher().In(nstest.Ranges(t, list...))
		for _, c := range found {
			all = append(all, fmt.Sprintf("%s %s %s:*", c.Proto, c.Local, c.Remote.Addr()))
		}
		return err
	})
	slices.Sort(all)
	return all
}

// sockets returns the number of n's live sockets on ports.
func sockets(t testing.TB, n *nstest.NS, list ...string) int {
	t.Helper()
	count := 0
	n.Do(func() error {
		found, err := sockdiag.Live(nstest.Ranges(t, list...))
		count = len(found)
		return err
	})
	return count
}

// accept accepts a connection, and keeps it open until the test ends.
func accept(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// asks sends a word and waits for its echo.
func asks(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 100)); err != nil {
		t.Fatalf("no answer: %v", err)
	}
}

// is checks who is in.
func is(t testing.TB, what string, n *nstest.NS, ports string, want ...string) {
	t.Helper()
	if got := connections(t, n, strings.Fields(ports)...); !slices.Equal(got, want) {
		t.Errorf("%s: in by %s are %q, want %q", what, ports, got, want)
	}
}

// wireguards are lists of few ports, and of so many that the kernel is asked for all.
var wireguards = []string{"51820/udp", "51820/udp 22/tcp 53/udp", "51000-52000/udp", "51820/udp 1-4/udp"}

func TestFlowsToAServerWithOneSocket(t *testing.T) {
	server, visitor := gateway(t)
	echoes(t, server, ":51820")
	is(t, "before", server, "51820/udp")
	four, six := visitor.Dial("udp", "192.0.2.1:51820"), visitor.Dial("udp", "[2001:db8::1]:51820")
	asks(t, four)
	asks(t, six)
	want := []string{"udp 192.0.2.1:51820 192.0.2.2:*", "udp [2001:db8::1]:51820 2001:db8::2:*"}
	for _, ports := range wireguards {
		is(t, "both", server, ports, want...)
	}
	is(t, "by other ports", server, "51821/udp 22/tcp 51820/tcp 1-51819/udp")
	server.Run("conntrack", "-F")
	is(t, "forgotten", server, "51820/udp")
	asks(t, four)
	is(t, "once more", server, "51820/udp", want[0])
}

// A flow that was not answered does not count, since it may be forged.
func TestUnansweredDatagramsAreNobody(t *testing.T) {
	server, visitor := gateway(t)
	server.Do(func() error {
		c, err := net.ListenPacket("udp", ":51820")
		t.Cleanup(func() { c.Close() })
		return err
	})
	if _, err := io.WriteString(visitor.Dial("udp", "192.0.2.1:51820"), "hello"); err != nil {
		t.Fatal(err)
	}
	nstest.Becomes(t, "the entry", []string{"[UNREPLIED]"}, func() []string {
		return regexp.MustCompile(`\[UNREPLIED\]`).FindAllString(server.Run("conntrack", "-L", "-p", "udp", "--orig-port-dst", "51820"), -1)
	})
	for _, ports := range wireguards {
		is(t, "unanswered", server, ports)
	}
}

// If connection tracking has forgotten a flow and the server sends first, there is an
// entry in the opposite direction. It counts once the visitor has answered and was let
// in; so does a visitor at a published port, whose flow is translated twice.
func TestFlowsThatTheServerTakesUp(t *testing.T) {
	server, visitor := gateway(t)
	udp := echoes(t, server, ":51820")
	c := visitor.Dial("udp", "192.0.2.1:51820")
	asks(t, c)
	server.Run("conntrack", "-F")
	if _, err := udp.WriteTo([]byte("still here"), c.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	is(t, "the server alone", server, "51820/udp")
	asks(t, c) // for connection tracking, this is the answer
	for _, ports := range wireguards {
		is(t, "taken up again", server, ports, "udp 192.0.2.1:51820 192.0.2.2:*")
	}
	// A flow that the server itself begins from the same port was not let in.
	server.Run("nft", "flush", "table", "inet", "t")
	server.Run("nft", "add", "rule", "inet", "t", "out", "ct", "state", "new", "accept")
	server.Run("conntrack", "-F")
	udp.WriteTo([]byte("hello"), c.LocalAddr())
	asks(t, c)
	is(t, "the server's own", server, "51820/udp")
}

// If a server's socket is connected to a visitor, that visitor is in, even if connection
// tracking has forgotten the flow.
func TestConnectedSocketsOverUDP(t *testing.T) {
	server, visitor := gateway(t)
	c := visitor.Dial("udp", "192.0.2.1:51820")
	var in net.Conn
	server.Do(func() (err error) {
		in, err = net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 51820}, c.LocalAddr().(*net.UDPAddr))
		return err
	})
	defer in.Close()
	one := "udp 192.0.2.1:51820 192.0.2.2:*"
	is(t, "connected", server, "51820/udp", one)
	io.WriteString(c, "hello")
	in.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := in.Read(make([]byte, 9)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "hello")
	is(t, "a flow and its socket", server, "51820/udp", one)
	server.Run("conntrack", "-F")
	is(t, "forgotten", server, "51820/udp", one)
	io.WriteString(in, "still here")
	io.WriteString(c, "still here")
	if _, err := in.Read(make([]byte, 99)); err != nil {
		t.Fatal(err)
	}
	is(t, "taken up again", server, "51820/udp", one)
}

// Visitors at a port published by destination NAT count, although it has no socket here.
func TestPublishedPorts(t *testing.T) {
	server, visitor := gateway(t)
	container := nstest.New(t)
	nstest.Link(server, container, []string{"198.51.100.1/24"}, []string{"198.51.100.2/24"})
	container.Run("ip", "route", "add", "default", "via", "198.51.100.1")
	server.Run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	server.Run("nft", `table ip nat { chain pre { type nat hook prerouting priority dstnat;
		fib daddr type local tcp dport 8080 dnat to 198.51.100.2:80
		fib daddr type local tcp dport 2222 redirect to :22
		fib daddr type local udp dport 8053 dnat to 198.51.100.2:53
		}
	}`)
	web := container.Listen("tcp", ":80")
	ssh := server.Listen("tcp", ":22")
	echoes(t, container, ":53")

	out := visitor.Dial("tcp", "192.0.2.1:8080").(*net.TCPConn)
	in := accept(t, web)
	nstest.Becomes(t, "established", []string{"tcp 192.0.2.1:8080 192.0.2.2:*"}, func() []string { return connections(t, server, "8080/tcp") })
	is(t, "in a range", server, "8000-9000/tcp 1-21/udp", "tcp 192.0.2.1:8080 192.0.2.2:*")
	is(t, "the container's port", server, "80/tcp")
	out.CloseWrite() // and waits for the rest of the answer
	if _, err := io.ReadAll(in); err != nil {
		t.Fatal(err)
	}
	is(t, "half closed", server, "8080/tcp", "tcp 192.0.2.1:8080 192.0.2.2:*")
	in.Close()
	io.ReadAll(out)
	nstest.Becomes(t, "closed", nil, func() []string { return connections(t, server, "8080/tcp") })

	asks(t, visitor.Dial("udp", "192.0.2.1:8053"))
	is(t, "UDP", server, "8053/udp", "udp 192.0.2.1:8053 192.0.2.2:*")

	// A connection that is redirected to another port counts once, whichever of the two
	// ports is asked for.
	visitor.Dial("tcp", "192.0.2.1:2222")
	accept(t, ssh)
	nstest.Becomes(t, "redirected", []string{"tcp 192.0.2.1:2222 192.0.2.2:*"}, func() []string { return connections(t, server, "2222/tcp") })
	is(t, "redirected to a guarded port", server, "2222/tcp 22/tcp", "tcp 192.0.2.1:2222 192.0.2.2:*")
	is(t, "behind", server, "22/tcp", "tcp 192.0.2.1:22 192.0.2.2:*")
}

// Flows that are forwarded to other hosts did not come in through a door.
func TestOtherHostsConnections(t *testing.T) {
	server, visitor := gateway(t)
	lan := nstest.New(t)
	nstest.Link(server, lan, []string{"198.51.100.1/24"}, []string{"198.51.100.2/24"})
	lan.Run("ip", "route", "add", "default", "via", "198.51.100.1")
	server.Run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	server.Run("nft", "flush", "chain", "inet", "t", "pre")
	visitor.Run("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1")
	echoes(t, visitor, ":51820")
	asks(t, lan.Dial("udp", "192.0.2.2:51820"))
	is(t, "through here", server, "51820/udp")
}

// This machine's connections to itself do not count, whichever of its addresses they use.
func TestThisMachineIsNobody(t *testing.T) {
	server, _ := gateway(t)
	server.Run("ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo")
	server.Listen("tcp", ":22")
	echoes(t, server, ":51820")
	for _, pair := range [][2]string{
		{"127.0.0.1", "127.0.0.1"}, {"127.0.0.9", "127.0.0.1"}, {"::1", "::1"}, {"192.0.2.1", "192.0.2.1"},
		{"2001:db8::1", "2001:db8::1"}, {"198.51.100.7", "192.0.2.1"}, // an address that no interface has
	} {
		from, to := net.ParseIP(pair[0]), net.ParseIP(pair[1])
		var udp net.Conn
		server.Do(func() error {
			tcp, err := net.DialTCP("tcp", &net.TCPAddr{IP: from}, &net.TCPAddr{IP: to, Port: 22})
			if err != nil {
				return err
			}
			t.Cleanup(func() { tcp.Close() })
			udp, err = net.DialUDP("udp", &net.UDPAddr{IP: from}, &net.UDPAddr{IP: to, Port: 51820})
			return err
		})
		defer udp.Close()
		if pair[0] != "198.51.100.7" { // here the server would answer from another address, ip(7)
			asks(t, udp)
		}
	}
	if got := sockets(t, server, "22/tcp"); got != 6 {
		t.Fatalf("%d sockets, want six", got)
	}
	is(t, "itself", server, "22/tcp 51820/udp")
	is(t, "itself, in ranges", server, "1-65535/tcp 1-65535/udp")
}

// Connections that this machine has begun do not count, even if their local port is one of
// a door's.
func TestOutgoingConnectionsAreNobody(t *testing.T) {
	server, visitor := gateway(t)
	web := visitor.Listen("tcp", ":80")
	echoes(t, visitor, ":53")
	var tcp, udp net.Conn
	server.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: 8022}}
		if tcp, err = d.Dial("tcp", "192.0.2.2:80"); err != nil {
			return err
		}
		d.LocalAddr = &net.UDPAddr{Port: 60999}
		udp, err = d.Dial("udp", "192.0.2.2:53")
		return err
	})
	defer tcp.Close()
	defer udp.Close()
	accept(t, web)
	asks(t, udp)
	for _, ports := range []string{"8022/tcp 60999/udp", "8000-9000/tcp 60000-61000/udp"} {
		if got := sockets(t, server, strings.Fields(ports)...); got != 2 {
			t.Errorf("%d sockets, want two", got)
		}
		is(t, "begun here", server, ports)
	}
}

// A session counts even if connection tracking has forgotten it, whoever sends first then,
// and where nothing is tracked.
func TestForgottenSessions(t *testing.T) {
	server, visitor := gateway(t)
	l := server.Listen("tcp", ":22")
	out := visitor.Dial("tcp", "192.0.2.1:22")
	in := accept(t, l)
	one := "tcp 192.0.2.1:22 192.0.2.2:*"
	for _, order := range [][]net.Conn{{in, out}, {out, in}} {
		server.Run("conntrack", "-F")
		is(t, "forgotten", server, "22/tcp", one)
		for i, c := range order {
			io.WriteString(c, "hello")
			if _, err := io.ReadFull(order[1-i], make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			is(t, fmt.Sprintf("%s was heard", c.LocalAddr()), server, "22/tcp", one)
		}
	}
	server.Run("nft", "flush", "ruleset")
	server.Run("conntrack", "-F")
	is(t, "not tracked", server, "22/tcp", one)
}

// Without permission to list flows, sockets still count, and the error says what that
// means.
func TestFlowsCannotBeSeen(t *testing.T) {
	server, visitor := gateway(t)
	l := server.Listen("tcp", ":22")
	visitor.Dial("tcp", "192.0.2.1:22")
	accept(t, l)
	w := NewWatcher()
	server.Do(w.FlowsVisible)
	var found []Connection
	var err, visible error
	server.Do(func() error { // on a thread that ends afterwards
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		found, err = w.In(nstest.Ranges(t, "22/tcp"))
		visible = w.FlowsVisible()
		return nil
	})
	if want := netip.MustParseAddrPort("192.0.2.1:22"); len(found) != 1 || found[0].Local != want {
		t.Errorf("in are %v, want the one at %v", found, want)
	}
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "flows cannot be seen, so only connected sockets count") {
		t.Errorf("In returns the error %v", err)
	}
	if !errors.Is(visible, fs.ErrPermission) || !strings.Contains(visible.Error(), "CAP_NET_ADMIN") {
		t.Errorf("FlowsVisible returns %v", visible)
	}
}

// Looks share lasting connections, and none is closed as long as the kernel answers, since
// closing one delays visitors who are to be let in.
func TestLooksKeepTheirConnections(t *testing.T) {
	server, _ := gateway(t)
	server.Listen("tcp", ":22")
	refused := errors.New("no more files")
	var mu sync.Mutex
	var made []*conntrack.Conn
	w := newWatcher(func() (*conntrack.Conn, error) {
		if refused != nil {
			return nil, refused
		}
		c, err := conntrack.Dial()
		mu.Lock()
		made = append(made, c)
		mu.Unlock()
		return c, err
	})
	looks := func(n int) error {
		var all errgroup.Group
		for range n {
			all.Go(func() (err error) {
				server.Do(func() error {
					_, err = w.In(nstest.Ranges(t, "22/tcp"))
					err = errors.Join(err, w.FlowsVisible())
					return nil
				})
				return err
			})
		}
		return all.Wait()
	}
	const lasting = looksAtOnce + 1
	if err := looks(2 * lasting); !errors.Is(err, refused) {
		t.Errorf("without a connection: %v, want %v", err, refused)
	}
	refused = nil
	for _, n := range []int{8, 1, 1, 8} {
		if err := looks(n); err != nil {
			t.Errorf("%d at once: %v", n, err)
		}
	}
	if len(made) != lasting {
		t.Errorf("%d connections were made for all looks, want %d", len(made), lasting)
	}
	for _, c := range made {
		c.Close() // without its user noticing
	}
	for range lasting {
		looks(1)
	}
	if err := looks(8); err != nil || len(made) != 2*lasting {
		t.Errorf("after all had broken: %v, and %d connections were made, want %d", err, len(made)-lasting, lasting)
	}
}
