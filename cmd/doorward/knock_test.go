//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/visit"
)

// knockNet is a visitor and a gateway that share a link; the gateway takes
// touches at 59000 and 59002, drops 59001, and its port 22 says "hello".
type knockNet struct {
	visitor, gate *nstest.NS
}

func newKnockNet(t *testing.T) *knockNet {
	nstest.Need(t, "ip", "nft", "nsenter")
	n := &knockNet{nstest.New(t), nstest.New(t)}
	nstest.Link(n.visitor, n.gate, []string{"192.0.2.1/24", "2001:db8::1/64"},
		[]string{"192.0.2.2/24", "2001:db8::2/64"})
	n.gate.Run("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; };"+
		"add rule inet t in tcp dport 59001 drop")
	for _, p := range []string{"59000", "59002"} {
		n.listen(t, ":"+p, "")
	}
	return n
}

// listen accepts at addr in the gateway, says words, and closes when the other
// end has.
func (n *knockNet) listen(t *testing.T, addr, words string) {
	t.Helper()
	n.serve(t, addr, func(c net.Conn) {
		defer c.Close()
		fmt.Fprint(c, words)
		if words == "" {
			return
		}
		b := make([]byte, 64)
		m, _ := c.Read(b)
		c.Write(bytes.ToUpper(b[:m]))
	})
}

// serve has handle deal with each connection to addr in the gateway, one after
// the other.
func (n *knockNet) serve(t *testing.T, addr string, handle func(net.Conn)) {
	t.Helper()
	var l net.Listener
	n.gate.Do(func() (err error) { l, err = net.Listen("tcp", addr); return })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// knock runs the command with a resolver that knows "gate" by both addresses,
// "four" and "half" (whose IPv6 address nobody has).
func (n *knockNet) knock(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	v := &visit.Visitor{
		Interfaces: func() ([]net.Addr, error) { return nil, nil },
		Dial: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			n.visitor.Do(func() error {
				c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
				return nil
			})
			return c, err
		},
		Lookup: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			six, four := netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.0.2.2")
			return map[string][]netip.Addr{
				"gate": {six, four}, "four": {four}, "half": {netip.MustParseAddr("2001:db8::dead"), four},
			}[host], nil
		},
	}
	c := newKnockWith(e, v)
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	return report(e, c.ExecuteContext(t.Context())), out.String(), errs.String()
}

