//go:build linux

// Package pages plays the documentation: what its pages say to type is typed, in
// their order, on a gateway and on a visitor's machine. It has tests only.
//
// A block of sh whose title is "on the gateway" or "on your machine" is run there,
// as root; one whose title is a path is that file, written on the gateway, or on
// the visitor's machine if it is in a home directory. Notes in front of a block
// (see internal/pages) change that:
//
//	skip, WHY      is not run
//	before, LINE   a line of sh that is run first, for what the reader has done
//	exit N, WHY    with that exit status, or one of "exit N or M"; else it is 0
//	reachable      afterwards a stranger reaches the SSH port
//	send, FILE     afterwards the visitor has that file of the gateway's
//
// Before a block on the visitor's machine the door is closed, so that each proves
// itself.
package pages

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/pages"
	"github.com/doorward/doorward/internal/systemdtest"
	"github.com/doorward/doorward/packaging"
)

// story are the pages in the order in which a reader would come to them; the last
// two take doorward away.
var story = []string{
	"docs/start.md", "docs/howto/keys.md", "docs/howto/rescue.md", "docs/howto/certificates.md", "docs/howto/scripts.md", "docs/howto/touch.md",
	"docs/howto/operators.md", "docs/howto/laptop.md", "docs/howto/ssh.md", "docs/howto/programs.md", "docs/howto/changing.md",
	"docs/howto/visitors.md", "docs/howto/monitoring.md", "docs/howto/firewalls.md", "docs/howto/idle.md", "docs/howto/audit.md",
	"docs/howto/containers.md", "docs/howto/image.md", "docs/howto/wireguard.md", "docs/howto/moving.md", "docs/howto/fallback.md",
	"docs/howto/lockout.md", "docs/howto/removing.md",
}

const (
	onGateway, onVisitor = "on the gateway", "on your machine"
	asRoot               = onGateway + ", as root"
	gateway, visitor     = "192.0.2.1", "192.0.2.2"

	// The ports that stand for those that init draws.
	writtenTouches = "28904,24117,31650,22871,30017,26533"
)

// player is the documentation's reader, with both machines.
type player struct {
	t        *testing.T
	gateway  *systemdtest.Machine
	visitor  *systemdtest.Machine
	stranger *nstest.NS
	touches  []string // that init has drawn, nil before
	invite   string   // the latest that was printed
}

func TestTheDocumentationIsPlayed(t *testing.T) {
	p := newPlayer(t)
	played := 0
	for _, name := range story {
		page, err := pages.Read("../..", name)
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := page[0].Blocks()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks {
			if p.play(b) {
				played++
			}
			if t.Failed() {
				t.Logf("status: %s", output(p.gateway, "doorward", "status"))
				t.Fatalf("log: %s", output(p.gateway, "journalctl", "--no-pager", "--unit=doorward"))
			}
		}
	}
	if played < 25 {
		t.Errorf("%d blocks were played: that is not all of them", played)
	}
}

// Every page with commands is part of the story.
func TestEveryPageIsPlayed(t *testing.T) {
	all, err := pages.Read("../..", "docs/index.md", "docs/start.md", "docs/howto", "docs/explanation")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		blocks, err := p.Blocks()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks {
			isSh := b.Language == "sh" || b.Language == "bash"
			if isSh && b.Title != onGateway && b.Title != asRoot && b.Title != onVisitor {
				t.Errorf("%s: where is that typed? want a title %q, %q or %q", b.At(), onGateway, asRoot, onVisitor)
			}
			if line := rootless.FindString(b.Text); b.Title == onGateway && line != "" {
				t.Errorf("%s: %q is refused unless run as root: want sudo", b.At(), line)
			}
			if isSh && !slices.Contains(story, b.Page) {
				t.Errorf("%s: the page is not part of the story", b.At())
			}
			if isSh && exec.Command(b.Language, "-n", "-c", b.Text).Run() != nil {
				t.Errorf("%s: %s does not understand it", b.At(), b.Language)
			}
		}
	}
}

