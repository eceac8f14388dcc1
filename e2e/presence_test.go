//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/user"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// idle is that of the doors here, and for how long a knock opens them.
const idle = 3 * time.Second

// inUse waits until somebody has been seen in a door for longer than its idle time
// from now on; else it would have gone dark meanwhile. Its grants have run out by
// then, so that it is presence alone that holds it.
func (s *site) inUse(name string, idle time.Duration) {
	s.t.Helper()
	from := time.Now()
	s.becomes(name, "somebody in it without a pause", func(d *control.Door) bool {
		return d.State == "open" && d.Sessions == 1 && len(d.Grants) == 0 &&
			d.LastSeen != nil && d.LastSeen.After(from.Add(idle+time.Second))
	})
}

// Mosh has one socket for whoever comes; its heartbeat is every three seconds. The
// door stays open while it is heard, though connection tracking forgets it, and no
// longer.
func TestMoshIsSeen(t *testing.T) {
	s := newSite(t, "mosh-server", "mosh-client", "script", "conntrack", "cat")
	// The door is open for longer than a heartbeat takes, since one may come right before the knock.
	s.start("[door.mosh]\nports = [\"60000-61000/udp\"]\nopen_for = \"6s\"\n[door.mosh.presence]\nlogins = \"off\"\nidle = \"3s\"\n" +
		"[[door.mosh.knock]]\n" + touchKnock)
	// So that a silent flow is forgotten soon.
	s.run(s.server, "sysctl", "-q", "-w", "net.netfilter.nf_conntrack_udp_timeout=5", "net.netfilter.nf_conntrack_udp_timeout_stream=5")
	// And a terminal for what mosh-server runs.
	s.run(s.server, "mount", "-t", "devpts", "-o", "newinstance,ptmxmode=666", "devpts", "/dev/pts")
	s.run(s.server, "mount", "--bind", "/dev/pts/ptmx", "/dev/ptmx")
	out := s.run(s.server, "mosh-server", "new", "-i", gate4, "-p", "60001", "-l", "LC_ALL=C.UTF-8", "--", "cat")
	key := regexp.MustCompile(`MOSH CONNECT 60001 (\S+)`).FindStringSubmatch(out)
	if key == nil {
		t.Fatalf("mosh-server prints no key: %s", out)
	}
	client, err := s.visitor.Start("env", "MOSH_KEY="+key[1], "TERM=xterm", "LC_ALL=C.UTF-8",
		"script", "-qfec", "stty rows 24 cols 80 && exec mosh-client "+gate4+" 60001", "/dev/null")
	s.must(err)
	s.knock(s.visitor, gate4)
	s.inUse("mosh", idle)
	s.run(s.server, "conntrack", "-F")
	s.must(client.Type("hello\n")) // or the next heartbeats come just too late
	s.inUse("mosh", idle)
	s.must(client.Type("\x1e.")) // mosh-client's own way to end
	s.state("mosh", "dark")
}

