//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/signer"
	"github.com/doorward/doorward/internal/turns"
	"github.com/doorward/doorward/internal/visit"
)

// greeter is what is behind a door: it says hello, and then what it is told.
type greeter struct {
	port uint16

	mu     sync.Mutex // guards the rest
	served int
}

func newGreeter(t *testing.T) *greeter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &greeter{port: uint16(l.Addr().(*net.TCPAddr).Port)}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.served++
			s.mu.Unlock()
			all.Go(func() {
				defer c.Close()
				fmt.Fprintln(c, "hello")
				io.Copy(c, c)
			})
		}
	})
	return s
}

// enrolled is a traveller whose key the gateway knows, and who has its profile. Behind the
// door is a service.
func enrolled(t *testing.T) (*traveller, *greeter) {
	t.Helper()
	v, s := newTraveller(t), newGreeter(t)
	line := v.key("id_ed25519")
	v.vars["XDG_RUNTIME_DIR"] = filepath.Join(v.home, "run")
	v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
		all := v.gateway.Open(k)
		if all[0].Status == seal.Opened {
			all[0].Ports = []seal.Port{{First: s.port, Last: s.port}}
		}
		return all
	})
	if code, _, errs := v.run("accept", v.invite.String()); code != 0 {
		t.Fatal(errs)
	}
	v.invited(line)
	return v, s
}

// connect runs connect, with input, and returns the exit status and what it prints.
func (v *traveller) connect(input string, change func(*env), args ...string) (int, string, string) {
	v.t.Helper()
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(input), stdout: &out, stderr: &errs, getenv: func(name string) string { return v.vars[name] },
		now: func() time.Time { return v.now }, profiles: profile.Directory(filepath.Join(v.home, "profiles")),
		ask: func(context.Context, string, bool) ([]byte, error) { return nil, signer.ErrNobody }}
	if change != nil {
		change(e)
	}
	code := run(v.ctx, e, append([]string{"connect"}, args...))
	return code, out.String(), errs.String()
}

func (v *traveller) knocks() int { return len(v.gateway.Knocks()) }

// A connection through a door: the first knocks, and others do not while the grant lasts.
func TestConnect(t *testing.T) {
	v, s := enrolled(t)
	port := fmt.Sprint(s.port)
	through := func(wantKnocks int, args ...string) {
		t.Helper()
		before := v.knocks()
		code, out, errs := v.connect("abc", nil, args...)
		if code != 0 || out != "hello\nabc" || errs != "" {
			t.Errorf("%q: status %d, %q, %q; want 0, what the service says, nothing", args, code, out, errs)
		}
		if n := v.knocks() - before; n != wantKnocks {
			t.Errorf("%q: %d knocks, want %d", args, n, wantKnocks)
		}
	}
	through(1, "127.0.0.1", port)
	through(0, "gate", port)
	through(0, "GATE", port, "--profile", "gate", "--door", "ssh")
	through(1, "gate", port, "--door", "web")
	v.now = v.now.Add(58 * time.Second) // of a minute
	through(1, "gate", port)
	through(0, "gate", port)
	v.now = v.now.Add(-10 * time.Second) // the clock was set: what it said then says nothing
	through(1, "gate", port)
	if code, _, errs := v.run("knock", "gate", "--close"); code != 0 {
		t.Error(errs)
	}
	through(1, "gate", port)
}

// Many at the same time share one knock.
func TestConnectTogether(t *testing.T) {
	v, s := enrolled(t)
	before := v.knocks()
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			if code, out, errs := v.connect("abc", nil, "gate", fmt.Sprint(s.port)); code != 0 || out != "hello\nabc" || errs != "" {
				t.Errorf("status %d, %q, %q", code, out, errs)
			}
		})
	}
	all.Wait()
	if n := v.knocks() - before; n != 1 {
		t.Errorf("%d knocks, want 1", n)
	}
}

// Where a knock lets one connection in, each call knocks, and all get in.
func TestConnectSingleUse(t *testing.T) {
	v, s := enrolled(t)
	var mu sync.Mutex
	granted, tries, early := false, 0, 0 // early: tries before the last knock
	v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
		mu.Lock()
		defer mu.Unlock()
		granted, early = true, tries
		return v.gateway.Open(k)
	})
	guard := func(e *env) {
		e.visits = &visit.Visitor{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			open := granted
			granted = false
			tries++
			mu.Unlock()
			if !open {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}}
	}
	before := v.knocks()
	var all sync.WaitGroup
	const calls = 5
	for range calls {
		all.Go(func() {
			if code, out, errs := v.connect("abc", guard, "gate", fmt.Sprint(s.port)); code != 0 || out != "hello\nabc" || errs != "" {
				t.Errorf("status %d, %q, %q", code, out, errs)
			}
		})
	}
	all.Wait()
	if n := v.knocks() - before; n != calls {
		t.Errorf("%d knocks, want %d", n, calls)
	}
	mu.Lock()
	tries = 0
	mu.Unlock()
	code, _, errs := v.connect("", guard, "gate", fmt.Sprint(s.port))
	mu.Lock()
	defer mu.Unlock()
	if code != 0 || early != 0 {
		t.Errorf("status %d, %q; %d tries, before the knock, at a door that is known to be for one: want none", code, errs, early)
	}
}