func TestKnockCommand(t *testing.T) {
	n := newKnockNet(t)
	n.listen(t, ":22", "hello\n")
	n.listen(t, "192.0.2.2:80", "hello\n")
	const each = "--touch-timeout=5s"
	tests := []struct {
		name   string
		stdin  string
		args   []string
		code   int
		stdout []string // "..." stands for a duration
		stderr []string
	}{
		{
			name: "touches", args: []string{"four", "--touch", "59000,59002"},
			stdout: []string{"knocked on 192.0.2.2: 59000, 59002"},
		},
		{
			name: "one list of several", args: []string{"four", "--touch", "59000", "--touch", "59002"},
			stdout: []string{"knocked on 192.0.2.2: 59000, 59002"},
		},
		{
			name: "both families", args: []string{"gate", "--touch", "59002,59000", "--wait", "22"},
			stdout: []string{
				"knocked on 2001:db8::2: 59002, 59000",
				"knocked on 192.0.2.2: 59002, 59000",
				"open: 22/tcp on 2001:db8::2 after ...",
				"open: 22/tcp on 192.0.2.2 after ...",
			},
		},
		{
			name: "IPv6 only", args: []string{"gate", "-6", "--touch", "59000", "--wait", "22/tcp"},
			stdout: []string{"knocked on 2001:db8::2: 59000", "open: 22/tcp on 2001:db8::2 after ..."},
		},
		{
			name: "one family is enough",
			args: []string{"half", "--touch", "59000", "--touch-timeout", "200ms", "--wait", "22"},
			stdout: []string{
				"no knock over IPv6: 59000/tcp on 2001:db8::dead did not answer within 200ms",
				"knocked on 192.0.2.2: 59000",
				"open: 22/tcp on 192.0.2.2 after ...",
			},
		},
		{
			name: "open over one family only", args: []string{"gate", "--touch", "59000", "--wait", "80"},
			stdout: []string{
				"knocked on 2001:db8::2: 59000",
				"knocked on 192.0.2.2: 59000",
				"not open: 80/tcp on 2001:db8::2: refuses connections",
				"open: 80/tcp on 192.0.2.2 after ...",
			},
		},
		{
			name: "refused", args: []string{"four", "--touch", "59009"}, code: 1,
			stderr: []string{
				"doorward: error: 59009/tcp on 192.0.2.2 refuses connections",
				"doorward: hint: a wrong host or port, a gateway that is not running," +
					" or one that ignores you for a while after a wrong knock",
			},
		},
		{
			name: "begun and not finished",
			args: []string{"four", "--touch", "59000,59001", "--touch-timeout", "200ms"}, code: 1,
			stderr: []string{
				"doorward: error: 59001/tcp on 192.0.2.2 did not answer within 200ms, after 59000 had been touched",
				"doorward: hint: a wrong host or port, or a firewall in between; the ports of a knock are never guarded," +
					" so they should answer at once; a knock left unfinished counts as a wrong one, so wait" +
					" until the penalty is over (5m by default) before the next",
			},
		},
		{
			name: "nowhere complete", args: []string{"gate", "--touch", "59009"}, code: 1,
			stdout: []string{
				"no knock over IPv6: 59009/tcp on 2001:db8::2 refuses connections",
				"no knock over IPv4: 59009/tcp on 192.0.2.2 refuses connections",
			},
			stderr: []string{
				"doorward: error: no knock on gate is complete",
				"doorward: hint: a wrong host or port, a gateway that is not running," +
					" or one that ignores you for a while after a wrong knock",
			},
		},
		{
			name: "does not open",
			args: []string{"four", "--touch", "59000", "--wait", "59001", "--timeout", "300ms"}, code: 7,
			stdout: []string{"knocked on 192.0.2.2: 59000"},
			stderr: []string{
				"doorward: error: 59001/tcp on 192.0.2.2 did not open within 300ms: it does not answer",
				"doorward: hint: every port was touched, but these may not be the door's, or you are still penalised" +
					" for a wrong knock (5m by default: wait, because every further knock is ignored), or the service" +
					" behind the door did not start (its operator can see why: doorward log), or the gateway judges knocks at intervals" +
					" (then try --timeout 90s)",
			},
		},
		{
			name: "a command follows", args: []string{"four", "--touch", "59000", "--", "echo", "in", "$HOME"},
			stdout: []string{"in $HOME"},
			stderr: []string{"knocked on 192.0.2.2: 59000"},
		},
		{
			name: "a command's status", args: []string{"four", "--touch", "59000", "--", "sh", "-c", "exit 7"}, code: 7,
			stderr: []string{"knocked on 192.0.2.2: 59000"},
		},
		{
			name: "no such command", args: []string{"four", "--touch", "59000", "--", "no-such-program"}, code: 127,
			stderr: []string{"knocked on 192.0.2.2: 59000", `doorward: error: command "no-such-program" is not found`},
		},
		{
			name: "no command after a failed knock", args: []string{"four", "--touch", "59009", "--", "echo", "in"}, code: 125,
			stderr: []string{
				"doorward: error: 59009/tcp on 192.0.2.2 refuses connections",
				"doorward: hint: a wrong host or port, a gateway that is not running," +
					" or one that ignores you for a while after a wrong knock",
			},
		},
		{
			name: "standard streams", stdin: "shout\n",
			args:   []string{"gate", "--touch", "59000", "--wait", "22", "--stdio"},
			stdout: []string{"hello", "SHOUT"},
			stderr: []string{
				"knocked on 2001:db8::2: 59000",
				"knocked on 192.0.2.2: 59000",
				"open: 22/tcp on ...",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := n.knock(t, tt.stdin, append([]string{each}, tt.args...)...)
			if code != tt.code {
				t.Errorf("exit status %d, want %d", code, tt.code)
			}
			wantLines(t, "standard output", stdout, tt.stdout)
			wantLines(t, "standard error", stderr, tt.stderr)
		})
	}
}

