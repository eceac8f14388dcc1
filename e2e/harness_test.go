//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/nstest"
)

const (
	gate4, gate6         = "192.0.2.1", "2001:db8::1"
	visitor4, visitor6   = "192.0.2.2", "2001:db8::2"
	stranger4, stranger6 = "192.0.2.3", "2001:db8::3"

	// soon is for what should happen at once, on a machine that is busy.
	soon = 15 * time.Second
	// dark is how long a connection is given that must not be made.
	dark = 300 * time.Millisecond
)

// bin has the two programs, built once for all tests.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "doorward-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	build := exec.Command("go", "build", "-o", bin)
	if os.Getenv("DOORWARD_RACE") != "" {
		build.Args = append(build.Args, "-race") // a race seen by any test fails it: see check
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	build.Args = append(build.Args, "github.com/doorward/doorward/cmd/doorwardd", "github.com/doorward/doorward/cmd/doorward")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// site is a test's network: a server, a visitor and a stranger on one switch.
type site struct {
	t                         *testing.T
	lab                       *lab.Lab
	server, visitor, stranger *lab.Host

	authLog string // where the server's syslog goes
	config  string // path of doorward.toml
	gate    *lab.Doorward
}

// newSite makes the network. Tests of different sites run side by side.
func newSite(t *testing.T, programs ...string) *site {
	t.Helper()
	nstest.Need(t, append(programs, "ip", "nft", "ss", "unshare", "nsenter")...)
	t.Parallel()
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, lab: l}
	t.Cleanup(func() {
		s.sane()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	s.server, s.visitor, s.stranger = s.host("server"), s.host("visitor"), s.host("stranger")
	s.must(l.Switch(map[*lab.Host][]string{
		s.server:   {gate4 + "/24", gate6 + "/64"},
		s.visitor:  {visitor4 + "/24", visitor6 + "/64"},
		s.stranger: {stranger4 + "/24", stranger6 + "/64"},
	}))
	s.authLog, err = s.server.Isolate()
	s.must(err)
	return s
}

func (s *site) host(name string) *lab.Host {
	s.t.Helper()
	h, err := s.lab.Host(name)
	s.must(err)
	return h
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// sane fails the test if the daemon has panicked or raced, and shows a failed
// test what the daemon said.
func (s *site) sane() {
	if s.gate == nil {
		return
	}
	out := s.gate.Output()
	for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if strings.Contains(out, bad) {
			s.t.Errorf("the daemon said %q", bad)
		}
	}
	if s.t.Failed() {
		s.t.Logf("the daemon said:\n%s", out)
	}
}

// touchKnock is the article's knock, with a penalty that a test can outlive.
const touchKnock = `kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
within = "10s"
`

// configure writes the configuration: the gateway's part and these doors.
func (s *site) configure(doors string) {
	s.t.Helper()
	var err error
	s.config, err = s.lab.Write("doorward.toml", fmt.Sprintf("[gateway]\nstate = %q\ncontrol = %q\n%s",
		s.lab.Path("state"), s.socket(), doors))
	s.must(err)
}

func (s *site) socket() string { return s.lab.Path("control.sock") }

// start starts the daemon, with these doors unless doors is "": then with the
// configuration that is there.
func (s *site) start(doors string) {
	s.t.Helper()
	if doors != "" {
		s.configure(doors)
	}
	if s.gate != nil {
		s.sane()
	}
	var err error
	s.gate, err = s.server.Doorward(s.t.Context(), bin, s.config, s.socket())
	s.must(err)
}

// sshDoor is the door of a real sshd, with presence as given.
func (s *site) sshDoor(presence, knock string) (string, *lab.SSH) {
	s.t.Helper()
	ssh, err := s.lab.SSH(22)
	s.must(err)
	return fmt.Sprintf("[door.ssh]\nports = [\"22/tcp\"]\nopen_for = \"5s\"\n"+
		"[door.ssh.service]\nstart = [%q, \"-D\", \"-f\", %q]\n"+
		"[door.ssh.presence]\n%s\n[[door.ssh.knock]]\n%s", ssh.Program, ssh.Config, presence, knock), ssh
}

// webDoor is a door without a service, for what the test itself serves.
func webDoor(keys, knock string) string {
	return "[door.web]\nports = [\"8080/tcp\"]\n" + keys +
		"\n[door.web.presence]\nlogins = \"off\"\n[[door.web.knock]]\n" + knock
}

// serve accepts connections at a host's port, says hello and echoes what comes,
// until the test ends.
func (s *site) serve(h *lab.Host, address string) {
	s.t.Helper()
	var l net.Listener
	s.must(h.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}))
	s.t.Cleanup(func() { l.Close() })
	go func() { // ends when l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer c.Close()
				fmt.Fprintln(c, "hello")
				b := make([]byte, 512)
				for n, err := c.Read(b); err == nil; n, err = c.Read(b) {
					c.Write(b[:n])
				}
			}()
		}
	}()
}

// dial connects from a host to port of address.
func (s *site) dial(from *lab.Host, address, port string, limit time.Duration) (c net.Conn, err error) {
	err = from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", net.JoinHostPort(address, port), limit)
		return err
	})
	return c, err
}

// talk is a connection to a served port that has said hello.
func (s *site) talk(from *lab.Host, address, port string) (net.Conn, error) {
	c, err := s.dial(from, address, port, soon)
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { c.Close() })
	return c, echo(c, "hello\n", "")
}

