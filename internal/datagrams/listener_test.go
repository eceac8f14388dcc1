//go:build linux

package datagrams

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/nstest"
)

func ifIndex(t testing.TB, s *scene) int {
	t.Helper()
	var i *net.Interface
	s.gateway.Do(func() (err error) { i, err = net.InterfaceByName(s.gatewayIf); return err })
	return i.Index
}

// What is sent is heard with its whole path, and both Open's answer and the gateway's
// own leave from the address that it was sent to.
func TestHearsAndAnswers(t *testing.T) {
	s := newScene(t)
	for _, a := range []string{"fe80::%d/64", "169.254.7.%d/24"} {
		s.gateway.Run("ip", "addr", "add", fmt.Sprintf(a, 1), "dev", s.gatewayIf, "nodad")
		s.visitor.Run("ip", "addr", "add", fmt.Sprintf(a, 2), "dev", s.visitorIf, "nodad")
	}
	s.mustSet(map[uint16]knock.Opener{59000: &words{}})
	index := ifIndex(t, s)
	for i, tt := range []struct{ from, to string }{
		{visitor4, gateway4}, {visitor4, second4}, {visitor6, gateway6}, {visitor6, second6},
		{"fe80::2%" + s.visitorIf, "fe80::1%" + s.visitorIf}, {"169.254.7.2", "169.254.7.1"},
	} {
		t.Run(tt.to, func(t *testing.T) {
			c := s.caller(netip.AddrPortFrom(netip.MustParseAddr(tt.from), 0).String())
			to := netip.AddrPortFrom(netip.MustParseAddr(tt.to), 59000)
			before := time.Now()
			send(t, c, to.String(), "knock:ok")
			got := s.record.await(t, i+1)[i]

			sender := netip.MustParseAddr(tt.from).WithZone("")
			zone := ""
			if sender.Is6() && sender.IsLinkLocalUnicast() {
				zone = fmt.Sprint(index)
			}
			port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
			want := knock.Heard{
				Source: sender, Place: knock.Place{Medium: knock.Datagrams, Port: 59000}, Said: "knock:ok", Time: got.Time,
				Path: knock.Path{
					From: netip.AddrPortFrom(sender.WithZone(zone), port),
					To:   netip.AddrPortFrom(to.Addr().WithZone(zone), 59000),
					If:   index,
				},
			}
			if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
				t.Errorf("heard (-want +got):\n%s", d)
			}
			if got.Time.Before(before) || time.Now().Before(got.Time) {
				t.Errorf("heard at %v, want after %v and before now", got.Time, before)
			}
			if text, by := answered(t, c); text != "ok" || by != to {
				t.Errorf("Open's answer: %q from %v, want %q from %v", text, by, "ok", to)
			}
			send(t, c, to.String(), "ask:who")
			if text, by := answered(t, c); text != "who" || by != to {
				t.Errorf("a glance's answer: %q from %v, want %q from %v", text, by, "who", to)
			}
			long := strings.Repeat("x", LongestAnswer)
			if err := s.listener.Answer(got.Path, []byte(long)); err != nil {
				t.Errorf("answer: %v", err)
			}
			if text, by := answered(t, c); text != long || by != to {
				t.Errorf("the answer: %d bytes from %v, want %d from %v", len(text), by, len(long), to)
			}
		})
	}
}

// On a machine without IPv6 the listener hears IPv4.
func TestIPv4Alone(t *testing.T) {
	s := newScene(t)
	s.mustSet(map[uint16]knock.Opener{59001: nil})
	s.gateway.Do(func() error {
		four, err := openFor(unix.AF_INET, 59000)
		if err != nil {
			return err
		}
		s.listener.mu.Lock()
		defer s.listener.mu.Unlock()
		s.listener.sockets[59000] = four
		s.listener.running.Go(func() { s.listener.receive(four) })
		return s.listener.put(59000, &words{})
	})
	c := s.caller(visitor4 + ":0")
	send(t, c, second4+":59000", "knock:ok")
	got := s.record.await(t, 1)[0]
	if got.Source != netip.MustParseAddr(visitor4) || got.Path.To.String() != second4+":59000" {
		t.Errorf("heard %v to %v, want %s to %s", got.Source, got.Path.To, visitor4, second4)
	}
	if text, by := answered(t, c); text != "ok" || by.String() != second4+":59000" {
		t.Errorf("answer %q from %v, want from %s", text, by, second4)
	}
	send(t, c, second4+":59000", "ask:who")
	if text, by := answered(t, c); text != "who" || by.String() != second4+":59000" {
		t.Errorf("a glance's answer %q from %v, want from %s", text, by, second4)
	}
	// The kernel gives these to sockets of IPv4 alone.
	s.visitor.Run("ip", "route", "replace", "224.0.0.1", "dev", s.visitorIf)
	send(t, c, "224.0.0.1:59000", "knock")
	eventually(t, "multicast is thrown away", func() bool { return s.listener.Counts() == (Counts{Strange: 1, Replied: 1}) })
}

