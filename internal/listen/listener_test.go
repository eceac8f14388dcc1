//go:build linux

package listen

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/nstest"
)

func TestTouchesOfBothFamilies(t *testing.T) {
	s := newScene(t, 59000, 59001)
	before := time.Now()
	for _, to := range []string{gateway4 + ":59000", "[" + gateway6 + "]:59001",
		gateway4 + ":59001", "[" + gateway6 + "]:59000"} {
		if got := s.touch(t, to); len(got) > 0 {
			t.Errorf("%s said %q", to, got)
		}
	}
	touches := s.heard.wait(t, "four touches", count(4))
	want := []string{
		visitor4 + " 59000/tcp proven=true",
		visitor6 + " 59001/tcp proven=true",
		visitor4 + " 59001/tcp proven=true",
		visitor6 + " 59000/tcp proven=true",
	}
	if d := cmp.Diff(want, brief(touches)); d != "" {
		t.Errorf("touches (-want +got):\n%s", d)
	}
	for i, touch := range touches {
		if touch.Source.Is4In6() || touch.Source.Zone() != "" {
			t.Errorf("source %v is mapped or has a zone", touch.Source)
		}
		if touch.Time.Before(before) || i > 0 && touch.Time.Before(touches[i-1].Time) {
			t.Errorf("touch %d at %v: not in order", i, touch.Time)
		}
		if !strings.Contains(touch.Time.String(), "m=") {
			t.Errorf("touch %d has no monotonic reading: %v", i, touch.Time)
		}
	}
}

// TestIPv6OnlyVisitor: neither the visitor nor the gateway has IPv4, and the visitor
// comes from a link-local address at first.
func TestIPv6OnlyVisitor(t *testing.T) {
	g, v := nstest.New(t), nstest.New(t)
	_, ifV := nstest.Link(g, v, []string{"2001:db8::1/64", "fe80::1/64"}, []string{"2001:db8::2/64", "fe80::2/64"})
	h := newHeard()
	l := New(slog.New(slog.DiscardHandler), nil, h.add)
	defer l.Close()
	g.Do(func() error { return l.Set(Ports{Open: []uint16{59000}}) })
	s := &scene{gateway: g, visitor: v, listener: l, heard: h}
	s.touch(t, "[fe80::1%"+ifV+"]:59000")
	s.touch(t, "[2001:db8::1]:59000")
	touches := h.wait(t, "two touches", count(2))
	// The visitor's kernel chooses among its link-local addresses.
	if a := touches[0].Source; !a.IsLinkLocalUnicast() || a.Zone() != "" {
		t.Errorf("source %v, want a link-local address without zone", a)
	}
	if got, want := touches[1].Source, netip.MustParseAddr("2001:db8::2"); got != want {
		t.Errorf("source %v, want %v", got, want)
	}
}

// TestIPv6Disabled sets the sysctl; where the kernel has no IPv6 at all, the socket
// cannot be made and open falls back, which this machine cannot show.
func TestIPv6Disabled(t *testing.T) {
	s := newScene(t)
	s.gateway.Run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	if err := s.set(59000); err != nil {
		t.Fatal(err)
	}
	s.touch(t, gateway4+":59000")
	touches := s.heard.wait(t, "a touch", count(1))
	if want := netip.MustParseAddr(visitor4); touches[0].Source != want {
		t.Errorf("source %v, want %v", touches[0].Source, want)
	}
}

func TestIPv4Alone(t *testing.T) {
	var fd int
	nstest.New(t).Do(func() (err error) {
		fd, err = bind(unix.AF_INET, &unix.SockaddrInet4{Port: 59000})
		return err
	})
	unix.Close(fd)
}

func TestSetOpensAndCloses(t *testing.T) {
	s := newScene(t, 59002, 59000, 59000)
	fds := func() map[uint16]int {
		m := make(map[uint16]int)
		for p, l := range s.listener.sockets {
			m[p] = l.fd
		}
		return m
	}
	first := fds()
	if len(first) != 2 {
		t.Fatalf("listeners %v, want 59000 and 59002", first)
	}
	if err := s.set(59000, 59002); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, fds()); d != "" {
		t.Errorf("setting the same again changed the sockets:\n%s", d)
	}
	if err := s.set(59000, 59003); err != nil {
		t.Fatal(err)
	}
	for p, open := range map[int]bool{59000: true, 59002: false, 59003: true} {
		var err error
		s.visitor.Do(func() error {
			var c net.Conn
			if c, err = dial(t.Context(), fmt.Sprintf("%s:%d", gateway4, p)); err == nil {
				c.Close()
			}
			return nil
		})
		if open && err != nil || !open && !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("port %d: open should be %v, connect says %v", p, open, err)
		}
	}
	if missing := s.listener.Check(); missing != nil {
		t.Errorf("missing %v, want none", missing)
	}
}

