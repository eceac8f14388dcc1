//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/socks"
)

// shown is a standard error that can be read while it is written.
type shown struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
	news chan struct{}
}

func (s *shown) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		select {
		case s.news <- struct{}{}:
		default:
		}
	}()
	return s.text.Write(b)
}

// find waits until something is written that matches, and returns the match.
func (s *shown) find(t *testing.T, pattern string) []string {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		m := regexp.MustCompile(pattern).FindStringSubmatch(s.text.String())
		s.mu.Unlock()
		if m != nil {
			return m
		}
		select {
		case <-s.news:
		case <-late:
			t.Fatalf("nothing like %q is said: %s", pattern, s.text.String())
		}
	}
}

// goesOn runs a command until stop is called, which returns its exit status.
func (v *traveller) goesOn(args ...string) (said *shown, stop func() int) {
	v.t.Helper()
	ctx, cancel := context.WithCancel(v.t.Context())
	said = &shown{news: make(chan struct{}, 1)}
	e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: said, getenv: func(name string) string { return v.vars[name] },
		now: func() time.Time { return v.now }, profiles: profile.Directory(filepath.Join(v.home, "profiles"))}
	code := make(chan int, 1)
	go func() { code <- run(ctx, e, args) }()
	return said, func() int { cancel(); return <-code }
}

// Connections to a port of this machine's share knocks, and end with the command.
func TestForward(t *testing.T) {
	v, _ := enrolled(t)
	before := v.knocks()
	said, stop := v.goesOn("forward", "gate", "-L", "0")
	at := said.find(t, `^doorward: listening for gate on (127\.0\.0\.1:\d+), for every user of this machine\n$`)[1]
	var all []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		hello := make([]byte, len("hello\n"))
		if _, err := io.ReadFull(c, hello); err != nil || string(hello) != "hello\n" {
			t.Errorf("%q, %v", hello, err)
		}
		all = append(all, c)
	}
	if n := v.knocks() - before; n != 1 {
		t.Errorf("%d knocks, want 1", n)
	}
	if code := stop(); code != 0 {
		t.Errorf("status %d, want 0", code)
	}
	for _, c := range all {
		if b, _ := io.ReadAll(c); len(b) > 0 { // and it ends
			t.Errorf("%q after the end", b)
		}
	}
	if _, err := net.Dial("tcp", at); err == nil {
		t.Error("it still listens")
	}
}

func TestForwardTells(t *testing.T) {
	v, _ := enrolled(t)
	v.invited() // the key is not known any more
	said, stop := v.goesOn("forward", "gate", "-L", "[::]:0")
	at := said.find(t, `on \[::\]:(\d+), for every user of this machine\ndoorward: note: this is no loopback address: whoever can reach it may use it, and so your key\n`)[1]
	c, err := net.Dial("tcp", "127.0.0.1:"+at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, _ := io.ReadAll(c); len(b) > 0 {
		t.Errorf("%q from a door that does not open", b)
	}
	said.find(t, `doorward: error: the gateway does not accept this key; it is not known there`)
	if code := stop(); code != 0 {
		t.Errorf("status %d, want 0", code)
	}
	v.want(1, "", "doorward: error: listen on 192.0.2.9:1: bind: cannot assign requested address\n", "forward", "gate", "-L", "192.0.2.9:1")
}

// The proxy leads to the gateway's hosts and the doors' ports.
func TestProxy(t *testing.T) {
	v, s := enrolled(t)
	said, stop := v.goesOn("proxy", "gate", "--listen", "0")
	at := said.find(t, `^doorward: SOCKS5 proxy for gate on (127\.0\.0\.1:\d+), for every user of this machine\n$`)[1]
	ask := func(host string, port uint16) (socks.Reply, string) {
		t.Helper()
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		q := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
		if _, err := c.Write(append(q, byte(port>>8), byte(port))); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 12)
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
		hello := make([]byte, 6)
		if answer[3] == byte(socks.Succeeded) {
			if _, err := io.ReadFull(c, hello); err != nil {
				t.Error(err)
			}
		}
		return socks.Reply(answer[3]), strings.TrimRight(string(hello), "\x00\n")
	}
	for _, tt := range []struct {
		host string
		port uint16
		want socks.Reply
	}{
		{"gate", s.port, socks.Succeeded},
		{"127.0.0.1", s.port, socks.Succeeded},
		{"127.0.0.2", s.port, socks.NotAllowed},
		{"example.org\x1b[2J", s.port, socks.NotAllowed},
		{"gate", 0, socks.NotAllowed},
		{"gate", s.port + 1, socks.NotAllowed},
	} {
		got, hello := ask(tt.host, tt.port)
		if got != tt.want || (hello == "hello") != (tt.want == socks.Succeeded) {
			t.Errorf("%q:%d: reply %d, %q, want %d", tt.host, tt.port, got, hello, tt.want)
		}
	}
	said.find(t, `doorward: error: example\.org[^\x1b\n]*\[2J:`)
	v.invited()
	v.now = v.now.Add(time.Hour)
	if got, _ := ask("gate", s.port); got != socks.NotAllowed {
		t.Errorf("a gateway that refuses: %d", got)
	}
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\n\r\n")
	said.find(t, `doorward: error: a client of the proxy: this is no SOCKS5: it begins with 0x47\n`)
	if code := stop(); code != 0 {
		t.Errorf("status %d, want 0", code)
	}
}

