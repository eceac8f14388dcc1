//go:build linux

package service

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// text collects what is written to it. It is safe for concurrent use.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// The daemon starts before D-Bus does: that is no reason for a warning, unless D-Bus
// stays away.
func TestWatchWarnsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log text
		u := NewUnit("ssh.service", textLogger(&log))
		u.address = "unix:path=" + filepath.Join(t.TempDir(), "no-bus")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- u.Watch(ctx, func(s Status) { t.Errorf("reports %+v", s) }) }()
		for _, tt := range []struct {
			after        time.Duration
			infos, warns int
		}{{time.Second, 1, 0}, {50 * time.Second, 1, 0}, {15 * time.Second, 1, 1}, {time.Hour, 1, 1}} {
			time.Sleep(tt.after)
			synctest.Wait()
			infos, warns := strings.Count(log.String(), "level=INFO"), strings.Count(log.String(), "level=WARN")
			if infos != tt.infos || warns != tt.warns {
				t.Errorf("after another %v, it has logged %d times that it waits, and warned %d times; want %d and %d:\n%s",
					tt.after, infos, warns, tt.infos, tt.warns, log.String())
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
