package gateway

import (
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
)

// The metrics say how long turns take, and how long a touch waits while a turn is long.
func TestTurnsAreMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newMachine(), configPath(t), sshDoor)
		metrics := func() string {
			request, answer := httptest.NewRequest("GET", "/metrics", nil), httptest.NewRecorder()
			request.Host = "127.0.0.1"
			control.Metrics(r).ServeHTTP(answer, request)
			return answer.Body.String()
		}
		before := metrics()
		for _, none := range []string{`doorward_turn_seconds_sum 0`, `doorward_knock_wait_seconds_count 0`} {
			if !strings.Contains(before, none+"\n") {
				t.Errorf("before there was a long turn the metrics lack %q", none)
			}
		}
		done := r.hold()
		r.touch(visitor, 59000)
		time.Sleep(300 * time.Millisecond)
		done()
		after := metrics()
		for _, want := range []string{
			`doorward_turn_seconds_sum 0.3`, `doorward_turn_seconds_bucket{le="1"} `,
			`doorward_knock_wait_seconds_count 1`, `doorward_knock_wait_seconds_sum 0.3`,
		} {
			if !strings.Contains(after, want) {
				t.Errorf("after a turn of 300 ms the metrics lack %q", want)
			}
		}
	})
}