func TestOneShot(t *testing.T) {
	// What the gateway does with scope "door": a touched listener closes, all
	// come back when the door is armed again.
	s := newScene(t, 59000, 59001)
	s.touch(t, gateway4+":59000")
	s.heard.wait(t, "a touch", count(1))
	for range 3 {
		if err := s.setAll(Ports{Open: []uint16{59001}, Shut: []uint16{59000}}); err != nil {
			t.Fatal(err)
		}
		if missing := s.listener.Check(); missing != nil {
			t.Errorf("missing %v, want none", missing)
		}
		var err error
		s.visitor.Do(func() error { _, err = dial(t.Context(), gateway4+":59000"); return nil })
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a port that is shut says %v, want what a port that nobody has says", err)
		}
		if err := s.set(59000, 59001); err != nil {
			t.Fatal(err)
		}
		n := len(s.heard.all())
		s.touch(t, gateway4+":59000")
		s.heard.wait(t, "another touch", count(n+1))
	}
}

func TestPortTaken(t *testing.T) {
	s := newScene(t)
	nstest.Need(t, "nc")
	nc := s.gateway.Command(t.Context(), "nc", "-l", "-k", gateway4, "59001")
	if err := nc.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { nc.Process.Kill(); nc.Wait() }()
	deadline := time.Now().Add(patience)
	for !strings.Contains(s.gateway.Run("ss", "-Hltn"), ":59001") {
		if time.Now().After(deadline) {
			t.Fatal("nc does not listen")
		}
	}
	err := s.set(59000, 59001, 59002)
	want := fmt.Sprintf("59001/tcp: address already in use: held by \"nc\" (process %d); "+
		"choose another port in listen, or stop it", nc.Process.Pid)
	if err == nil || err.Error() != want {
		t.Fatalf("error %v\nwant  %s", err, want)
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Error("the cause is not wrapped")
	}
	if d := cmp.Diff([]uint16{59001}, s.listener.Check()); d != "" {
		t.Errorf("missing:\n%s", d)
	}
	s.touch(t, gateway4+":59000")
	s.touch(t, gateway4+":59002")
	s.heard.wait(t, "touches of the other ports", count(2))

	nc.Process.Kill()
	nc.Wait()
	if err := s.set(59000, 59001, 59002); err != nil {
		t.Errorf("after the port is free again: %v", err)
	}
	if missing := s.listener.Check(); missing != nil {
		t.Errorf("missing %v, want none", missing)
	}
}

func TestPortHeldWithoutListening(t *testing.T) {
	s := newScene(t)
	var fd int
	s.gateway.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: 59000})
	})
	defer unix.Close(fd)
	err := s.set(0, 59000)
	want := "0/tcp: allowed are 1 to 65535\n59000/tcp: address already in use: held by " +
		"a socket that does not listen; choose another port in listen, or stop it"
	if err == nil || err.Error() != want {
		t.Fatalf("error %v\nwant  %s", err, want)
	}
}

func TestPortNotAllowed(t *testing.T) {
	err := openError{59, unix.EACCES}.explain()
	want := "59/tcp: permission denied: ports below 1024 need the capability CAP_NET_BIND_SERVICE; " +
		"choose another port in listen, or give it to the daemon"
	if err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

func TestListenerDies(t *testing.T) {
	s := newScene(t, 59000, 59001)
	s.gateway.Run("ss", "-K", "-ltn", "sport", "=", "59000") // ends the socket under our feet
	if d := cmp.Diff([]uint16{59000}, s.listener.Check()); d != "" {
		t.Fatalf("missing:\n%s", d)
	}
	s.touch(t, gateway4+":59001")
	s.heard.wait(t, "a touch of the living port", count(1))
	if err := s.set(59000, 59001); err != nil {
		t.Fatal(err)
	}
	s.touch(t, gateway4+":59000")
	s.heard.wait(t, "a touch of the revived port", count(2))
	if missing := s.listener.Check(); missing != nil {
		t.Errorf("missing %v, want none", missing)
	}
}

func TestAcceptAfterReset(t *testing.T) {
	// A scanner resets its connection at once; the touch counts even if that
	// comes before it is accepted.
	nstest.Need(t)
	ns := nstest.New(t)
	var fd int
	ns.Do(func() (err error) {
		if fd, err = bound(59000); err != nil {
			return err
		}
		if err := unix.Listen(fd, 1); err != nil {
			return err
		}
		c, err := dial(t.Context(), "127.0.0.1:59000")
		if err != nil {
			return err
		}
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
		return c.Close()
	})
	defer unix.Close(fd)
	s := &socket{port: 59000, fd: fd}
	got, err := s.accept(time.Now(), &closer{})
	if err != nil {
		t.Fatal(err)
	}
	want := knock.Heard{Source: netip.MustParseAddr("127.0.0.1"), Proven: true, Place: knock.Place{Medium: knock.Connections, Port: 59000}}
	got.Time = time.Time{}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
		t.Errorf("touch (-want +got):\n%s", d)
	}
}

