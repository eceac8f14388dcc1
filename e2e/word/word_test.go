//go:build linux

// As in cmd/doorwardd.
//
//go:debug multipathtcp=0

package word

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/doorward/doorward/e2e/lab"
	base "github.com/doorward/doorward/e2e/lab/site"
	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

// TestMain puts the kind on the list. The daemon of these tests is this program with
// that list, so that the product has no place where a kind could be put in.
func TestMain(m *testing.M) {
	kinds.All = append(slices.Clone(kinds.All), Kind{})
	os.Exit(base.Main(m))
}

// Mistakes in the kind's own keys are reported like all others.
func TestMistakes(t *testing.T) {
	const door = "[door.web]\nports = [\"8080/tcp\"]\n[[door.web.knock]]\nkind = \"word\"\n"
	const allowed = `: allowed are words of 8 to 64 characters`
	for _, tt := range []struct {
		name, keys string
		want       []string
	}{
		{"none", "port = 59010\nword = \"eight of\"\nwithdrawn = \"/etc/w\"\n", nil},
		{"as long as can be", "port = 59010\nword = \"" + strings.Repeat("ä", 64) + "\"\n", nil},
		{"nothing given", "", []string{`3: door.web.knock[0].port: missing: allowed are port numbers, 1 to 65535`,
			`3: door.web.knock[0].word: missing` + allowed}},
		{"too short", "port = 59010\nword = \"sesame!\"\n", []string{`6: door.web.knock[0].word: 7 characters` + allowed}},
		{"too long", "port = 59010\nword = \"" + strings.Repeat("a", 65) + "\"\n", []string{`6: door.web.knock[0].word: 65 characters` + allowed}},
		{"of other kinds", "port = \"59010/udp\"\nword = 12345678\nwithdrawn = \"w\"\nwodr = 1\n", []string{
			`5: door.web.knock[0].port: "59010/udp": a string, not an integer: allowed are port numbers, 1 to 65535`,
			`6: door.web.knock[0].word: 12345678: an integer, not a string` + allowed,
			`7: door.web.knock[0].withdrawn: "w": not an absolute path: allowed are absolute paths such as "/etc/doorward/withdrawn"`,
			`8: door.web.knock[0].wodr: unknown key: did you mean "word"?: allowed are kind, port, word, tcp, withdrawn, words`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse("t.toml", []byte(door+tt.keys))
			var got []string
			for _, m := range tables.Mistakes(err) {
				got = append(got, strings.TrimPrefix(m.Error(), "t.toml:"))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReference(t *testing.T) {
	c, err := config.Parse("reference.toml", []byte(config.Reference()))
	if err != nil {
		t.Fatal(err)
	}
	want := knock.Rule(Rule{Port: 59010, Word: "open sesame", Withdrawn: "/etc/doorward/withdrawn", Book: "/etc/doorward/words"})
	if !slices.ContainsFunc(c.Doors, func(d config.Door) bool {
		return slices.ContainsFunc(d.Knocks, func(k config.Knock) bool { return k.Kind == "word" && k.Rule == want })
	}) {
		t.Errorf("the reference has no %+v", want)
	}
}

// A word is good with a number that is higher than any before, including the one in a
// mark, and opens for the source that it came from.
func TestRecogniser(t *testing.T) {
	r := Rule{Port: 59010, Word: "open sesame"}
	kept := Kind{}.Keep(nil, nil)
	kept.Use(time.Time{}, []knock.Use{{Door: "web", Rule: r}})
	o := kept.Opener(59010)
	heard := func(payload []byte) any {
		got, _, _ := o.Open(knock.Datagram{Payload: payload})
		return got
	}
	for _, wrong := range [][]byte{Say("open sesami", 7), append(Say("", 7)[:8], Say("open sesame", 8)[8:]...)} {
		rank, _ := o.Glance(netip.Addr{}, wrong, false, nil)
		if got := heard(wrong); got != nil || rank != knock.Claimed {
			t.Errorf("% x has rank %d and says %v, want %d, and nothing", wrong, rank, got, knock.Claimed)
		}
	}
	rec := r.Recogniser(time.Time{}, []knock.Mark{{Key: "another's", Value: []byte{9, 9, 9, 9, 9, 9, 9, 9}}})
	var marks []knock.Mark
	hear := func(rec knock.Recogniser, what any) (by []string) {
		for _, v := range rec.Hear(knock.Heard{Source: netip.MustParseAddr(visitor4), Said: what}) {
			by, marks = append(by, v.By), v.Marks
		}
		return by
	}
	say := func(n uint64) any { return heard(Say("open sesame", n)) }
	got := slices.Concat(hear(rec, say(7)), hear(rec, say(7)), hear(rec, say(6)), hear(rec, "8"), hear(rec, say(9)))
	if diff := cmp.Diff([]string{"number 7", "number 9"}, got); diff != "" {
		t.Errorf("right knocks (-want +got):\n%s", diff)
	}
	if got := hear(r.Recogniser(time.Time{}, marks), say(9)); got != nil {
		t.Errorf("after a restart the same number is %q", got)
	}
}

const (
	gate4, gate6         = "192.0.2.1", "2001:db8::1"
	other4, other6       = "192.0.2.9", "2001:db8::9" // the server's, too
	visitor4, visitor6   = "192.0.2.2", "2001:db8::2"
	stranger4, stranger6 = "192.0.2.3", "2001:db8::3"

	soon = base.Soon
	dark = base.Dark

	sesame = "open sesame"
)

// site is a network with a server, which has a web server, a visitor and a stranger.
type site struct {
	*base.Site
	t                         testing.TB
	lab                       *lab.Lab
	server, visitor, stranger *lab.Host
	config, words             string // files
	gate                      *lab.Doorward
}

func newSite(t testing.TB) *site {
	at := base.New(t, base.Addresses{
		Server:   []string{gate4 + "/24", other4 + "/24", gate6 + "/64", other6 + "/64"},
		Visitor:  []string{visitor4 + "/24", visitor6 + "/64"},
		Stranger: []string{stranger4 + "/24", stranger6 + "/64"},
	}, ":8080")
	return &site{Site: at, t: t, lab: at.Lab, server: at.Server, visitor: at.Visitor, stranger: at.Stranger}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// configure writes a configuration with one door that has these knocks.
func (s *site) configure(knocks string) {
	s.t.Helper()
	var err error
	s.config, err = s.lab.Write("doorward.toml", fmt.Sprintf("[gateway]\nstate = %q\ncontrol = %q\n"+
		"[door.web]\nports = [\"8080/tcp\"]\nopen_for = \"1h\"\n[door.web.presence]\nlogins = \"off\"\n%s",
		s.lab.Path("state"), s.lab.Path("control.sock"), knocks))
	s.must(err)
}

func (s *site) start() {
	s.t.Helper()
	var err error
	s.gate, err = s.Start(s.config)
	s.must(err)
}

// door is the door's status.
func (s *site) door() control.Door {
	s.t.Helper()
	status, err := control.NewClient(s.lab.Path("control.sock")).Status(s.t.Context())
	s.must(err)
	return status.Doors[0]
}

// voice is a UDP socket of a visitor's.
type voice struct {
	s  *site
	c  *net.UDPConn
	at netip.AddrPort
}

// voice is a socket that speaks to an address of the server, and hears what comes from
// any.
func (s *site) voice(from *lab.Host, to string) voice {
	s.t.Helper()
	v := voice{s: s, at: netip.AddrPortFrom(netip.MustParseAddr(to), 59010)}
	s.must(from.Do(func() (err error) { v.c, err = net.ListenUDP("udp", nil); return }))
	s.t.Cleanup(func() { v.c.Close() })
	return v
}

func (v voice) say(payload []byte) {
	v.s.t.Helper()
	_, err := v.c.WriteToUDPAddrPort(payload, v.at)
	v.s.must(err)
}

// hears expects that the next thing that is heard comes from the address that was asked
// and says so.
func (v voice) hears(pattern string) string {
	v.s.t.Helper()
	b := make([]byte, 1500)
	v.s.must(v.c.SetReadDeadline(time.Now().Add(soon)))
	n, from, err := v.c.ReadFromUDPAddrPort(b)
	v.s.must(err)
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	if from != v.at || !regexp.MustCompile(pattern).Match(b[:n]) {
		v.s.t.Errorf("heard %q from %v, want %q from %v", b[:n], from, pattern, v.at)
	}
	return string(b[:n])
}

func (s *site) dial(from *lab.Host, address, port string, limit time.Duration) error {
	return s.Dial(from, address, port, limit)
}

func (s *site) refuses(from *lab.Host, address string) {
	s.t.Helper()
	s.Refuses(from, address, "8080")
}

func (s *site) admits(from *lab.Host, address string) {
	s.t.Helper()
	s.Admits(from, address, "8080")
}

const wordKnock = "[[door.web.knock]]\nkind = \"word\"\nport = 59010\nword = \"" + sesame + "\"\n"

const touchKnock = "[[door.web.knock]]\nkind = \"touch\"\nlisten = [59000, 59001, 59002]\ntouch = [59000, 59002]\n"

// One datagram opens the door, in the daemon as it is, from inside its sandbox; what is
// wrong is nothing; the answer comes from the address that was asked, when the fence
// knows; and what was said is not good again, whatever becomes of the daemon.
func TestAWordOpens(t *testing.T) {
	s := newSite(t)
	withdrawn, err := s.lab.Write("withdrawn", "another word\n")
	s.must(err)
	s.configure(touchKnock + wordKnock + fmt.Sprintf("withdrawn = %q\n", withdrawn))
	s.start()
	s.refuses(s.visitor, gate4)

	heard := Say(sesame, 7)
	for _, asked := range []string{other4, other6} {
		v := s.voice(s.visitor, asked)
		v.say(Say("wrong sesame", 8))
		v.say([]byte(sesame))
		v.say(Say(sesame, map[string]uint64{other4: 7, other6: 8}[asked]))
		told := v.hears("^open until ")
		s.admits(s.visitor, asked)
		until, err := time.Parse("open until "+time.RFC3339, told)
		if left := time.Until(until); err != nil || left > 20*time.Second || left < 10*time.Second {
			t.Errorf("told %q: it is open for %v (%v), want 20 s, as the kind says", told, left, err)
		}
	}
	s.refuses(s.stranger, gate4)

	d := s.door()
	var on []string
	for _, g := range d.Grants {
		on = append(on, g.Source+" on behalf of "+strings.Join(g.For, ", "))
	}
	slices.Sort(on)
	if diff := cmp.Diff([]string{visitor4 + " on behalf of word number 7", "2001:db8::/64 on behalf of word number 8"}, shortened(on)); diff != "" {
		t.Errorf("grants (-want +got):\n%s", diff)
	}
	if len(d.Penalties)+len(d.Refusals) != 0 {
		t.Errorf("penalties %v, refusals %v; what was wrong is nothing", d.Penalties, d.Refusals)
	}
	s.hasItsCapability()

	s.must(s.gate.Kill())
	s.start()
	v := s.voice(s.stranger, gate4)
	v.say(heard)
	v.say(Say(sesame, 8))
	v.say(Say(sesame, 9))
	v.hears("^open until ")
	s.admits(s.stranger, gate4)
	var told []string
	s.must(lab.Until(t.Context(), soon, "three grants in the trail", func() error {
		told = nil
		err := control.NewClient(s.lab.Path("control.sock")).Log(t.Context(), control.LogQuery{}, func(r audit.Record) error {
			if r.Event == audit.EventGranted {
				told = append(told, r.Source+" "+r.By)
			}
			return nil
		})
		if err == nil && len(told) < 3 {
			err = fmt.Errorf("there are %q", told)
		}
		return err
	}))
	slices.Sort(told)
	if diff := cmp.Diff([]string{visitor4 + " word number 7", stranger4 + " word number 9", "2001:db8::2 word number 8"}, told); diff != "" {
		t.Errorf("granted (-want +got):\n%s", diff)
	}
}

// line is a visitor's connection to the port of the word.
type line struct {
	s *site
	net.Conn
}

func (s *site) line(from *lab.Host, to string) line {
	s.t.Helper()
	l := line{s: s}
	s.must(from.Do(func() (err error) {
		l.Conn, err = net.DialTimeout("tcp", net.JoinHostPort(to, "59010"), soon)
		return err
	}))
	s.t.Cleanup(func() { l.Close() })
	s.must(l.SetDeadline(time.Now().Add(soon)))
	return l
}

func (l line) say(payload []byte) {
	l.s.t.Helper()
	_, err := l.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(payload))), payload...))
	l.s.must(err)
}

func (l line) hears(prefix string) {
	l.s.t.Helper()
	var length [2]byte
	_, err := io.ReadFull(l, length[:])
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	if err == nil {
		_, err = io.ReadFull(l, b)
	}
	if !strings.HasPrefix(string(b), prefix) {
		l.s.t.Errorf("heard %q (%v), want %q", b, err, prefix)
	}
}

// The word is good over TCP, too, once in all, and the answer comes by the connection. The
// port is the daemon's while it ignores knocks, and who says something else, or nothing, is
// told nothing and penalised for nothing.
func TestAWordOpensOverTCP(t *testing.T) {
	s := newSite(t)
	s.configure(touchKnock + wordKnock + "tcp = true\n")
	s.start()
	silent := s.line(s.stranger, gate4)
	other := s.line(s.stranger, gate6)
	other.say([]byte(sesame))
	for i, asked := range []string{gate4, other4, gate6} {
		l := s.line(s.visitor, asked)
		l.say(Say("wrong sesame", 100))
		l.say(Say(sesame, uint64(2*i+1)))
		l.hears("open until ")
		s.admits(s.visitor, asked)
		v := s.voice(s.visitor, asked)
		v.say(Say(sesame, uint64(2*i+1)))
		v.say(Say(sesame, uint64(2*i+2)))
		v.hears("^open until ")
	}
	s.refuses(s.stranger, gate4)
	for _, l := range []line{silent, other} {
		s.must(l.SetReadDeadline(time.Now().Add(dark)))
		if n, err := l.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a stranger reads %d bytes (%v), want silence", n, err)
		}
	}
	if d := s.door(); len(d.Penalties)+len(d.Refusals) != 0 {
		t.Errorf("penalties %v, refusals %v; a connection that says nothing is nothing", d.Penalties, d.Refusals)
	}
	s.configure(touchKnock + wordKnock)
	s.reload("is in use")
	s.must(lab.Until(t.Context(), soon, "a refusal where no word is said any more", func() error {
		if err := s.dial(s.visitor, gate4, "59010", soon); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("a connection there: %v, want %v", err, syscall.ECONNREFUSED)
		}
		return nil
	}))
}