// A grant that was taken back, once, is none for a single connection: the calls after the
// next one share its knock.
func TestConnectAfterTheGrantWasTakenBack(t *testing.T) {
	v, s := enrolled(t)
	var open atomic.Bool
	v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
		open.Store(true)
		return v.gateway.Open(k)
	})
	guard := func(e *env) {
		e.visits = &visit.Visitor{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if !open.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}}
	}
	through := func(what string, wantKnocks int) {
		t.Helper()
		v.now = v.now.Add(time.Second)
		before := v.knocks()
		if code, out, errs := v.connect("abc", guard, "gate", fmt.Sprint(s.port)); code != 0 || out != "hello\nabc" || errs != "" {
			t.Errorf("%s: status %d, %q, %q", what, code, out, errs)
		}
		if n := v.knocks() - before; n != wantKnocks {
			t.Errorf("%s: %d knocks, want %d", what, n, wantKnocks)
		}
	}
	through("the first", 1)
	for range 2 { // nor is one that is taken back later
		open.Store(false)
		through("after it was taken back", 1)
		through("the next", 0)
		through("the one after it", 0)
	}
}

// Whoever has waited for a knock that was in vain does not repeat it.
func TestConnectSharesFailure(t *testing.T) {
	v, s := enrolled(t)
	dir, err := turns.Directory(v.vars["XDG_RUNTIME_DIR"])
	if err != nil {
		t.Fatal(err)
	}
	door := turns.At(dir, strings.Join([]string{filepath.Join(v.home, "profiles", "gate.toml"), "ssh"}, "\n"))
	turn, err := door.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before, began := v.knocks(), make(chan bool, 8)
	var mu sync.Mutex
	at := v.now
	later := func() time.Time { // each time
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(time.Millisecond)
		began <- true
		return at
	}
	clock := func(e *env) { e.now = later }
	var all sync.WaitGroup
	all.Go(func() {
		code, out, errs := v.connect("", clock, "gate", fmt.Sprint(s.port))
		const want = "doorward: error: no answer (another call has tried just now)\ndoorward: hint: wait\n"
		if code != 7 || out != "" || errs != want {
			t.Errorf("status %d, %q, %q, want 7, nothing, %q", code, out, errs, want)
		}
	})
	<-began // whether the door is open
	<-began // since when it waits for its turn
	door.Tell(turns.Known{At: later(), Failed: &turns.Failure{Code: "timeout", Message: "no answer", Hint: "wait"}})
	turn.Release()
	all.Wait()
	if n := v.knocks() - before; n != 0 {
		t.Errorf("%d knocks, want none", n)
	}
}

func TestConnectFails(t *testing.T) {
	v, s := enrolled(t)
	port := fmt.Sprint(s.port)
	in := profile.Directory(filepath.Join(v.home, "profiles"))
	p, err := in.Load("gate")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"twin", "other"} {
		if p.Name = name; name == "other" {
			p.Hosts = []string{"gate.example.org", "2001:db8::1"}
		}
		if err := in.Save(p, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"gate", 2, "HOST and PORT are needed, which are %h and %p in ~/.ssh/config\ndoorward: hint: doorward connect --help\n"},
		{"gate 22 23", 2, "\"23\": one HOST and one PORT only\ndoorward: hint: doorward connect --help\n"},
		{"gate ssh", 2, "PORT: port \"ssh\": allowed are 1 to 65535\ndoorward: hint: doorward connect --help\n"},
		{"127.0.0.1 " + port, 2, "2 profiles have the host \"127.0.0.1\": gate, twin\ndoorward: hint: --profile gate\n"},
		{"192.0.2.9 " + port, 1, "no profile is called \"192.0.2.9\" or has it among its hosts\ndoorward: hint: --profile NAME names one; there are: gate, other, twin\n"},
		{"gate " + port + " --profile none", 1, "there is no such profile: \"none\" (" + v.home + "/profiles/none.toml)\ndoorward: hint: there are: gate, other, twin\n"},
		{"gate " + port + " --door -x", 2, "DOOR: \"-x\" cannot be a name: allowed are 1 to 64 letters, digits, dots, dashes and underscores, of which the first is neither dot nor dash\n"},
	} {
		code, out, errs := v.connect("", nil, strings.Fields(tt.args)...)
		if d := cmp.Diff("doorward: error: "+tt.want, errs); code != tt.code || out != "" || d != "" {
			t.Errorf("%s: status %d, want %d; %q (-want +got):\n%s", tt.args, code, tt.code, out, d)
		}
	}
	for host, want := range map[string]string{"Gate.Example.ORG.": "other", "2001:DB8:0::1": "other", "twin": "twin"} {
		if got, err := profileFor(&env{}, in, host); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", host, got, err, want)
		}
	}

	// The gateway refuses, and a port that is not the door's stays shut.
	v.invited()
	if code, _, errs := v.connect("", nil, "gate", port); code != 6 || !strings.HasPrefix(errs, "doorward: error: the gateway does not accept this key\n") {
		t.Errorf("refused: status %d, %q", code, errs)
	}
	n := newEntrance(&env{getenv: func(string) string { return "" }}, &passage{profile: profile.Profile{Ports: map[string][]string{"ssh": {"22/tcp", "80-81/tcp"}}}, request: seal.Request{Door: "ssh"}})
	for at, want := range map[uint16]string{23: "the door is open, and its ports are 22/tcp, 80-81/tcp; --door names another",
		81: "the door is open: something between here and there drops the connection, or nothing listens there"} {
		err := n.shut([]visit.Opened{{Err: os.ErrDeadlineExceeded}}, at, time.Second)
		if got := hintOf(err); got != want || !strings.HasPrefix(err.Error(), fmt.Sprintf("%d/tcp did not open within 1s: ", at)) {
			t.Errorf("%d: %v; %q, want %q", at, err, got, want)
		}
	}
}

