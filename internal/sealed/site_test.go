package sealed

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

var (
	visitor  = netip.MustParseAddr("192.0.2.2")
	stranger = netip.MustParseAddr("203.0.113.9")
	start    = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
)

const (
	identityFile = "/id"
	keysFile     = "/keys"
	sealedPort   = 41641
)

// site is a gateway without a network: what is kept, and a recogniser for each door.
type site struct {
	t    testing.TB
	kept *kept
	recs map[string]knock.Recogniser
	uses []knock.Use
	peer seal.Peer
	now  time.Time

	common, ofDoors map[string][]byte // marks on the disk; those of doors by door and key
}

// rules are two doors at one port.
func rules() []knock.Use {
	r := Rule{Port: sealedPort, Identity: identityFile, Keys: keysFile, OneWay: true, MaxOpenFor: time.Hour}
	return []knock.Use{{Door: "web", Rule: r}, {Door: "panel", Rule: r}}
}

// newSite has these lines in its file of keys.
func newSite(t testing.TB, lines ...string) *site { return newSiteAt(t, start, lines...) }

// newSiteAt is newSite at a time.
func newSiteAt(t testing.TB, now time.Time, lines ...string) *site {
	s := &site{t: t, now: now, uses: rules(), common: map[string][]byte{}, ofDoors: map[string][]byte{}}
	s.boot()
	s.identity(7)
	s.feed(keysFile, strings.Join(lines, "\n")+"\n")
	return s
}

// boot starts the gateway from its disk; files are not fed yet.
func (s *site) boot() {
	var marks []knock.Mark
	for key, value := range s.common {
		marks = append(marks, knock.Mark{Key: key, Value: value})
	}
	s.kept = Kind{}.Keep(&counter{}, marks).(*kept)
	s.use(s.uses...)
}

// restart is a kill and a start with the same files.
func (s *site) restart(files map[string]string) {
	s.boot()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		s.feed(path, files[path])
	}
}

// use puts rules into use.
func (s *site) use(uses ...knock.Use) {
	s.uses = uses
	s.kept.Use(s.now, uses)
	s.recs = make(map[string]knock.Recogniser)
	for _, u := range uses {
		var marks []knock.Mark
		for key, value := range s.ofDoors {
			if of, ok := strings.CutPrefix(key, u.Door+"/"); ok {
				marks = append(marks, knock.Mark{Key: of, Value: value})
			}
		}
		s.recs[u.Door] = s.kept.Recogniser(u.Door, u.Rule, s.now, marks)
	}
}

// identity feeds a gateway's key and profile secret.
func (s *site) identity(n byte) string {
	s.t.Helper()
	seed, profile := [32]byte{n}, seal.Profile{n}
	id, err := seal.NewIdentity(seed)
	s.must(err)
	s.peer = seal.Peer{Profile: profile, Fingerprint: id.Fingerprint(), Bundle: id.Bundle()}
	text := identityText(n)
	s.feed(identityFile, text)
	return text
}

func identityText(n byte) string {
	seed, profile := [32]byte{n}, seal.Profile{n}
	return fmt.Sprintf("key %s\nprofile %s\n", base64.StdEncoding.EncodeToString(seed[:]), base64.StdEncoding.EncodeToString(profile[:]))
}

func (s *site) feed(path, text string) knock.Change {
	s.t.Helper()
	return s.feeds(path, text, nil)
}

// feeds is feed of a file that may be impossible to read, or to use.
func (s *site) feeds(path, text string, err error) knock.Change {
	s.t.Helper()
	var what any
	if err == nil {
		i := slices.IndexFunc(s.kept.Files(), func(f knock.File) bool { return f.Path == path })
		if i < 0 {
			s.t.Fatalf("nothing goes by %s", path)
		}
		what, err = Kind{}.Digest(s.kept.Files()[i], []byte(text))
	}
	return s.carry(s.kept.Feed(s.now, path, what, err))
}

// carry has a change's marks on the disk.
func (s *site) carry(c knock.Change) knock.Change {
	for _, m := range c.Marks {
		s.save(knock.Mark{Key: m.Key, Value: m.Value, Common: true}, "")
	}
	return c
}

