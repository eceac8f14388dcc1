package sealed

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// What a handshake asks is done once, from wherever and however often its request comes; a
// request that comes again is answered as it was.
func TestAHandshakeIsUsedOnce(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	at := s.begin(visitor)
	d := s.request(at, web, alice.who())
	var same []any // opened before the first was judged, as in a pool
	for range 1000 {
		said, answer, ok := s.opens(visitor, d)
		if !ok || answer != nil {
			t.Fatalf("the request is opened: %v, and answered with %d bytes", ok, len(answer))
		}
		same = append(same, said)
	}
	if _, _, ok := s.opens(stranger, d); ok {
		t.Error("the request was accepted from another address")
	}
	var right []knock.Verdict
	for _, said := range same {
		right = append(right, s.hear(visitor, said)...)
	}
	if len(right) != 1 || !right[0].Right || right[0].By != "alice "+alice.id() || right[0].Source != visitor {
		t.Fatalf("1000 times the same request came to %+v, want one right knock of alice's", right)
	}
	if said, answer, ok := s.opens(visitor, d); ok || answer != nil {
		t.Errorf("before the gateway has answered, the request came to %v and %d bytes, want silence", said, len(answer))
	}
	for _, left := range []time.Duration{time.Minute, 50 * time.Second, 20 * time.Second} {
		if left == time.Minute {
			s.answer(right[0], at, knock.Outcome{Open: true, Until: s.now.Add(left), Left: left})
		} else {
			s.now = start.Add(time.Minute - left)
		}
		_, answer, ok := s.opens(visitor, d)
		e, a := at.Read(answer)
		if ok || e != seal.Answered || a.Status != seal.Opened || a.Left != left {
			t.Errorf("again with %s left: heard again %v, event %v, answer %+v", left, ok, e, a)
		}
	}
	s.now = start.Add(seal.HandshakeLife + 2*time.Second)
	if _, answer, ok := s.opens(visitor, d); ok || answer != nil {
		t.Error("a request was accepted after its time")
	}
	// What is remembered is so for long enough, whenever room is made.
	s.now = s.now.Add(seal.HandshakeLife / 2)
	late := s.request(s.begin(visitor), web, alice.who())
	said, _, _ := s.opens(visitor, late)
	s.hear(visitor, said)
	s.now = s.now.Add(seal.HandshakeLife / 2)
	s.asks(web, alice.who()) // makes room
	if again := s.hear(visitor, said); len(again) != 0 {
		t.Errorf("half a minute later, after others, the request came to %+v", again)
	}
	// What was opened in time, and comes to be judged long after that, is not right again.
	for range 3 {
		s.now = s.now.Add(seal.HandshakeLife + 2*time.Second)
		s.asks(web, alice.who())
	}
	s.now = start.Add(seal.HandshakeLife / 2)
	if again := s.hear(visitor, same[0]); len(again) != 0 {
		t.Errorf("judged again when it was forgotten, the request came to %+v", again)
	}
}

// No request is accepted after a restart of the gateway.
func TestNoHandshakeOutlivesARestart(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	d := s.request(s.begin(visitor), web, alice.who())
	s.restart(map[string]string{identityFile: identityText(7), keysFile: alice.line("")})
	if _, answer, ok := s.opens(visitor, d); ok || answer != nil {
		t.Error("a request of before the restart was accepted")
	}
	if v := s.asks(web, alice.who()); !v.Right {
		t.Errorf("a new handshake after the restart: %+v", v)
	}
}