// Match exec runs often: it knocks once while the grant lasts, and asks nobody.
func TestQuietMatch(t *testing.T) {
	v, s := enrolled(t)
	match := func(code, knocks int, stderr string) {
		t.Helper()
		before := v.knocks()
		v.want(code, "", stderr, "knock", "gate", "--quiet-match")
		if n := v.knocks() - before; n != knocks {
			t.Errorf("%d knocks, want %d", n, knocks)
		}
	}
	match(0, 1, "")
	match(0, 0, "")
	if code, _, errs := v.connect("", nil, "gate", fmt.Sprint(s.port)); code != 0 {
		t.Error(errs)
	}
	match(0, 0, "")
	v.now = v.now.Add(time.Hour)
	match(0, 1, "")

	v.now = v.now.Add(time.Hour)
	v.invited()
	match(6, 1, "doorward: error: the gateway does not accept this key\n"+
		"doorward: hint: it is not known there, or no longer: ask the gateway's operator, who finds out with doorward keys list and doorward log; the gateway was shown SHA256:KEY (HOME/.ssh/id_ed25519), and sees you at 127.0.0.1\n")
	match(6, 0, "")
	v.now = v.now.Add(9 * time.Second)
	match(6, 0, "")

	v.now = v.now.Add(time.Hour)
	if err := os.RemoveAll(filepath.Join(v.home, ".ssh")); err != nil {
		t.Fatal(err)
	}
	v.invited(v.key("id_ed25519", "-N", "secret"))
	if code, _, errs := v.run("knock", "gate", "--quiet-match"); code != 1 || len(v.asked) > 0 {
		t.Errorf("a key with a passphrase: status %d, %q, asked %q", code, errs, v.asked)
	}
	v.want(2, "", "doorward: error: --quiet-match goes with a PROFILE and a DOOR alone\ndoorward: hint: doorward knock --help\n", "knock", "gate", "--quiet-match", "--wait", "22")
}

func TestSSHConfig(t *testing.T) {
	v, s := enrolled(t)
	block := func(names, port, more string) string {
		return "Host " + names + "\n    HostName 127.0.0.1\n" + port + more
	}
	port := fmt.Sprintf("    Port %d\n", s.port)
	const proxy = "    ProxyCommand doorward connect %h %p --profile gate --door "
	v.want(0, block("gate 127.0.0.1", port, proxy+"ssh\n"), "", "ssh-config", "gate")
	v.want(0, block("g", port, "    User alice\n"+proxy+"ssh\n"), "", "ssh-config", "gate", "--host", "g", "--user", "alice")
	v.want(0, block("gate-web", "", proxy+"web\n"), "", "ssh-config", "gate", "web")
	v.want(0, block("gate 127.0.0.1", port, "Match originalhost gate,127.0.0.1 exec \"doorward knock gate ssh --quiet-match\"\n"), "", "ssh-config", "gate", "--match")

	const file = "HOME/.ssh/config"
	v.want(0, file+": the lines for gate are written; from now on: ssh gate\n", "", "ssh-config", "gate", "--install")
	v.want(0, file+" has these lines: nothing is changed\n", "", "ssh-config", "gate", "--install")
	v.want(0, file+": the lines for gate-web are written; from now on: ssh gate-web\n", "", "ssh-config", "gate", "web", "--install")
	v.want(0, file+": the lines for gate are removed\n", "", "ssh-config", "gate", "--remove")
	v.want(0, file+" has no lines for gate: nothing is changed\n", "", "ssh-config", "gate", "--remove")

	const hint = "\ndoorward: hint: doorward ssh-config --help\n"
	for args, want := range map[string]string{
		"":                        "PROFILE is missing: the gateway, as doorward profiles lists it",
		"gate ssh web":            `"web": one PROFILE and one DOOR only`,
		"gate --install --remove": "--install and --remove exclude one another",
		"gate --file x":           "--file goes with --install or --remove",
		"gate --host *":           `--host "*": allowed is one name, of letters, digits, dots, dashes and underscores`,
		"gate --user alice%h":     `--user "alice%h": allowed is a login's name, without blanks, quotes, # and %`,
	} {
		v.want(2, "", "doorward: error: "+want+hint, append([]string{"ssh-config"}, strings.Fields(args)...)...)
	}
}
