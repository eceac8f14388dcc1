//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/control"
)

func TestEveryClientGetsInOverIPv4(t *testing.T) { everyClientGetsIn(t, gate4, "-4", gate4) }

func TestEveryClientGetsInOverIPv6(t *testing.T) { everyClientGetsIn(t, gate6, "-6", "["+gate6+"]") }

// everyClientGetsIn knocks at address with whatever can make a TCP connection, and logs
// in with ssh after each. family and bracketed are how nmap and socat take the address.
func everyClientGetsIn(t *testing.T, address, family, bracketed string) {
	s := newSite(t, "sshd", "ssh", "telnet", "nc.openbsd", "nmap", "bash", "socat")
	door, ssh := s.sshDoor("idle = \"1m\"\nlogins = \"off\"", touchKnock)
	s.start(door)
	clients := [][]string{ // PORT is touched, first the one and then the other
		{"telnet", address, "PORT"},
		{"nc.openbsd", "-w", "2", address, "PORT"},
		{"bash", "-c", "exec 3<>/dev/tcp/" + address + "/PORT"},
		{"socat", "-u", "TCP:" + bracketed + ":PORT", "STDOUT"},
		{"nmap", family, "-n", "-Pn", "-sT", "--max-retries", "0", "-p", "PORT", address},
		{bin + "/doorward", "knock", address, "--touch", "59000,59002", "--wait", "22"},
	}
	for _, client := range clients {
		s.refuses(s.visitor, address, "22")
		s.knockWith(client)
		s.state("ssh", "open")
		s.admits(s.visitor, address, "22")
		out := s.run(s.visitor, "ssh", ssh.Client(address, 5, "echo", "in")...)
		if out != "in\n" {
			t.Errorf("after %q: ssh printed %q", client, out)
		}
		s.refuses(s.stranger, address, "22")
		s.operator("close", "ssh")
		s.state("ssh", "dark")
	}
	s.until("sshd's logins in the log", func() error { // which another process writes
		logins := strings.Count(s.run(s.server, "cat", s.authLog), "Accepted publickey")
		if logins != len(clients) {
			return fmt.Errorf("there are %d, want %d", logins, len(clients))
		}
		return nil
	})
}

// knockWith has the visitor run a client once for each port of the knock, or just once
// if it knows them all. Whether the client calls a connection that was closed at once a
// failure does not matter.
func (s *site) knockWith(client []string) {
	s.t.Helper()
	ports := []string{"59000", "59002"}
	if !slices.ContainsFunc(client, func(arg string) bool { return strings.Contains(arg, "PORT") }) {
		ports = ports[:1]
	}
	for _, port := range ports {
		ctx, cancel := context.WithTimeout(s.t.Context(), soon)
		var argv []string
		for _, arg := range client {
			argv = append(argv, strings.ReplaceAll(arg, "PORT", port))
		}
		out, err := s.visitor.Command(ctx, argv[0], argv[1:]...).CombinedOutput()
		if ctx.Err() != nil {
			s.t.Errorf("%q did not end: %v: %s", argv, err, out)
		}
		cancel()
	}
}

func TestIPv6OnlyVisitor(t *testing.T) {
	s := newSite(t)
	only6 := s.host("only6")
	s.must(s.lab.Link(only6, []string{"2001:db8:6::2/64"}, s.server, []string{"2001:db8:6::1/64"}))
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock))
	s.refuses(only6, "2001:db8:6::1", "8080")
	s.knock(only6, "2001:db8:6::1")
	s.admits(only6, "2001:db8:6::1", "8080")
	for _, g := range s.door("web").Grants {
		if g.Source != "2001:db8:6::2" {
			t.Errorf("a grant for %s", g.Source)
		}
	}
}

func TestRejectAnswersStrangersOnly(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor(`refuse = "reject"`, touchKnock))
	for _, address := range []string{gate4, gate6} {
		_, err := s.dial(s.stranger, address, "8080", time.Second)
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("the stranger at %s: got %v, want a refusal", address, err)
		}
		s.knock(s.visitor, address)
		s.admits(s.visitor, address, "8080")
	}
}

func TestAlwaysNeedsNoKnock(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor(`always = ["192.0.2.2/31", "2001:db8::3/128"]`, touchKnock))
	s.admits(s.visitor, gate4, "8080")
	s.admits(s.stranger, gate4, "8080") // 192.0.2.3 is in 192.0.2.2/31
	s.admits(s.stranger, gate6, "8080")
	s.refuses(s.visitor, gate6, "8080")
}

func TestSingleUse(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("single_use = true\nopen_for = \"1m\"", touchKnock))
	granted := func() {
		t.Helper()
		s.knock(s.visitor, gate4)
		s.becomes("web", "a grant", func(d *control.Door) bool { return len(d.Grants) == 1 })
	}
	granted() // before the first SYN, or one that is sent again may spend it
	c, err := s.talk(s.visitor, gate4, "8080")
	s.must(err)
	s.refuses(s.visitor, gate4, "8080")
	s.must(echo(c, "still here", "still here"))
	granted()
	_, err = s.talk(s.visitor, gate4, "8080")
	s.must(err)
}

