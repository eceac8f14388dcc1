//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/e2e/lab"
)

// The configuration of the story: the article's knock, with times short enough
// to wait for. Presence is the article's too: the logins of the auth log and
// nothing else, so that an open session does not hold the door.
const config = `[gateway]
state = %q
control = %q

[door.ssh]
ports = ["22/tcp"]
open_for = "4s"

[door.ssh.service]
start = [%q, "-D", "-f", %q]

[door.ssh.presence]
idle = "10s"
logins = [%q]
connections = false

[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
within = "10s"
penalty = "3s"
`

const (
	gate4, gate6 = "192.0.2.1", "2001:db8::1"
	visitor4     = "192.0.2.2"
)

// story is what the chapters share.
type story struct {
	*teller
	lab *lab.Lab
	bin string

	server, visitor, stranger *lab.Host

	ssh     *lab.SSH
	config  string
	socket  string
	gate    *lab.Doorward
	session *lab.Process // the visitor's ssh
	echoes  int
}

// chapter is one step of the story.
type chapter struct {
	title string
	tell  func(context.Context) error
}

func (s *story) chapters() []chapter {
	return []chapter{
		{"A server with a door, a visitor who knows the knock, and a stranger", s.build},
		{"A port scan finds no SSH", s.scan},
		{"Without a knock, ssh gets no answer", s.sshFails},
		{"A wrong knock earns a penalty", s.wrongKnock},
		{"The right knock opens the door, to the one who knocked", s.rightKnock},
		{"ssh logs in, and stays", s.login},
		{"The stranger still sees nothing", s.strangerSees},
		{"Somebody flushes the whole nftables ruleset; the fence stands", s.flush},
		{"The same knock over IPv6, and ssh in one command", s.knock6},
		{"Nobody else logs in: the door goes dark, the open session lives", s.goesDark},
		{"The daemon is killed with -9; the fence stands", s.killed},
		{"It starts again, ends, and takes the fence down when told to", s.ends},
	}
}

func (s *story) build(ctx context.Context) (err error) {
	for _, h := range []struct {
		host **lab.Host
		name string
	}{{&s.server, "server"}, {&s.visitor, "visitor"}, {&s.stranger, "stranger"}} {
		if *h.host, err = s.lab.Host(h.name); err != nil {
			return err
		}
	}
	if err := s.lab.Switch(map[*lab.Host][]string{
		s.server:   {gate4 + "/24", gate6 + "/64"},
		s.visitor:  {visitor4 + "/24", "2001:db8::2/64"},
		s.stranger: {"192.0.2.3/24", "2001:db8::3/64"},
	}); err != nil {
		return err
	}
	authLog, err := s.server.Isolate()
	if err != nil {
		return err
	}
	if s.ssh, err = s.lab.SSH(22); err != nil {
		return err
	}
	s.socket = s.lab.Path("control.sock")
	text := fmt.Sprintf(config, s.lab.Path("state"), s.socket, s.ssh.Program, s.ssh.Config, authLog)
	if s.config, err = s.lab.Write("doorward.toml", text); err != nil {
		return err
	}
	s.typed("server", "doorwardd", "-c", "doorward.toml")
	if err := s.start(ctx); err != nil {
		return err
	}
	if err := s.noListener(ctx); err != nil {
		return err
	}
	s.tick("door \"ssh\" is dark: port 22 is guarded, and sshd is not even running")
	return nil
}

func (s *story) start(ctx context.Context) (err error) {
	if s.gate, err = s.server.Doorward(ctx, s.bin, s.config, s.socket); err != nil {
		return err
	}
	return s.gate.WaitState(ctx, "ssh", "dark", 10*time.Second)
}

func (s *story) scan(ctx context.Context) error {
	s.say("   The listeners of the knock are open ports that say nothing, as in the article;")
	s.say("   port 22 gives no answer at all, and nothing else is there.")
	for _, to := range [][]string{{gate4}, {"-6", gate6}} {
		argv := append([]string{"nmap", "-n", "-Pn", "-T5", "--max-retries", "1", "-p-"}, to...)
		ports, err := s.nmap(ctx, s.visitor, argv...)
		if err != nil {
			return err
		}
		want := map[string]string{"22": "filtered", "59000": "open", "59001": "open", "59002": "open"}
		for port, state := range ports {
			if want[port] != state {
				return fmt.Errorf("port %s is %s: want %q", port, state, want[port])
			}
		}
		if len(ports) != len(want) {
			return fmt.Errorf("nmap saw %v, want %v", ports, want)
		}
	}
	s.tick("65,535 ports, twice: SSH is in neither answer")
	return nil
}

// nmap runs a scan, quotes the ports it reports, and returns their states.
func (s *story) nmap(ctx context.Context, from *lab.Host, argv ...string) (map[string]string, error) {
	s.typed(from.Name, argv...)
	out, err := from.Run(ctx, argv[0], argv[1:]...)
	if err != nil {
		return nil, err
	}
	ports := map[string]string{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) >= 2 && strings.HasSuffix(f[0], "/tcp") {
			ports[strings.TrimSuffix(f[0], "/tcp")] = f[1]
			s.quote(line)
		}
		if strings.HasPrefix(line, "Not shown") {
			s.quote(line)
		}
	}
	return ports, nil
}