// echo writes send and expects want.
func echo(c net.Conn, want, send string) error {
	c.SetDeadline(time.Now().Add(soon))
	if _, err := c.Write([]byte(send)); err != nil {
		return err
	}
	b := make([]byte, len(want))
	n, err := io.ReadFull(c, b)
	if err == nil && string(b[:n]) != want {
		err = fmt.Errorf("got %q, want %q", b[:n], want)
	}
	return err
}

// refuses checks that a host's new connections get no answer at all.
func (s *site) refuses(from *lab.Host, address, port string) {
	s.t.Helper()
	c, err := s.dial(from, address, port, dark)
	if err == nil {
		c.Close()
		s.t.Errorf("%s connected to %s port %s, which should be dark", from.Name, address, port)
		return
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		s.t.Errorf("%s to %s port %s: got an answer: %v, want silence", from.Name, address, port, err)
	}
}

// admits waits until a host's new connection is made.
func (s *site) admits(from *lab.Host, address, port string) {
	s.t.Helper()
	s.until(from.Name+" gets in", func() error {
		c, err := s.dial(from, address, port, dark)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// touch touches ports in turn; each must answer. One of a configuration that has just come
// into use refuses connections until the daemon listens there.
func (s *site) touch(from *lab.Host, address string, ports ...string) {
	s.t.Helper()
	for _, port := range ports {
		s.until("port "+port+" answers", func() error {
			c, err := s.dial(from, address, port, soon)
			switch {
			case err == nil:
				return c.Close()
			case errors.Is(err, syscall.ECONNREFUSED):
				return err
			case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
				// A listener in a flood hangs up at once, which a client may hear of
				// before it hears that it was connected.
				return nil
			}
			s.must(err)
			return nil
		})
	}
}

// knock is the right knock.
func (s *site) knock(from *lab.Host, address string) {
	s.t.Helper()
	s.touch(from, address, "59000", "59002")
}

func (s *site) until(what string, f func() error) {
	s.t.Helper()
	s.must(lab.Until(s.t.Context(), soon, what, f))
}

// door is a door's status.
func (s *site) door(name string) *control.Door {
	s.t.Helper()
	d, err := s.gate.Door(s.t.Context(), name)
	s.must(err)
	return d
}

// becomes waits until a door's status is as f wants it.
func (s *site) becomes(name, what string, f func(*control.Door) bool) {
	s.t.Helper()
	s.until("door "+name+": "+what, func() error {
		d, err := s.gate.Door(s.t.Context(), name)
		if err == nil && !f(d) {
			err = fmt.Errorf("it is %+v", *d)
		}
		return err
	})
}

func (s *site) state(name, state string) {
	s.t.Helper()
	s.must(s.gate.WaitState(s.t.Context(), name, state, soon))
}

// penalised waits until a source has a penalty at a door.
func (s *site) penalised(name, source string) {
	s.t.Helper()
	s.becomes(name, "a penalty for "+source, func(d *control.Door) bool {
		for _, p := range d.Penalties {
			if p.Source == source {
				return true
			}
		}
		return false
	})
}

// run runs a program on a host; it must succeed.
func (s *site) run(h *lab.Host, name string, args ...string) string {
	s.t.Helper()
	out, err := h.Run(s.t.Context(), name, args...)
	s.must(err)
	return out
}

// operator runs an operator's command; it must succeed.
func (s *site) operator(args ...string) string {
	s.t.Helper()
	out, err := s.gate.Operator(s.t.Context(), args...)
	s.must(err)
	return out
}

// fails runs the daemon, which must end by itself with an error, and returns
// what it said.
func (s *site) fails(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), soon)
	defer cancel()
	out, err := s.server.Command(ctx, bin+"/doorwardd", args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || ctx.Err() != nil {
		s.t.Fatalf("doorwardd %q: got %v, want it to end with an error: %s", args, err, out)
	}
	return string(out)
}

// says checks a message against a pattern.
func (s *site) says(got, pattern string) {
	s.t.Helper()
	if !regexp.MustCompile(pattern).MatchString(got) {
		s.t.Errorf("got the message\n%s\nwant one that matches\n%s", got, pattern)
	}
}

// table is the fence as nft sees it.
func (s *site) table() string {
	s.t.Helper()
	return s.run(s.server, "nft", "list", "table", "inet", "doorward")
}

// session is an ssh of a visitor with a cat at the other end.
type session struct {
	*lab.Process
	n int
}

// login logs in with ssh and keeps the session.
func (s *site) login(ssh *lab.SSH, from *lab.Host, address string) *session {
	s.t.Helper()
	s.admits(from, address, "22")
	p, err := from.Start("ssh", ssh.Client(address, 5, "cat")...)
	s.must(err)
	in := &session{Process: p}
	s.lives(in)
	return in
}

// lives checks that what is typed into a session comes back.
func (s *site) lives(in *session) {
	s.t.Helper()
	in.n++
	line := fmt.Sprintf("line %d\n", in.n)
	s.must(in.Type(line))
	s.must(in.Says(s.t.Context(), line, soon))
}

// hup has the daemon read its configuration again.
func (s *site) hup() {
	s.t.Helper()
	s.must(s.gate.Signal(syscall.SIGHUP))
}
