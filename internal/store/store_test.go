package store

import (
	"net/netip"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

func fill(t testing.TB, s *Store, n int, event string) {
	t.Helper()
	at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	for done := 0; done < n; {
		c := Change{Records: make([]audit.Record, min(1000, n-done))}
		for i := range c.Records {
			c.Records[i] = audit.Record{
				Time: at.Add(time.Duration(done) * time.Second), Door: "ssh", Event: event,
				Source: netip.AddrFrom4([4]byte{192, 0, 2, byte(done % 250)}).String(), By: "touch",
				Reason: "port 59001 was to be left alone",
			}
			done++
		}
		mustCommit(t, s, c)
	}
}
