//go:build linux

package datagrams

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
)

// BenchmarkThrowAway measures the time that one processor needs to read a datagram that
// is no knock; what the network does before is not included.
func BenchmarkThrowAway(b *testing.B) {
	for _, size := range []int{32, 1400} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			s := newScene(b)
			var sock *socket
			s.gateway.Do(func() (err error) { sock, err = open(59000); return err })
			defer sock.file.Close()
			sock.use(&words{})
			c := s.caller(visitor4 + ":0")
			to, payload := netip.MustParseAddrPort(gateway4+":59000"), make([]byte, size)
			into, read := newBatch(), 0
			b.ResetTimer()
			b.ReportAllocs()
			for read < b.N {
				b.StopTimer()
				for range 3 * atOnce {
					if _, err := c.WriteToUDPAddrPort(payload, to); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				for {
					var n int
					var errno unix.Errno
					_ = sock.raw.Control(func(fd uintptr) { n, errno = into.read(fd) })
					if errno != 0 {
						break
					}
					s.listener.sift(sock, into, n)
					read += n
				}
			}
			b.StopTimer()
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(read), "ns/datagram")
			b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "datagrams/s")
		})
	}
}

// busy is an opener that takes long.
type busy struct {
	words
	takes time.Duration
}

func (o *busy) Open(d knock.Datagram) (any, []byte, bool) {
	o.opens.Add(1)
	for end := time.Now().Add(o.takes); time.Now().Before(end); {
	}
	return string(d.Payload), nil, string(d.Payload) == "knock right"
}

// BenchmarkFlood measures a visitor's knocks while one thread, on the same processors,
// sends as fast as it can datagrams that a glance throws away, or that each take 50 µs
// to open.
func BenchmarkFlood(b *testing.B) {
	for _, text := range []string{"", "nothing", "knock wrong"} {
		b.Run("flood="+text, func(b *testing.B) {
			s := newScene(b)
			by := &busy{takes: 50 * time.Microsecond}
			s.mustSet(map[uint16]knock.Opener{59000: by, 59001: by})
			ctx, stop := context.WithCancel(b.Context())
			var flood sync.WaitGroup
			sent := 0
			c := s.caller(visitor4 + ":0")
			to := netip.MustParseAddrPort(gateway4 + ":59000")
			if text != "" {
				flood.Go(func() {
					for ; ctx.Err() == nil; sent++ {
						_, _ = c.WriteToUDPAddrPort([]byte(text), to)
					}
				})
			}
			for _, p := range []uint16{59000, 59001} {
				took, lost := knocks(b, s, p)
				b.ReportMetric(float64(took.Microseconds()), fmt.Sprintf("us/%d", p))
				b.ReportMetric(float64(lost), fmt.Sprintf("lost/%d", p))
			}
			stop()
			flood.Wait()
			total := b.Elapsed().Seconds()
			counts := s.listener.Counts()
			b.ReportMetric(float64(sent)/total, "sent/s")
			b.ReportMetric(float64(counts.Foreign)/total, "foreign/s")
			b.ReportMetric(float64(counts.Crowded)/total, "crowded/s")
			b.ReportMetric(float64(counts.Overrun)/total, "overrun/s")
			b.ReportMetric(float64(by.opens.Load())/total, "opened/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// knocks sends b.N right knocks, each a millisecond after the one before was heard, or
// was given up after 50; it returns the mean time of those that were heard.
func knocks(b *testing.B, s *scene, p uint16) (mean time.Duration, lost int) {
	c := s.caller(visitor4 + ":0")
	to := fmt.Sprintf("%s:%d", gateway4, p)
	var sum time.Duration
	for range b.N {
		n := len(s.record.heard())
		begun := time.Now()
		send(b, c, to, "knock right")
		late := time.After(50 * time.Millisecond)
		for len(s.record.heard()) == n {
			select {
			case <-s.record.news:
			case <-late:
				lost++
				n = -1
			}
		}
		if n >= 0 {
			sum += time.Since(begun)
		}
		time.Sleep(time.Millisecond)
	}
	return sum / time.Duration(max(b.N-lost, 1)), lost
}
