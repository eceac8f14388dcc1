//go:build linux

package listen

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
)

// board is a descriptor store that a test can look into.
type board struct {
	kept    map[uint16]int // descriptors, of the store's own
	dropped []uint16
}

func (b *board) Keep(p uint16, fd int) (err error) {
	b.kept[p], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return err
}

func (b *board) Drop(p uint16) error {
	b.dropped = append(b.dropped, p)
	if fd, ok := b.kept[p]; ok {
		delete(b.kept, p)
		return unix.Close(fd)
	}
	return nil
}

// shelve gives the scene's listener a descriptor store with a socket for each port, as a
// daemon that was killed leaves it. Those of listening listen.
func (s *scene) shelve(t *testing.T, shut []uint16, listening ...uint16) *board {
	t.Helper()
	b := &board{kept: make(map[uint16]int)}
	s.listener.fdStore = b
	t.Cleanup(func() {
		for _, fd := range b.kept {
			unix.Close(fd)
		}
	})
	own := make(map[uint16]int)
	s.gateway.Do(func() error {
		for _, p := range slices.Concat(listening, shut) {
			fd, err := bound(p)
			own[p] = fd
			if err == nil && slices.Contains(listening, p) {
				err = unix.Listen(fd, shortest)
			}
			if err == nil {
				err = b.Keep(p, fd)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	for p, fd := range own {
		s.inherit(t, fd, p)
	}
	return b
}

func (s *scene) inherit(t *testing.T, fd int, want uint16) {
	t.Helper()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil { // as systemd hands it over
		t.Fatal(err)
	}
	if got, err := s.listener.Inherit(fd); err != nil || got != want {
		t.Fatalf("inherit the socket of %d: %d, %v", want, got, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v: programs that the daemon starts would inherit the socket", flags, err)
	}
}

// blank is a scene whose listener was never set.
func blank(t *testing.T) *scene {
	s := newScene(t)
	s.listener.wanted = nil
	return s
}

// comeUnheard connects from the visitor's address and hangs up. The kernel counts ages
// in ticks: pause keeps connections apart whose order matters.
func (s *scene) comeUnheard(from string, pause time.Duration, ports ...uint16) {
	s.visitor.Do(func() error {
		for _, p := range ports {
			quickTouch(from, int(p))
			time.Sleep(pause)
		}
		return nil
	})
}

// TestInherit: a daemon takes over what one that was killed has left.
func TestInherit(t *testing.T) {
	s := blank(t)
	s.visitor.Run("ip", "addr", "add", "192.0.2.3/24", "dev", s.visitorIf)
	b := s.shelve(t, []uint16{59003}, 59000, 59001, 59002, 59004)
	s.comeUnheard(visitor4, 2*blur, 59002, 59000, 59001)
	s.comeUnheard("192.0.2.3", 0, 59002, 59000) // at once: in which order?

	if err := s.set(59000, 59001, 59002, 59003); err != nil {
		t.Fatal(err)
	}
	got := s.heard.wait(t, "those that had waited", count(3))
	want := []string{visitor4 + " 59002/tcp proven=true", visitor4 + " 59000/tcp proven=true", visitor4 + " 59001/tcp proven=true"}
	if d := cmp.Diff(want, brief(got)); d != "" {
		t.Errorf("touches that had waited (-want +got):\n%s", d)
	}
	s.connect(59003, 59001, 59000)
	got = s.heard.wait(t, "new ones", count(6))
	if d := cmp.Diff([]uint16{59003, 59001, 59000}, numbers(got[3:])); d != "" {
		t.Errorf("touches after that (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]uint16{59004}, b.dropped); d != "" {
		t.Errorf("taken from the descriptor store (-want +got):\n%s", d)
	}
	if left := s.gateway.Run("ss", "-Hltn", "sport = :59004"); left != "" {
		t.Errorf("the port is no longer wanted, but there listens %s", left)
	}
	if n := s.log.count("without signals"); n > 0 {
		t.Error("the inherited sockets make no signals")
	}
}

// TestInheritedWaitsUntilItIsDecided: connections wait at a port until it is known
// whether it is to be open.
func TestInheritedWaitsUntilItIsDecided(t *testing.T) {
	s := blank(t)
	s.shelve(t, nil, 59000, 59001)
	undecided := Ports{Open: []uint16{59002}, Same: []uint16{59000, 59001, 59003}}
	if err := s.setAll(undecided); err != nil {
		t.Fatal(err)
	}
	s.comeUnheard(visitor4, 0, 59000, 59001)
	s.touch(t, gateway4+":59002")
	if d := cmp.Diff([]uint16{59002}, numbers(s.heard.wait(t, "the open port", count(1)))); d != "" {
		t.Errorf("heard (-want +got):\n%s", d)
	}
	if err := s.setAll(Ports{Open: []uint16{59000}, Shut: []uint16{59001, 59003}}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]uint16{59002, 59000}, numbers(s.heard.wait(t, "what had waited", count(2)))); d != "" {
		t.Errorf("heard (-want +got):\n%s", d)
	}
	if got := s.gateway.Run("ss", "-Hltn", "sport = :59001 or sport = :59003"); got != "" {
		t.Errorf("ports that are shut listen: %s", got)
	}
}

// TestNobodyElseGetsAPort has another user of the machine try all the time to
// have the ports, while they are opened and shut, while their listener is closed, and
// while the next one takes them over.
func TestNobodyElseGetsAPort(t *testing.T) {
	s := blank(t)
	b := s.shelve(t, nil, 59000)
	if err := s.set(59000, 59001); err != nil {
		t.Fatal(err)
	}
	stop, got := make(chan struct{}), make(chan string, 1)
	end := sync.OnceFunc(func() { close(stop) })
	defer end()
	tried := make(chan struct{})
	go s.gateway.Do(func() error { got <- grab(stop, tried, 59000, 59001); return nil })
	<-tried
	for range 200 {
		s.touch(t, gateway4+":59000") // leaves an ended connection behind
		if err := s.setAll(Ports{Open: []uint16{59001}, Shut: []uint16{59000}}); err != nil {
			t.Fatal(err)
		}
		if err := s.set(59000, 59001); err != nil {
			t.Fatal(err)
		}
	}
	if ended := s.gateway.Run("ss", "-Hant", "state", "time-wait"); ended == "" {
		t.Error("no connection has ended here: nothing could have kept the listener from listening again")
	}
	if err := s.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if left := s.gateway.Run("ss", "-Hltn"); left != "" {
		t.Errorf("a listener that was closed in good order still listens: %s", left)
	}
	if len(b.kept) != 2 || len(b.dropped) > 0 {
		t.Errorf("in the descriptor store are %v, and %v were dropped; want 59000 and 59001, and none", b.kept, b.dropped)
	}
	next := New(s.listener.log, b, s.heard.add)
	defer next.Close()
	s.listener = next
	for p, fd := range b.kept {
		own, err := unix.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		s.inherit(t, own, p)
	}
	if err := s.set(59000, 59001); err != nil {
		t.Fatal(err)
	}
	end()
	if how := <-got; how != "" {
		t.Errorf("another user got %s", how)
	}
}

// grab tries until stop, as another user, to bind the ports in every way, and
// says what worked. It closes tried once it has tried all, or will try no more.
func grab(stop <-chan struct{}, tried chan<- struct{}, ports ...uint16) string {
	once := sync.OnceFunc(func() { close(tried) })
	defer once()
	// A socket belongs to the user that its thread has for file systems (sock_alloc in
	// net/socket.c); the thread is not used again.
	if err := unix.Setfsuid(65534); err != nil {
		return err.Error()
	}
	for round := 0; ; round++ {
		select {
		case <-stop:
			return ""
		default:
		}
		for _, p := range ports {
			for i, at := range []unix.Sockaddr{&unix.SockaddrInet6{Port: int(p)}, &unix.SockaddrInet4{Port: int(p)},
				&unix.SockaddrInet4{Port: int(p), Addr: [4]byte{127, 0, 0, 1}}} {
				for options := range 4 {
					if bindAs([]int{unix.AF_INET6, unix.AF_INET, unix.AF_INET}[i], at, options) {
						return fmt.Sprintf("%d/tcp with address %d, options %d, at try %d", p, i, options, round)
					}
				}
			}
		}
		once()
	}
}

// bindAs reports whether a socket can be bound, with SO_REUSEADDR (1) and
// SO_REUSEPORT (2) in options.
func bindAs(family int, at unix.Sockaddr, options int) bool {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, options&1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, options>>1)
	return unix.Bind(fd, at) == nil
}

// TestStrangeSocketsAreNotInherited tries what a listener never makes.
func TestStrangeSocketsAreNotInherited(t *testing.T) {
	s := blank(t)
	tcp := func(family int, at unix.Sockaddr, options ...int) func() (int, error) {
		return func() (int, error) {
			fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			for _, o := range options {
				_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, 1)
			}
			if err == nil {
				err = unix.Bind(fd, at)
			}
			return fd, err
		}
	}
	tcp6only := func() (int, error) {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet6{Port: 59000})
		}
		return fd, err
	}
	for _, c := range []struct {
		name string
		make func() (int, error)
		want string
	}{
		{"a file", func() (int, error) { return unix.Open("/dev/null", unix.O_CLOEXEC, 0) }, "it is no socket"},
		{"a Unix socket", func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) },
			"want any address and a port"},
		{"UDP", func() (int, error) {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Bind(fd, &unix.SockaddrInet6{Port: 59000})
			}
			return fd, err
		}, "59000/tcp: it is not a stream socket"},
		{"no port", func() (int, error) { return unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) },
			"want any address and a port"},
		{"loopback alone", tcp(unix.AF_INET, &unix.SockaddrInet4{Port: 59000, Addr: [4]byte{127, 0, 0, 1}}),
			"it is bound to 127.0.0.1, port 59000"},
		{"shared with others", tcp(unix.AF_INET6, &unix.SockaddrInet6{Port: 59000}, unix.SO_REUSEADDR),
			"59000/tcp: it is not closed to others' sockets"},
		{"of IPv6 alone", tcp6only, "59000/tcp: it is not of both families"},
	} {
		var fd int
		s.gateway.Do(func() (err error) { fd, err = c.make(); return err })
		p, err := s.listener.Inherit(fd)
		if err == nil {
			t.Fatalf("%s: inherited as %d", c.name, p) // and the listener's to close
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", c.name, err, c.want)
		}
		unix.Close(fd)
	}

	again, err := unix.Dup(s.shelve(t, nil, 59000).kept[59000])
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(again)
	if _, err := s.listener.Inherit(again); err == nil {
		t.Error("a second socket of a port was inherited")
	}
	if err := s.set(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.listener.Inherit(again); err == nil {
		t.Error("a socket was inherited after the listeners were opened")
	}
}

