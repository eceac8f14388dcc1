//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/doorward/doorward/e2e/lab"
)

const (
	gate4, gate6     = "192.0.2.1", "2001:db8::1"
	laptop4, laptop6 = "192.0.2.2", "2001:db8::2"
	name             = "gate.example" // the gateway's, for visitors

	dark = 500 * time.Millisecond // without an answer
)

// story is what the chapters share.
type story struct {
	*teller
	lab *lab.Lab
	bin string

	gateway, laptop, scanner *lab.Host
	wire                     *wire

	ssh     *lab.SSH
	authLog string
	config  string // the gateway's file
	socket  string // the daemon's
	port    string // of the knock
	home    string // of the laptop's user
	agent   string // socket of her ssh-agent
	invite  string
	gate    *lab.Doorward
	session *lab.Process // her ssh
	echoes  int
}

// chapter is one step of the story.
type chapter struct {
	title string
	tell  func(context.Context) error
}

func (s *story) chapters() []chapter {
	return []chapter{
		{"A gateway, Alice's laptop, and two who look on", s.build},
		{"On the gateway: a door to sshd, opened by a sealed knock", s.setUp},
		{"The scanner tries every port, TCP and UDP, and gets nothing", s.scan},
		{"The operator invites Alice, in one line", s.invites},
		{"On the laptop: no answer, and then she accepts", s.accepts},
		{"From now on it is plain ssh, which knocks, waits and logs in", s.logsIn},
		{"The scanner still gets nothing while she is in", s.scanAgain},
		{"The eavesdropper has every packet of hers, and learns nothing", s.overheard},
		{"It replays all of it, from its own address", s.replaysAsItself},
		{"And from hers, when her grant has run out", s.replaysAsAlice},
		{"She leaves; when nobody has been in for a while, sshd stops", s.goesDark},
		{"She comes back, and the operator locks her key", s.locks},
		{"The firewall is flushed, the daemon killed: the fence stands", s.killed},
		{"The end", s.ends},
	}
}

func (s *story) build(ctx context.Context) (err error) {
	if s.wire, err = newWire(s.lab, "eavesdropper", "192.0.2.4/24", "2001:db8::4/64"); err != nil {
		return err
	}
	for _, h := range []struct {
		host  **lab.Host
		name  string
		addrs []string
	}{
		{&s.gateway, "gateway", []string{gate4 + "/24", gate6 + "/64"}},
		{&s.laptop, "laptop", []string{laptop4 + "/24", laptop6 + "/64"}},
		{&s.scanner, "scanner", []string{"192.0.2.3/24", "2001:db8::3/64"}},
	} {
		if *h.host, err = s.lab.Host(h.name); err != nil {
			return err
		}
		port, err := s.wire.host.Plug(*h.host, h.addrs)
		if err != nil {
			return err
		}
		if *h.host == s.laptop {
			if err := s.wire.tap(port); err != nil {
				return err
			}
		}
		s.say("     %-12s %-9s and %s", h.name, strings.Split(h.addrs[0], "/")[0], strings.Split(h.addrs[1], "/")[0])
	}
	s.say("     eavesdropper 192.0.2.4 and 2001:db8::4: the network that the laptop is in,")
	s.say("                  which sees each packet from there and to there")
	if err := s.furnish(ctx); err != nil {
		return err
	}
	s.tick("four hosts, which are network namespaces of this machine")
	return nil
}

// furnish gives the hosts what is on them before the story begins.
func (s *story) furnish(ctx context.Context) (err error) {
	if s.ssh, err = s.lab.SSH(22); err != nil {
		return err
	}
	for _, h := range []*lab.Host{s.gateway, s.laptop} {
		log, err := h.Isolate()
		if err != nil {
			return err
		}
		if h == s.gateway {
			s.authLog = log
		}
		if err := h.OwnEtc(); err != nil {
			return err
		}
	}
	if err := s.furnishLaptop(ctx); err != nil {
		return err
	}
	if err := s.watchScanner(ctx); err != nil {
		return err
	}
	// As most servers, the gateway drops what it does not know.
	return s.nft(ctx, s.gateway, "firewall.nft", `table inet firewall {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iif lo accept
		meta l4proto ipv6-icmp accept
		tcp dport 22 accept
	}
}
`)
}

// watchScanner has the scanner's kernel count what comes from the gateway, but for IPv6's
// way of finding out who has an address (RFC 4861).
func (s *story) watchScanner(ctx context.Context) error {
	err := s.nft(ctx, s.scanner, "scanner.nft", fmt.Sprintf(`table inet watch {
	counter from-gateway { }
	chain input {
		type filter hook input priority filter; policy accept;
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		ip saddr %s counter name from-gateway
		ip6 saddr %s counter name from-gateway
	}
}
`, gate4, gate6))
	if err != nil {
		return err
	}
	// Without a firewall yet, the gateway refuses two connections: the counter counts.
	if s.reaches(s.scanner) != nil {
		return errIn
	}
	n, err := s.counted(ctx, "reset")
	if err == nil && n != "2" {
		err = fmt.Errorf("the scanner's kernel has counted %s packets: want the refusals of two connections", n)
	}
	return err
}

