//go:build linux

package word

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/e2e/lab"
)

// BenchmarkFlood is what a flood of datagrams at a knock's port costs the daemon, and
// what a visitor who touches feels of it. One thread sends as fast as it can, on the same
// processors: datagrams that a glance throws away, or that have to be opened, which takes
// some milliseconds each. It is to be run with -benchtime=1x.
func BenchmarkFlood(b *testing.B) {
	for _, flood := range []struct {
		name    string
		payload []byte
	}{{"none", nil}, {"glanced", []byte("what is this")}, {"opened", Say("wrong sesame", 1)}} {
		b.Run(flood.name, func(b *testing.B) {
			s := newSite(b)
			s.configure(touchKnock + wordKnock)
			s.start()
			addresses(s)
			ctx, stop := context.WithCancel(b.Context())
			defer stop()
			var sender sync.WaitGroup
			sent := 0
			if flood.payload != nil {
				c := s.voice(s.stranger, gate4)
				sender.Go(func() {
					for ; ctx.Err() == nil; sent++ {
						_, _ = c.c.WriteToUDPAddrPort(flood.payload, c.at)
					}
				})
			}
			begun, spent := time.Now(), cpu(s)
			var took []time.Duration
			for n := range 60 {
				took = append(took, opens(s, n))
			}
			stop()
			sender.Wait()
			elapsed, used := time.Since(begun).Seconds(), (cpu(s) - spent).Seconds()
			read := float64(sent) - dropped(s)
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/open-median")
			b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "ms/open-95%")
			b.ReportMetric(float64(sent)/elapsed, "sent/s")
			b.ReportMetric(read/elapsed, "read/s")
			b.ReportMetric(read/used, "read/cpu-s")
			b.ReportMetric(100*used/elapsed, "cpu-%")
		})
	}
}

// addresses gives the visitor many, and the server one of their network.
func addresses(s *site) {
	s.t.Helper()
	add := func(h *lab.Host, from, to int) {
		_, err := h.Run(s.t.Context(), "sh", "-c", fmt.Sprintf("for n in $(seq %d %d); do ip addr add 198.18.0.$n/24 dev "+
			"$(ip -o -4 addr show to 192.0.2.0/24 | awk '{print $2; exit}'); done", from, to))
		s.must(err)
	}
	add(s.server, 1, 1)
	add(s.visitor, 100, 160)
}

// opens is how long the visitor takes from the first touch to a connection, from an
// address that has no grant yet.
func opens(s *site, n int) time.Duration {
	s.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: netip.AddrFrom4([4]byte{198, 18, 0, byte(100 + n)}).AsSlice()}}
	begun := time.Now()
	for _, p := range []string{"59000", "59002", "8080"} {
		dialer.Timeout = soon
		if p == "8080" {
			dialer.Timeout = 20 * time.Millisecond // sooner than the kernel sends a SYN again
		}
		s.must(lab.Until(s.t.Context(), soon, "a connection", func() error {
			return s.visitor.Do(func() error {
				c, err := dialer.Dial("tcp", "198.18.0.1:"+p)
				if err == nil {
					c.Close()
				}
				return err
			})
		}))
	}
	return time.Since(begun)
}

// cpu is the time that the daemon had on a processor.
func cpu(s *site) time.Duration {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.gate.PID))
	s.must(err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err := strconv.Atoi(fields[11]) // utime and stime of proc_pid_stat(5), in 1/100 s
	s.must(err)
	system, err := strconv.Atoi(fields[12])
	s.must(err)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// dropped is how many datagrams the kernel threw away before the daemon.
func dropped(s *site) float64 {
	s.t.Helper()
	out, err := s.server.Run(s.t.Context(), "cat", "/proc/net/udp6")
	s.must(err)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 12 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", 59010)) {
			n, err := strconv.ParseFloat(f[12], 64)
			s.must(err)
			return n
		}
	}
	s.t.Fatal("no socket hears at 59010/udp")
	return 0
}
