//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// listens is the line of the knock's port.
var listens = regexp.MustCompile(`(?m)^kind = "sealed"\n(?:#.*\n)*port = (\d+)$`)

// setUp has init write a configuration, and starts the daemon.
func (s *story) setUp(ctx context.Context) error {
	s.config, s.socket = "/etc/doorward/doorward.toml", s.lab.Path("control.sock")
	s.typed("gateway", "doorward", "init", "--host", name)
	out, err := s.gateway.Run(ctx, s.program("doorward"), "init", "--host", name)
	if err != nil {
		return err
	}
	_, proposed, _ := strings.Cut(out, "\n\n")     // after what was written where
	proposed, _, _ = strings.Cut(proposed, "\n\n") // before what is left to do
	s.quote(proposed)
	text, err := s.gateway.Run(ctx, "cat", s.config)
	if err != nil {
		return err
	}
	if text, err = s.adapted(text); err != nil {
		return err
	}
	port := listens.FindStringSubmatch(text)
	if port == nil {
		return fmt.Errorf("init has written no port of a sealed knock:\n%s", text)
	}
	s.port = port[1]
	file, err := s.lab.Write("doorward.toml", text)
	if err != nil {
		return err
	}
	if _, err := s.gateway.Run(ctx, "cp", file, s.config); err != nil {
		return err
	}
	s.say("   Changed for this story: grants are for 4 s, sshd stops when nobody has been")
	s.say("   in for 4 s, and a command starts it, since there is no systemd here.")
	open := []string{"nft", "add", "rule", "inet", "firewall", "input", "udp", "dport", s.port, "accept"}
	s.typed("gateway", open...)
	if _, err := s.gateway.Run(ctx, open[0], open[1:]...); err != nil {
		return err
	}
	s.typed("gateway", "doorwardd")
	if err := s.start(ctx); err != nil {
		return err
	}
	if err := s.noListener(ctx); err != nil {
		return err
	}
	s.tick("door ssh is dark: port 22 is guarded, and sshd is not even running")
	return nil
}

// adapted is what init has written, for a gateway without systemd and for the impatient.
func (s *story) adapted(text string) (string, error) {
	var b strings.Builder
	leave := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "[") {
			leave = line == "[door.ssh.service]\n" || line == "[door.ssh.presence]\n"
		}
		if !leave {
			b.WriteString(line)
		}
	}
	fmt.Fprintf(&b, "\n[door.ssh.service]\nstart = [%q, \"-D\", \"-f\", %q]\n\n[door.ssh.presence]\nidle = \"4s\"\nlogins = [%q]\n",
		s.ssh.Program, s.ssh.Config, s.authLog)
	text = b.String()
	for _, change := range [][2]string{
		{"[gateway]\n", fmt.Sprintf("[gateway]\nstate = %q\ncontrol = %q\n", s.lab.Path("state"), s.socket)},
		{"\nopen_for = \"30s\"\n", "\nopen_for = \"4s\"\n"},
	} {
		text = strings.Replace(text, change[0], change[1], 1)
	}
	for _, line := range []string{"open_for = \"4s\"", "ports = [\"22/tcp\"]", "kind = \"sealed\""} {
		if strings.Count(text, "\n"+line+"\n") != 1 {
			return "", fmt.Errorf("init has not written what the story is about, %q:\n%s", line, text)
		}
	}
	return text, nil
}

func (s *story) start(ctx context.Context) (err error) {
	if s.gate, err = s.gateway.Doorward(ctx, s.bin, s.config, s.socket); err != nil {
		return err
	}
	return s.gate.WaitState(ctx, "ssh", "dark", 10*time.Second)
}

func (s *story) invites(ctx context.Context) error {
	s.typed("gateway", "doorward", "invite", "--door", "ssh", "--for", "alice")
	line, err := s.gate.Operator(ctx, "invite", "--door", "ssh", "--for", "alice")
	if err != nil {
		return err
	}
	s.invite = strings.TrimSpace(line)
	if strings.ContainsAny(s.invite, " \n") {
		return fmt.Errorf("the invite is not one line: %q", line)
	}
	s.quote(shortened(s.invite))
	s.tick("it enrols one key, once; she gets it by a way that only she reads")
	return nil
}

// shortened is the beginning of a long word.
func shortened(word string) string {
	const most = 48
	if len(word) > most {
		word = word[:most] + "…"
	}
	return word
}

// record is what the story reads of the audit trail.
type record struct {
	Event, Source string
	Until         time.Time // of a grant
}

// trail is the audit trail's records of an event.
func (s *story) trail(ctx context.Context, event string) (all []record, err error) {
	out, err := s.gate.Operator(ctx, "log", "--json")
	if err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("a line of the audit trail: %w: %s", err, lines.Text())
		}
		if r.Event == event {
			all = append(all, r)
		}
	}
	return all, nil
}

