//go:build linux

// Package sealed tests the sealed knock with the daemon as it is, over real links.
package sealed

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/e2e/lab"
	base "github.com/doorward/doorward/e2e/lab/site"
	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

func TestMain(m *testing.M) {
	code := base.Main(m)
	if programs != "" {
		os.RemoveAll(programs)
	}
	os.Exit(code)
}

const (
	soon = base.Soon
	dark = base.Dark // without an answer
	port = 41641

	gate4, gate6         = "192.0.2.1", "2001:db8::1"
	visitor4, visitor6   = "192.0.2.2", "2001:db8:0:1::2"
	stranger4, stranger6 = "192.0.2.3", "2001:db8:0:2::3"
)

// site is a network with a server, on which two doors guard a service each, a visitor and
// a stranger.
type site struct {
	*base.Site
	t                         testing.TB
	lab                       *lab.Lab
	server, visitor, stranger *lab.Host
	config                    string
	more                      string // keys of the knocks' tables
	gate                      *lab.Doorward
	peer                      seal.Peer
	alice                     *key
}

// newSite has a door "web" (8080/tcp) and a door "panel" (8443/tcp), both with a sealed
// knock with more keys in their tables.
func newSite(t testing.TB, more string) *site {
	at := base.New(t, base.Addresses{
		Server: []string{gate4 + "/24", gate6 + "/48"}, Visitor: []string{visitor4 + "/24", visitor6 + "/48"}, Stranger: []string{stranger4 + "/24", stranger6 + "/48"},
	}, ":8080", ":8443")
	s := &site{Site: at, t: t, lab: at.Lab, server: at.Server, visitor: at.Visitor, stranger: at.Stranger, more: more}
	s.identity(7)
	s.alice = newKey(t, "alice")
	s.keys(s.alice.line(""))
	s.configure()
	return s
}

