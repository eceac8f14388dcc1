//go:build linux

package datagrams

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
)

// BenchmarkThrowAway is the time that one processor needs to read a datagram that is
// nothing, or that a glance answers: what the network does before is not in it.
func BenchmarkThrowAway(b *testing.B) {
	for _, bm := range []struct {
		name    string
		payload []byte
	}{
		{"bytes=32", make([]byte, 32)},
		{"bytes=1400", make([]byte, 1400)},
		{"answered=64", append([]byte("ask:"), make([]byte, 64)...)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			s := newScene(b)
			var sock *socket
			s.gateway.Do(func() (err error) { sock, err = open(59000); return err })
			defer sock.file.Close()
			sock.use(&words{})
			c := s.caller(visitor4 + ":0")
			to := netip.MustParseAddrPort(gateway4 + ":59000")
			into, read := newBatch(), 0
			b.ResetTimer()
			b.ReportAllocs()
			for read < b.N {
				b.StopTimer()
				for range 3 * atOnce {
					if _, err := c.WriteToUDPAddrPort(bm.payload, to); err != nil {
						b.Fatal(err)
					}
				}
				sock.replies = replies{} // another second
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

// BenchmarkCrowd is what one more datagram costs where as many wait as may, with sources
// of so many prefixes.
func BenchmarkCrowd(b *testing.B) {
	for _, n := range []int{1, 50, 1000} {
		b.Run(fmt.Sprintf("prefixes=%d", n), func(b *testing.B) {
			var p pool
			p.init(nil)
			s := listenedTo()
			all := prefixes(n)
			come := make([]arrival, atOnce)
			payload := make([]byte, 320)
			b.ReportAllocs()
			for i := 0; i < b.N; i += atOnce {
				for j := range come {
					come[j] = arrival{payload, knock.Path{From: netip.AddrPortFrom(all[(i+j)%n], 9)}, knock.Claimed}
				}
				p.put(&s.queue, s, s.opener.Load(), come)
			}
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
	return string(d.Payload), nil, bytes.HasSuffix(d.Payload, []byte(" right"))
}

// BenchmarkFlood sends from so many prefixes, as fast as the processors that are left can,
// datagrams that a glance throws away, or that each take 50 µs to open, while a visitor
// from another prefix knocks: with a source that may be forged, one that is shown, and at
// another port.
func BenchmarkFlood(b *testing.B) {
	for _, bm := range []struct {
		text     string
		prefixes int
	}{{"", 0}, {"nothing", 1}, {"knock wrong", 1}, {"knock wrong", 50}, {"knock shown wrong", 50}} {
		b.Run(fmt.Sprintf("flood=%s/prefixes=%d", bm.text, bm.prefixes), func(b *testing.B) {
			s := newScene(b)
			by := &busy{takes: 50 * time.Microsecond}
			s.mustSet(map[uint16]knock.Opener{59000: by, 59001: by})
			var callers []*net.UDPConn
			for i := range bm.prefixes {
				a := fmt.Sprintf("198.18.%d.2", i)
				s.visitor.Run("ip", "addr", "add", a+"/32", "dev", s.visitorIf)
				s.gateway.Run("ip", "route", "add", a+"/32", "dev", s.gatewayIf)
				callers = append(callers, s.caller(a+":0"))
			}
			ctx, stop := context.WithCancel(b.Context())
			var flood sync.WaitGroup
			sent := 0
			to := netip.MustParseAddrPort(gateway4 + ":59000")
			if bm.text != "" {
				flood.Go(func() {
					for ; ctx.Err() == nil; sent++ {
						_, _ = callers[sent%len(callers)].WriteToUDPAddrPort([]byte(bm.text), to)
					}
				})
			}
			for _, v := range []struct {
				name, text string
				port       uint16
			}{{"claimed", "knock right", 59000}, {"shown", "knock shown right", 59000}, {"elsewhere", "knock right", 59001}} {
				took, lost := knocks(b, s, v.port, v.text)
				b.ReportMetric(float64(took.Microseconds()), "us/"+v.name)
				b.ReportMetric(float64(lost), "lost/"+v.name)
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

// knocks sends b.N right knocks, each a millisecond after the one before was heard
// or, after 50 of them, was not; it returns the mean time of those that were.
func knocks(b *testing.B, s *scene, p uint16, text string) (mean time.Duration, lost int) {
	c := s.caller(visitor4 + ":0")
	to := fmt.Sprintf("%s:%d", gateway4, p)
	var sum time.Duration
	for range b.N {
		n := len(s.record.heard())
		begun := time.Now()
		send(b, c, to, text)
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