func TestGrantRunsOutAndKnockingAgainRefreshes(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor(`open_for = "5s"`, touchKnock))
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	c, err := s.talk(s.visitor, gate4, "8080")
	s.must(err)
	first := s.door("web").Grants[0].Expires
	s.until("a later end", func() error {
		s.knock(s.visitor, gate4)
		if g := s.door("web").Grants; len(g) != 1 || !g[0].Expires.After(first) {
			return fmt.Errorf("grants %v, the first until %s", g, first)
		}
		return nil
	})
	s.becomes("web", "no grant", func(d *control.Door) bool { return len(d.Grants) == 0 })
	s.refuses(s.visitor, gate4, "8080")
	s.must(echo(c, "an open connection lives on", "an open connection lives on"))
}

func TestUDPRange(t *testing.T) {
	s := newSite(t)
	var server net.PacketConn
	s.must(s.server.Do(func() (err error) {
		server, err = net.ListenPacket("udp", ":60500")
		return err
	}))
	defer server.Close()
	go func() { // ends when server is closed
		b := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			server.WriteTo(b[:n], from)
		}
	}()
	ask := func() error {
		var c net.Conn
		s.must(s.visitor.Do(func() (err error) {
			c, err = net.Dial("udp", net.JoinHostPort(gate4, "60500"))
			return err
		}))
		defer c.Close()
		c.SetDeadline(time.Now().Add(dark))
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 512))
		return err
	}
	s.must(ask())
	s.start("[door.mosh]\nports = [\"60000-61000/udp\"]\n[door.mosh.presence]\nlogins = \"off\"\n[[door.mosh.knock]]\n" + touchKnock)
	if err := ask(); err == nil {
		t.Error("an answer from a guarded range without a knock")
	}
	s.knock(s.visitor, gate4)
	s.until("an answer", ask)
}

func TestWrongKnocks(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock+"penalty = \"2s\"\n"))
	for _, wrong := range [][]string{{"59001"}, {"59000", "59001"}, {"59000", "59001", "59002"}} {
		s.touch(s.visitor, gate4, wrong...)
		s.penalised("web", visitor4)
		s.knock(s.visitor, gate4)
		s.refuses(s.visitor, gate4, "8080")
		// This penalty does not matter to another source's knock.
		s.knock(s.stranger, gate4)
		s.admits(s.stranger, gate4, "8080")
		s.operator("close", "web")
		s.becomes("web", "no penalty", func(d *control.Door) bool { return len(d.Penalties) == 0 })
		s.knock(s.visitor, gate4)
		s.admits(s.visitor, gate4, "8080")
		s.operator("close", "web")
	}
	if len(s.door("web").Refusals) == 0 {
		t.Error("status knows no refusals")
	}
	s.says(s.operator("log"), `192\.0\.2\.2`)
}

func TestUnfinishedKnockIsWrong(t *testing.T) {
	s := newSite(t)
	s.start(webDoor("", strings.Replace(touchKnock, `"10s"`, `"1s"`, 1)))
	s.touch(s.visitor, gate4, "59000")
	s.penalised("web", visitor4)
}

// Four connections at once, each with a knock of its own, as programs make them,
// and two people behind one address: their knocks interleave, and all get in.
func TestKnocksInParallel(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock+"order = \"given\"\n"))
	s.touch(s.visitor, gate4, "59000", "59000", "59002", "59000", "59002", "59000", "59002", "59002")
	s.admits(s.visitor, gate4, "8080")
	s.touch(s.visitor, gate4, "59002") // what is left over of one that was given up
	s.operator("close", "web")
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	if d := s.door("web"); len(d.Penalties)+len(d.Refusals) > 0 {
		t.Errorf("penalties %v, refusals %v", d.Penalties, d.Refusals)
	}
	// A source that has not just been right can try only one order.
	s.touch(s.stranger, gate4, "59002", "59000", "59002")
	s.penalised("web", stranger4)
	s.refuses(s.stranger, gate4, "8080")
}

// An IPv6 source is its /64: whoever has one cannot try each knock from another
// address of it.
func TestAnIPv6NetworkIsOneSource(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock))
	s.touch(s.visitor, gate6, "59001")
	s.penalised("web", netip.PrefixFrom(netip.MustParseAddr(visitor6), 64).Masked().String())
	s.knock(s.visitor, gate6)
	s.refuses(s.visitor, gate6, "8080")
}

// A scan that completes connections touches every listener, in turn here; the
// one between is to be left alone.
func TestFullConnectScanOpensNothing(t *testing.T) {
	s := newSite(t, "nmap")
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock))
	s.run(s.stranger, "nmap", "-n", "-Pn", "-sT", "-r", "--max-parallelism", "1", "-p", "8080,59000-59002", gate4)
	s.penalised("web", stranger4)
	if d := s.door("web"); len(d.Grants) > 0 {
		t.Errorf("a scan was given %v", d.Grants)
	}
	s.refuses(s.stranger, gate4, "8080")
}