// Only requests with a right proof are remembered, and of one visitor not so many that
// there is no room for others.
func TestWrongRequestsTakeNoRoom(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	for range 20 {
		if v := s.asks(web, alice.wrong()); v.Right {
			t.Fatal("a wrong proof is right")
		}
		s.asks(web, newKey("mallory").who())
	}
	h := s.kept.used
	if n := len(h.now.answers) + len(h.old.answers) + len(h.now.many); n != 0 {
		t.Errorf("40 requests without a right proof are remembered in %d entries", n)
	}
	first := func(by string, n int) (first, room bool) {
		k := &seal.Knock{Issued: s.now, Number: [12]byte{byte(n >> 16), byte(n >> 8), byte(n)}}
		return h.first(k, by, s.now)
	}
	for n := range mostOfOne {
		if f, room := first("mallory", n); !f || !room {
			t.Fatalf("handshake %d of mallory's: first %v, room %v", n, f, room)
		}
	}
	if f, room := first("mallory", mostOfOne); !f || room {
		t.Errorf("beyond %d of a minute: first %v, room %v, want that there is none", mostOfOne, f, room)
	}
	if f, _ := first("mallory", 0); f {
		t.Error("one that was used is not known any more")
	}
	if v := s.asks(web, alice.who()); !v.Right {
		t.Errorf("alice, after all the room that one may have was taken: %+v", v)
	}
	for who, n := 0, mostOfOne; len(h.now.answers) < mostHandshakes; n++ {
		if _, room := first(strconv.Itoa(who), n); !room {
			who++
		}
	}
	v, at := s.told(web, alice.who())
	if v.Right || v.Code != "crowded" {
		t.Errorf("alice, without any room: %+v", v)
	}
	if a := s.answer(v, at, knock.Outcome{Refused: knock.RefusedWrong}); a.Reason != seal.Unavailable {
		t.Errorf("what alice is told: %+v", a)
	}
	if n := len(h.now.answers); n != mostHandshakes {
		t.Errorf("%d handshakes are remembered, want %d", n, mostHandshakes)
	}
}

// Handshakes with an invite are those of whoever has it, with whatever keys: there are as
// many keys as one likes.
func TestAnInvitesKeysTakeOneRoom(t *testing.T) {
	s := newSite(t)
	code := mustOrder[Invite](s, OrderInvite, InviteArgs{For: "mallory"}).Code
	for n := range 5 {
		if v := s.asks(web, newKey(fmt.Sprint("mallory ", n)).invited(code)); v.Right != (n == 0) {
			t.Fatalf("an invite with key %d: %+v", n, v)
		}
	}
	most := slices.Max(s.kept.used.now.many)
	if len(s.kept.used.now.answers) != 5 || most != 5 {
		t.Errorf("%d handshakes with an invite and five keys count as at most %d of one visitor, want all 5", len(s.kept.used.now.answers), most)
	}
}

// What is remembered takes as much memory as its comment says, and none that the garbage
// collector has to look through: a pointer in each entry would more than double it.
func TestHandshakesAreSmall(t *testing.T) {
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	h, ports := newHandshakes(), []seal.Port{{First: 22, Last: 22}}
	before := inUse()
	for n := range mostHandshakes {
		k := &seal.Knock{Issued: start, Number: [12]byte{byte(n >> 16), byte(n >> 8), byte(n)}}
		if _, room := h.first(k, strconv.Itoa(n), start); !room {
			t.Fatalf("there is no room for handshake %d", n)
		}
		h.note(k, seal.Answer{Status: seal.Opened, Left: time.Hour, Source: visitor, Ports: ports}, start)
	}
	const most = 23 << 20
	if took := inUse() - before; took > most {
		t.Errorf("%d handshakes take %d bytes, want %d at most", mostHandshakes, took, most)
	}
	runtime.KeepAlive(h)
}

