package control

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// spanBounds are the upper bounds that Spans counts by, in seconds: no turn of the
// gateway is to be longer than 0.02.
var spanBounds = [...]float64{0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.012, 0.016, 0.02, 0.03, 0.05, 0.1, 0.25, 1}

// Spans counts spans of time by how long they are. Its zero value is ready to use. Its
// methods may be called from any goroutine.
type Spans struct {
	mu     sync.Mutex                  // guards what follows
	counts [len(spanBounds) + 1]uint64 // of spans no longer than the bound of that index, but longer than the one before
	sum    time.Duration
}

// Add counts a span.
func (s *Spans) Add(d time.Duration) {
	at, _ := slices.BinarySearch(spanBounds[:], d.Seconds())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[at]++
	s.sum += d
}

// metric returns the histogram of the spans.
func (s *Spans) metric(desc *prometheus.Desc) prometheus.Metric {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all uint64
	buckets := make(map[float64]uint64, len(spanBounds))
	for i, bound := range spanBounds {
		all += s.counts[i]
		buckets[bound] = all
	}
	return prometheus.MustNewConstHistogram(desc, all+s.counts[len(spanBounds)], s.sum.Seconds(), buckets)
}
