//go:build linux

package listen

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// handed is a connection that was handed over.
type handed struct {
	port uint16
	fd   int
	from netip.AddrPort
}

// handOver makes the scene's listener hand connections over to a channel.
func (s *scene) handOver(t *testing.T) <-chan handed {
	all := make(chan handed, 10)
	s.listener.HandOver(func(port uint16, fd int, from netip.AddrPort) { all <- handed{port, fd, from} })
	t.Cleanup(func() {
		for len(all) > 0 {
			unix.Close((<-all).fd)
		}
	})
	return all
}

// next waits for one, and closes it when the test ends.
func next(t *testing.T, all <-chan handed) handed {
	t.Helper()
	select {
	case h := <-all:
		t.Cleanup(func() { unix.Close(h.fd) })
		return h
	case <-time.After(patience):
		t.Fatalf("nothing was handed over in %v", patience)
		return handed{}
	}
}

// Connections to ports of streams are somebody else's and no touches; a port may become
// one of touches, and one again.
func TestStreamsAreHandedOver(t *testing.T) {
	s := blank(t)
	all := s.handOver(t)
	for _, streams := range []bool{true, false, true} {
		ports := Ports{Open: []uint16{59000, 59001}, Shut: []uint16{59000}}
		if streams {
			ports.Streams = []uint16{59000}
		}
		if err := s.setAll(ports); err != nil {
			t.Fatal(err)
		}
		touches := len(s.heard.all())
		if !streams {
			s.touch(t, gateway4+":59000")
			s.heard.wait(t, "a touch", count(touches+1))
			continue
		}
		for _, to := range []string{gateway4, "[" + gateway6 + "]"} {
			c := s.visitor.Dial("tcp", to+":59000")
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			got := next(t, all)
			local, _ := c.LocalAddr().(*net.TCPAddr)
			want := netip.AddrPortFrom(local.AddrPort().Addr().Unmap(), uint16(local.Port))
			if got.port != 59000 || got.from != want {
				t.Errorf("handed over: one of %v to %d, want of %v", got.from, got.port, want)
			}
			if size, err := unix.GetsockoptInt(got.fd, unix.SOL_SOCKET, unix.SO_RCVBUF); size != 2*readFrames || err != nil {
				t.Errorf("its buffer has %d bytes (%v), want %d", size, err, 2*readFrames) // as told in socket(7)
			}
			fds := []unix.PollFd{{Fd: int32(got.fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, int(patience.Milliseconds())); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 10)
			if n, err := unix.Read(got.fd, b); string(b[:max(n, 0)]) != "hello" {
				t.Errorf("it carries %q (%v), want %q", b[:max(n, 0)], err, "hello")
			}
		}
		s.touch(t, gateway4+":59001")
		got := numbers(s.heard.wait(t, "a touch", count(touches+1))[touches:])
		if d := cmp.Diff([]uint16{59001}, got); d != "" {
			t.Errorf("touches (-want +got):\n%s", d)
		}
	}
}

// What has waited at an inherited socket is handed over, too.
func TestStreamsThatHadWaited(t *testing.T) {
	s := blank(t)
	all := s.handOver(t)
	s.shelve(t, nil, 59000)
	for range 3 {
		s.visitor.Dial("tcp", gateway4+":59000")
	}
	if err := s.setAll(Ports{Streams: []uint16{59000}}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := next(t, all); got.port != 59000 {
			t.Errorf("handed over: one to %d, want 59000", got.port)
		}
	}
	s.visitor.Dial("tcp", gateway4+":59000")
	next(t, all)
	if got := s.heard.all(); len(got) != 0 {
		t.Errorf("heard %v, want nothing", brief(got))
	}
	if n := s.log.count("level=WARN"); n > 0 {
		t.Errorf("%d warnings, want none", n)
	}
}

// Where nobody takes them they are ended.
func TestStreamsThatNobodyTakes(t *testing.T) {
	s := blank(t)
	if err := s.setAll(Ports{Streams: []uint16{59000}}); err != nil {
		t.Fatal(err)
	}
	s.visitor.Do(func() error {
		c, err := dial(t.Context(), gateway4+":59000")
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(patience))
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, unix.ECONNRESET) { // connect(2) may see it already
			t.Errorf("the visitor has %v, want %v", err, unix.ECONNRESET)
		}
		return nil
	})
}
