//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/e2e/lab"
)

// idle is what a daemon costs when nobody knocks.
type idle struct {
	resident int64   // bytes
	cpu      float64 // share of one core
	wakeups  float64 // times a second that it woke; see window
}

// window is the time within which everything counts as one wake-up: whatever
// wakes a process may wake several of its threads, and a runtime may look about
// for a moment before it sleeps again.
const window = 50 * time.Millisecond

// watchIdle watches a process for a time, after it had a moment to settle.
func watchIdle(ctx context.Context, pid int, period time.Duration) (idle, error) {
	if err := sleep(ctx, 2*time.Second); err != nil {
		return idle{}, err
	}
	cpu0, woken0, err := usage(pid)
	if err != nil {
		return idle{}, err
	}
	begun, cpu, woken, wakeups := time.Now(), cpu0, woken0, 0
	for time.Since(begun) < period {
		if err := sleep(ctx, window); err != nil {
			return idle{}, err
		}
		before := woken
		if cpu, woken, err = usage(pid); err != nil {
			return idle{}, err
		}
		if woken != before {
			wakeups++
		}
	}
	seconds := time.Since(begun).Seconds()
	rss, err := resident(pid)
	return idle{rss, (cpu - cpu0).Seconds() / seconds, float64(wakeups) / seconds}, err
}

// usage is the time that all threads of a process have spent on a CPU, and how
// often they have gone to sleep of their own will.
func usage(pid int) (cpu time.Duration, woken int64, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		return 0, 0, fmt.Errorf("process %d is gone: %v", pid, err)
	}
	for _, task := range tasks {
		// schedstat counts nanoseconds, where stat counts ticks of 10 ms.
		stat, err := os.ReadFile(task + "/schedstat")
		if err != nil {
			return 0, 0, err
		}
		ns, err := strconv.ParseInt(strings.Fields(string(stat))[0], 10, 64)
		if err != nil {
			return 0, 0, err
		}
		switches, err := lab.StatusField(task+"/status", "voluntary_ctxt_switches")
		if err != nil {
			return 0, 0, err
		}
		cpu += time.Duration(ns)
		woken += switches
	}
	return cpu, woken, nil
}

// resident is a process's resident memory in bytes.
func resident(pid int) (int64, error) {
	kb, err := lab.StatusField(fmt.Sprintf("/proc/%d/status", pid), "VmRSS")
	return kb << 10, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