// What nobody can have sent, what is for many, and what is too long is thrown
// away; the longest and the shortest are heard.
func TestThrownAway(t *testing.T) {
	s := newScene(t)
	s.gateway.Run("ip", "addr", "change", gateway4+"/24", "brd", "192.0.2.255", "dev", s.gatewayIf)
	s.mustSet(map[uint16]knock.Opener{59000: &anything{}})
	s.visitor.Run("ip", "route", "replace", "255.255.255.255", "dev", s.visitorIf)
	local := caller(t, s.gateway, "[::]:0")
	visitor := s.caller("[::]:0")
	for i, tt := range []struct {
		what, to string
		by       *net.UDPConn
		size     int
	}{
		{"longer than allowed", gateway4, visitor, Longest + 1},
		{"longer than a packet", gateway6, visitor, 20000},
		{"to a network's broadcast", "192.0.2.255", visitor, 5},
		{"to everybody's broadcast", "255.255.255.255", visitor, 5},
		{"to multicast over IPv6", "ff02::1%" + s.visitorIf, visitor, 5},
		{"over loopback", "127.0.0.1", local, 5},
		{"over loopback by IPv6", "::1", local, 5},
		{"to itself", gateway4, local, 5},
		{"to itself by IPv6", gateway6, local, 5},
	} {
		t.Run(tt.what, func(t *testing.T) {
			send(t, tt.by, netip.AddrPortFrom(netip.MustParseAddr(tt.to), 59000).String(), strings.Repeat("x", tt.size))
			eventually(t, "it is counted", func() bool { return s.listener.Counts() == (Counts{Strange: uint64(i + 1)}) })
		})
	}
	for i, size := range []int{Longest, 0} {
		send(t, visitor, gateway4+":59000", strings.Repeat("x", size))
		if got := s.record.await(t, i+1); len(got) != i+1 || len(got[i].Said.(string)) != size {
			t.Errorf("heard %d, the last %v; want %d bytes", len(got), got[i], size)
		}
	}
	if got := s.listener.Counts(); got != (Counts{Strange: 9}) {
		t.Errorf("counts: %+v, want no others thrown away", got)
	}
}

// A datagram without a source port asks for no answer, and no socket sends one.
func TestSourcePortOfNobody(t *testing.T) {
	s := newScene(t)
	s.mustSet(map[uint16]knock.Opener{59000: &anything{}})
	s.visitor.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		packet := []byte{0, 0, 0xe6, 0x78, 0, 9, 0, 0, 'x'} // ports 0 and 59000, no checksum (RFC 768)
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(gateway4).As4()})
	})
	eventually(t, "it is counted", func() bool { return s.listener.Counts() == (Counts{Strange: 1}) })
}

// Addresses and interfaces come and go, and the listener need not do anything.
func TestAddressesComeAndGo(t *testing.T) {
	s := newScene(t)
	s.mustSet(map[uint16]knock.Opener{59000: &words{}})
	heardAt := func(from, to string) {
		t.Helper()
		c := s.caller(netip.AddrPortFrom(netip.MustParseAddr(from), 0).String())
		asked := netip.AddrPortFrom(netip.MustParseAddr(to), 59000)
		n := len(s.record.heard())
		eventually(t, "a knock at "+to, func() bool {
			_, _ = c.WriteToUDPAddrPort([]byte("knock:ok"), asked) // there may be no way yet
			return len(s.record.heard()) > n
		})
		if _, by := answered(t, c); by != asked {
			t.Errorf("answer from %v, want from %v", by, asked)
		}
	}
	const new4, new6 = "203.0.113.9", "2001:db8::99"
	s.visitor.Run("ip", "route", "add", new4+"/32", "dev", s.visitorIf)
	s.gateway.Run("ip", "addr", "add", new4+"/32", "dev", s.gatewayIf)
	heardAt(visitor4, new4)

	// It is tentative at first, and then it is heard.
	s.gateway.Run("sh", "-c", fmt.Sprintf("echo 0 > /proc/sys/net/ipv6/conf/%[1]s/router_solicitation_delay; "+
		"echo 100 > /proc/sys/net/ipv6/neigh/%[1]s/retrans_time_ms", s.gatewayIf))
	s.gateway.Run("ip", "addr", "add", new6+"/64", "dev", s.gatewayIf)
	heardAt(visitor6, new6)

	path := s.record.heard()[1].Path
	s.gateway.Run("ip", "addr", "del", new4+"/32", "dev", s.gatewayIf)
	s.gateway.Run("ip", "addr", "del", new6+"/64", "dev", s.gatewayIf)
	if err := s.listener.Answer(path, []byte("late")); err != nil {
		t.Errorf("an answer from an address that is gone: %v, want nil", err)
	}
	heardAt(visitor4, gateway4)

	s.gateway.Run("ip", "link", "set", s.gatewayIf, "down")
	if err := s.listener.Answer(path, []byte("late")); err != nil {
		t.Errorf("an answer by an interface that is down: %v, want nil", err)
	}
	s.gateway.Run("ip", "link", "set", s.gatewayIf, "up")
	heardAt(visitor4, gateway4)

	s.gateway.Run("ip", "link", "add", "dwnew", "type", "veth", "peer", "name", "dwpeer", "netns", s.visitor.Name)
	s.gateway.Run("ip", "addr", "add", "198.18.0.1/24", "dev", "dwnew")
	s.gateway.Run("ip", "link", "set", "dwnew", "up")
	s.visitor.Run("ip", "addr", "add", "198.18.0.2/24", "dev", "dwpeer")
	s.visitor.Run("ip", "link", "set", "dwpeer", "up")
	heardAt("198.18.0.2", "198.18.0.1")
	if missing := s.listener.Check(); missing != nil {
		t.Errorf("missing: %v, want none", missing)
	}
}

