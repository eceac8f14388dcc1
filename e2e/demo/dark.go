//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

func (s *story) strangerSees(ctx context.Context) error {
	ports, err := s.nmap(ctx, s.stranger, "nmap", "-n", "-Pn", "-p22", gate4)
	if err != nil {
		return err
	}
	if ports["22"] != "filtered" {
		return fmt.Errorf("the stranger sees %v", ports)
	}
	return s.strangerIsOut("sshd listens, the visitor is in, and the stranger gets no answer")
}

func (s *story) strangerIsOut(seen string) error {
	for _, address := range []string{gate4, gate6} {
		if s.reaches(s.stranger, address, 500*time.Millisecond) {
			return fmt.Errorf("the stranger connected to port 22 of %s", address)
		}
	}
	s.tick("%s", seen)
	return nil
}

func (s *story) flush(ctx context.Context) error {
	s.typed("server", "nft", "flush", "ruleset")
	// Where the kernel lets a table have an owner, this does not touch doorward's;
	// elsewhere the daemon restores it.
	if _, err := s.server.Run(ctx, "nft", "flush", "ruleset"); err != nil {
		return err
	}
	if err := s.strangerIsOut("the stranger still gets no answer"); err != nil {
		return err
	}
	if err := s.fenced(ctx, true); err != nil {
		return err
	}
	return s.echo(ctx, "the visitor's session lives")
}

// fenced checks, with nft, that the fence's table is there or is not.
func (s *story) fenced(ctx context.Context, want bool) error {
	s.typed("server", "nft", "list", "tables")
	out, err := s.server.Run(ctx, "nft", "list", "tables")
	if err != nil {
		return err
	}
	s.quote(out)
	if got := strings.Contains(out, "table inet doorward"); got != want {
		return fmt.Errorf("the table inet doorward is there: %v, want %v", got, want)
	}
	return nil
}

func (s *story) knock6(ctx context.Context) error {
	ssh := s.ssh.Client(gate6, 3, "echo", "logged in over IPv6")
	knock := []string{"knock", gate6, "--touch", "59000,59002", "--wait", "22", "--", "ssh"}
	s.typed("visitor", append(append([]string{"doorward"}, knock...), "root@"+gate6)...)
	out, err := s.visitor.Run(ctx, s.program("doorward"), append(knock, ssh...)...)
	if err != nil {
		return err
	}
	s.quote(out)
	if !strings.Contains(out, "logged in over IPv6") {
		return errors.New("ssh did not log in")
	}
	s.tick("knocked, waited until port 22 was open, logged in")
	return nil
}

func (s *story) goesDark(ctx context.Context) error {
	s.say("   Of presence only logins count here, as in the article; the last was a moment ago.")
	if err := s.gate.WaitState(ctx, "ssh", "dark", 30*time.Second); err != nil {
		return err
	}
	door, err := s.gate.Door(ctx, "ssh")
	if err != nil {
		return err
	}
	s.quote(fmt.Sprintf("door ssh: %s: %s", door.State, door.Reason))
	if len(door.Grants) > 0 {
		return fmt.Errorf("the door is dark and has grants: %v", door.Grants)
	}
	if err := s.noListener(ctx); err != nil {
		return err
	}
	s.tick("the door is dark, and sshd is stopped")
	if s.reaches(s.visitor, gate4, 500*time.Millisecond) {
		return errors.New("a new connection was let in")
	}
	s.tick("a new connection of the visitor gets no answer")
	return s.echo(ctx, "the session that was open still lives")
}

// noListener checks that nothing listens on the guarded port.
func (s *story) noListener(ctx context.Context) error {
	s.typed("server", "ss", "-Hltn", "sport = :22")
	out, err := s.server.Run(ctx, "ss", "-Hltn", "sport = :22")
	if err == nil && strings.TrimSpace(out) != "" {
		err = fmt.Errorf("somebody listens on port 22: %s", out)
	}
	return err
}

func (s *story) killed(ctx context.Context) error {
	s.typed("server", "kill", "-9", fmt.Sprint(s.gate.PID))
	if err := s.gate.Kill(); err != nil {
		return err
	}
	if err := s.fenced(ctx, true); err != nil {
		return err
	}
	// With something behind the port, silence can only be the fence's.
	var listener net.Listener
	err := s.server.Do(func() (err error) {
		listener, err = net.Listen("tcp", ":22")
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	if s.reaches(s.visitor, gate4, 500*time.Millisecond) {
		return errors.New("with the daemon dead, the visitor got in without a grant")
	}
	if err := s.strangerIsOut("nobody watches, something listens on 22, and nobody gets in"); err != nil {
		return err
	}
	return s.echo(ctx, "the session still lives")
}

func (s *story) ends(ctx context.Context) error {
	s.typed("server", "doorwardd", "-c", "doorward.toml")
	if err := s.start(ctx); err != nil {
		return err
	}
	s.tick("the door is guarded again, and dark")
	s.typed("server", "kill", fmt.Sprint(s.gate.PID))
	if err := s.gate.Stop(); err != nil {
		return err
	}
	if err := s.fenced(ctx, true); err != nil {
		return err
	}
	s.tick("an ended daemon leaves the fence: closed is the safe side")
	s.typed("server", "doorwardd", "--cleanup")
	if _, err := s.server.Run(ctx, s.program("doorwardd"), "--cleanup"); err != nil {
		return err
	}
	if err := s.fenced(ctx, false); err != nil {
		return err
	}
	s.tick("the fence is gone")
	return s.echo(ctx, "and the session, through all of it, lives")
}
