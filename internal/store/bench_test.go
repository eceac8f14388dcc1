package store

import (
	"testing"

	"github.com/doorward/doorward/internal/audit"
)

// BenchmarkCommit is a knock that opened: door, grant and two records, synced.
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