// furnishLaptop gives the laptop a user with a key in ssh-agent, who has known the
// gateway before.
func (s *story) furnishLaptop(ctx context.Context) error {
	s.home, s.agent = s.lab.Path("laptop-root"), s.lab.Path("agent.sock")
	hostKey, err := os.ReadFile(s.lab.Path("host_key.pub"))
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(s.home, ".ssh"), 0o700); err != nil {
		return err
	}
	for file, text := range map[string]string{
		"known_hosts": name + " " + string(hostKey),
		"config":      "BatchMode yes\n", // nobody is there to be asked
	} {
		if err := os.WriteFile(filepath.Join(s.home, ".ssh", file), []byte(text), 0o600); err != nil {
			return err
		}
	}
	hosts, err := s.lab.Write("hosts", fmt.Sprintf("127.0.0.1 localhost\n%s %s\n%s %s\n", gate4, name, gate6, name))
	if err != nil {
		return err
	}
	if _, err := s.laptop.Run(ctx, "cp", hosts, "/etc/hosts"); err != nil {
		return err
	}
	if _, err := s.laptop.Start("ssh-agent", "-D", "-a", s.agent); err != nil {
		return err
	}
	if err := lab.Until(ctx, 5*time.Second, "ssh-agent", func() error { _, err := os.Stat(s.agent); return err }); err != nil {
		return err
	}
	_, err = s.on(ctx, "ssh-add", "-q", s.lab.Path("user_key"))
	return err
}

// nft has nft read a file on a host.
func (s *story) nft(ctx context.Context, on *lab.Host, file, text string) error {
	path, err := s.lab.Write(file, text)
	if err != nil {
		return err
	}
	_, err = on.Run(ctx, "nft", "-f", path)
	return err
}

// user is a command line of the laptop's user: with her home, her agent, and doorward
// where her shell finds it.
func (s *story) user(argv ...string) []string {
	return append([]string{"-i", "PATH=" + filepath.Dir(s.program("doorward")) + ":" + os.Getenv("PATH"), "HOME=" + s.home, "SSH_AUTH_SOCK=" + s.agent}, argv...)
}

// on runs something as the laptop's user.
func (s *story) on(ctx context.Context, argv ...string) (string, error) {
	return s.laptop.Run(ctx, "env", s.user(argv...)...)
}

// reaches returns one of the hosts from which a new connection to the guarded port is made
// over IPv4 or IPv6, or nil. All are tried at the same time.
func (s *story) reaches(all ...*lab.Host) *lab.Host {
	type attempt struct {
		from *lab.Host
		err  error
	}
	var done = make(chan attempt, 2*len(all))
	for _, h := range all {
		for _, address := range []string{gate4, gate6} {
			go func() { // ends after the time-out at the latest
				done <- attempt{h, h.Do(func() error {
					c, err := net.DialTimeout("tcp", net.JoinHostPort(address, "22"), dark)
					if err == nil {
						c.Close()
					}
					return err
				})}
			}()
		}
	}
	var in *lab.Host
	for range 2 * len(all) {
		if a := <-done; a.err == nil {
			in = a.from
		}
	}
	return in
}

// echo checks that her session lives: what is typed into it comes back from the other end.
func (s *story) echo(ctx context.Context, seen string) error {
	s.echoes++
	text := fmt.Sprintf("hello, %d\n", s.echoes)
	if err := s.session.Type(text); err != nil {
		return fmt.Errorf("the session does not live: %w: %s", err, s.session.Output())
	}
	if err := s.session.Says(ctx, text, 15*time.Second); err != nil {
		return err
	}
	s.quote(text)
	s.tick("%s", seen)
	return nil
}

// noListener checks that nothing listens on the guarded port.
func (s *story) noListener(ctx context.Context) error {
	s.typed("gateway", "ss", "-Hltn", "sport = :22")
	out, err := s.gateway.Run(ctx, "ss", "-Hltn", "sport = :22")
	if err == nil && strings.TrimSpace(out) != "" {
		err = fmt.Errorf("somebody listens on port 22: %s", out)
	}
	return err
}

// program is the path of one of doorward's two programs.
func (s *story) program(name string) string {
	path, err := filepath.Abs(filepath.Join(s.bin, name))
	if err != nil {
		return name
	}
	return path
}

var errIn = errors.New("a connection was let in")
