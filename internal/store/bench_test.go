package store

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// BenchmarkCommit commits what follows from a right knock: door, grant and two records.
func BenchmarkCommit(b *testing.B) {
	s := mustOpen(b, b.TempDir(), AuditLimit{})
	defer s.Close()
	fill(b, s, 10_000, audit.EventGranted)
	n := 0
	for b.Loop() {
		n++
		mustCommit(b, s, nth(n))
	}
}

// manyGrants returns n grants, whose sources are numbered from a number on.
func manyGrants(n, from int) (c Change) {
	until := time.Now().Add(time.Hour)
	for k := from; k < from+n; k++ {
		source := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), 32)
		c.Grants = append(c.Grants, Grant{Door: "ssh", Source: source, By: "touch", Until: until, For: time.Hour})
	}
	return c
}

// BenchmarkManyChanges commits 10,000 grants at a time.
func BenchmarkManyChanges(b *testing.B) {
	s := mustOpen(b, b.TempDir(), AuditLimit{})
	defer s.Close()
	n := 0
	for b.Loop() {
		mustCommit(b, s, manyGrants(10_000, n%1_000_000))
		n += 10_000
	}
}

// BenchmarkMillionGrants starts with a million grants, and rewrites the file.
func BenchmarkMillionGrants(b *testing.B) {
	dir := b.TempDir()
	s := mustOpen(b, dir, AuditLimit{})
	for n := range 100 {
		mustCommit(b, s, manyGrants(10_000, n*10_000))
	}
	b.Run("renew", func(b *testing.B) {
		for b.Loop() {
			s.renew()
		}
		b.ReportMetric(float64(s.state.end)/1e6, "bytes/grant")
	})
	mustClose(b, s)
	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			s := mustOpen(b, dir, AuditLimit{})
			st := mustLoad(b, s)
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapAlloc)/1e6, "MB-while-loaded")
			n := 0
			for range st.Grants {
				n++
			}
			if n != 1_000_000 {
				b.Fatalf("%d grants", n)
			}
			mustClose(b, s)
		}
	})
}