// save has a mark on the disk.
func (s *site) save(m knock.Mark, door string) {
	on, key := s.common, m.Key
	if !m.Common {
		on, key = s.ofDoors, door+"/"+m.Key
	}
	if on[key] = m.Value; len(m.Value) == 0 {
		delete(on, key)
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// order gives an order, whose error is returned.
func order[R any](s *site, what string, args any) (reply R, err error) {
	s.t.Helper()
	text, err := json.Marshal(args)
	s.must(err)
	c, result, err := s.kept.Order(s.now, "root", what, text)
	if err == nil {
		s.carry(c)
		if c.Reply != nil {
			result, err = c.Reply()
			s.must(err)
		}
		s.must(json.Unmarshal(result, &reply))
	}
	return reply, err
}

// ordered gives an order that must succeed.
func mustOrder[R any](s *site, what string, args any) R {
	s.t.Helper()
	reply, err := order[R](s, what, args)
	s.must(err)
	return reply
}

// path is the way of a datagram from an address.
func path(from netip.Addr) knock.Path {
	return knock.Path{From: netip.AddrPortFrom(from, 4444), To: netip.AddrPortFrom(from, sealedPort)}
}

// opens has the opener of the port open a datagram.
func (s *site) opens(from netip.Addr, d []byte) (any, []byte, bool) {
	return s.kept.Opener(sealedPort).Open(knock.Datagram{Path: path(from), Payload: bytes.Clone(d), Time: s.now})
}

// begin is a handshake up to the challenge.
func (s *site) begin(from netip.Addr) *seal.Visitor {
	s.t.Helper()
	v, err := seal.NewVisitor(s.peer, seal.X25519)
	s.must(err)
	_, answer, _ := s.opens(from, v.Hello())
	if e, _ := v.Read(answer); e != seal.Challenged {
		s.t.Fatalf("a hello is answered with %d bytes that are no challenge", len(answer))
	}
	return v
}

// who is a credential that lacks its proof, and what proves it.
type who struct {
	seal.Credential
	prove func(message []byte) []byte
}

// with is the credential with its proof.
func (w who) with(message []byte) seal.Credential {
	c := w.Credential
	if w.prove != nil {
		c.Proof = w.prove(message)
	}
	return c
}

// request is the datagram that asks.
func (s *site) request(v *seal.Visitor, q seal.Request, w who) []byte {
	s.t.Helper()
	own := v.Transcript(q, w.Credential)
	d, err := v.Request(q, w.with(seal.Message(own)), own, own, false)
	s.must(err)
	return d
}

// hear hands what was opened to the door that it names.
func (s *site) hear(from netip.Addr, said any) []knock.Verdict {
	door := s.uses[0].Door
	if to, ok := said.(knock.ToDoor); ok && s.recs[to.Door()] != nil {
		door = to.Door()
	}
	all := s.recs[door].Hear(knock.Heard{Source: from, Time: s.now, Proven: true, Said: said, Path: path(from)})
	for _, v := range all {
		if v.Right {
			for _, m := range v.Marks {
				s.save(m, door)
			}
		}
	}
	return all
}

// asks is a whole knock, which comes to one verdict.
func (s *site) asks(q seal.Request, w who) knock.Verdict {
	s.t.Helper()
	v, _ := s.told(q, w)
	return v
}

// told is a whole knock, with the visitor's side, that reads answers.
func (s *site) told(q seal.Request, w who) (knock.Verdict, *seal.Visitor) {
	s.t.Helper()
	v := s.begin(visitor)
	said, _, ok := s.opens(visitor, s.request(v, q, w))
	if !ok {
		s.t.Fatal("a request was not opened")
	}
	all := s.hear(visitor, said)
	if len(all) != 1 {
		s.t.Fatalf("a request came to %d verdicts, want 1", len(all))
	}
	return all[0], v
}

// answer is what a visitor reads when a knock has come to something.
func (s *site) answer(v knock.Verdict, at *seal.Visitor, o knock.Outcome) seal.Answer {
	s.t.Helper()
	e, a := at.Read(v.Answer(o))
	if e != seal.Answered {
		s.t.Fatal("what was answered is no answer")
	}
	return a
}

// web asks for the first door.
var web = seal.Request{Action: seal.Open, Door: "web"}

// key is somebody's Ed25519 key.
type key struct {
	name string
	ed25519.PrivateKey
}

func newKey(name string) key {
	seed := [32]byte{}
	copy(seed[:], name)
	return key{name, ed25519.NewKeyFromSeed(seed[:])}
}

func (k key) blob() []byte {
	public, err := ssh.NewPublicKey(k.Public())
	if err != nil {
		panic(err)
	}
	return public.Marshal()
}

func (k key) id() string { return credential.FingerprintOf(k.blob()).String() }

// line is the key's in a file.
func (k key) line(options string) string {
	return strings.TrimSpace(options + " ssh-ed25519 " + base64.StdEncoding.EncodeToString(k.blob()) + " " + k.name)
}

func (k key) sign(message []byte) []byte {
	return ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: ed25519.Sign(k.PrivateKey, credential.Signed(message))})
}

// who is the key as a credential.
func (k key) who() who {
	return who{seal.Credential{Kind: seal.Key, Fingerprint: credential.FingerprintOf(k.blob())}, k.sign}
}

// wrong is the key with a signature that is not its own.
func (k key) wrong() who {
	w := k.who()
	w.prove = newKey("mallory").sign
	return w
}

// invited is an invite's code, used for the key.
func (k key) invited(code []byte) who {
	return who{seal.Credential{Kind: seal.Invite, Bearer: [16]byte(code), Public: k.blob()}, k.sign}
}

// rescued is a rescue code as it was printed.
func (s *site) rescued(printed string) who {
	s.t.Helper()
	code, err := seal.ParseCode(printed)
	s.must(err)
	return who{Credential: seal.Credential{Kind: seal.Code, Bearer: code}}
}

// counter is where secrets are drawn from: each read has another number.
type counter struct{ n uint64 }

func (c *counter) Read(b []byte) (int, error) {
	c.n++
	clear(b)
	binary.BigEndian.PutUint64(b, c.n)
	return len(b), nil
}

var errDenied = errors.New("permission denied")