// A request that comes again is answered as it was, with what was asked for and what a
// visitor can tell apart.
func TestAnswersComeAgain(t *testing.T) {
	elsewhere := netip.MustParseAddr("203.0.113.9")
	many := []seal.Port{{First: 22, Last: 22}, {UDP: true, First: 100, Last: 200}}
	for _, c := range []struct {
		name string
		q    seal.Request
		told seal.Answer
		left time.Duration // when it is told again, ten seconds later
	}{
		{"open", seal.Request{}, seal.Answer{Status: seal.Opened, Left: time.Minute, Source: visitor, Ports: many}, 50 * time.Second},
		{"open for more than can be told", seal.Request{}, seal.Answer{Status: seal.Opened, Left: 1000 * time.Hour * 24, Source: visitor}, math.MaxUint32*time.Millisecond - 15*time.Second},
		{"open elsewhere", seal.Request{Address: elsewhere}, seal.Answer{Status: seal.Opened, Left: time.Minute, Source: elsewhere}, 50 * time.Second},
		{"not open elsewhere", seal.Request{Address: elsewhere}, seal.Answer{Status: seal.Refused, Reason: 14, Source: visitor}, 0},
		{"it starts", seal.Request{}, seal.Answer{Status: seal.Starting, Source: visitor, Ports: many[:1]}, 0},
		{"refused for a while", seal.Request{}, seal.Answer{Status: seal.Refused, Reason: 4, Left: time.Hour, Source: visitor}, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			v := s.begin(visitor)
			who := seal.Credential{Kind: seal.Code}
			c.q.Action = seal.Open
			own := v.Transcript(c.q, who)
			d, err := v.Request(c.q, who, own, own, false)
			if err != nil {
				t.Fatal(err)
			}
			_, k := s.kept.openers[s.uses[0].Rule.(Rule).Port].now.Load().gateway.Open(visitor, s.now, d)
			h := s.kept.used
			if first, room := h.first(k, "alice", s.now); !first || !room {
				t.Fatalf("first %v, room %v", first, room)
			}
			h.note(k, seal.Answer{Status: seal.Refused, Reason: 1, Source: visitor, Ports: many[1:]}, s.now) // replaced
			c.told.Next = seal.Fingerprint{1}
			h.note(k, c.told, s.now.Add(5*time.Second))
			answer, _ := h.again(k, visitor, c.told.Next, s.now.Add(15*time.Second))
			want := c.told
			want.Left = c.left
			if e, got := v.Read(answer); e != seal.Answered || !cmp.Equal(got, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
				t.Errorf("told again: %+v, want %+v", got, want)
			}
		})
	}
}

// What is told of a credential that is not known is what is told of a wrong proof, whoever
// it is of.
func TestUnknownIsLikeWrong(t *testing.T) {
	alice, bob, carol, mallory := newKey("alice"), newKey("bob"), newKey("carol"), newKey("mallory")
	s := newSite(t, alice.line(""), bob.line(`doors="panel"`), carol.line(`expiry-time="20200101"`))
	const secretsFile = "/secrets"
	r := s.uses[0].Rule.(Rule)
	r.Secrets = secretsFile
	s.use(knock.Use{Door: "web", Rule: r})
	secret := [32]byte{5}
	s.feed(secretsFile, "backup "+base64.StdEncoding.EncodeToString(secret[:])+"\n")
	mustOrder[Done](s, OrderLock, KeyArgs{Key: "bob"})
	invite := mustOrder[Invite](s, OrderInvite, InviteArgs{For: "dave"})
	machine := func(id, with [32]byte) who {
		return who{seal.Credential{Kind: seal.Secret, ID: credential.SecretID(id)}, func(message []byte) []byte {
			proof := credential.SecretProof(with, message)
			return proof[:]
		}}
	}
	dave := newKey("dave").invited(invite.Code)
	dave.prove = mallory.sign
	if v := s.asks(web, machine(secret, secret)); !v.Right {
		t.Fatalf("the machine itself: %+v", v)
	}
	var first knock.Verdict
	for name, w := range map[string]who{
		"unknown key":                   mallory.who(),
		"wrong proof":                   alice.wrong(),
		"wrong proof of a locked key":   bob.wrong(),
		"wrong proof of an old key":     carol.wrong(),
		"no proof":                      {alice.who().Credential, func([]byte) []byte { return nil }},
		"unknown secret":                machine([32]byte{6}, [32]byte{6}),
		"wrong secret":                  machine(secret, [32]byte{6}),
		"unknown code":                  {Credential: seal.Credential{Kind: seal.Code, Bearer: [16]byte{1}}},
		"unknown invite":                mallory.invited(make([]byte, 16)),
		"invite with another's proof":   dave,
		"invite's code as a rescue":     {Credential: seal.Credential{Kind: seal.Code, Bearer: [16]byte(invite.Code)}},
		"a certificate of no authority": {seal.Credential{Kind: seal.Certificate, Public: alice.blob()}, alice.sign},
	} {
		v, at := s.told(web, w)
		a := s.answer(v, at, knock.Outcome{Refused: knock.RefusedWrong})
		want := seal.Answer{Status: seal.Refused, Reason: seal.NotAccepted, Source: visitor, Next: s.peer.Fingerprint}
		if diff := cmp.Diff(want, a, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: the visitor is told (-want +got):\n%s", name, diff)
		}
		if v.Right || v.By != "" || v.Alarm || v.Penalty != 0 || len(v.Marks) != 0 || v.Code != "credential" {
			t.Errorf("%s: %+v", name, v)
		}
		if first.Reason == "" {
			first = v
		}
		if v.Reason != first.Reason {
			t.Errorf("%s: the trail says %q, and of another %q", name, v.Reason, first.Reason)
		}
	}
	// With a right proof the reason is told.
	if v, at := s.told(web, bob.who()); !v.Alarm || s.answer(v, at, knock.Outcome{Refused: knock.RefusedWrong}).Reason != seal.Reason(credential.Locked) {
		t.Errorf("bob, who is locked: %+v", v)
	}
}

