package sealed

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

// street is a gateway, a visitor who knocks there, and whoever else does. It knows what the
// visitor has asked for, and lets nothing else come true.
type street struct {
	*site
	dice   *rapid.T
	alice  key
	wants  map[string]*wish // by what its proof is of
	seen   [][]byte         // by an eavesdropper: what the visitor has sent
	shown  [][]byte         // proofs of the visitor's, to a thief of the gateway's key
	thief  *site
	locked bool
	last   time.Time // of single packets: their counter grows
	right  int
}

// wish is what a visitor has asked for once.
type wish struct {
	source netip.Addr
	door   string
	action seal.Action
	at     time.Time // of the challenge; of a single packet by the wall clock alone
	done   bool
}

// late says whether it is too late for what was asked for, or too early.
func (w *wish) late(now time.Time, single bool) bool {
	if single {
		off := now.Round(0).Sub(w.at)
		return off > fresh || off < -fresh
	}
	return now.Sub(w.at) > seal.HandshakeLife+time.Second
}

var actions = []seal.Action{seal.Open, seal.Close, seal.Extend}

// judge holds what was heard to what was asked for.
func (s *street) judge(from netip.Addr, what any) (right bool) {
	one, _ := what.(*said)
	for _, v := range s.hear(from, what) {
		if !v.Right {
			continue
		}
		message := one.knock.Message
		if one.knock.Single != nil {
			message = one.knock.Single.Message
		}
		w := s.wants[string(message)]
		switch {
		case w == nil:
			s.dice.Fatalf("from %s, what nobody has asked for is right: %+v", from, v)
		case w.done:
			s.dice.Fatalf("what was asked for once is right again: %+v", v)
		case w.late(s.now, one.knock.Single != nil):
			s.dice.Fatalf("at %s, what was asked for at %s is right: %+v", s.now, w.at, v)
		case s.locked:
			s.dice.Fatalf("a locked key is right: %+v", v)
		case v.Source != w.source || from != w.source || one.door != w.door || v.Close != (w.action == seal.Close) || v.Extend != (w.action == seal.Extend):
			s.dice.Fatalf("from %s to door %s came %+v, asked for was %+v", from, one.door, v, w)
		}
		w.done, right = true, true
		s.right++
	}
	return right
}

// sends has a datagram come from an address, and judges what comes of it.
func (s *street) sends(from netip.Addr, d []byte) (right bool) {
	what, _, ok := s.opens(from, d)
	return ok && s.judge(from, what)
}

// asked is a handshake of the visitor's up to its request, which is not sent yet.
func (s *street) asked() (from netip.Addr, d []byte) {
	from = rapid.SampledFrom([]netip.Addr{visitor, stranger}).Draw(s.dice, "from")
	q := seal.Request{Action: rapid.SampledFrom(actions).Draw(s.dice, "action"), Door: rapid.SampledFrom([]string{"web", "panel"}).Draw(s.dice, "door")}
	v, err := seal.NewVisitor(s.peer, seal.X25519)
	s.must(err)
	_, challenge, _ := s.opens(from, v.Hello())
	if e, _ := v.Read(challenge); e != seal.Challenged {
		s.dice.Fatal("the visitor's hello is not answered")
	}
	s.wants[string(seal.Message(v.Transcript(q, s.alice.who().Credential)))] = &wish{source: from, door: q.Door, action: q.Action, at: s.now}
	d = s.request(v, q, s.alice.who())
	s.seen = append(s.seen, v.Hello(), d)
	return from, d
}

// knocks is a whole handshake.
func (s *street) knocks() {
	from, d := s.asked()
	if right := s.sends(from, d); right == s.locked {
		s.dice.Fatalf("the visitor's key is locked: %v, and their knock right: %v", s.locked, right)
	}
}

// single is a packet of the visitor's, which may be lost.
func (s *street) single() {
	clock := s.now.Round(0).Add(time.Duration(rapid.IntRange(-400, 400).Draw(s.dice, "the visitor's clock")) * time.Second)
	if s.last = s.last.Add(time.Microsecond); clock.After(s.last) {
		s.last = clock
	}
	door := rapid.SampledFrom([]string{"web", "panel"}).Draw(s.dice, "door")
	id := credential.FingerprintOf(s.alice.blob())
	p, err := seal.NewSinglePacket(s.peer, seal.X25519, seal.Request{Action: seal.Open, Door: door}, uint64(s.last.UnixMicro()), [8]byte(id[:]), visitor)
	s.must(err)
	s.wants[string(p.Message())] = &wish{source: visitor, door: door, action: seal.Open, at: s.last.Round(0).Truncate(time.Microsecond)}
	proof, _ := credential.SingleProof(s.alice.sign(p.Message()))
	d, err := p.Datagram(proof)
	s.must(err)
	s.seen = append(s.seen, d)
	if rapid.Bool().Draw(s.dice, "it arrives") {
		s.sends(visitor, d)
	}
}

