//go:build linux

package listen

import (
	"encoding/binary"
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
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/nstest"
)

// TestOrder: connections come in any order to several ports, some while the loop looks
// and some while it does not, so that the queues fill to different lengths; touches come
// in the order of the connects.
func TestOrder(t *testing.T) {
	ports := []uint16{59000, 59001, 59002, 59003, 59004}
	s := newScene(t, ports...)
	sometimes := rapid.SliceOfN(rapid.SampledFrom(ports), 1, 60)
	rapid.Check(t, func(t *rapid.T) {
		before := len(s.heard.all())
		var want []uint16
		for range rapid.IntRange(1, 4).Draw(t, "bursts") {
			burst := sometimes.Draw(t, "ports")
			hold := rapid.Bool().Draw(t, "while the loop does not look")
			if hold {
				s.listener.mu.Lock()
			}
			s.connect(burst...)
			if hold {
				s.listener.mu.Unlock()
			}
			want = append(want, burst...)
		}
		got := s.heard.wait(s.log.t, "all", count(before+len(want)))[before:]
		if d := cmp.Diff(want, numbers(got)); d != "" {
			t.Errorf("ports (-want +got):\n%s", d)
		}
		if !slices.IsSortedFunc(got, func(a, b knock.Heard) int { return a.Time.Compare(b.Time) }) {
			t.Errorf("the times go backwards: %v", got)
		}
	})
	if n := s.log.count("came faster"); n > 0 {
		t.Errorf("signals were lost: the ports had room for more connections than there are signals")
	}
}

// connect makes the visitor touch the ports, one after the other.
func (s *scene) connect(ports ...uint16) {
	s.visitor.Do(func() error {
		for _, p := range ports {
			quickTouch(visitor4, int(p))
		}
		return nil
	})
}

func numbers(touches []knock.Heard) []uint16 {
	var n []uint16
	for _, t := range touches {
		n = append(n, t.Place.Port)
	}
	return n
}

// TestOrderInAFlood: a visitor knocks while others connect as quickly as they can.
func TestOrderInAFlood(t *testing.T) {
	s := newScene(t, 59000, 59001, 59002)
	stop := s.flood(2)
	defer stop()
	const knocks = 30
	if wrong := s.knocks(t, knocks, 10*time.Millisecond); wrong > 0 {
		t.Errorf("%d of %d knocks were heard in the wrong order", wrong, knocks)
	}
}

// flood makes others connect until stop is called.
func (s *scene) flood(others int) (stop func()) {
	s.visitor.Run("ip", "addr", "add", "192.0.2.3/24", "dev", s.visitorIf)
	enough := make(chan struct{})
	var all sync.WaitGroup
	for v := range others {
		all.Go(func() {
			s.visitor.Do(func() error {
				for i := v; ; i++ {
					select {
					case <-enough:
						return nil
					default:
						quickTouch("192.0.2.3", 59000+i%3)
					}
				}
			})
		})
	}
	return func() { close(enough); all.Wait() }
}

// knocks makes the visitor touch 59000 to 59002 n times, each time in another order and
// with a gap after each touch, and counts how often they are heard in the wrong one.
func (s *scene) knocks(t testing.TB, n int, gap time.Duration) (wrong int) {
	orders := [][]uint16{{59000, 59001, 59002}, {59001, 59002, 59000}, {59002, 59000, 59001},
		{59000, 59002, 59001}, {59002, 59001, 59000}, {59001, 59000, 59002}}
	source := netip.MustParseAddr(visitor4)
	for i := range n {
		before := len(s.heard.all())
		order := orders[i%len(orders)]
		for _, p := range order {
			s.connect(p)
			time.Sleep(gap)
		}
		var got []uint16
		s.heard.wait(t, fmt.Sprintf("knock %d", i), func(all []knock.Heard) bool {
			mine := slices.DeleteFunc(slices.Clone(all[before:]), func(t knock.Heard) bool { return t.Source != source })
			got = numbers(mine)
			return len(got) == len(order)
		})
		if !slices.Equal(got, order) {
			wrong++
		}
	}
	return wrong
}

// TestArrivals feeds signals as the kernel writes them.
func TestArrivals(t *testing.T) {
	a, b := &socket{port: 1}, &socket{port: 2}
	listeners := map[int]*socket{7: a, 9: b}
	signals := func(fds ...int) []byte {
		var all []byte
		for _, fd := range fds {
			one := make([]byte, signalSize)
			sig := uint32(arrived)
			if fd < 0 {
				sig, fd = uint32(unix.SIGIO), 0
			}
			binary.NativeEndian.PutUint32(one, sig)
			binary.NativeEndian.PutUint32(one[signalFD:], uint32(fd))
			all = append(all, one...)
		}
		return all
	}
	for _, c := range []struct {
		name string
		fds  []int
		want []uint16
		lost bool
	}{
		{"none", nil, nil, false},
		{"in order", []int{7, 9, 9, 7, 9}, []uint16{1, 2, 2, 1, 2}, false},
		{"of a closed listener", []int{8, 7, 8}, []uint16{1}, false},
		{"some lost", []int{7, 9, -1, 7}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			came := &arrivals{log: slog.New(slog.DiscardHandler)}
			came.add(signals(c.fds...), listeners, time.Now())
			var got []uint16
			for first, ok := came.first(); ok; first, ok = came.first() {
				got = append(got, first.socket.port)
				came.pop()
			}
			if d := cmp.Diff(c.want, got); d != "" || came.lost != c.lost {
				t.Errorf("lost %v, want %v; arrivals (-want +got):\n%s", came.lost, c.lost, d)
			}
		})
	}
}