// one is a single packet of a key's.
func (s *site) one(k key, door string, at time.Time, from netip.Addr) []byte {
	s.t.Helper()
	id := credential.FingerprintOf(k.blob())
	p, err := seal.NewSinglePacket(s.peer, seal.X25519, seal.Request{Action: seal.Open, Door: door}, uint64(at.UnixMicro()), [8]byte(id[:]), from)
	s.must(err)
	proof, _ := credential.SingleProof(k.sign(p.Message()))
	d, err := p.Datagram(proof)
	s.must(err)
	return d
}

// once sends a single packet, and says what it came to: "right", the code of a refusal, or
// "" for silence.
func (s *site) once(from netip.Addr, d []byte) string {
	said, answer, ok := s.opens(from, d)
	if answer != nil {
		s.t.Error("a single packet was answered")
	}
	if !ok {
		return ""
	}
	all := s.hear(from, said)
	if len(all) != 1 {
		return ""
	}
	if v := all[0]; v.Right {
		if !v.First || len(v.Marks) != 1 || v.Answer != nil {
			s.t.Errorf("a right single packet, whose counter has to be on the disk first: %+v", v)
		}
		return "right"
	}
	return all[0].Code
}

// A single packet is right once, at one of all doors and ports, and one that is refused
// changes nothing.
func TestSinglePacketsAreUsedOnce(t *testing.T) {
	alice, bob := newKey("alice"), newKey("bob")
	lines := alice.line("") + "\n" + bob.line("")
	s := newSite(t, lines)
	const other = sealedPort + 1
	there := s.uses[1].Rule.(Rule)
	there.Port = other
	s.use(s.uses[0], knock.Use{Door: "panel", Rule: s.uses[1].Rule}, knock.Use{Door: "far", Rule: there})
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	second, first := s.one(alice, "", s.now, visitor), s.one(alice, "", s.now.Add(-time.Second), visitor)
	want("one whose clock is 5 minutes ahead", s.once(visitor, s.one(alice, "", s.now.Add(fresh+time.Second), visitor)), "stale")
	want("one that is 5 minutes old", s.once(visitor, s.one(alice, "", s.now.Add(-fresh-time.Second), visitor)), "stale")
	want("one of another key", s.once(visitor, s.one(newKey("mallory"), "", s.now.Add(time.Minute), visitor)), "credential")
	want("one from where it was not sent", s.once(stranger, second), "credential")
	want("the first", s.once(visitor, first), "right")
	want("the same again", s.once(visitor, first), "")
	want("the second", s.once(visitor, second), "right")
	want("the first, after the second", s.once(visitor, first), "replay")
	want("one of bob's with alice's counter", s.once(visitor, s.one(bob, "panel", s.now, visitor)), "right")

	// "" is the first door of a port: it is another one elsewhere.
	_, _, ok := s.opens(visitor, second)
	said, _, there2 := s.kept.Opener(other).Open(knock.Datagram{Path: path(visitor), Payload: second, Time: s.now})
	if !ok || !there2 {
		t.Fatal("a single packet that was used is not opened")
	}
	if all := s.hear(visitor, said); len(all) != 0 {
		t.Errorf("at another port, where another door is the first, it came to %+v", all)
	}
	want("one of alice's before all that, at another door", s.once(visitor, s.one(alice, "panel", s.now.Add(-time.Millisecond), visitor)), "replay")

	s.restart(map[string]string{identityFile: identityText(7), keysFile: lines})
	want("the second, after a restart", s.once(visitor, second), "")
	s.now = s.now.Add(-time.Minute) // the clock is set back
	want("the second, after the clock was set back", s.once(visitor, second), "")
	s.use(s.uses[1])
	s.use(s.uses[0])
	want("the second, after its door was away", s.once(visitor, second), "")
	want("a later one", s.once(visitor, s.one(alice, "", start.Add(time.Second), visitor)), "right")
}