// A session at a port that is published by destination NAT ends on another machine.
func TestPublishedPortIsInUse(t *testing.T) {
	s := newSite(t)
	container := s.host("container")
	s.must(s.lab.Link(container, []string{"198.51.100.2/24"}, s.server, []string{"198.51.100.1/24"}))
	s.run(container, "ip", "route", "add", "default", "via", "198.51.100.1")
	s.run(s.server, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	s.run(s.server, "nft", "add table ip nat; "+
		"add chain ip nat pre { type nat hook prerouting priority dstnat; }; "+
		"add rule ip nat pre fib daddr type local tcp dport 8080 dnat to 198.51.100.2:80")
	s.serve(container, ":80")
	s.start("[door.web]\nports = [\"8080/tcp\"]\nopen_for = \"3s\"\n[door.web.presence]\nlogins = \"off\"\nidle = \"3s\"\n" +
		"[[door.web.knock]]\n" + touchKnock)
	s.knock(s.visitor, gate4)
	c, err := s.talk(s.visitor, gate4, "8080")
	s.must(err)
	s.inUse("web", idle)
	s.must(echo(c, "still here", "still here"))
	s.must(c.Close())
	s.state("web", "dark")

	// A session that outlives its door is reported at a dark one, too.
	s.knock(s.visitor, gate4)
	c, err = s.talk(s.visitor, gate4, "8080")
	s.must(err)
	s.operator("close", "web")
	s.becomes("web", "dark with a session", func(d *control.Door) bool { return d.State == "dark" && d.Sessions == 1 })
	s.must(echo(c, "still here", "still here"))
}

// What the gateway sends to itself keeps no door open, nor does what it has begun from
// a port of a door, whatever the door's scope.
func TestTheGatewayItselfIsNobody(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.serve(s.visitor, ":80")
	var held []net.Conn
	for _, from := range []string{"127.0.0.1", gate4, gate6} {
		c, err := s.talk(s.server, from, "8080")
		s.must(err)
		held = append(held, c)
	}
	const doors = `[door.web]
ports = ["8080/tcp", "9000-9999/tcp", "9000-9999/udp"]
open_for = "1s"
[door.web.presence]
logins = "off"
idle = "2s"
[[door.web.knock]]
scope = %q
` + touchKnock
	s.start(fmt.Sprintf(doors, "source"))
	s.must(s.server.Do(func() error { // begun when connection tracking sees it
		tcp, err := (&net.Dialer{LocalAddr: &net.TCPAddr{Port: 9001}}).Dial("tcp", visitor4+":80")
		if err != nil {
			return err
		}
		held = append(held, tcp)
		udp, err := (&net.Dialer{LocalAddr: &net.UDPAddr{Port: 9002}}).Dial("udp", visitor4+":53")
		if err != nil {
			return err
		}
		held = append(held, udp)
		_, err = io.WriteString(udp, "hello")
		return err
	}))
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for _, scope := range []string{"source", "door"} {
		s.configure(fmt.Sprintf(doors, scope))
		s.operator("apply")
		s.knock(s.visitor, gate4)
		s.state("web", "open")
		if n := s.door("web").Sessions; n != 0 {
			t.Errorf("scope %q: %d are in, want nobody", scope, n)
		}
		s.state("web", "dark")
	}
	for _, c := range held[:3] {
		s.must(echo(c, "still here", "still here"))
	}
}

// logins are the audit trail's.
func (s *site) logins() (all []string) {
	s.t.Helper()
	for line := range strings.Lines(s.operator("log", "ssh", "--json")) {
		var r audit.Record
		s.must(json.Unmarshal([]byte(line), &r))
		if r.Event == audit.EventLogin {
			by, _, _ := strings.Cut(r.Login.Grant.By, ", logged in as") // if whoever runs the tests has logged in
			all = append(all, fmt.Sprintf("%s from %s by %s, let in by %s", r.Login.User, r.Source, r.Login.Method, by))
		}
	}
	return all
}

// A login has the grant that let it in, and who ordered or knocked for it; so has its
// session for as long as it lasts, over a restart, too. One that is over before anybody
// looks is recorded as well, and one by another port is not.
func TestWhoIsInByWhat(t *testing.T) {
	s := newSite(t, "sshd", "ssh", "conntrack")
	door, ssh := s.sshDoor("idle = \"20s\"\nlogins = [\""+s.authLog+"\"]", touchKnock)
	s.start(door)
	s.knock(s.visitor, gate4)
	s.state("ssh", "open")
	in := s.login(ssh, s.visitor, gate4)
	me, err := user.Current()
	s.must(err)
	named := func(what string) {
		t.Helper()
		s.becomes("ssh", what, func(d *control.Door) bool {
			if len(d.Live) != 1 || d.Live[0].User != me.Username {
				return false
			}
			l := d.Live[0]
			return l.Source == visitor4 && l.To == "22/tcp" && l.Port > 0 && l.Grant != nil && l.Grant.By == "touch" && l.Since != nil
		})
	}
	named("a session with its user")
	first := me.Username + " from " + visitor4 + " by publickey, let in by touch"
	is := func(when string, want ...string) {
		t.Helper()
		s.until("the logins "+when, func() error {
			if got := s.logins(); !slices.Equal(got, want) {
				return fmt.Errorf("they are %q, want %q", got, want)
			}
			return nil
		})
	}
	is("at first", first)

	// The operator's word for another, whose session is over at once.
	s.operator("open", "ssh", "--source", stranger4)
	s.run(s.stranger, "ssh", ssh.Client(gate4, 5, "true")...)
	by := "operator " + me.Username + " (uid " + me.Uid + ")"
	second := me.Username + " from " + stranger4 + " by publickey, let in by " + by
	is("of the other", first, second)

	_, err = s.server.Start(ssh.Program, "-D", "-f", ssh.Config, "-p", "2222")
	s.must(err)
	s.until("a login by another port", func() error {
		_, err := s.visitor.Run(t.Context(), "ssh", append([]string{"-p", "2222"}, ssh.Client(gate4, 5, "true")...)...)
		return err
	})
	s.must(s.gate.Kill())
	s.start("")
	named("the session after a restart")
	s.lives(in)
	is("after a restart", first, second)
}
