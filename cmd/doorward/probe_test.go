//go:build unix

package main

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/turns"
	"github.com/doorward/doorward/internal/visit"
)

// watchedDoor is a port of the gateway's that a probe looks at: what answers there, before a
// knock, after it, and after the door was closed.
type watchedDoor struct {
	mu    sync.Mutex // guards now
	now   string     // one of the next three
	open  string     // "accepts", "refuses", "silent" or "unreachable"
	after string
}

func (d *watchedDoor) set(now string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now = now
}

// dial connects to the port.
func (d *watchedDoor) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	d.mu.Lock()
	now := d.now
	d.mu.Unlock()
	switch now {
	case "accepts":
		here, there := net.Pipe()
		there.Close()
		return here, nil
	case "refuses":
		return nil, syscall.ECONNREFUSED
	case "unreachable":
		return nil, syscall.EHOSTUNREACH
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// probed runs probe, and returns its exit status, what it prints, the states and messages of
// all steps, and what it says on standard error.
func (v *traveller) probed(d *watchedDoor) (code int, j probeJSON, states []string, messages, errs string) {
	v.t.Helper()
	v.visits = &visit.Visitor{Dial: d.dial}
	code, out, errs := v.run("probe", "gate", "--json", "--quiet-for", "20ms", "--timeout", "100ms")
	if err := json.Unmarshal([]byte(out), &j); err != nil {
		v.t.Fatalf("%v: %s", err, out)
	}
	if j.OK != (code == 0) {
		v.t.Errorf("ok is %v, and the exit status %d", j.OK, code)
	}
	for _, s := range j.Steps {
		states = append(states, s.Step+" "+s.State)
		messages += s.Message + "\n"
	}
	return code, j, states, messages, errs
}

// Each step of a probe can fail. What it has opened it closes, whatever comes after.
func TestProbe(t *testing.T) {
	const before, knock, open, end, after = "dark_before ok", "knock ok", "open ok", "close ok", "dark_after ok"
	skip := func(s string) string { return strings.Fields(s)[0] + " skipped" }
	fail := func(s string) string { return strings.Fields(s)[0] + " failed" }
	for name, tt := range map[string]struct {
		door   *watchedDoor
		refuse seal.Action // by the gateway
		code   int
		want   []string
		said   string
		closed bool // asked for
		open   bool // it may be
	}{
		"all is well":             {&watchedDoor{now: "silent", open: "accepts", after: "silent"}, 0, 0, []string{before, knock, open, end, after}, "is silent at 127.0.0.1", true, false},
		"never dark":              {&watchedDoor{now: "accepts"}, 0, 1, []string{fail(before), skip(knock), skip(open), skip(end), skip(after)}, "accepts connections at 127.0.0.1; if nobody", false, true},
		"refuses, and so answers": {&watchedDoor{now: "refuses"}, 0, 1, []string{fail(before), skip(knock), skip(open), skip(end), skip(after)}, "refuses connections at 127.0.0.1, and is not silent", false, true},
		"no way there":            {&watchedDoor{now: "unreachable"}, 0, 1, []string{fail(before), skip(knock), skip(open), skip(end), skip(after)}, "127.0.0.1 cannot be reached: no route to host", false, false},
		"a knock that is refused": {&watchedDoor{now: "silent"}, seal.Open, 6, []string{before, fail(knock), skip(open), skip(end), skip(after)}, "cannot open the door now", false, false},
		"does not open":           {&watchedDoor{now: "silent", open: "silent", after: "silent"}, 0, 7, []string{before, knock, fail(open), end, skip(after)}, "did not open within 100ms: 127.0.0.1 does not answer", true, false},
		"does not close":          {&watchedDoor{now: "silent", open: "accepts", after: "accepts"}, seal.Close, 6, []string{before, knock, open, fail(end), skip(after)}, "cannot open the door now", true, true},
		"is not dark after":       {&watchedDoor{now: "silent", open: "accepts", after: "accepts"}, 0, 1, []string{before, knock, open, end, fail(after)}, "accepts connections at 127.0.0.1", true, true},
		"refuses after":           {&watchedDoor{now: "silent", open: "accepts", after: "refuses"}, 0, 1, []string{before, knock, open, end, fail(after)}, "refuses connections at 127.0.0.1, and", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			v, _ := enrolled(t)
			v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
				if k.Request.Action == tt.refuse {
					return []seal.Answer{{Status: seal.Refused, Reason: seal.Unavailable, Source: k.From}}
				}
				tt.door.set(map[seal.Action]string{seal.Open: tt.door.open, seal.Close: tt.door.after}[k.Request.Action])
				return v.gateway.Open(k)
			})
			code, j, states, messages, errs := v.probed(tt.door)
			if code != tt.code || !strings.Contains(messages, tt.said) {
				t.Errorf("status %d, want %d; said\n%swant %q", code, tt.code, messages, tt.said)
			}
			if d := cmp.Diff(tt.want, states); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			closed := slices.ContainsFunc(v.gateway.Knocks(), func(k clienttest.Knock) bool { return k.Request.Action == seal.Close })
			if want := failedOf(tt.want); j.Failed != want || closed != tt.closed {
				t.Errorf("failed %q, want %q; asked to close %v, want %v", j.Failed, want, closed, tt.closed)
			}
			if unclosed := strings.Contains(errs, "note: the door may still be open"); j.MayBeOpen != tt.open || unclosed != (tt.refuse == seal.Close) {
				t.Errorf("may be open: %v, want %v; said %q", j.MayBeOpen, tt.open, errs)
			}
		})
	}
}

