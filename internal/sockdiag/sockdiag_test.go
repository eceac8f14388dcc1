//go:build linux

package sockdiag

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"go.uber.org/goleak"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connections lists n's live sockets, as "tcp LOCAL REMOTE", sorted. An ephemeral
// remote port is written as "*".
func connections(t testing.TB, n *nstest.NS, list ...string) []string {
	t.Helper()
	var all []string
	n.Do(func() error {
		found, err := Live(nstest.Ranges(t, list...))
		for _, s := range found {
			all = append(all, fmt.Sprintf("%s %s %s:*", s.Proto, s.Local, s.Remote.Addr()))
		}
		return err
	})
	slices.Sort(all)
	return all
}

func listening(t testing.TB, n *nstest.NS, list ...string) []string {
	t.Helper()
	var all []string
	n.Do(func() error {
		found, err := Listening(nstest.Ranges(t, list...))
		for _, s := range found {
			all = append(all, s.Local.String())
		}
		return err
	})
	slices.Sort(all)
	return all
}

func TestConnectionsOfBothFamilies(t *testing.T) {
	server, visitor := nstest.Gate(t)
	both := server.Listen("tcp", ":22")     // an IPv6 socket that accepts IPv4 too, as mapped addresses
	server.Listen("tcp4", "192.0.2.1:2222") // never accepts; connections to it are live all the same
	for _, address := range []string{"192.0.2.1:22", "[2001:db8::1]:22", "192.0.2.1:2222"} {
		visitor.Dial("tcp", address)
	}
	for range 2 {
		in, err := both.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
	}
	want := []string{
		"tcp 192.0.2.1:22 192.0.2.2:*",
		"tcp 192.0.2.1:2222 192.0.2.2:*",
		"tcp [2001:db8::1]:22 2001:db8::2:*",
	}
	for _, test := range []struct {
		ports []string
		want  []string
	}{
		{[]string{"22/tcp", "2222/tcp"}, want},
		{[]string{"1-65535/tcp"}, want},
		{[]string{"22/tcp"}, []string{want[0], want[2]}},
		{[]string{"1-21/tcp", "23-2221/tcp", "2222/tcp", "2223-65535/tcp"}, []string{want[1]}},
		{[]string{"22/udp"}, nil},
		{nil, nil},
	} {
		nstest.Becomes(t, fmt.Sprint(test.ports), test.want, func() []string { return connections(t, server, test.ports...) })
	}
	// The visitor's ends have port 22 as their remote port, not their local one.
	if got := connections(t, visitor, "22/tcp", "2222/tcp"); got != nil {
		t.Errorf("the visitor has connections %q, want none", got)
	}
	if got, want := listening(t, server, "22/tcp", "2222/tcp"), []string{"192.0.2.1:2222", "[::]:22"}; !slices.Equal(got, want) {
		t.Errorf("listening on %q, want %q", got, want)
	}
	// Connections outlive the listener.
	both.Close()
	if got := connections(t, server, "22/tcp"); len(got) != 2 {
		t.Errorf("connections without their listener: %q", got)
	}
	if got := listening(t, server, "22/tcp"); got != nil {
		t.Errorf("after the listener was closed, listening on %q, want nothing", got)
	}
}

func TestHalfClosedConnections(t *testing.T) {
	server, visitor := nstest.Gate(t)
	l := server.Listen("tcp", "192.0.2.1:22")
	accept := func() (*net.TCPConn, *net.TCPConn) {
		t.Helper()
		out := visitor.Dial("tcp", "192.0.2.1:22").(*net.TCPConn)
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close() })
		return in.(*net.TCPConn), out
	}
	one := []string{"tcp 192.0.2.1:22 192.0.2.2:*"}
	seen := func() []string { return connections(t, server, "22/tcp") }

	// The visitor has finished sending and waits for the rest of the answer.
	in, out := accept()
	out.CloseWrite()
	if _, err := io.ReadAll(in); err != nil {
		t.Fatal(err)
	}
	nstest.Becomes(t, "half closed by the visitor", one, seen)
	in.Close()
	out.Close()
	nstest.Becomes(t, "closed", nil, seen)

	// The server has finished sending, and the visitor still sends.
	in, out = accept()
	in.CloseWrite()
	if _, err := io.ReadAll(out); err != nil {
		t.Fatal(err)
	}
	nstest.Becomes(t, "half closed by the server", one, seen)
	// The server's process closes the socket: only the kernel still has it (FIN_WAIT2).
	in.Close()
	nstest.Becomes(t, "closed by the server", nil, seen)
}

