package control

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// measured is a daemon that has measured its turns.
type measured Spans

func (m *measured) ReadMetrics() GatewayMetrics { return GatewayMetrics{Turns: (*Spans)(m)} }

// Turns are counted by how long they were; a bound includes turns of exactly that length.
func TestMetricsOfTurns(t *testing.T) {
	var m measured
	for _, d := range []time.Duration{0, 20 * time.Millisecond, 20*time.Millisecond + 1, 2 * time.Second} {
		(*Spans)(&m).Add(d)
	}
	var got []string
	for line := range strings.Lines(ask(Metrics(&m), "GET", "127.0.0.1:9472", "/metrics").Body.String()) {
		if strings.HasPrefix(line, "doorward_turn_seconds") || strings.Contains(line, "knock_wait") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		`doorward_turn_seconds_bucket{le="0.0001"} 1`, `doorward_turn_seconds_bucket{le="0.00025"} 1`,
		`doorward_turn_seconds_bucket{le="0.0005"} 1`, `doorward_turn_seconds_bucket{le="0.001"} 1`,
		`doorward_turn_seconds_bucket{le="0.002"} 1`, `doorward_turn_seconds_bucket{le="0.004"} 1`,
		`doorward_turn_seconds_bucket{le="0.008"} 1`, `doorward_turn_seconds_bucket{le="0.012"} 1`,
		`doorward_turn_seconds_bucket{le="0.016"} 1`, `doorward_turn_seconds_bucket{le="0.02"} 2`,
		`doorward_turn_seconds_bucket{le="0.03"} 3`, `doorward_turn_seconds_bucket{le="0.05"} 3`,
		`doorward_turn_seconds_bucket{le="0.1"} 3`, `doorward_turn_seconds_bucket{le="0.25"} 3`,
		`doorward_turn_seconds_bucket{le="1"} 3`, `doorward_turn_seconds_bucket{le="+Inf"} 4`,
		`doorward_turn_seconds_sum 2.040000001`, `doorward_turn_seconds_count 4`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("metrics of turns, without those that are not measured (-want +got):\n%s", d)
	}
}