// A port is the listener's alone as long as it is wanted; one that is held is silent,
// and what came to it meanwhile is not heard later.
func TestSet(t *testing.T) {
	s := newScene(t)
	by := &words{}
	s.mustSet(map[uint16]knock.Opener{59000: by, 59001: nil})
	c := s.caller(visitor4 + ":0")
	send(t, c, gateway4+":59001", "knock early")
	eventually(t, "it is thrown away", func() bool { return s.listener.Counts() == (Counts{Foreign: 1}) })
	for _, p := range []uint16{59000, 59001} {
		for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
			s.gateway.Do(func() error {
				l := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return set(raw, option) }}
				pc, err := l.ListenPacket(context.Background(), "udp4", fmt.Sprintf("%s:%d", gateway4, p))
				if !errors.Is(err, unix.EADDRINUSE) {
					t.Errorf("somebody else binds %d with option %d: %v, want %v", p, option, err, unix.EADDRINUSE)
				}
				if err == nil {
					pc.Close()
				}
				return nil
			})
		}
	}
	s.mustSet(map[uint16]knock.Opener{59001: by})
	send(t, c, gateway4+":59001", "knock late")
	if got := said(s.record.await(t, 1)); !slices.Equal(got, []any{"knock late"}) {
		t.Errorf("heard %v, want %q alone", got, "knock late")
	}
	// The kernel answers for a port that nobody has, and that alone.
	for p, want := range map[string]error{"59000": unix.ECONNREFUSED, "59001": nil} {
		d := s.visitor.Dial("udp", gateway4+":"+p)
		if _, err := d.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if want == nil {
			eventually(t, "it is read", func() bool { return s.listener.Counts().Foreign == 2 })
		} else {
			_ = d.SetReadDeadline(time.Now().Add(patience))
			if _, err := d.Read(make([]byte, 1)); !errors.Is(err, want) {
				t.Errorf("port %s answers: %v, want %v", p, err, want)
			}
		}
	}
	silent(t, c)
}

// The error names who has a port already, and the listener gets the port when it is
// free.
func TestPortIsTaken(t *testing.T) {
	s := newScene(t)
	nstest.Need(t, "nc", "ss")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	other := s.gateway.Command(ctx, "nc", "-u", "-l", gateway4, "59001")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nc hears", func() bool { return strings.Contains(s.gateway.Run("ss", "-Hlun"), ":59001") })
	want := fmt.Sprintf("0/udp: allowed are 1 to 65535\n59001/udp: address already in use: held by \"nc\" (process %d); "+
		"choose another port for the knock, or stop it", other.Process.Pid)
	all := map[uint16]knock.Opener{0: nil, 59000: &words{}, 59001: &words{}}
	if err := s.set(all); err == nil || err.Error() != want || !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("error %v\nwant  %s", err, want)
	}
	if got := s.listener.Check(); !slices.Equal(got, []uint16{0, 59001}) {
		t.Errorf("missing: %v, want [0 59001]", got)
	}
	send(t, s.caller(visitor4+":0"), gateway4+":59000", "knock")
	s.record.await(t, 1) // the other port is heard all the same

	cancel()
	_ = other.Wait() // killed
	delete(all, 0)
	s.mustSet(all)
	if got := s.listener.Check(); got != nil {
		t.Errorf("missing: %v, want none", got)
	}
}