// A connection whose handshake is never completed is not live.
func TestHalfOpenIsNotLive(t *testing.T) {
	server, visitor := nstest.Gate(t)
	nstest.Need(t, "nft", "ss")
	server.Listen("tcp", "192.0.2.1:22")
	visitor.Run("nft", "add table ip t; add chain ip t out { type filter hook output priority 0; }; "+
		"add rule ip t out tcp flags & (syn | ack) == ack drop")
	visitor.Dial("tcp", "192.0.2.1:22")
	if out := server.Run("ss", "-Htan"); !strings.Contains(out, "SYN-RECV") {
		t.Fatalf("no half-open connection was made: %s", out)
	}
	if got := connections(t, server, "22/tcp"); got != nil {
		t.Errorf("half open: %q, want none", got)
	}
}

func TestUDP(t *testing.T) {
	server, visitor := nstest.Gate(t)
	var bound, connected net.PacketConn
	server.Do(func() (err error) {
		if bound, err = net.ListenPacket("udp", ":60001"); err != nil {
			return err
		}
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP("192.0.2.1"), Port: 60002}, &net.UDPAddr{IP: net.ParseIP("192.0.2.2"), Port: 4242})
		connected = c
		return err
	})
	defer bound.Close()
	defer connected.Close()
	visitor.Dial("udp", "192.0.2.1:60001")
	if got, want := connections(t, server, "60000-61000/udp", "22/tcp"), []string{"udp 192.0.2.1:60002 192.0.2.2:*"}; !slices.Equal(got, want) {
		t.Errorf("connections %q, want %q", got, want)
	}
	if got, want := listening(t, server, "60000-61000/udp"), []string{"[::]:60001"}; !slices.Equal(got, want) {
		t.Errorf("bound %q, want %q", got, want)
	}
}

// More ranges than fit into the kernel's filter give the same result.
func TestManyRanges(t *testing.T) {
	n := nstest.New(t)
	n.Listen("tcp", "127.0.0.1:3000")
	n.Dial("tcp", "127.0.0.1:3000")
	for _, count := range []int{1, 2, maxFilterRanges - 1, maxFilterRanges, maxFilterRanges + 1} {
		var list []string
		for i := range count {
			list = append(list, fmt.Sprintf("%d/tcp", 3000-2*(i%1400)))
		}
		if got := connections(t, n, list...); len(got) != 1 {
			t.Errorf("%d ranges: %q, want the one connection", count, got)
		}
		if got := connections(t, n, append(list[1:], "3001-3002/tcp")...); len(got) != 0 {
			t.Errorf("%d ranges without the port: %q, want none", count, got)
		}
	}
}

// The kernel sends only what was asked for.
func TestTheKernelFilters(t *testing.T) {
	n := nstest.New(t)
	n.Listen("tcp", "127.0.0.1:3000")
	n.Dial("tcp", "127.0.0.1:3000")
	for _, test := range []struct {
		ports []string
		want  int
	}{
		{[]string{"3000/tcp"}, 1},
		{[]string{"2999-3001/tcp"}, 1},
		{[]string{"1-2/tcp", "3000/tcp", "4/tcp"}, 1},
		{[]string{"1-2/tcp", "3001/tcp", "1-2999/tcp"}, 0},
		{[]string{"2999/tcp"}, 0},
		{[]string{"3001/tcp"}, 0},
		{[]string{"1/tcp"}, 0},
	} {
		n.Do(func() error {
			conn, err := netlink.Dial(netlinkSockDiag, nil)
			if err != nil {
				return err
			}
			defer conn.Close()
			replies, err := conn.Execute(netlink.Message{
				Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
				Data:   diagRequest(syscall.AF_INET, port.TCP, 1<<stateEstablished, nstest.Ranges(t, test.ports...)),
			})
			if len(replies) != test.want {
				t.Errorf("%q: the kernel sent %d sockets, want %d", test.ports, len(replies), test.want)
			}
			return err
		})
	}
}