// TestSignalsLost leaves no room for signals: touches are heard all the same,
// and in order again when there is room.
func TestSignalsLost(t *testing.T) {
	s := newScene(t, 59000, 59001, 59002)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_SIGPENDING, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 5
	many := slices.Repeat([]uint16{59000, 59000, 59001, 59002, 59002}, 12)

	if err := unix.Setrlimit(unix.RLIMIT_SIGPENDING, &low); err != nil {
		t.Fatal(err)
	}
	s.listener.mu.Lock()
	s.connect(many...)
	s.listener.mu.Unlock()
	if err := unix.Setrlimit(unix.RLIMIT_SIGPENDING, &limit); err != nil {
		t.Fatal(err)
	}
	got := s.heard.wait(t, "all", count(len(many)))
	if d := cmp.Diff(slices.Sorted(slices.Values(many)), slices.Sorted(slices.Values(numbers(got)))); d != "" {
		t.Errorf("ports, sorted (-want +got):\n%s", d)
	}
	if n := s.log.count("raise the limit of pending signals (LimitSIGPENDING= in the unit)"); n != 1 {
		t.Errorf("logged %d times, want once (a minute)", n)
	}

	s.eventually(t, func() string { return s.gateway.Run("ss", "-Hant", "state", "connected") }, "")
	s.listener.mu.Lock()
	s.connect(many...)
	s.listener.mu.Unlock()
	got = s.heard.wait(t, "all", count(2*len(many)))[len(many):]
	if d := cmp.Diff(many, numbers(got)); d != "" {
		t.Errorf("ports after that (-want +got):\n%s", d)
	}
}

// TestNoSignals: a listener is heard whose signals something has switched off.
func TestNoSignals(t *testing.T) {
	s := newScene(t, 59000, 59001)
	s.listener.mu.Lock()
	_, err := unix.FcntlInt(uintptr(s.listener.sockets[59000].fd), unix.F_SETFL, unix.O_NONBLOCK)
	s.listener.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s.connect(59000, 59001, 59000, 59000)
	got := numbers(s.heard.wait(t, "all", count(4)))
	slices.Sort(got)
	if d := cmp.Diff([]uint16{59000, 59000, 59000, 59001}, got); d != "" {
		t.Errorf("ports, sorted (-want +got):\n%s", d)
	}
	if n := s.log.count("connections come without signals"); n != 1 {
		t.Errorf("logged %d times, want once (a minute)", n)
	}
}

// TestClosedWithConnections closes a listener whose connections wait; another
// one gets its descriptor.
func TestClosedWithConnections(t *testing.T) {
	nstest.Need(t)
	s := newScene(t, 59000, 59001)
	s.listener.mu.Lock()
	s.connect(59000, 59001, 59000, 59001, 59000)
	old := s.listener.sockets[59000].fd
	s.listener.drop(s.listener.sockets[59000])
	var err error
	s.gateway.Do(func() error { err = s.listener.put(59002, open, 10, &backlogged{}); return nil })
	if err == nil && s.listener.sockets[59002].fd != old {
		t.Logf("the descriptor is %d, not %d again", s.listener.sockets[59002].fd, old)
	}
	s.connect(59002)
	s.listener.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s.heard.wait(t, "those of open ports", count(3))
	s.connect(59001)
	got := numbers(s.heard.wait(t, "one more", count(4)))
	slices.Sort(got)
	if d := cmp.Diff([]uint16{59001, 59001, 59001, 59002}, got); d != "" {
		t.Errorf("ports, sorted (-want +got):\n%s", d)
	}
}

// TestRoomForSignals checks how many connections the kernel lets wait.
func TestRoomForSignals(t *testing.T) {
	s := newScene(t)
	s.gateway.Run("sysctl", "-qw", "net.core.somaxconn=4096")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_SIGPENDING, &limit); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_SIGPENDING, &limit)
	for _, c := range []struct {
		signals uint64
		ports   []uint16
		want    string
	}{
		{limit.Max, []uint16{59000}, "4096"},
		{4000, []uint16{59000, 59001}, "1749 1749"},
		{4000, []uint16{59000, 59001, 59002}, "1165 1165 1165"},
		{4000, []uint16{59001}, "3499"},
		{0, []uint16{59001}, "128"},
	} {
		if err := unix.Setrlimit(unix.RLIMIT_SIGPENDING, &unix.Rlimit{Cur: c.signals, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
		if err := s.set(c.ports...); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(s.gateway.Run("ss", "-Hltn")) {
			got = append(got, strings.Fields(line)[2]) // Send-Q
		}
		if d := cmp.Diff(c.want, strings.Join(got, " ")); d != "" {
			t.Errorf("%d signals, ports %v: room (-want +got):\n%s", c.signals, c.ports, d)
		}
	}
}
