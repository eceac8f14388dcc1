//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/profile"
)

// scan has nmap try all there is.
func (s *story) scan(ctx context.Context) error {
	if err := s.nmap(ctx, "--min-rate", "30000", "-p-"); err != nil {
		return err
	}
	s.tick("131,070 ports, twice: none differs from another")
	return s.gotNothing(ctx)
}

// nmap scans the gateway over both families, and fails when there is an answer.
func (s *story) nmap(ctx context.Context, which ...string) error {
	for _, to := range [][]string{{gate4}, {"-6", gate6}} {
		argv := slices.Concat([]string{"nmap", "-n", "-Pn", "-sSU", "--max-retries", "0"}, which, to)
		s.typed("scanner", argv...)
		out, err := s.scanner.Run(ctx, argv[0], argv[1:]...)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "Not shown") {
				s.quote(line)
			}
			// Such as "22/tcp open ssh".
			if f := strings.Fields(line); len(f) > 1 && strings.Contains(f[0], "/") && f[1] != "filtered" && f[1] != "open|filtered" {
				return fmt.Errorf("the scanner sees %s", line)
			}
		}
	}
	return nil
}

var packets = regexp.MustCompile(`packets (\d+) bytes`)

// gotNothing checks that the gateway has never sent the scanner anything.
func (s *story) gotNothing(ctx context.Context) error {
	s.typed("scanner", "nft", "list", "counter", "inet", "watch", "from-gateway")
	n, err := s.counted(ctx, "list")
	if err != nil {
		return err
	}
	s.quote("packets " + n)
	if n != "0" {
		return errors.New("the scanner got packets from the gateway")
	}
	s.tick("not one packet has come from the gateway so far")
	return nil
}

// counted is how many packets have come to the scanner from the gateway, since how was
// "reset".
func (s *story) counted(ctx context.Context, how string) (string, error) {
	out, err := s.scanner.Run(ctx, "nft", how, "counter", "inet", "watch", "from-gateway")
	if err != nil {
		return "", err
	}
	m := packets.FindStringSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("nft has not counted: %s", out)
	}
	return m[1], nil
}

func (s *story) scanAgain(ctx context.Context) error {
	if err := s.nmap(ctx, "-T5", "-pT:22,U:"+s.port); err != nil {
		return err
	}
	if s.reaches(s.scanner) != nil {
		return fmt.Errorf("the scanner: %w", errIn)
	}
	return s.gotNothing(ctx)
}

// overheard checks what can be read from what has passed.
func (s *story) overheard(context.Context) error {
	switch n, err := s.wire.lost(); {
	case err != nil:
		return err
	case n > 0:
		return fmt.Errorf("%d packets were not recorded", n)
	}
	there, back := s.wire.knocks(s.port)
	s.say("   What it sees: that she talks to UDP port %s and then to port 22, when, and", s.port)
	s.say("   how long the datagrams are:")
	for _, way := range []struct {
		name string
		all  []datagram
	}{{"from her", there}, {"to her", back}} {
		if len(way.all) < 4 {
			return fmt.Errorf("only %d datagrams %s were recorded", len(way.all), way.name)
		}
		s.quote(fmt.Sprintf("%-8s %2d datagrams of %s", way.name, len(way.all), sizes(way.all)))
	}
	all := append(there, back...)
	if err := s.noneOfTheSecrets(all); err != nil {
		return err
	}
	s.tick("none of their names, keys, fingerprints and secrets is in them")
	if err := nothingTwice(all); err != nil {
		return err
	}
	s.tick("no 8 bytes come twice: no header, nothing that marks a knock")
	return nil
}

// sizes lists the sizes of datagrams.
func sizes(all []datagram) string {
	is := map[int]bool{}
	for _, d := range all {
		is[len(d.payload)] = true
	}
	return strings.Trim(fmt.Sprint(slices.Sorted(maps.Keys(is))), "[]") + " bytes"
}

// noneOfTheSecrets checks that none of what is to be hidden is in datagrams.
func (s *story) noneOfTheSecrets(all []datagram) error {
	invite, err := profile.ParseInvite(s.invite)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(s.lab.Path("user_key.pub"))
	if err != nil {
		return err
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return err
	}
	key := public.Marshal()
	digest := sha256.Sum256(key)
	hidden := map[string]string{
		"her name": "alice", "the gateway's name": name, "the kind of her key": "ssh-ed25519", "the name of the protocol": "doorward",
		"her public key": string(key[len(key)-32:]), "her key's fingerprint": string(digest[:]),
		"the gateway's fingerprint": string(invite.Fingerprint[:]), "the profile secret": string(invite.Secret[:]), "the invite's code": string(invite.Code[:]),
	}
	return found(hidden, all)
}

