package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/visit"
)

// gateway is a small one behind a Visitor's Dial: it opens port 22 to the touches
// 59000 and 59002, in this order and nothing between.
type gateway struct {
	single bool // the first connection spends the grant

	mu      sync.Mutex
	touched []string // guarded by mu
	open    bool     // guarded by mu
}

func (g *gateway) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	_, port, _ := net.SplitHostPort(addr)
	if port == "22" && !g.enter(ctx) {
		return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	}
	if port != "22" {
		g.touch(port)
	}
	c, other := net.Pipe()
	go func() { // ends with what it writes to
		fmt.Fprint(other, "hello\n")
		other.Close()
	}()
	return c, nil
}

func (g *gateway) touch(port string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.touched = append(g.touched, port)
	if n := len(g.touched); port == "59002" && n > 1 && g.touched[n-2] == "59000" {
		g.open = true
	}
}

// enter says whether a connection gets in before ctx ends.
func (g *gateway) enter(ctx context.Context) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return false
	}
	g.open = !g.single
	return ctx.Err() == nil
}

func (g *gateway) order() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string{}, g.touched...)
}

func noInterfaces() ([]net.Addr, error) { return nil, nil }

// call is one invocation of knock, in a directory for locks.
type call struct {
	code           int
	stdout, stderr string
}

func (g *gateway) call(t *testing.T, dir string, now time.Time, args ...string) call {
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, now: func() time.Time { return now },
		getenv: func(name string) string { return map[string]string{"XDG_RUNTIME_DIR": dir}[name] }}
	v := &visit.Visitor{Dial: g.dial, Interfaces: noInterfaces, Lookup: func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.2")}, nil
	}}
	c := newKnockWith(e, v)
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(append([]string{"gate", "--touch", "59000,59002"}, args...))
	return call{report(e, c.ExecuteContext(t.Context())), out.String(), errs.String()}
}

// TestParallelCallsShareAKnock: of many calls at once one knocks, and all get in.
func TestParallelCallsShareAKnock(t *testing.T) {
	tests := []struct {
		name   string
		single bool
		args   []string
		knocks int
	}{
		{name: "to the door's port", args: []string{"--wait", "22", "--stdio"}, knocks: 1},
		{name: "before a command", args: []string{"--wait", "22", "--", "echo", "hello"}, knocks: 1},
		{name: "a grant for one connection", single: true, args: []string{"--wait", "22", "--stdio"}, knocks: 4},
		{name: "nothing shows whether it is open", args: nil, knocks: 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, dir := &gateway{single: tt.single}, t.TempDir()
			calls := make([]call, 4)
			var all sync.WaitGroup
			for i := range calls {
				all.Go(func() { calls[i] = g.call(t, dir, noon, tt.args...) })
			}
			all.Wait()
			for _, c := range calls {
				if c.code != 0 || len(tt.args) > 0 && c.stdout != "hello\n" {
					t.Errorf("status %d, %q, %q; want 0 and hello", c.code, c.stdout, c.stderr)
				}
			}
			var want []string
			for range tt.knocks {
				want = append(want, "59000", "59002")
			}
			if d := cmp.Diff(want, g.order()); d != "" {
				t.Errorf("the gateway was touched otherwise (-want +got):\n%s", d)
			}
		})
	}
}

// TestASharedKnockIsJustNow: what opened a while ago, or by a clock that was set
// back since, or another port, is no reason not to knock.
func TestASharedKnockIsJustNow(t *testing.T) {
	tests := []struct {
		name   string
		later  time.Duration
		args   []string
		knocks int
	}{
		{name: "at once", args: []string{"--wait", "22"}, knocks: 1},
		{name: "a moment later", later: 3 * time.Second, args: []string{"--wait", "22"}, knocks: 1},
		{name: "later", later: 3*time.Second + 1, args: []string{"--wait", "22"}, knocks: 2},
		{name: "before", later: -1, args: []string{"--wait", "22"}, knocks: 2},
		{name: "without the port", args: nil, knocks: 2},
		{name: "over IPv6", args: []string{"--wait", "22", "-6"}, knocks: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, dir := &gateway{}, t.TempDir()
			first := g.call(t, dir, noon, "--wait", "22")
			second := g.call(t, dir, noon.Add(tt.later), tt.args...)
			if wantSix := tt.name == "over IPv6"; first.code != 0 || (second.code != 0) != wantSix {
				t.Errorf("first %+v, second %+v", first, second)
			}
			if got := len(g.order()); got != 2*tt.knocks {
				t.Errorf("%d touches, want %d", got, 2*tt.knocks)
			}
		})
	}
}

