//go:build linux

// Package site is a network with a server, a visitor and a stranger, for tests whose own
// program is the daemon of the server: so their daemon can have a kind of knock that the
// product has not.
package site

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/daemon"
	"github.com/doorward/doorward/internal/nstest"
)

// asDaemon is in the environment of a process that is to be the daemon.
const asDaemon = "DOORWARD_TEST_AS_DAEMON"

// Main runs a package's tests and returns the status to exit with. In a process that Start
// has started it is the daemon instead, and ends the process.
func Main(m *testing.M) int {
	if os.Getenv(asDaemon) == "" {
		return m.Run()
	}
	if err := serve(); err != nil {
		fmt.Fprintf(os.Stderr, "doorwardd: error: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
	return 0
}

// serve is what cmd/doorwardd does.
func serve() error {
	flags := flag.NewFlagSet("doorwardd", flag.ExitOnError)
	path := flags.String("c", "", "")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	level := new(slog.LevelVar)
	d := daemon.Daemon{ConfigPath: *path, Version: "test", Level: level, Log: daemon.NewLogger(level)}
	return d.Serve(context.Background())
}

const (
	// Soon is for what should happen at once, on a machine that is busy.
	Soon = 15 * time.Second
	// Dark is how long something is given that must not happen.
	Dark = 300 * time.Millisecond
)

// Site is the network. It ends with the test.
type Site struct {
	Lab                       *lab.Lab
	Server, Visitor, Stranger *lab.Host
	t                         testing.TB
	gate                      *lab.Doorward // the daemon that was started last, nil for none
}

// Addresses are those of the three hosts, with the lengths of their prefixes.
type Addresses struct{ Server, Visitor, Stranger []string }

// New makes a site, with a service on the server at each of the TCP ports, ":8080". The
// test is skipped where it cannot run.
func New(t testing.TB, at Addresses, services ...string) *Site {
	nstest.Need(t, "ip", "nft", "nsenter", "unshare")
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &Site{t: t, Lab: l}
	t.Cleanup(func() {
		if t.Failed() && s.gate != nil {
			t.Logf("the daemon said:\n%s", s.gate.Output())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, h := range map[string]**lab.Host{"server": &s.Server, "visitor": &s.Visitor, "stranger": &s.Stranger} {
		*h, err = l.Host(name)
		s.must(err)
	}
	s.must(l.Switch(map[*lab.Host][]string{s.Server: at.Server, s.Visitor: at.Visitor, s.Stranger: at.Stranger}))
	_, err = s.Server.Isolate()
	s.must(err)
	for _, port := range services {
		var service net.Listener
		s.must(s.Server.Do(func() (err error) { service, err = net.Listen("tcp", port); return }))
		t.Cleanup(func() { service.Close() })
	}
	this, err := os.Executable()
	s.must(err)
	s.must(os.Symlink(this, l.Path("doorwardd")))
	return s
}

func (s *Site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Start starts a daemon with a configuration, whose control socket is the lab's
// control.sock, and waits until it is ready. Any goroutine may call it, of which one at a
// time.
func (s *Site) Start(config string) (*lab.Doorward, error) {
	gate, err := s.Server.Doorward(s.t.Context(), s.Lab.Dir, config, s.Lab.Path("control.sock"), asDaemon+"=yes")
	if gate != nil {
		s.gate = gate
	}
	return gate, err
}

// Client speaks to the daemon.
func (s *Site) Client() *control.Client { return control.NewClient(s.Lab.Path("control.sock")) }

// Dial connects over TCP from a host, and hangs up.
func (s *Site) Dial(from *lab.Host, address, port string, limit time.Duration) error {
	return from.Do(func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(address, port), limit)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// Refuses expects silence at a port.
func (s *Site) Refuses(from *lab.Host, address, port string) {
	s.t.Helper()
	err := s.Dial(from, address, port, Dark)
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		s.t.Errorf("%s to %s:%s: %v, want silence", from.Name, address, port, err)
	}
}

// Admits expects to be let in, as a visitor who was told so.
func (s *Site) Admits(from *lab.Host, address, port string) {
	s.t.Helper()
	if err := s.Dial(from, address, port, Soon); err != nil {
		s.t.Errorf("%s was told that the door is open, and is not let in: %v", from.Name, err)
	}
}
