package main

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

const bob = "operator bob (uid 1001)"

// When the time is up, the daemon goes back, which takes a moment: whoever asks then
// learns how that ended, and not that the time, which is over, still runs.
func TestOutcomeAtTheLastMoment(t *testing.T) {
	b := controltest.New(guarded())
	until := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	b.Change(func(s *control.Status) { s.Pending = &control.Pending{ID: 7, Until: until, By: bob} })
	path, _ := controltest.Serve(t, b)
	var once sync.Once
	e := &env{now: func() time.Time {
		once.Do(func() { settled(b, "", control.EndExpired) })
		return until
	}}
	err := outcome(t.Context(), e, control.NewClient(path), 7)
	const want = "not kept: nobody confirmed it in time, and the previous configuration is in use again"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// While its time runs, the answer says at once until when.
func TestOutcomeOfOneThatWaits(t *testing.T) {
	b := controltest.New(guarded())
	until := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	b.Change(func(s *control.Status) { s.Pending = &control.Pending{ID: 7, Until: until, By: bob} })
	path, _ := controltest.Serve(t, b)
	e := &env{now: func() time.Time { return until.Add(-time.Minute) }}
	err := outcome(t.Context(), e, control.NewClient(path), 7)
	if err == nil || err.Error() != "not kept yet: it goes back at 04:05:06" {
		t.Errorf("got %v, want that it waits until 04:05:06", err)
	}
}

// An order that is interrupted is not one that came to nothing.
func TestApplyIsInterrupted(t *testing.T) {
	b := controltest.New(guarded())
	ctx, cancel := context.WithCancel(t.Context())
	b.OnDo(func(ctx context.Context, _ controltest.Given) (control.Reply, error) {
		cancel()
		<-ctx.Done()
		return control.Reply{}, ctx.Err()
	})
	path, _ := controltest.Serve(t, b)
	var out, errs strings.Builder
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	code := run(ctx, e, []string{"--control", path, "apply", "--confirm", "1m"})
	const want = "doorward: error: interrupted before the daemon answered; it may still carry out the order\n" +
		"doorward: hint: doorward status\n"
	if code != 1 || errs.String() != want || out.String() != "" {
		t.Errorf("got %d %q %q, want 1 and %q", code, &out, &errs, want)
	}
}

// An id of nothing does not widen what is meant.
func TestApplyIDOfNothing(t *testing.T) {
	b := controltest.New(guarded())
	path, _ := controltest.Serve(t, b)
	for _, action := range []string{"--keep", "--undo"} {
		var errs strings.Builder
		e := &env{stdin: strings.NewReader(""), stdout: &errs, stderr: &errs, getenv: func(string) string { return "" }}
		code := run(t.Context(), e, []string{"--control", path, "apply", action, "--id", "0"})
		const want = "doorward: error: --id 0: allowed is the id of a configuration that waits, as doorward status shows it; " +
			"without --id it is whichever waits\ndoorward: hint: doorward apply --help\n"
		if code != 2 || errs.String() != want || len(b.Given()) != 0 {
			t.Errorf("%s: got %d %q, orders %v; want 2 and %q", action, code, &errs, b.Given(), want)
		}
	}
}

// settled ends what is pending.
func settled(b *controltest.Backend, by, how string) {
	b.Change(func(s *control.Status) {
		s.Pending, s.Settled = nil, &control.Settled{ID: 7, Time: time.Now(), By: by, Kept: how == control.EndKept, End: how}
		s.Ended = []control.Settled{*s.Settled}
	})
}