func TestTenThousandSockets(t *testing.T) {
	n := nstest.New(t)
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	l := n.Listen("tcp", "127.0.0.1:22")
	count := int(min(5_000, files.Cur/2-200)) // this process has both ends
	n.Do(func() error {
		for range count {
			c, err := net.Dial("tcp", "127.0.0.1:22")
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			in, err := l.Accept()
			if err != nil {
				return err
			}
			t.Cleanup(func() { in.Close() })
		}
		return nil
	})
	n.Do(func() error {
		begin := time.Now()
		got, err := Live(nstest.Ranges(t, "22/tcp"))
		t.Logf("listed %d connections of %d sockets in %s", len(got), 2*count, time.Since(begin))
		if len(got) != count {
			t.Errorf("%d connections, want %d", len(got), count)
		}
		begin = time.Now()
		none, err2 := Live(nstest.Ranges(t, "23/tcp"))
		t.Logf("listed %d connections of %d sockets in %s", len(none), 2*count, time.Since(begin))
		if err == nil {
			err = err2
		}
		return err
	})
}

// A connection to a real sshd is live, while sshd listens and afterwards.
func TestRealSSHD(t *testing.T) {
	nstest.Need(t, "ssh-keygen", "/usr/sbin/sshd")
	server, visitor := nstest.Gate(t)
	dir := t.TempDir()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/key").CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	sshd := server.Command(t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null",
		"-o", "HostKey="+dir+"/key", "-o", "PidFile=none", "-o", "Port=22")
	if err := sshd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			ended = true
			sshd.Process.Signal(syscall.SIGTERM)
			sshd.Wait()
		}
	}
	defer end()
	nstest.Becomes(t, "sshd listens", []string{"0.0.0.0:22", "[::]:22"}, func() []string { return listening(t, server, "22/tcp") })
	c := visitor.Dial("tcp", "192.0.2.1:22")
	banner := make([]byte, 4)
	if _, err := io.ReadFull(c, banner); err != nil || string(banner) != "SSH-" {
		t.Fatalf("banner %q, %v", banner, err)
	}
	one := []string{"tcp 192.0.2.1:22 192.0.2.2:*"}
	nstest.Becomes(t, "a visitor", one, func() []string { return connections(t, server, "22/tcp") })
	end()
	if got := connections(t, server, "22/tcp"); !slices.Equal(got, one) {
		t.Errorf("with sshd's listener gone: %q, want %q", got, one)
	}
	c.Close()
	nstest.Becomes(t, "the visitor left", nil, func() []string { return connections(t, server, "22/tcp") })
}

// diagMessage is struct inet_diag_msg.
func diagMessage(family uint8, local, remote netip.AddrPort) []byte {
	b := make([]byte, msgLen)
	b[0], b[1] = family, stateEstablished
	binary.BigEndian.PutUint16(b[4:], local.Port())
	binary.BigEndian.PutUint16(b[6:], remote.Port())
	copy(b[8:24], local.Addr().AsSlice())
	copy(b[24:40], remote.Addr().AsSlice())
	return b
}

func TestParseDump(t *testing.T) {
	mapped := diagMessage(syscall.AF_INET6, netip.MustParseAddrPort("[::ffff:192.0.2.1]:22"), netip.MustParseAddrPort("[::ffff:192.0.2.2]:1025"))
	ports := []port.Range{{Proto: port.TCP, First: 22, Last: 22}}
	got, whole, err := parseDump([]netlink.Message{{Data: mapped}}, port.TCP, ports)
	want := []Socket{{Proto: port.TCP, state: stateEstablished, Local: netip.MustParseAddrPort("192.0.2.1:22"), Remote: netip.MustParseAddrPort("192.0.2.2:1025")}}
	if err != nil || !whole || !slices.Equal(got, want) {
		t.Errorf("parseDump = %+v, %v, %v, want %+v", got, whole, err, want)
	}
	interrupted := netlink.Message{Header: netlink.Header{Flags: netlink.DumpInterrupted}, Data: mapped}
	if _, whole, err := parseDump([]netlink.Message{interrupted}, port.TCP, ports); whole || err != nil {
		t.Errorf("an interrupted dump: whole %v, %v", whole, err)
	}
	for name, data := range map[string][]byte{
		"the entry of a socket has 71 bytes, want at least 72":   mapped[:71],
		"the entry of a socket is neither for IPv4 nor for IPv6": append([]byte{1}, mapped[1:]...),
	} {
		if _, _, err := parseDump([]netlink.Message{{Data: data}}, port.TCP, ports); err == nil || err.Error() != name {
			t.Errorf("parseDump: %v, want %q", err, name)
		}
	}
}