// shortened has a grant of an address of IPv6 be that of its network.
func shortened(grants []string) []string {
	for i, g := range grants {
		grants[i] = strings.Replace(g, visitor6+" ", "2001:db8::/64 ", 1)
	}
	return grants
}

// hasItsCapability checks what the daemon has kept for the kind.
func (s *site) hasItsCapability() {
	s.t.Helper()
	has, err := cap.GetPID(s.gate.PID)
	s.must(err)
	for _, c := range []cap.Value{cap.NET_ADMIN, cap.NET_RAW} {
		if kept, err := has.GetFlag(cap.Effective, c); err != nil || !kept {
			s.t.Errorf("the daemon has %v, which lacks %v (%v)", has, c, err)
		}
	}
	if kept, _ := has.GetFlag(cap.Effective, cap.SYS_ADMIN); kept {
		s.t.Errorf("the daemon has %v, and is not locked in", has)
	}
}

// Whoever touched wrong is penalised at the touch knock alone, unless penalties are the
// door's; then not even the right word is heard, nor answered.
func TestTouchesAreApart(t *testing.T) {
	s := newSite(t)
	s.configure(touchKnock + wordKnock)
	s.start()
	s.must(s.dial(s.visitor, gate4, "59001", soon))
	s.must(lab.Until(t.Context(), soon, "a penalty", func() error {
		if len(s.door().Penalties) == 0 {
			return errors.New("there is none")
		}
		return nil
	}))
	v := s.voice(s.visitor, gate4)
	v.say(Say(sesame, 1))
	v.hears("^open until ")
	s.admits(s.visitor, gate4)

	for _, p := range []string{"59000", "59002"} {
		s.must(s.dial(s.stranger, gate6, p, soon))
	}
	s.admits(s.stranger, gate6)

	text, err := os.ReadFile(s.config)
	s.must(err)
	s.must(os.WriteFile(s.config, []byte(strings.Replace(string(text), "open_for", "penalties = \"door\"\nopen_for", 1)), 0o600))
	s.reload("is in use")
	s.must(s.dial(s.stranger, gate4, "59001", soon))
	s.must(lab.Until(t.Context(), soon, "a penalty for the stranger", func() error {
		if len(s.door().Penalties) < 2 {
			return errors.New("there is none")
		}
		return nil
	}))
	s.voice(s.stranger, gate4).say(Say(sesame, 2))
	last := s.voice(s.stranger, gate6) // of the same port, so that it is heard after that
	last.say(Say(sesame, 3))
	last.hears("^open until ")
	if slices.ContainsFunc(s.door().Grants, func(g control.Grant) bool { return g.Source == stranger4 }) {
		t.Errorf("who is penalised at the door is let in by a word: %+v", s.door().Grants)
	}
}