func TestSlowVisitorHoldsNobodyUp(t *testing.T) {
	s := newScene(t, 59000, 59001)
	var slow []net.Conn
	defer func() {
		for _, c := range slow {
			c.Close()
		}
	}()
	s.visitor.Do(func() error { // says nothing, or something, and never hangs up
		for i := range 50 {
			c, err := dial(t.Context(), gateway4+":59000")
			if err != nil {
				return err
			}
			slow = append(slow, c)
			if i%2 == 0 {
				_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
			}
		}
		return nil
	})
	s.heard.wait(t, "the slow ones", count(50))
	s.touch(t, gateway4+":59001")
	s.touch(t, gateway4+":59000")
	s.heard.wait(t, "the others", count(52))
}

func TestShortOfDescriptors(t *testing.T) {
	const short = "no connection can be accepted for now; knocks wait"
	s := newScene(t, 59000)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// Below what is open, so that no descriptor can be had in this process,
	// while those that are open work on.
	low := limit
	low.Cur = 3
	nc := s.visitor.Command(t.Context(), "sh", "-c", "read go; nc -zw15 "+gateway4+" 59000; echo $?")
	start, err := nc.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := nc.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Start(); err != nil {
		t.Fatal(err)
	}
	defer nc.Wait()
	defer start.Close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(start, "go\n")
	deadline := time.Now().Add(patience)
	for (s.log.count(short) == 0 || !s.listener.Behind()) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	behind := s.listener.Behind()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(out); strings.TrimSpace(string(b)) != "0" {
		t.Errorf("nc's status is %q, want 0", b)
	}
	s.heard.wait(t, "the touch that waited", count(1))
	if after := s.listener.Behind(); !behind || after {
		t.Errorf("behind while a connection waited: %v, want true; and afterwards: %v, want false", behind, after)
	}
	if n := s.log.count(short); n != 1 {
		t.Errorf("logged %d times, want once (a minute)", n)
	}
}

func TestReceiverTooSlow(t *testing.T) {
	q := queue{ready: make(chan struct{}, 1), stop: make(chan struct{}), log: slog.New(slog.DiscardHandler)}
	batch := make([]knock.Heard, 1000)
	for i := range queueLimit/1000 + 2 {
		for j := range batch {
			batch[j].Place.Port = uint16(i)
		}
		q.put(batch)
	}
	sent := (queueLimit/1000 + 2) * 1000
	if got, want := q.lost(), uint64(sent-queueLimit); got != want {
		t.Errorf("dropped %d, want %d", got, want)
	}
	got := make(chan []knock.Heard)
	done := make(chan struct{})
	go func() { q.deliver(func(b []knock.Heard) { got <- b }); close(done) }()
	b := <-got
	if len(b) != queueLimit || b[0].Place.Port != 0 || !slices.IsSortedFunc(b, func(a, b knock.Heard) int {
		return int(a.Place.Port) - int(b.Place.Port)
	}) {
		t.Errorf("got %d touches, want the oldest %d in order", len(b), queueLimit)
	}
	close(q.stop)
	<-done
}

func TestClosed(t *testing.T) {
	nstest.Need(t)
	l := New(slog.New(slog.DiscardHandler), nil, func([]knock.Heard) {})
	if err := l.Close(); err != nil {
		t.Errorf("close of a listener that was never set: %v", err)
	}
	err := l.Set(Ports{Open: []uint16{59000}})
	if want := "listen on [59000]: use of closed network connection"; err == nil || err.Error() != want {
		t.Errorf("set after close: %v, want %s", err, want)
	}

	before := openFiles(t)
	s := newScene(t, 59000, 59001)
	for range 2 {
		if err := s.listener.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if missing := s.listener.Check(); missing != nil {
		t.Errorf("missing %v after close, want none", missing)
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors open after close, %d before", after, before)
	}
}

func openFiles(t *testing.T) int {
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}
