//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// accepts shows that there is no answer without a knock, and enrols the user's key.
func (s *story) accepts(ctx context.Context) error {
	s.typed("laptop", "ssh", name)
	out, err := s.on(ctx, "ssh", "-T", "-o", "ConnectTimeout=1", name, "true")
	if err == nil {
		return errors.New("ssh logged in without a knock")
	}
	s.quote(out)
	if !strings.Contains(out, "timed out") {
		return fmt.Errorf("ssh got an answer: %w", err)
	}
	s.typed("laptop", "doorward", "accept", shortened(s.invite))
	out, err = s.on(ctx, "doorward", "accept", s.invite)
	if err != nil {
		return err
	}
	said, _, _ := strings.Cut(out, "\n\n")
	s.quote(strings.ReplaceAll(said, s.home, "~"))
	s.tick("her key, which stays in her ssh-agent, is enrolled")
	s.typed("laptop", "doorward", "ssh-config", "gate", "--install")
	if out, err = s.on(ctx, "doorward", "ssh-config", "gate", "--install"); err != nil {
		return err
	}
	s.quote(strings.ReplaceAll(out, s.home, "~"))
	return nil
}

func (s *story) logsIn(ctx context.Context) error {
	if err := s.opens(); err != nil {
		return err
	}
	if err := s.echo(ctx, "she is in, with nothing else to know"); err != nil {
		return err
	}
	given, err := s.trail(ctx, "granted") // where those are, too, whose time is over
	if err != nil {
		return err
	}
	until := map[string]time.Time{}
	for _, r := range given {
		if r.Source != laptop4 && r.Source != laptop6 {
			return fmt.Errorf("%s has got a grant, and has not knocked", r.Source)
		}
		until[r.Source] = r.Until
	}
	if len(until) == 0 {
		return errors.New("she is in without a grant")
	}
	for _, source := range slices.Sorted(maps.Keys(until)) {
		s.quote(fmt.Sprintf("grant: %s until %s", source, until[source].Local().Format("15:04:05")))
	}
	s.tick("the door is open to her laptop's addresses, and to no other")
	return nil
}

// opens begins the user's session.
func (s *story) opens() (err error) {
	s.typed("laptop", "ssh", "gate", "cat")
	s.session, err = s.laptop.Start("env", s.user("ssh", "gate", "cat")...)
	return err
}
