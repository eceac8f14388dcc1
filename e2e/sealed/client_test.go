//go:build linux

package sealed

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	kind "github.com/doorward/doorward/internal/sealed"
)

// programs is the directory of program, which TestMain removes; "" if there is none.
var programs string

// program is the visitor's program, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "doorward-sealed-")
	if err != nil {
		return "", err
	}
	programs = dir
	out, err := exec.Command("go", "build", "-o", dir, "github.com/doorward/doorward/cmd/doorward").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return filepath.Join(dir, "doorward"), nil
})

// laptop is a visitor who has the program, and a home with a key.
type laptop struct {
	*site
	vars []string
}

func newLaptop(s *site) *laptop {
	s.t.Helper()
	path, err := program()
	s.must(err)
	home := s.lab.Path("home")
	s.must(os.MkdirAll(home+"/.ssh", 0o700))
	out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bob@laptop", "-f", home+"/.ssh/id_ed25519").CombinedOutput()
	if err != nil {
		s.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	return &laptop{s, []string{"-i", "HOME=" + home, "PATH=" + os.Getenv("PATH"), path}}
}

// run runs the program on the visitor's host, and returns what it prints and its exit
// status.
func (l *laptop) run(args ...string) (string, int) {
	l.t.Helper()
	out, err := l.visitor.Run(l.t.Context(), "env", append(l.vars, args...)...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out, exit.ExitCode()
	}
	l.must(err)
	return out, 0
}

// want runs the program, and holds it to its exit status and a part of what it prints.
func (l *laptop) want(status int, part string, args ...string) {
	l.t.Helper()
	if out, got := l.run(args...); got != status || !strings.Contains(out, part) {
		l.t.Errorf("doorward %s: exit status %d, want %d, and %q in:\n%s", strings.Join(args, " "), got, status, part, out)
	}
}

// invite is a line that the gateway has made.
func (l *laptop) invite(tcp bool) string {
	l.t.Helper()
	made, err := order[kind.Invite](l.site, kind.OrderInvite, kind.InviteArgs{Door: "web", For: "bob", Options: `doors="web,panel"`})
	l.must(err)
	f, err := seal.ParseFingerprint(made.Fingerprint)
	l.must(err)
	return profile.Invite{Expires: made.Expires, Secret: seal.Profile(made.Profile), Code: [16]byte(made.Code), Fingerprint: f,
		Port: made.Port, TCP: tcp, Door: made.Door, Name: "gate", Hosts: []string{gate6, gate4}}.String()
}

// A visitor enrols a key with an invite, and is let in over both families; and whatever
// else there is to ask for.
func TestVisitor(t *testing.T) {
	s := newSite(t, "")
	s.start()
	l := newLaptop(s)
	both := " for " + visitor6 + " and " + visitor4
	if out, status := l.run("accept", l.invite(false)); status != 0 || !strings.Contains(out, both) && !strings.Contains(out, " for "+visitor4+" and "+visitor6) {
		t.Fatalf("accept: %d\n%s", status, out)
	}
	s.admits(s.visitor, gate4, "8080")
	s.admits(s.visitor, gate6, "8080")
	s.refuses(s.visitor, gate4, "8443")
	s.refuses(s.stranger, gate4, "8080")

	l.want(0, "open until ", "knock", "gate", "panel", "--wait", "8443")
	l.want(0, "closed for ", "knock", "gate", "panel", "--close")
	s.refuses(s.visitor, gate4, "8443")
	l.want(6, "there is nothing to extend", "knock", "gate", "panel", "--extend")
	l.want(5, "the gateway has no such door", "knock", "gate", "attic")
	l.want(6, "may not ask for another address than its own", "knock", "gate", "--address", stranger4)

	h, err := s.visitor.Start("env", append(l.vars, "hold", "gate", "panel")...)
	s.must(err)
	s.must(h.Says(t.Context(), "open until ", soon))
	s.admits(s.visitor, gate6, "8443")
	const moved4 = "192.0.2.7"
	s.moves(s.visitor, visitor4, moved4)
	s.must(h.Says(t.Context(), " "+moved4, soon))
	s.admits(s.visitor, gate4, "8443")
	s.must(h.Signal(syscall.SIGINT))
	s.must(h.Says(t.Context(), "closed for ", soon))
	s.refuses(s.visitor, gate6, "8443")
	s.refuses(s.visitor, gate4, "8443")
	s.moves(s.visitor, moved4, visitor4)

	codes, err := order[kind.Rescue](s, kind.OrderRescue, kind.RescueArgs{Count: 1})
	s.must(err)
	asks, err := s.lab.Write("askpass", "#!/bin/sh\necho "+codes.Codes[0]+"\n")
	s.must(err)
	s.must(os.Chmod(asks, 0o755))
	rescue := append([]string{l.vars[0], "SSH_ASKPASS=" + asks, "SSH_ASKPASS_REQUIRE=force"}, l.vars[1:]...)
	(&laptop{s, rescue}).want(0, "open until ", "knock", "gate", "panel", "--rescue")
	s.admits(s.visitor, gate4, "8443")
	(&laptop{s, rescue}).want(6, "this rescue code was used before", "knock", "gate", "panel", "--rescue")

	_, err = order[kind.Done](s, kind.OrderLock, kind.KeyArgs{Key: "bob"})
	s.must(err)
	l.want(6, "your key is locked", "knock", "gate")
}

// moves gives a host another IPv4 address in place of one.
func (s *site) moves(h *lab.Host, from, to string) {
	s.t.Helper()
	out, err := h.Run(s.t.Context(), "ip", "-4", "-o", "addr", "show", "to", from)
	s.must(err)
	dev := strings.Fields(out)[1]
	for _, change := range [][]string{{"del", from}, {"add", to}} {
		_, err := h.Run(s.t.Context(), "ip", "addr", change[0], change[1]+"/24", "dev", dev)
		s.must(err)
	}
}

// The gateway has a newer key, and forgets the older one later: who has knocked in between
// is let in.
func TestVisitorFollowsTheKey(t *testing.T) {
	s := newSite(t, "")
	s.start()
	l := newLaptop(s)
	l.want(0, "open until ", "accept", l.invite(false))
	encoded := func(name string, b []byte) string { return name + " " + base64.StdEncoding.EncodeToString(b) + "\n" }
	older, newer := [32]byte{7}, [32]byte{8}
	shared := encoded("profile", s.peer.Profile[:])
	for _, text := range []string{encoded("key", newer[:]) + encoded("key", older[:]) + shared, encoded("key", newer[:]) + shared} {
		s.write("sealed.key", text)
		_, err := s.client().Apply(t.Context(), control.ApplyRequest{Action: "apply"})
		s.must(err)
		l.want(0, "open until ", "knock", "gate")
	}
	id, err := seal.NewIdentity(newer)
	s.must(err)
	l.want(0, id.Fingerprint().String(), "profiles", "show", "gate")
}

// Where UDP does not get through, TCP does.
func TestVisitorWithoutUDP(t *testing.T) {
	s := newSite(t, "carriers = [\"udp\", \"tcp\"]\n")
	s.start()
	l := newLaptop(s)
	_, err := s.visitor.Run(t.Context(), "nft", "add table inet t; add chain inet t o { type filter hook output priority 0; }; add rule inet t o udp dport 41641 drop")
	s.must(err)
	l.want(0, "open until ", "accept", l.invite(true))
	s.admits(s.visitor, gate4, "8080")
	s.admits(s.visitor, gate6, "8080")
	l.want(0, `"41641/tcp"`, "knock", "gate", "--json")
}