func failedOf(states []string) string {
	for _, s := range states {
		if step, failed := strings.CutSuffix(s, " failed"); failed {
			return step
		}
	}
	return ""
}

// bubble has the traveller knock over TCP in memory, by the clock of a synctest bubble. It
// is called in the bubble.
func (v *traveller) bubble(t *testing.T) {
	t.Helper()
	v.gateway.Restart() // its keys are of now
	in := profile.Directory(filepath.Join(v.home, "profiles"))
	p, err := in.Load("gate")
	if err == nil {
		p.Carriers = []string{"tcp"}
		err = in.Save(p, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	v.t, v.ctx = t, t.Context()
	v.network = &client.Client{Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		if network == "tcp" {
			go func() { // ends when the visitor closes
				defer theirs.Close()
				v.gateway.ServeStream(theirs, netip.MustParseAddr("127.0.0.1"))
			}()
		}
		return ours, nil
	}}
}

// A knock whose answer is lost may have opened the door: the probe closes it, and says which
// step has failed, and whether the door may still be open.
func TestProbeThatIsNotAnswered(t *testing.T) {
	const before = "dark_before ok"
	for name, tt := range map[string]struct {
		silent    []seal.Action // what is not answered
		interrupt bool          // once the knock has arrived
		code      int
		want      []string
		failed    string
		open      bool
		said      string
	}{
		"the knock": {silent: []seal.Action{seal.Open}, code: 7, failed: stepKnock,
			want: []string{before, "knock failed", "open skipped", "close ok", "dark_after skipped"}},
		"neither the knock nor the end": {silent: []seal.Action{seal.Open, seal.Close}, code: 7, failed: stepKnock, open: true,
			want: []string{before, "knock failed", "open skipped", "close failed", "dark_after skipped"},
			said: "doorward: note: the door may still be open to this machine, until its grant ends: doorward knock gate ssh --close\n"},
		"the end": {silent: []seal.Action{seal.Close}, code: 7, failed: stepClose, open: true,
			want: []string{before, "knock ok", "open ok", "close failed", "dark_after skipped"},
			said: "doorward: note: the door may still be open to this machine, until its grant ends: doorward knock gate ssh --close\n"},
		"an interrupted knock": {silent: []seal.Action{seal.Open}, interrupt: true, code: 1, failed: stepKnock,
			want: []string{before, "knock failed", "open skipped", "close ok", "dark_after skipped"}},
	} {
		t.Run(name, func(t *testing.T) {
			v, _ := enrolled(t)
			synctest.Test(t, func(t *testing.T) {
				v.bubble(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				v.ctx = ctx
				d := &watchedDoor{now: "silent", open: "accepts", after: "silent"}
				v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
					d.set(map[seal.Action]string{seal.Open: d.open, seal.Close: d.after}[k.Request.Action])
					if tt.interrupt {
						cancel()
					}
					if slices.Contains(tt.silent, k.Request.Action) {
						return nil
					}
					return v.gateway.Open(k)
				})
				code, j, states, messages, errs := v.probed(d)
				if d := cmp.Diff(tt.want, states); code != tt.code || d != "" {
					t.Errorf("status %d, want %d; %s%s(-want +got):\n%s", code, tt.code, messages, errs, d)
				}
				if j.Failed != tt.failed || j.MayBeOpen != tt.open || !strings.Contains(errs, tt.said) {
					t.Errorf("failed %q, may be open %v, %q; want %q, %v, %q", j.Failed, j.MayBeOpen, errs, tt.failed, tt.open, tt.said)
				}
				if k := v.gateway.Knocks(); k[len(k)-1].Request.Action != seal.Close {
					t.Errorf("the last of %d knocks asks for %v, want it to close", len(k), k[len(k)-1].Request.Action)
				}
			})
		})
	}
}

// A door that another call has come to need meanwhile stays open, whatever the probe has
// found.
func TestProbeLeavesADoorThatIsNeeded(t *testing.T) {
	for open, want := range map[string]int{"accepts": 1, "silent": 7} {
		v, _ := enrolled(t)
		d := &watchedDoor{now: "silent", open: open, after: "silent"}
		other := make(chan *turns.Stay, 1)
		v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
			if k.Request.Action == seal.Close {
				t.Errorf("a port that is %s: the door is closed, which another call needs", open)
			}
			other <- v.place().Stay(t.Context())
			d.set(open)
			return v.gateway.Open(k)
		})
		code, j, states, messages, errs := v.probed(d)
		if code != want || states[3] != "close skipped" || !j.MayBeOpen || !strings.Contains(messages, "another call of yours needs it") {
			t.Errorf("a port that is %s: status %d, %q, %q, %s, may be open %v; want %d, and not closed", open, code, states, messages, errs, j.MayBeOpen, want)
		}
		(<-other).End()
	}
}

// Whoever collects metrics hears of a probe that could not begin, too.
func TestProbeWithoutAKey(t *testing.T) {
	v, _ := enrolled(t)
	if err := os.Remove(filepath.Join(v.home, ".ssh", "id_ed25519")); err != nil {
		t.Fatal(err)
	}
	code, out, errs := v.run("probe", "gate", "--metrics")
	if code != 1 || !strings.Contains(out, "doorward_probe_success{profile=\"gate\",door=\"ssh\"} 0\n") || !strings.Contains(errs, "private key: ") {
		t.Errorf("status %d, %q, %q; want 1, and that it has not succeeded", code, out, errs)
	}
}