// TestEndedConnectionsDoNotKeepTheNextListenerOut is a restart without a descriptor store.
func TestEndedConnectionsDoNotKeepTheNextListenerOut(t *testing.T) {
	s := newScene(t, 59000)
	s.touch(t, gateway4+":59000")
	s.eventually(t, func() string {
		return fmt.Sprint(strings.Count(s.gateway.Run("ss", "-Hant", "state", "time-wait"), ":59000"))
	}, "1")
	if err := s.listener.Close(); err != nil {
		t.Fatal(err)
	}
	s.listener = New(s.listener.log, nil, s.heard.add)
	defer s.listener.Close()
	if err := s.set(59000); err != nil {
		t.Fatal(err)
	}
	s.touch(t, gateway4+":59000")
	s.heard.wait(t, "a touch of the next listener", count(2))
}

// TestWaitedOrder: connections that waited come in the order of their ages, and not at
// all where a source's order cannot be known.
func TestWaitedOrder(t *testing.T) {
	at := func(ms int, from string, p uint16) aged {
		return aged{knock.Heard{Source: netip.MustParseAddr(from), Place: knock.Place{Medium: knock.Connections, Port: p}, Proven: true},
			time.Unix(1000, int64(ms)*1e6)}
	}
	for _, c := range []struct {
		name   string
		waited []aged
		want   []string
	}{
		{"nothing", nil, nil},
		{"by age, not by port", []aged{at(50, "192.0.2.1", 1), at(0, "192.0.2.1", 2), at(100, "192.0.2.1", 3)}, []string{
			"192.0.2.1 2/tcp proven=true", "192.0.2.1 1/tcp proven=true", "192.0.2.1 3/tcp proven=true"}},
		{"too close to tell", []aged{at(0, "192.0.2.1", 1), at(19, "192.0.2.1", 2), at(100, "192.0.2.1", 3)}, nil},
		{"too close, of two in one /64", []aged{at(0, "2001:db8::1", 1), at(5, "2001:db8::2", 2)}, nil},
		{"close, of two sources", []aged{at(0, "192.0.2.1", 1), at(5, "192.0.2.2", 2)}, []string{
			"192.0.2.1 1/tcp proven=true", "192.0.2.2 2/tcp proven=true"}},
		{"the same port again", []aged{at(0, "192.0.2.1", 1), at(5, "192.0.2.1", 1)}, []string{
			"192.0.2.1 1/tcp proven=true", "192.0.2.1 1/tcp proven=true"}},
	} {
		b := backlogged{c.waited}
		if d := cmp.Diff(c.want, brief(b.touches(slog.New(slog.DiscardHandler)))); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}