// A socket that cannot be read is reported as missing, and replaced.
func TestSocketThatCannotBeRead(t *testing.T) {
	s := newScene(t)
	by := &words{slow: make(chan struct{})}
	s.mustSet(map[uint16]knock.Opener{59000: by})
	c := s.caller(visitor4 + ":0")
	send(t, c, gateway4+":59000", "knock")
	eventually(t, "it is read", func() bool { return by.glances.Load() == 1 })
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	s.listener.mu.Lock()
	_ = s.listener.sockets[59000].raw.Control(func(fd uintptr) { _ = unix.Dup3(null, int(fd), unix.O_CLOEXEC) })
	s.listener.mu.Unlock()
	close(by.slow)
	eventually(t, "it is missed", func() bool { return slices.Equal(s.listener.Check(), []uint16{59000}) })
	s.mustSet(map[uint16]knock.Opener{59000: &words{}})
	send(t, c, gateway4+":59000", "knock again")
	s.record.await(t, 2)
}

// Open's answers are no longer than what they answer, and limited in number; the
// gateway's own are limited in length, and leave only from ports that are heard.
func TestAnswersAreBounded(t *testing.T) {
	s := newScene(t)
	s.mustSet(map[uint16]knock.Opener{59000: &words{fixed: []byte("1234567")}, 59001: &words{fixed: []byte{}}})
	c := s.caller(visitor4 + ":0")
	for i, text := range []string{"knock", "knock 1"} {
		send(t, c, gateway4+":59000", text)
		s.record.await(t, i+1)
	}
	if text, _ := answered(t, c); text != "1234567" || s.listener.Counts().Withheld != 1 {
		t.Errorf("answer %q, counts %+v; want one as long as what it answers, and one withheld", text, s.listener.Counts())
	}
	send(t, c, gateway4+":59001", "knock")
	if text, by := answered(t, c); text != "" || by.Port() != 59001 {
		t.Errorf("answer %q from %v, want an empty one", text, by)
	}
	silent(t, c)

	path := s.record.heard()[0].Path
	want := "an answer of 1233 bytes: allowed are 1232"
	if err := s.listener.Answer(path, make([]byte, LongestAnswer+1)); err == nil || err.Error() != want {
		t.Errorf("a long answer: %v, want %s", err, want)
	}
	path.From = netip.MustParseAddrPort("203.0.113.1:9") // no way leads there
	if err := s.listener.Answer(path, []byte("x")); err != nil {
		t.Errorf("an answer that the network does not take: %v, want nil", err)
	}
	path.To = netip.MustParseAddrPort(gateway4 + ":59002")
	want = "an answer from 59002/udp: the port is not heard"
	if err := s.listener.Answer(path, []byte("x")); err == nil || err.Error() != want {
		t.Errorf("an answer from a port that is not heard: %v, want %s", err, want)
	}
}

// What an answer contains shows the source, and is heard so.
func TestShownIsProven(t *testing.T) {
	s := newScene(t)
	s.mustSet(map[uint16]knock.Opener{59000: &words{}})
	c := s.caller(visitor4 + ":0")
	for i, text := range []string{"knock", "knock shown"} {
		send(t, c, gateway4+":59000", text)
		if got := s.record.await(t, i+1)[i]; got.Proven != (text == "knock shown") {
			t.Errorf("%q is heard as proven: %v", text, got.Proven)
		}
	}
}

// A socket that is closed is not one that cannot be read, and nothing is logged of it.
func TestClosingIsNoFault(t *testing.T) {
	s := newScene(t)
	by := &words{}
	s.mustSet(map[uint16]knock.Opener{59000: by, 59001: by})
	s.mustSet(map[uint16]knock.Opener{59000: by})
	if err := s.listener.Close(); err != nil {
		t.Error(err)
	}
	if log := s.log.String(); log != "" {
		t.Errorf("the log says %s", log)
	}
}

// Close waits for an Open that is under way, and what waits behind it is not heard.
func TestCloseWhileOpening(t *testing.T) {
	s := newScene(t)
	by := &words{hold: make(chan struct{})}
	s.mustSet(map[uint16]knock.Opener{59000: by})
	c := s.caller(visitor4 + ":0")
	send(t, c, gateway4+":59000", "knock")
	eventually(t, "it is being opened", func() bool { return by.opens.Load() == 1 })
	closed := make(chan error)
	go func() { closed <- s.listener.Close() }()
	eventually(t, "it closes", func() bool { return s.set(nil) != nil })
	select {
	case <-closed:
		t.Error("closed while a datagram was being opened")
	default:
	}
	close(by.hold)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := s.set(map[uint16]knock.Opener{59000: by}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("set after close: %v, want %v", err, net.ErrClosed)
	}
	if got := s.record.heard(); len(got) != 0 {
		t.Errorf("heard %v, want nothing", said(got))
	}
}

// set sets an option of a socket to 1.
func set(raw syscall.RawConn, option int) error {
	return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1) })
}
