//go:build linux

package daemon

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A disk that hangs delays neither the start nor the end for longer than the limit; an
// answer in time counts.
func TestInTime(t *testing.T) {
	for _, tt := range []struct {
		takes, waits time.Duration
		fails, want  string
	}{
		{0, 0, "", ""},
		{time.Second, time.Second, "", ""},
		{time.Second, time.Second, "input/output error", "input/output error"},
		{time.Hour, openTimeout, "", "the disk has not answered for 20s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			got, err := withTimeout(openTimeout, func() (string, error) {
				time.Sleep(tt.takes)
				if tt.fails != "" {
					return "", errors.New(tt.fails)
				}
				return "the store", nil
			})
			if took := time.Since(begun); took != tt.waits {
				t.Errorf("a call that takes %v was waited for for %v, want %v", tt.takes, took, tt.waits)
			}
			if tt.want != "" && (err == nil || err.Error() != tt.want) || tt.want == "" && (err != nil || got != "the store") {
				t.Errorf("a call that takes %v returned %q, %v; want the error %q", tt.takes, got, err, tt.want)
			}
			time.Sleep(tt.takes) // until the call has returned
		})
	}
}
