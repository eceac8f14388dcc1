//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
)

func TestOwnCommandsFromStartToStop(t *testing.T) {
	file := filepath.Join(t.TempDir(), "running")
	start, stop, ask := []string{"/usr/bin/touch", file}, []string{"/bin/rm", file}, []string{"/usr/bin/test", "-e", file}
	for _, tt := range []struct {
		name   string
		status []string
	}{{"with status", ask}, {"without", nil}} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCommand(t, start, stop, tt.status)
			seen := watcher(t, c.Watch)
			states := []State{next(t, seen).State}
			for range 2 {
				mustStart(t, c)
			}
			await(t, seen, Running)
			if _, err := os.Stat(file); err != nil {
				t.Error(err)
			}
			// The next daemon knows that the service runs, too.
			c2 := NewCommand(start, stop, tt.status, c.pidFile, discard)
			if s := status(t, c2); s.State != Running {
				t.Errorf("the next daemon sees %+v", s)
			}
			for range 2 {
				if err := c.Stop(within(t, 10*time.Second)); err != nil {
					t.Fatal(err)
				}
			}
			await(t, seen, Stopped)
			if _, err := os.Stat(file); err == nil {
				t.Error("the stop command did not run")
			}
			if !slices.Equal(states, []State{Stopped}) {
				t.Errorf("first report is %v", states)
			}
		})
	}
}

func TestOwnCommandsServiceThatEndedByItself(t *testing.T) {
	file := filepath.Join(t.TempDir(), "running")
	c := newCommand(t, []string{"/usr/bin/touch", file}, []string{"/bin/rm", file}, []string{"/usr/bin/test", "-e", file})
	mustStart(t, c)
	os.Remove(file)
	want := Status{State: Failed, Detail: `failed: status command "/usr/bin/test" ended with exit status 1`}
	if diff := cmp.Diff(want, status(t, c)); diff != "" {
		t.Error(diff)
	}
	// rm finds nothing and fails, but what counts is that the service does not run.
	if err := c.Stop(within(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
	if s := status(t, c); s != (Status{}) {
		t.Errorf("after Stop: %+v", s)
	}
}

func TestStopFails(t *testing.T) {
	for _, tt := range []struct {
		name         string
		stop, status []string
		within       time.Duration
		want         string
	}{
		{"command fails", self("fail", "4", "not mine"), nil, time.Minute,
			fmt.Sprintf(`stop command %q ended with exit status 4; its last output: "not mine"`, os.Args[0])},
		{"it runs on", []string{"/bin/true"}, []string{"/bin/true"}, patience,
			`stop of "/bin/true" did not succeed in time: status command "/bin/true" says that it still runs: context deadline exceeded`},
		{"command does not end", self("stay"), nil, 300 * time.Millisecond,
			fmt.Sprintf(`stop command %q did not end within TIME: context deadline exceeded`, os.Args[0])},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := NewCommand([]string{"/bin/true"}, tt.stop, tt.status, filepath.Join(t.TempDir(), "door.pid"), discard)
			mustStart(t, c)
			err := c.Stop(within(t, tt.within))
			if err == nil || withoutTime(err) != tt.want {
				t.Errorf("Stop = %v\nwant   %s", err, tt.want)
			}
			if s := status(t, c); s.State != Running {
				t.Errorf("after a Stop that failed: %+v", s)
			}
		})
	}
}

func TestOrdersWaitForEachOther(t *testing.T) {
	c := newCommand(t, self("stay"), nil, []string{"/bin/false"})
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() { started <- c.Start(ctx) }()
	nstest.Eventually(t, "a start is under way", func() bool { return status(t, c).State == Starting })
	err := c.Stop(within(t, 50*time.Millisecond))
	if want := fmt.Sprintf("stop %q: context deadline exceeded", os.Args[0]); err == nil || err.Error() != want {
		t.Errorf("Stop during a Start = %v, want %s", err, want)
	}
	cancel()
	if err := <-started; !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v", err)
	}
	if err := c.Stop(within(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
}