// wantLines compares text line by line; a wanted line that ends in "..." is a
// beginning.
func wantLines(t *testing.T, what, text string, want []string) {
	t.Helper()
	var got []string
	if text != "" {
		got = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	}
	same := len(got) == len(want)
	for i := 0; same && i < len(want); i++ {
		beginning, cut := strings.CutSuffix(want[i], "...")
		same = got[i] == want[i] || cut && strings.HasPrefix(got[i], beginning)
	}
	if !same {
		t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestKnockJSON(t *testing.T) {
	n := newKnockNet(t)
	n.listen(t, "192.0.2.2:22", "hello\n")
	tests := []struct {
		args []string
		code int
		want knockJSON // without times
	}{
		{
			args: []string{"four", "--touch", "59000", "--wait", "22"},
			want: knockJSON{
				Host: "four", OK: true,
				Knocks: []attemptJSON{{Address: "192.0.2.2", Complete: true, Touches: []touchJSON{{Port: 59000}}}},
				Wait:   []waitJSON{{Port: "22/tcp", Address: "192.0.2.2", Open: true}},
			},
		},
		{
			args: []string{"four", "--touch", "59000", "--wait", "23", "--timeout", "200ms"}, code: 7,
			want: knockJSON{
				Host:   "four",
				Knocks: []attemptJSON{{Address: "192.0.2.2", Complete: true, Touches: []touchJSON{{Port: 59000}}}},
				Wait:   []waitJSON{{Port: "23/tcp", Address: "192.0.2.2", Error: "refuses connections"}},
			},
		},
		{
			args: []string{"four", "--touch", "59000,59009"}, code: 1,
			want: knockJSON{
				Host: "four",
				Knocks: []attemptJSON{{Address: "192.0.2.2", Touches: []touchJSON{{Port: 59000}, {Port: 59009,
					Error: "59009/tcp on 192.0.2.2 refuses connections, after 59000 had been touched"}}}},
				Wait: []waitJSON{},
			},
		},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			code, stdout, _ := n.knock(t, "", append(tt.args, "--json", "--touch-timeout", "5s")...)
			if code != tt.code {
				t.Errorf("exit status %d, want %d", code, tt.code)
			}
			var got knockJSON
			if err := json.Unmarshal([]byte(stdout), &got); err != nil {
				t.Fatalf("%v in %q", err, stdout)
			}
			for _, k := range got.Knocks {
				for i := range k.Touches {
					k.Touches[i].TookMS = 0
				}
			}
			for i := range got.Wait {
				got.Wait[i].AfterMS = 0
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestEightAtOnce has eight programs at once knock on a gateway whose port 22 is
// silent until it has been touched right: one of them knocks, and all get in.
func TestEightAtOnce(t *testing.T) {
	n := newKnockNet(t)
	n.gate.Run("nft", "add chain inet t dark { type filter hook input priority 0; }; add rule inet t dark tcp dport 22 drop")
	n.listen(t, ":22", "hello\n")
	var mu sync.Mutex
	var touches []time.Time
	for _, p := range []string{":60000", ":60002"} {
		n.serve(t, p, func(c net.Conn) {
			c.Close()
			mu.Lock()
			touches = append(touches, time.Now())
			mu.Unlock()
			if p == ":60002" {
				n.gate.Run("nft", "flush chain inet t dark")
			}
		})
	}
	touched := func() []time.Time {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(touches)
	}
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			c := n.visitor.Command(t.Context(), "env", "XDG_RUNTIME_DIR="+dir, "doorward", "knock", "192.0.2.2",
				"--touch", "60000,60002", "--wait", "22", "--stdio")
			c.Stdin = strings.NewReader("shout\n")
			if out, err := c.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), "hello\nSHOUT\n") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	nstest.Eventually(t, "both touches have been noticed", func() bool { return len(touched()) >= 2 })
	got := touched()
	// On a machine that is so busy that a program has its turn only later than a knock
	// serves others (turns.sharedFor), that knocks for itself.
	const served = 3 * time.Second
	if more := got[2:]; len(more) > 0 && more[0].Sub(got[1]) < served {
		t.Errorf("%d touches, want one knock's 2; the third came after %v", len(got), more[0].Sub(got[1]))
	}
}

// TestKnockUnderSSH has the real ssh try the two entries for ~/.ssh/config that the
// help shows.
func TestKnockUnderSSH(t *testing.T) {
	nstest.Need(t, "ssh")
	n := newKnockNet(t)
	n.listen(t, ":22", "hello\n")
	config := filepath.Join(t.TempDir(), "config")
	text := `Match host 192.0.2.2 exec "doorward knock %h --touch 59000,59002 --wait %p"
    User in
Match host 192.0.2.9 exec "doorward knock %h --touch 59000 --touch-timeout 100ms"
    User never
Host proxied
    HostName 192.0.2.2
    ProxyCommand doorward knock %h --touch 59000,59002 --wait %p --stdio
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ssh := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		out, _ := n.visitor.Command(ctx, "ssh", append([]string{"-F", config}, args...)...).CombinedOutput()
		return string(out)
	}
	for host, want := range map[string]bool{"192.0.2.2": true, "192.0.2.9": false} {
		if out := ssh("-G", host); strings.Contains(out, "user in\n") != want || strings.Contains(out, "user never") {
			t.Errorf("ssh -G %s, want a knock: %v:\n%s", host, want, out)
		}
	}
	// The listener is not an sshd, which ssh only finds out by talking to it.
	out := ssh("-v", "proxied")
	if !strings.Contains(out, "open: 22/tcp on 192.0.2.2") || !strings.Contains(out, "hello") {
		t.Errorf("ssh through ProxyCommand: nothing came through:\n%s", out)
	}
}