// configure writes the configuration.
func (s *site) configure() {
	s.t.Helper()
	text := fmt.Sprintf("[gateway]\nstate = %q\ncontrol = %q\n", s.lab.Path("state"), s.lab.Path("control.sock"))
	for _, d := range []struct {
		name   string
		number int
	}{{"web", 8080}, {"panel", 8443}} {
		text += fmt.Sprintf("[door.%s]\nports = [\"%d/tcp\"]\nopen_for = \"1m\"\n[door.%s.presence]\nlogins = \"off\"\n"+
			"[[door.%s.knock]]\nkind = \"sealed\"\nport = %d\nidentity = %q\nkeys = %q\n%s\n",
			d.name, d.number, d.name, d.name, port, s.lab.Path("sealed.key"), s.lab.Path("authorized_keys"), s.more)
	}
	var err error
	s.config, err = s.lab.Write("doorward.toml", text)
	s.must(err)
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// write writes a file that only its owner may read.
func (s *site) write(name, text string) {
	s.t.Helper()
	s.must(os.WriteFile(s.lab.Path(name+".new"), []byte(text), 0o600))
	s.must(os.Rename(s.lab.Path(name+".new"), s.lab.Path(name)))
}

// identity gives the gateway a key.
func (s *site) identity(n byte) {
	s.t.Helper()
	seed, profile := [32]byte{n}, seal.Profile{n}
	s.write("sealed.key", fmt.Sprintf("key %s\nprofile %s\n", base64.StdEncoding.EncodeToString(seed[:]), base64.StdEncoding.EncodeToString(profile[:])))
	id, err := seal.NewIdentity(seed)
	s.must(err)
	s.peer = seal.Peer{Profile: profile, Fingerprint: id.Fingerprint(), Bundle: id.Bundle()}
}

// keys writes the file of keys.
func (s *site) keys(lines ...string) {
	s.t.Helper()
	s.write("authorized_keys", strings.Join(lines, "\n")+"\n")
}

func (s *site) start() {
	s.t.Helper()
	var err error
	s.gate, err = s.Start(s.config)
	s.must(err)
}

func (s *site) client() *control.Client { return s.Client() }

// order gives an order to the kind.
func order[R any](s *site, what string, args any) (reply R, err error) {
	s.t.Helper()
	text, err := json.Marshal(args)
	s.must(err)
	answer, err := s.client().Kind(s.t.Context(), "sealed", what, json.RawMessage(text))
	if err == nil {
		s.must(json.Unmarshal(answer.Result, &reply))
	}
	return reply, err
}

func (s *site) dial(from *lab.Host, address, port string, limit time.Duration) error {
	return s.Dial(from, address, port, limit)
}

func (s *site) refuses(from *lab.Host, address, port string) {
	s.t.Helper()
	s.Refuses(from, address, port)
}

func (s *site) admits(from *lab.Host, address, port string) {
	s.t.Helper()
	s.Admits(from, address, port)
}

// restart is kill -9, and a start.
func (s *site) restart() {
	s.t.Helper()
	s.must(s.gate.Kill())
	s.start()
}

// trail counts the records of an event about a source, "" for any: all that led to what was
// answered so far.
func (s *site) trail(event, source string) (n int) {
	s.t.Helper()
	s.status() // what it shows is on disk, and so in the trail
	s.must(s.client().Log(s.t.Context(), control.LogQuery{Events: []string{event}, Limit: 10_000}, func(r audit.Record) error {
		if source == "" || r.Source == source {
			n++
		}
		return nil
	}))
	return n
}

// recorded waits until the trail has so many records of an event about a source.
func (s *site) recorded(event, source string, want int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d records of %s", want, event), func() error {
		if n := s.trail(event, source); n != want {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

// status is the latest.
func (s *site) status() control.Status {
	s.t.Helper()
	st, err := s.client().Status(s.t.Context())
	s.must(err)
	return st
}

// grants are who has one at a door: "192.0.2.2 sealed alice".
func (s *site) grants(door string) (all []string) {
	s.t.Helper()
	for _, d := range s.status().Doors {
		for _, g := range d.Grants {
			for _, by := range g.For {
				if d.Name == door {
					kindOf, name, _ := strings.Cut(by, " ")
					name, _, _ = strings.Cut(name, " ")
					all = append(all, g.Source+" "+kindOf+" "+name)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// has waits until a door's grants are these.
func (s *site) has(door string, want ...string) {
	s.t.Helper()
	slices.Sort(want)
	s.until(fmt.Sprintf("grants %q at %s", want, door), func() error {
		if got := s.grants(door); !slices.Equal(got, want) {
			return fmt.Errorf("there are %q", got)
		}
		return nil
	})
}

func (s *site) until(what string, f func() error) {
	s.t.Helper()
	s.must(lab.Until(s.t.Context(), 3*soon, what, f))
}

// warns waits until the status has a warning with a text.
func (s *site) warns(text string) {
	s.t.Helper()
	s.until(fmt.Sprintf("a warning %q", text), func() error {
		all := strings.Join(s.status().Warnings, "\n")
		if !strings.Contains(all, text) {
			return fmt.Errorf("there are %q", all)
		}
		return nil
	})
}

// reload has the daemon look at its files now.
func (s *site) reload() {
	s.t.Helper()
	s.must(s.gate.Signal(syscall.SIGHUP))
}

// comesIn connects to a service, and stays.
func (s *site) comesIn(from *lab.Host, address, port string) (c net.Conn) {
	s.t.Helper()
	s.must(from.Do(func() (err error) { c, err = net.DialTimeout("tcp", net.JoinHostPort(address, port), soon); return }))
	s.t.Cleanup(func() { c.Close() })
	return c
}

// isOut waits until a connection has been ended by the gateway.
func (s *site) isOut(c net.Conn, whose string) {
	s.t.Helper()
	s.must(c.SetReadDeadline(time.Now().Add(3 * soon)))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Errorf("%s is still in: %v", whose, err)
	}
}

// isIn says that a connection goes on.
func (s *site) isIn(c net.Conn, whose string) {
	s.t.Helper()
	s.must(c.SetReadDeadline(time.Now().Add(dark)))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Errorf("%s, whose connection nothing ends: %v", whose, err)
	}
}

// key is somebody's Ed25519 key.
type key struct {
	name   string
	public ssh.PublicKey
	sign   ed25519.PrivateKey
}

func newKey(t testing.TB, name string) *key {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return &key{name, k, private}
}

// line is the key's in authorized_keys.
func (k *key) line(options string) string {
	return strings.TrimSpace(options + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.public))) + " " + k.name)
}

func (k *key) fingerprint() [32]byte { return sha256.Sum256(k.public.Marshal()) }

// credential is the key's without its proof.
func (k *key) credential() seal.Credential {
	return seal.Credential{Kind: seal.Key, Fingerprint: k.fingerprint()}
}

// proof is the key's signature of a message.
func (k *key) proof(message []byte) []byte {
	return ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: ed25519.Sign(k.sign, credential.Signed(message))})
}
