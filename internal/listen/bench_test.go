//go:build linux

package listen

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/nstest"
)

// BenchmarkTouch measures the time for a touch while visitors connect as quickly as
// they can, on the same processors.
func BenchmarkTouch(b *testing.B) {
	nstest.Need(b)
	s := newScene(b, 59000, 59001, 59002)
	const visitors = 4
	b.ResetTimer()
	var all sync.WaitGroup
	for v := range visitors {
		all.Go(func() {
			s.visitor.Do(func() error {
				for i := v; i < b.N; i += visitors {
					quickTouch(visitor4, 59000+i%3)
				}
				return nil
			})
		})
	}
	all.Wait()
	s.heard.wait(b, "all", func(got []knock.Heard) bool { return len(got)+int(s.listener.Dropped()) >= b.N })
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "touches/s")
	b.ReportMetric(float64(s.listener.Dropped()), "dropped")
}

// BenchmarkOrder counts how often the touches of a visitor who waits for each
// connect before the next are heard in the wrong order, alone and with
// others who connect as quickly as they can.
func BenchmarkOrder(b *testing.B) {
	for _, others := range []int{0, 1, 4} {
		for _, gap := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond} {
			b.Run(fmt.Sprintf("others=%d/gap=%v", others, gap), func(b *testing.B) { orderWith(b, others, gap) })
		}
	}
}

func orderWith(b *testing.B, others int, gap time.Duration) {
	s := newScene(b, 59000, 59001, 59002)
	stop := s.flood(others)
	defer stop()
	b.ResetTimer()
	b.ReportMetric(float64(s.knocks(b, b.N, gap)), "wrong")
	b.ReportMetric(float64(s.listener.Dropped()), "dropped")
}

// quickTouch connects and hangs up, without waiting for the gateway to do so.
func quickTouch(from string, p int) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(from).As4()})
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Connect(fd, &unix.SockaddrInet4{Port: p, Addr: netip.MustParseAddr(gateway4).As4()})
}