// A single packet is heard where the rule says so alone.
func TestSinglePacketsNeedOneWay(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	r := s.uses[0].Rule.(Rule)
	r.OneWay = false
	s.use(knock.Use{Door: "web", Rule: r}, s.uses[1])
	if got := s.once(visitor, s.one(alice, "web", s.now, visitor)); got != "" {
		t.Errorf("at a door without one_way: %q", got)
	}
	if got := s.once(visitor, s.one(alice, "panel", s.now, visitor)); got != "right" {
		t.Errorf("at a door with it: %q", got)
	}
}

// A proof that was wrong stays wrong, whatever has changed since it was opened: whoever has
// the profile could send many, and the loop would verify them all once more.
func TestAWrongProofIsNotVerifiedAgain(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t)
	said, _, ok := s.opens(visitor, s.request(s.begin(visitor), web, alice.who()))
	if !ok {
		t.Fatal("a request was not opened")
	}
	s.feed(keysFile, alice.line(""))
	if all := s.hear(visitor, said); len(all) != 1 || all[0].Right || all[0].Code != "credential" {
		t.Errorf("the key was added while a request with it was on its way: it came to %+v", all)
	}
	if v := s.asks(web, alice.who()); !v.Right {
		t.Errorf("the next request with the key: %+v", v)
	}
}

// What was verified by what is no longer in force is verified again.
func TestAStaleProofIsVerifiedAgain(t *testing.T) {
	alice := newKey("alice")
	for name, change := range map[string]func(s *site){
		"the key was locked":                func(s *site) { mustOrder[Done](s, OrderLock, KeyArgs{Key: "alice"}) },
		"the key was revoked":               func(s *site) { mustOrder[Done](s, OrderRevoke, KeyArgs{Key: alice.id()}) },
		"the file was emptied":              func(s *site) { s.feed(keysFile, "") },
		"the key may open another door now": func(s *site) { s.feed(keysFile, alice.line(`doors="panel"`)) },
		"the identity was replaced":         func(s *site) { s.feed(keysFile, newKey("bob").line("")); s.identity(8) },
	} {
		s := newSite(t, alice.line(""))
		said, _, ok := s.opens(visitor, s.request(s.begin(visitor), web, alice.who()))
		if !ok {
			t.Fatal("a request was not opened")
		}
		change(s)
		if all := s.hear(visitor, said); len(all) != 1 || all[0].Right {
			t.Errorf("%s, while a request was on its way: it came to %+v", name, all)
		}
	}
}