// TestTurnsNeedADirectoryOfOnesOwn: without one the knock goes on, and says why
// when it is asked to; nothing is made in somebody else's.
func TestTurnsNeedADirectoryOfOnesOwn(t *testing.T) {
	open := t.TempDir()
	if err := os.Chmod(open, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	planted := t.TempDir()
	if err := os.Symlink(open, filepath.Join(planted, "doorward")); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"none": "", "relative": "here", "not there": "/nonexistent/x", "leads to a shared one": planted} {
		t.Run(name, func(t *testing.T) {
			g := &gateway{}
			c := g.call(t, dir, noon, "--wait", "22", "-v")
			if c.code != 0 || len(g.order()) != 2 || !strings.HasPrefix(c.stderr, "doorward: note: other calls may knock at the same time: ") {
				t.Errorf("%+v after %v", c, g.order())
			}
			if c := g.call(t, dir, noon, "--wait", "22"); c.code != 0 || c.stderr != "" || len(g.order()) != 4 {
				t.Errorf("without -v: %+v after %v", c, g.order())
			}
		})
	}
	if left, err := os.ReadDir(open); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
	own := t.TempDir()
	(&gateway{}).call(t, own, noon, "--wait", "22")
	if info, err := os.Stat(filepath.Join(own, "doorward")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
	text, err := os.ReadDir(filepath.Join(own, "doorward"))
	if err != nil || len(text) != 2 {
		t.Fatalf("%v, %v", text, err)
	}
	for _, f := range text {
		b, err := os.ReadFile(filepath.Join(own, "doorward", f.Name()))
		if err != nil || bytes.Contains(b, []byte("5900")) || strings.Contains(f.Name(), "5900") {
			t.Errorf("%s says %q, %v", f.Name(), b, err)
		}
	}
}

// TestALockThatIsHeld: a call that hangs keeps the others waiting, not out.
func TestALockThatIsHeld(t *testing.T) {
	g, dir := &gateway{}, t.TempDir()
	held := knockOptions{host: "GATE", timeout: time.Second}
	e := &env{getenv: func(string) string { return dir }}
	turn, err := held.takeTurn(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Release()
	c := g.call(t, dir, noon, "--wait", "22", "--timeout", "100ms", "--touch-timeout", "10ms", "-v")
	if c.code != 0 || !strings.Contains(c.stderr, "other calls may knock at the same time: ") {
		t.Errorf("%+v", c)
	}
}

// TestKnockOnItself: a knock on this machine itself says that it has no effect, and
// what to type.
func TestKnockOnItself(t *testing.T) {
	refuse := func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		var out, errs bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
		c := newKnockWith(e, &visit.Visitor{Dial: refuse})
		c.SilenceErrors, c.SilenceUsage = true, true
		c.SetArgs([]string{host, "--touch", "59000"})
		code := report(e, c.ExecuteContext(t.Context()))
		want := "doorward: note: " + strings.Trim(host, "[]") + " is this machine itself, and a gateway ignores knocks from itself; there, use: doorward open DOOR --source ADDRESS\n" +
			"doorward: error: 59000/tcp on " + strings.Trim(host, "[]") + " refuses connections\n" +
			"doorward: hint: a gateway ignores knocks from itself; there, use: doorward open DOOR --source ADDRESS\n"
		if code != 1 || errs.String() != want {
			t.Errorf("status %d, it said:\n%s\nwant:\n%s", code, &errs, want)
		}
	}
}

// TestInterruptedInTheMidst: a visitor who gives up in the midst of a knock learns
// what that costs.
func TestInterruptedInTheMidst(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) {
		if strings.HasSuffix(addr, ":59002") {
			cancel(&caughtError{syscall.SIGINT})
			return nil, ctx.Err()
		}
		c, _ := net.Pipe()
		return c, nil
	}
	var errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: &errs, getenv: func(string) string { return "" }}
	c := newKnockWith(e, &visit.Visitor{Dial: dial, Interfaces: noInterfaces})
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs([]string{"192.0.2.2", "--touch", "59000,59002"})
	code := report(e, c.ExecuteContext(ctx))
	const want = "doorward: error: interrupted before the knock was complete\n" +
		"doorward: hint: a knock left unfinished counts as a wrong one, so wait until the penalty is over (5m by default) before the next\n"
	if code != 130 || errs.String() != want {
		t.Errorf("status %d, it said:\n%s\nwant 130 and:\n%s", code, &errs, want)
	}
}