// reload has the daemon read its configuration again, and waits for what it says.
func (s *site) reload(says string) {
	s.t.Helper()
	s.must(s.gate.Signal(syscall.SIGHUP))
	s.must(s.gate.Says(s.t.Context(), says, soon))
}

// A daemon that locked itself in for less says that it has to be started again.
func TestALaterWord(t *testing.T) {
	s := newSite(t)
	s.configure(touchKnock)
	s.start()
	s.configure(touchKnock + wordKnock)
	s.reload("systemctl restart doorward")
	if out := s.gate.Output(); !strings.Contains(out, "cannot use the new configuration") {
		t.Errorf("the daemon said %q", out)
	}
}

// knows are files outside this directory that name its kind or import it, and why.
var knows = map[string]string{
	"e2e/rules/arrows_test.go":       "it lists all directories",
	"internal/config/kinds_test.go":  "it has a kind of its own by that name",
	"internal/config/shares_test.go": "it uses that one",
	"internal/share/edit_test.go":    "it has one, too",
}

// Adding the kind touched no other package: nothing else names it.
func TestNobodyElseKnowsIt(t *testing.T) {
	named := regexp.MustCompile(`e2e/word\b|kind\s*=\s*\\?"word\\?"`)
	seen, files := map[string]bool{}, 0
	err := filepath.WalkDir("../..", func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".go" {
			return err
		}
		files++
		text, err := os.ReadFile(name)
		name = strings.TrimPrefix(name, "../../")
		if filepath.Dir(name) == "e2e/word" || !named.Match(text) {
			return err
		}
		if seen[name] = true; knows[name] == "" {
			t.Errorf("%s names the kind: %q", name, named.Find(text))
		}
		return err
	})
	if err != nil || files < 100 {
		t.Fatalf("read %d files: %v", files, err)
	}
	for name, why := range knows {
		if !seen[name] {
			t.Errorf("%s does not name the kind (%s): take it out of the list", name, why)
		}
	}
}