func TestReadListen(t *testing.T) {
	for text, want := range map[string]string{"8080": "127.0.0.1:8080", "0": "127.0.0.1:0", "[::1]:80": "[::1]:80", "0.0.0.0:1": "0.0.0.0:1",
		"": "", ":80": "", "gate:80": "", "70000": "", "-1": "", "127.0.0.1": ""} {
		got, err := readListen(text)
		if (err == nil) != (want != "") || err == nil && got != netip.MustParseAddrPort(want) {
			t.Errorf("%q: %v, %v, want %q", text, got, err, want)
		}
	}
}

func TestProbeMetrics(t *testing.T) {
	j := probeJSON{Profile: "gate", Door: "ssh", Time: time.Unix(1_800_000_000, 0), Failed: stepKnock, Steps: []probeStepJSON{
		{Step: stepDarkBefore, State: "ok", TookMS: 1000.5}, {Step: stepKnock, State: "failed", TookMS: 2}, {Step: stepOpen, State: "skipped"}}}
	var b bytes.Buffer
	if err := j.metrics(&b); err != nil {
		t.Fatal(err)
	}
	const want = `# HELP doorward_probe_success Whether all steps of the last probe have succeeded.
# TYPE doorward_probe_success gauge
doorward_probe_success{profile="gate",door="ssh"} 0
# HELP doorward_probe_timestamp_seconds When the last probe has ended.
# TYPE doorward_probe_timestamp_seconds gauge
doorward_probe_timestamp_seconds{profile="gate",door="ssh"} 1800000000
# HELP doorward_probe_may_be_open Whether the door may be open, to this address, after the last probe.
# TYPE doorward_probe_may_be_open gauge
doorward_probe_may_be_open{profile="gate",door="ssh"} 0
# HELP doorward_probe_step_success Whether a step has succeeded. Those that were skipped are missing.
# TYPE doorward_probe_step_success gauge
doorward_probe_step_success{profile="gate",door="ssh",step="dark_before"} 1
doorward_probe_step_success{profile="gate",door="ssh",step="knock"} 0
# HELP doorward_probe_step_duration_seconds How long a step has taken.
# TYPE doorward_probe_step_duration_seconds gauge
doorward_probe_step_duration_seconds{profile="gate",door="ssh",step="dark_before"} 1.0005
doorward_probe_step_duration_seconds{profile="gate",door="ssh",step="knock"} 0.002
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