// replays is what an eavesdropper sends: what was seen, as it was, bent, cut, or put
// together from two.
func (s *street) replays() {
	if len(s.seen) == 0 {
		return
	}
	any := func(name string) []byte { return bytes.Clone(rapid.SampledFrom(s.seen).Draw(s.dice, name)) }
	d, other := any("datagram"), any("other")
	at := rapid.IntRange(0, min(len(d), len(other))-1).Draw(s.dice, "at")
	switch rapid.IntRange(0, 5).Draw(s.dice, "how") {
	case 0:
		d[at] ^= 1 << rapid.IntRange(0, 7).Draw(s.dice, "bit")
	case 1:
		d = d[:at]
	case 2:
		d = slices.Concat(d[:at], other[at:])
	}
	s.sends(rapid.SampledFrom([]netip.Addr{visitor, stranger, netip.MustParseAddr("2001:db8::7")}).Draw(s.dice, "to"), d)
}

// twice has a request be opened several times before the first is judged, as in a pool,
// and perhaps something happen meanwhile.
func (s *street) twice() {
	from, d := s.asked()
	var all []any
	for range 3 {
		if what, _, ok := s.opens(from, d); ok {
			all = append(all, what)
		}
	}
	if rapid.Bool().Draw(s.dice, "the key is locked meanwhile") {
		s.lock()
	}
	for _, what := range all {
		s.judge(from, what)
	}
}

// guesses is somebody with the profile secret and the gateway's public key, and no key
// that counts: their own, or a signature of theirs in the visitor's name.
func (s *street) guesses() {
	w := newKey("mallory").who()
	if rapid.Bool().Draw(s.dice, "in the visitor's name") {
		w = s.alice.wrong()
	}
	s.sends(visitor, s.request(s.begin(visitor), web, w))
}

// robs is a thief of the gateway's key, to whom the visitor comes, and who shows the
// gateway what they were shown.
func (s *street) robs() {
	at := s.thief.begin(visitor)
	what, _, ok := s.thief.opens(visitor, s.thief.request(at, web, s.alice.who()))
	if !ok {
		s.dice.Fatal("the thief does not pass for the gateway")
	}
	one, _ := what.(*said)
	s.shown = append(s.shown, one.knock.Credential.Proof)
	w := s.alice.who()
	w.prove = func([]byte) []byte { return rapid.SampledFrom(s.shown).Draw(s.dice, "shown") }
	s.sends(visitor, s.request(s.begin(visitor), web, w))
}

// passes is time that does.
func (s *street) passes() {
	s.now = s.now.Add(time.Duration(rapid.IntRange(0, 130).Draw(s.dice, "seconds")) * time.Second)
}

// lock locks the visitor's key, or unlocks it.
func (s *street) lock() {
	s.locked = !s.locked
	what := map[bool]string{true: OrderLock, false: OrderUnlock}[s.locked]
	mustOrder[Done](s.site, what, KeyArgs{Key: "alice"})
}

// Whatever visitors, an eavesdropper, somebody with the profile secret, a thief of the
// gateway's key and an operator do, in any order, over kills and with a clock that is set:
// what comes true is what a visitor has asked for, once, and a visitor's knock is right.
func TestExplore(t *testing.T) {
	right := 0
	rapid.Check(t, func(dice *rapid.T) {
		alice := newKey("alice")
		now := time.Now()
		s := &street{site: newSiteAt(t, now, alice.line("")), dice: dice, alice: alice, wants: map[string]*wish{}, thief: newSiteAt(t, now, alice.line(""))}
		do := []func(){s.knocks, s.knocks, s.single, s.replays, s.replays, s.replays, s.replays, s.twice, s.guesses, s.robs, s.lock,
			func() { s.asked() }, // and the request is lost
			func() { from, d := s.asked(); s.passes(); s.sends(from, d) },
			s.passes,
			func() {
				s.now = stepped(t, s.now, time.Duration(rapid.IntRange(-7200, 7200).Draw(dice, "set by"))*time.Second)
			},
			func() { s.restart(map[string]string{identityFile: identityText(7), keysFile: alice.line("")}) }, // kill -9
		}
		for range rapid.IntRange(1, 25).Draw(dice, "steps") {
			rapid.SampledFrom(do).Draw(dice, "what")()
			s.thief.now = s.now
		}
		if s.locked {
			s.lock()
		}
		s.knocks()
		right += s.right
	})
	if right == 0 {
		t.Error("nothing came true: the test sees nothing")
	}
}