// rootless is a line that needs root, and does not ask for it.
var rootless = regexp.MustCompile(`(?m)^(?:doorward (?:status|log|explain|open|close|arm|apply|share|rotate|polkit|doctor|invite|keys)|doorwardd|systemctl|nft|apt|useradd|usermod)\b.*`)

// newPlayer boots both machines, the gateway as a newcomer's is: with an sshd that
// runs, a user who has a key, and doorward's package, of which nothing is started.
func newPlayer(t *testing.T) *player {
	t.Helper()
	nstest.Need(t, "ssh-keygen", "go", "nc.openbsd")
	a, b := nstest.New(t), nstest.New(t)
	nstest.Link(a, b, []string{gateway + "/24"}, []string{visitor + "/24"})
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/doorward/doorward/cmd/doorwardd",
		"github.com/doorward/doorward/cmd/doorward")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	nc, err := exec.LookPath("nc.openbsd")
	if err != nil {
		t.Fatal(err)
	}
	client := bin + "/doorward:/usr/bin/doorward"
	p := &player{t: t, stranger: b, gateway: systemdtest.Boot(t, a, client, bin+"/doorwardd:/usr/sbin/doorwardd"),
		visitor: systemdtest.Boot(t, b, client, nc+":/usr/bin/nc")}
	if err := packaging.Install(p.gateway.System.Write, func(args ...string) error {
		_, err := p.gateway.System.Run(t.Context(), args[0], args[1:]...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	p.users()
	return p
}

// users has alice on the gateway, who logs in with the key of the visitor's root.
func (p *player) users() {
	for _, m := range []*systemdtest.Machine{p.gateway, p.visitor} {
		m.Write("/usr/local/bin/sudo", "#!/bin/sh\nexec \"$@\"\n", 0o755)
		m.Write("/etc/hosts", "127.0.0.1 localhost\n"+gateway+" gate.example.org\n", 0o644)
	}
	key := filepath.Join(p.t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", key).CombinedOutput(); err != nil {
		p.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	private, err := os.ReadFile(key)
	public, err2 := os.ReadFile(key + ".pub")
	if err := errors.Join(err, err2); err != nil {
		p.t.Fatal(err)
	}
	p.visitor.Write("/root/.ssh/id_ed25519", string(private), 0o600)
	p.visitor.Write("/root/.ssh/id_ed25519.pub", string(public), 0o600)
	p.visitor.Write("/etc/ssh/ssh_config.d/test.conf",
		"ConnectTimeout 3\nConnectionAttempts 1\nStrictHostKeyChecking accept-new\nBatchMode yes\n", 0o644)
	p.gateway.Run("useradd", "--create-home", "alice")
	p.gateway.Write("/home/alice/.ssh/authorized_keys", string(public), 0o600)
	p.gateway.Run("chown", "-R", "alice:alice", "/home/alice/.ssh")
	p.gateway.Run("systemctl", "start", "ssh.service")
	if !p.reaches() {
		p.t.Fatal("without doorward the SSH port cannot be reached: the story would prove nothing")
	}
}

// play does what a block says, and reports whether that was to run something.
func (p *player) play(b *pages.Block) bool {
	p.t.Helper()
	n := readNotes(p.t, b)
	if n.skip {
		return false
	}
	m := map[string]*systemdtest.Machine{onGateway: p.gateway, asRoot: p.gateway, onVisitor: p.visitor}[b.Title]
	switch {
	case strings.HasPrefix(b.Title, "~/") && !strings.Contains(b.Title, ", "):
		p.visitor.Write("/root"+b.Title[1:], p.filled(b.Text), 0o600)
		return false
	case strings.HasPrefix(b.Title, "/etc/") && !strings.Contains(b.Title, ", "):
		p.gateway.Write(b.Title, p.filled(b.Text), 0o644)
		return false
	case m == nil:
		return false
	}
	if m == p.visitor {
		p.gateway.Run("doorward", "close", "ssh")
	}
	for _, line := range n.before {
		if status, out := run(p.t, m, "sh", line); status != 0 {
			p.t.Fatalf("%s: before it, %q: exit status %d: %s", b.At(), line, status, out)
		}
	}
	begun := time.Now()
	status, out := run(p.t, m, b.Language, p.filled(b.Text))
	p.t.Logf("%s: exit status %d after %v", b.At(), status, time.Since(begun).Round(10*time.Millisecond))
	if !slices.Contains(n.exits, status) {
		p.t.Errorf("%s: exit status %d, want one of %d:\n%s\n%s", b.At(), status, n.exits, p.filled(b.Text), out)
	}
	if line := regexp.MustCompile(`doorward-invite:\S+`).FindString(out); line != "" {
		p.invite = line
	}
	if n.reachable && !p.reaches() {
		p.t.Errorf("%s: afterwards the SSH port cannot be reached", b.At())
	}
	if n.send != "" {
		text, err := os.ReadFile(m.Path("/root/" + n.send))
		if err != nil {
			p.t.Fatalf("%s: afterwards: %v", b.At(), err)
		}
		p.visitor.Write("/root/"+filepath.Base(n.send), string(text), 0o600)
	}
	if strings.Contains(b.Text, "doorward init") {
		p.touches = drawn(p.t, p.gateway)
	}
	return true
}

// notes is what the notes of a block say.
type notes struct {
	skip, reachable bool
	before          []string
	send            string
	exits           []int
}

func readNotes(t *testing.T, b *pages.Block) notes {
	t.Helper()
	n := notes{exits: []int{0}}
	for _, note := range b.Notes {
		word, rest, _ := strings.Cut(note, ", ")
		switch {
		case word == "skip" && rest != "":
			n.skip = true
		case word == "before" && rest != "":
			n.before = append(n.before, rest)
		case word == "send" && rest != "":
			n.send = rest
		case word == "reachable":
			n.reachable = true
		case strings.HasPrefix(word, "exit "):
			n.exits = nil
			for _, s := range regexp.MustCompile(`\d+`).FindAllString(word, -1) {
				status, _ := strconv.Atoi(s)
				n.exits = append(n.exits, status)
			}
		default:
			t.Fatalf("%s: unknown note %q", b.At(), note)
		}
	}
	return n
}

// filled has the ports that were drawn in place of those on the page, and the invite that
// was made.
func (p *player) filled(text string) string {
	if p.invite != "" {
		text = strings.ReplaceAll(text, "doorward accept LINE", "doorward accept "+p.invite)
	}
	if p.touches == nil {
		return text
	}
	text = strings.ReplaceAll(text, writtenTouches, strings.Join(p.touches, ","))
	return strings.ReplaceAll(text, strings.ReplaceAll(writtenTouches, ",", " "), strings.Join(p.touches, " "))
}

// drawn are the touches of the configuration that init has written, nil for none.
func drawn(t *testing.T, m *systemdtest.Machine) []string {
	t.Helper()
	text, err := os.ReadFile(m.Path(config.DefaultPath))
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?m)^touch = \[(.*)\]$`).FindSubmatch(text)
	if list == nil {
		return nil
	}
	return strings.Split(strings.ReplaceAll(string(list[1]), " ", ""), ",")
}

// run runs lines of sh on a machine, in root's home, as far as the first that fails.
func run(t *testing.T, m *systemdtest.Machine, shell, text string) (status int, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := m.Command(ctx, shell, "-e", "-c", "cd\n"+text)
	raw, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), string(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, string(raw)
}

// output is what a command on a machine printed, for messages.
func output(m *systemdtest.Machine, name string, args ...string) string {
	out, err := m.System.Run(context.Background(), name, args...)
	return fmt.Sprint(out, err)
}

// reaches says whether a connection from the visitor's network to the SSH port is
// made, without a knock.
func (p *player) reaches() bool {
	reached := false
	p.stranger.Do(func() error {
		c, err := net.DialTimeout("tcp", gateway+":22", 3*time.Second)
		if err == nil {
			c.Close()
		}
		reached = err == nil
		return nil
	})
	return reached
}
