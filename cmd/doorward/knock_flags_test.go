package main

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/visit"
)

// A HOST is understood as people type it, and nothing is sent to what is not a host.
func TestHost(t *testing.T) {
	for _, tt := range []struct{ arg, wait, host, port, wrong string }{
		{arg: "gate.example.org", host: "gate.example.org"},
		{arg: "gate", wait: "22", host: "gate", port: "22"},
		{arg: "alice@gate", host: "gate"},
		{arg: "a@b@gate:22", host: "gate", port: "22"},
		{arg: "gate:22", wait: "22", host: "gate", port: "22"},
		{arg: "ssh://gate", host: "gate", port: "22"},
		{arg: "ssh://alice@gate:2222/", host: "gate", port: "2222"},
		{arg: "192.0.2.2:22", host: "192.0.2.2", port: "22"},
		{arg: "2001:db8::22", host: "2001:db8::22"},
		{arg: "fe80::1%eth0", host: "fe80::1%eth0"},
		{arg: "[2001:db8::2]", host: "2001:db8::2"},
		{arg: "alice@[2001:db8::2]:22", host: "2001:db8::2", port: "22"},

		{arg: "gate:22", wait: "80", wrong: "HOST has port 22, and --wait says 80: which of the two is the door's?"},
		{arg: "gate:ssh", wrong: `HOST: port "ssh": allowed are 1 to 65535`},
		{arg: "gate:0", wrong: `HOST: port "0": allowed are 1 to 65535`},
		{arg: "gate:", wrong: `HOST "gate:": nothing follows the colon: allowed are a name, an address, and user@host:port`},
		{arg: "a:b:c", wrong: `HOST: port "b:c": allowed are 1 to 65535`},
		{arg: "alice@", wrong: `HOST "alice@": no host: allowed are a name, an address, and user@host:port`},
		{arg: ":22", wrong: `HOST ":22": no host: allowed are a name, an address, and user@host:port`},
		{arg: "https://gate", wrong: `HOST "https://gate": a https URL: allowed are a name, an address, and user@host:port`},
		{arg: "ssh://gate/x", wrong: `HOST "ssh://gate/x": no host's name: allowed are a name, an address, and user@host:port`},
		{arg: "[2001:db8::2", wrong: `HOST "[2001:db8::2": brackets without an address in them, or a port after them: allowed are a name, an address, and user@host:port`},
		{arg: "[::1]22", wrong: `HOST "[::1]22": brackets without an address in them, or a port after them: allowed are a name, an address, and user@host:port`},
		{arg: "[::1]:", wrong: `HOST "[::1]:": brackets without an address in them, or a port after them: allowed are a name, an address, and user@host:port`},
	} {
		o := knockOptions{wait: tt.wait}
		err := o.readHost(tt.arg)
		switch {
		case err == nil && tt.wrong != "", err != nil && err.Error() != tt.wrong:
			t.Errorf("%s: error %v, want %q", tt.arg, err, tt.wrong)
		case err == nil && (o.host != tt.host || o.wait != tt.port):
			t.Errorf("%s: host %q and port %q, want %q and %q", tt.arg, o.host, o.wait, tt.host, tt.port)
		}
	}
}

// Touches are a moment apart unless it is said how long.
func TestTouchesAreAMomentApart(t *testing.T) {
	for args, want := range map[string]time.Duration{"": touchDelay, "--delay 0": 0, "--delay 200ms": 200 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			var at []time.Time
			v := &visit.Visitor{Interfaces: noInterfaces, Dial: func(context.Context, string, string) (net.Conn, error) {
				at = append(at, time.Now())
				here, there := net.Pipe()
				there.Close()
				return here, nil
			}}
			e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }}
			c := newKnockWith(e, v)
			c.SetArgs(append([]string{"192.0.2.2", "--touch", "59000,59002"}, strings.Fields(args)...))
			if err := c.ExecuteContext(t.Context()); err != nil || len(at) != 2 || at[1].Sub(at[0]) != want {
				t.Errorf("%q: %v, touches at %v, want %v between them", args, err, at, want)
			}
		})
	}
}