func (s *story) goesDark(ctx context.Context) error {
	if err := s.session.Stop(); err != nil {
		return err
	}
	if err := s.gate.WaitState(ctx, "ssh", "dark", 30*time.Second); err != nil {
		return err
	}
	door, err := s.gate.Door(ctx, "ssh")
	if err != nil {
		return err
	}
	s.quote(fmt.Sprintf("door ssh: %s: %s", door.State, door.Reason))
	if err := s.noListener(ctx); err != nil {
		return err
	}
	s.tick("the door is dark, and sshd is stopped")
	return s.scanAgain(ctx)
}

func (s *story) locks(ctx context.Context) error {
	if err := s.opens(); err != nil {
		return err
	}
	if err := s.echo(ctx, "sshd was started by her knock, and she is in"); err != nil {
		return err
	}
	s.typed("gateway", "doorward", "keys", "lock", "alice", "--now")
	out, err := s.gate.Operator(ctx, "keys", "lock", "alice", "--now")
	if err != nil {
		return err
	}
	s.quote(out)
	select {
	case <-s.session.Ended():
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Second):
		return errors.New("her session lives on")
	}
	s.tick("her session has ended")
	s.typed("laptop", "ssh", "gate", "cat")
	out, err = s.on(ctx, "ssh", "gate", "cat")
	if err == nil {
		return errors.New("a locked key opened the door")
	}
	s.quote(out)
	if !strings.Contains(out, "locked") {
		return fmt.Errorf("ssh does not say that the key is locked: %w", err)
	}
	s.typed("gateway", "doorward", "log", "--event", "alarm")
	if out, err = s.gate.Operator(ctx, "log", "--event", "alarm"); err != nil {
		return err
	}
	s.quote(out)
	alarms, err := s.trail(ctx, "alarm")
	if err != nil {
		return err
	}
	if len(alarms) == 0 {
		return errors.New("a right knock with a locked key is no alarm in the audit trail")
	}
	s.tick("she is told why, and the operator that she has tried")
	return nil
}

// fenced checks, with nft, that the fence's table is there or is not.
func (s *story) fenced(ctx context.Context, want bool) error {
	s.typed("gateway", "nft", "list", "tables")
	out, err := s.gateway.Run(ctx, "nft", "list", "tables")
	if err != nil {
		return err
	}
	s.quote(out)
	if got := strings.Contains(out, "table inet doorward"); got != want {
		return fmt.Errorf("the table inet doorward is there: %v, want %v", got, want)
	}
	return nil
}

func (s *story) killed(ctx context.Context) error {
	s.typed("gateway", "nft", "flush", "ruleset")
	// Where the kernel lets a table have an owner, this does not touch doorward's;
	// elsewhere the daemon restores it.
	if _, err := s.gateway.Run(ctx, "nft", "flush", "ruleset"); err != nil {
		return err
	}
	if err := s.shut("all rules of others are gone, and nobody gets in"); err != nil {
		return err
	}
	s.typed("gateway", "kill", "-9", fmt.Sprint(s.gate.PID))
	if err := s.gate.Kill(); err != nil {
		return err
	}
	if err := s.fenced(ctx, true); err != nil {
		return err
	}
	// With something behind the port, silence can only be the fence's.
	var listener net.Listener
	err := s.gateway.Do(func() (err error) { listener, err = net.Listen("tcp", ":22"); return err })
	switch {
	case err == nil:
		defer listener.Close()
	case !errors.Is(err, syscall.EADDRINUSE): // by sshd
		return err
	}
	return s.shut("nobody watches, something listens at port 22, and nobody gets in")
}

// shut checks that nobody gets in.
func (s *story) shut(seen string) error {
	if h := s.reaches(s.laptop, s.scanner, s.wire.host); h != nil {
		return fmt.Errorf("%s: %w", h.Name, errIn)
	}
	s.tick("%s", seen)
	return nil
}

func (s *story) ends(ctx context.Context) error {
	s.typed("gateway", "doorwardd")
	if err := s.start(ctx); err != nil {
		return err
	}
	s.typed("gateway", "kill", fmt.Sprint(s.gate.PID))
	if err := s.gate.Stop(); err != nil {
		return err
	}
	if err := s.fenced(ctx, true); err != nil {
		return err
	}
	s.tick("an ended daemon leaves the fence: closed is the safe side")
	if err := s.gotNothing(ctx); err != nil {
		return err
	}
	s.typed("gateway", "doorwardd", "--cleanup")
	if _, err := s.gateway.Run(ctx, s.program("doorwardd"), "--cleanup"); err != nil {
		return err
	}
	if err := s.fenced(ctx, false); err != nil {
		return err
	}
	s.tick("the fence is gone")
	return nil
}