// found is an error if something of what is hidden is in a datagram.
func found(hidden map[string]string, all []datagram) error {
	for what, bytes := range hidden {
		for _, d := range all {
			if strings.Contains(d.payload, bytes) {
				return fmt.Errorf("%s is in a datagram of %d bytes from %s", what, len(d.payload), d.from)
			}
		}
	}
	return nil
}

// nothingTwice checks that datagrams have nothing in common, as random bytes have not: the
// same 8 bytes would come twice in 100,000 once in four billion runs.
func nothingTwice(all []datagram) error {
	const n = 8
	distinct := map[string]bool{} // one that was sent again is the same
	for _, d := range all {
		distinct[d.payload] = true
	}
	seen := map[string]bool{}
	for payload := range distinct {
		for i := 0; i+n <= len(payload); i++ {
			if seen[payload[i:i+n]] {
				return fmt.Errorf("the bytes %x come twice", payload[i:i+n])
			}
			seen[payload[i:i+n]] = true
		}
	}
	return nil
}

// replaysAsItself sends all that was recorded again, with the eavesdropper's source.
func (s *story) replaysAsItself(ctx context.Context) error {
	there, _ := s.wire.knocks(s.port)
	before, err := s.trail(ctx, "granted")
	if err != nil {
		return err
	}
	first, signed := conversations(there)
	answers, err := s.wire.resend(ctx, first, false)
	if err != nil {
		return err
	}
	s.quote(fmt.Sprintf("%d datagrams that begin a knock: %d answers", len(first), len(answers)))
	s.say("   Those are answered whoever sends them, with no more bytes than they have. The")
	s.say("   answers are as random as the rest: who made a datagram can read its answer.")
	if err := errors.Join(s.noneOfTheSecrets(answers), nothingTwice(answers)); err != nil {
		return err
	}
	if answers, err = s.wire.resend(ctx, signed, false); err != nil {
		return err
	}
	s.quote(fmt.Sprintf("%d datagrams that have her signature: %d answers", len(signed), len(answers)))
	if len(answers) > 0 {
		return errors.New("somebody else's signature was answered")
	}
	return s.nothingGiven(ctx, before, "nothing was opened by it, and the eavesdropper is not let in")
}

// conversations tells the last datagram of each of the visitor's sockets, which asks for
// the door and proves who asks, from those before it.
func conversations(all []datagram) (first, signed []datagram) {
	last := map[netip.AddrPort]string{}
	for _, d := range all {
		last[d.from] = d.payload
	}
	for _, d := range all {
		if d.payload == last[d.from] { // once, or again
			signed = append(signed, d)
		} else {
			first = append(first, d)
		}
	}
	return first, signed
}

// nothingGiven checks that nobody has got a grant since before, and that the eavesdropper
// is not let in.
func (s *story) nothingGiven(ctx context.Context, before []record, seen string) error {
	if s.reaches(s.wire.host) != nil {
		return fmt.Errorf("the eavesdropper: %w", errIn)
	}
	after, err := s.trail(ctx, "granted")
	if err != nil {
		return err
	}
	if len(after) != len(before) {
		return fmt.Errorf("a replay has got a grant: %v", after[len(before):])
	}
	s.tick("%s", seen)
	return nil
}

// replaysAsAlice sends all that was recorded again, with her source, when nothing is open
// to her.
func (s *story) replaysAsAlice(ctx context.Context) error {
	err := lab.Until(ctx, 15*time.Second, "the end of her grants", func() error {
		door, err := s.gate.Door(ctx, "ssh")
		if err == nil && len(door.Grants) > 0 {
			err = fmt.Errorf("grants: %v", door.Grants)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := s.echo(ctx, "her grant has run out; her session lives on"); err != nil {
		return err
	}
	before, err := s.trail(ctx, "granted")
	if err != nil {
		return err
	}
	there, back := s.wire.knocks(s.port)
	if _, err := s.wire.resend(ctx, there, true); err != nil {
		return err
	}
	// The gateway answers the laptop, which shows that all this has arrived. To requests, it
	// says again what it said, if they came within a minute of the first.
	first, _ := conversations(there)
	err = lab.Until(ctx, 5*time.Second, "the gateway's answers to the laptop", func() error {
		_, now := s.wire.knocks(s.port)
		if n := len(now) - len(back); n < len(first) {
			return fmt.Errorf("%d to %d datagrams", n, len(there))
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.quote(fmt.Sprintf("%d datagrams; the gateway answers the laptop, where nobody waits for it", len(there)))
	if s.reaches(s.laptop) != nil {
		return fmt.Errorf("the laptop: a replay has opened the door: %w", errIn)
	}
	if err := s.nothingGiven(ctx, before, "nothing was opened: a handshake counts once"); err != nil {
		return err
	}
	_, back = s.wire.knocks(s.port)
	return nothingTwice(back)
}
