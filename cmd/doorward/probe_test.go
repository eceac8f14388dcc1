//go:build unix

package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/client/clienttest"
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

// probed runs probe, and returns its exit status, the step that it says has failed, the
// states and messages of all steps, and what it says on standard error.
func (v *traveller) probed(d *watchedDoor) (code int, failed string, states []string, messages, errs string) {
	v.t.Helper()
	v.visits = &visit.Visitor{Dial: d.dial}
	code, out, errs := v.run("probe", "gate", "--json", "--quiet-for", "20ms", "--timeout", "100ms")
	var j probeJSON
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
	return code, j.Failed, states, messages, errs
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
	}{
		"all is well":             {&watchedDoor{now: "silent", open: "accepts", after: "silent"}, 0, 0, []string{before, knock, open, end, after}, "is silent at 127.0.0.1", true},
		"never dark":              {&watchedDoor{now: "accepts"}, 0, 1, []string{fail(before), skip(knock), skip(open), skip(end), skip(after)}, "accepts connections at 127.0.0.1; if nobody", false},
		"refuses, and so answers": {&watchedDoor{now: "refuses"}, 0, 1, []string{fail(before), skip(knock), skip(open), skip(end), skip(after)}, "refuses connections at 127.0.0.1, and is not silent", false},
		"no way there":            {&watchedDoor{now: "unreachable"}, 0, 1, []string{fail(before), skip(knock), skip(open), skip(end), skip(after)}, "127.0.0.1 cannot be reached: no route to host", false},
		"a knock that is refused": {&watchedDoor{now: "silent"}, seal.Open, 6, []string{before, fail(knock), skip(open), skip(end), skip(after)}, "cannot open the door now", false},
		"does not open":           {&watchedDoor{now: "silent", open: "silent", after: "silent"}, 0, 7, []string{before, knock, fail(open), end, skip(after)}, "did not open within 100ms: 127.0.0.1 does not answer", true},
		"does not close":          {&watchedDoor{now: "silent", open: "accepts", after: "accepts"}, seal.Close, 6, []string{before, knock, open, fail(end), skip(after)}, "cannot open the door now", true},
		"is not dark after":       {&watchedDoor{now: "silent", open: "accepts", after: "accepts"}, 0, 1, []string{before, knock, open, end, fail(after)}, "accepts connections at 127.0.0.1", true},
		"refuses after":           {&watchedDoor{now: "silent", open: "accepts", after: "refuses"}, 0, 1, []string{before, knock, open, end, fail(after)}, "refuses connections at 127.0.0.1, and", true},
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
			code, failed, states, messages, _ := v.probed(tt.door)
			if code != tt.code || !strings.Contains(messages, tt.said) {
				t.Errorf("status %d, want %d; said\n%swant %q", code, tt.code, messages, tt.said)
			}
			if d := cmp.Diff(tt.want, states); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			closed := slices.ContainsFunc(v.gateway.Knocks(), func(k clienttest.Knock) bool { return k.Request.Action == seal.Close })
			if want := failedOf(tt.want); failed != want || closed != tt.closed {
				t.Errorf("failed %q, want %q; asked to close %v, want %v", failed, want, closed, tt.closed)
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

// A door that another call has come to need meanwhile stays open, whatever the probe has
// found.
func TestProbeLeavesADoorThatIsNeeded(t *testing.T) {
	for open, want := range map[string]int{"accepts": 1, "silent": 7} {
		v, _ := enrolled(t)
		d := &watchedDoor{now: "silent", open: open, after: "silent"}
		leave := make(chan func() bool, 1)
		v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
			if k.Request.Action == seal.Close {
				t.Errorf("a port that is %s: the door is closed, which another call needs", open)
			}
			dir, err := turns.Directory(v.vars["XDG_RUNTIME_DIR"])
			if err != nil {
				t.Error(err)
			}
			leave <- turns.At(dir, filepath.Join(v.home, "profiles", "gate.toml")+"\nssh").Stay()
			d.set(open)
			return v.gateway.Open(k)
		})
		if code, _, states, _, errs := v.probed(d); code != want || states[3] != "close skipped" {
			t.Errorf("a port that is %s: status %d, %q, %s; want %d, and not closed", open, code, states, errs, want)
		}
		(<-leave)()
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