func (s *story) sshFails(ctx context.Context) error {
	s.typed("visitor", "ssh", "root@"+gate4)
	out, err := s.visitor.Run(ctx, "ssh", s.ssh.Client(gate4, 2, "true")...)
	if err == nil {
		return errors.New("ssh logged in without a knock")
	}
	s.quote(out)
	if !strings.Contains(out, "timed out") {
		return fmt.Errorf("ssh got an answer: %w", err)
	}
	s.tick("silence")
	return nil
}

func (s *story) wrongKnock(ctx context.Context) error {
	s.touchBash(ctx, 59001)
	err := lab.Until(ctx, 5*time.Second, "a penalty for the visitor", func() error {
		door, err := s.gate.Door(ctx, "ssh")
		if err != nil {
			return err
		}
		for _, p := range door.Penalties {
			if p.Source == visitor4 {
				s.quote(fmt.Sprintf("penalty: %s until %s: %s", p.Source, p.Until.Local().Format("15:04:05.0"), p.Reason))
				return nil
			}
		}
		return fmt.Errorf("penalties: %v", door.Penalties)
	})
	if err != nil {
		return err
	}
	s.tick("59001 was to be left alone: the visitor is not heard for 3 s")
	s.touchBash(ctx, 59000)
	s.touchBash(ctx, 59002)
	if s.reaches(s.visitor, gate4, 300*time.Millisecond) {
		return errors.New("a right knock during the penalty opened the door")
	}
	door, err := s.gate.Door(ctx, "ssh")
	if err != nil {
		return err
	}
	if door.State != "dark" || len(door.Grants) > 0 {
		return fmt.Errorf("after a right knock during the penalty the door is %s, grants %v", door.State, door.Grants)
	}
	s.tick("even the right knock does nothing now")
	err = lab.Until(ctx, 10*time.Second, "the penalty's end", func() error {
		door, err := s.gate.Door(ctx, "ssh")
		if err == nil && len(door.Penalties) > 0 {
			err = fmt.Errorf("penalties: %v", door.Penalties)
		}
		return err
	})
	if err == nil {
		s.tick("the penalty has ended")
	}
	return err
}

// touchBash touches a port with nothing but bash. Whether the port answered is
// no matter: during a penalty it need not.
func (s *story) touchBash(ctx context.Context, port int) {
	script := fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", gate4, port)
	s.typed("visitor", "bash", "-c", "'"+script+"'")
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.visitor.Run(ctx, "bash", "-c", script)
}

func (s *story) rightKnock(ctx context.Context) error {
	for _, port := range []string{"59000", "59002"} {
		s.typed("visitor", "telnet", gate4, port)
		telnet, err := s.visitor.Start("telnet", gate4, port)
		if err != nil {
			return err
		}
		if err := telnet.Says(ctx, "Connection closed by foreign host", 5*time.Second); err != nil {
			return err
		}
		s.quote(lastLines(telnet.Output(), 1))
	}
	if err := s.gate.WaitState(ctx, "ssh", "open", 10*time.Second); err != nil {
		return err
	}
	return s.granted(ctx, visitor4)
}

// granted checks that the door has a grant for one source and for no other of
// its family.
func (s *story) granted(ctx context.Context, source string) error {
	door, err := s.gate.Door(ctx, "ssh")
	if err != nil {
		return err
	}
	var sources []string
	for _, g := range door.Grants {
		sources = append(sources, g.Source)
		s.quote(fmt.Sprintf("grant: %s until %s", g.Source, g.Expires.Local().Format("15:04:05.0")))
	}
	if !slices.Contains(sources, source) || slices.Contains(sources, "any") {
		return fmt.Errorf("grants for %q, want one for %s", sources, source)
	}
	s.tick("door \"ssh\" is open, sshd runs, and %s may come in", source)
	return nil
}

func (s *story) login(ctx context.Context) (err error) {
	// Starting takes sshd a moment; a person would not notice.
	err = lab.Until(ctx, 5*time.Second, "port 22 accepts the visitor", func() error {
		if !s.reaches(s.visitor, gate4, 100*time.Millisecond) {
			return errors.New("no connection yet")
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.typed("visitor", "ssh", "root@"+gate4, "cat")
	if s.session, err = s.visitor.Start("ssh", s.ssh.Client(gate4, 3, "cat")...); err != nil {
		return err
	}
	return s.echo(ctx, "logged in with a key; the session answers")
}

// echo checks that the session that was opened lives: what is typed into it
// comes back from the other end.
func (s *story) echo(ctx context.Context, seen string) error {
	s.echoes++
	text := fmt.Sprintf("hello, %d\n", s.echoes)
	if err := s.session.Type(text); err != nil {
		return fmt.Errorf("the session does not live: %w: %s", err, s.session.Output())
	}
	if err := s.session.Says(ctx, text, 5*time.Second); err != nil {
		return err
	}
	s.quote(text)
	s.tick("%s", seen)
	return nil
}

// reaches says whether a new connection from a host to the guarded port is
// made within the time.
func (s *story) reaches(from *lab.Host, address string, limit time.Duration) bool {
	return from.Do(func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(address, "22"), limit)
		if err == nil {
			c.Close()
		}
		return err
	}) == nil
}

// program is the path of one of doorward's two programs.
func (s *story) program(name string) string {
	path, err := filepath.Abs(filepath.Join(s.bin, name))
	if err != nil {
		return name
	}
	return path
}
