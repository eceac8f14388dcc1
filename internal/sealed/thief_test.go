package sealed

import (
	"crypto/ed25519"
	"net/netip"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// Whoever has the gateway's key and profile secret can pass for it, and gets to know who
// knocks there; what they are shown opens nothing at the gateway, and what was recorded
// they cannot read. A code says all that there is to show.
func TestAThiefOfTheGatewaysKey(t *testing.T) {
	alice := newKey("alice")
	s, thief := newSite(t, alice.line("")), newSite(t, alice.line(""))
	d := s.request(s.begin(visitor), web, alice.who())
	if said, answer, ok := thief.opens(visitor, d); ok || answer != nil {
		t.Errorf("the thief reads a recorded request: %+v", said)
	}

	// In the middle: alice knocks at the thief, who knocks at the gateway meanwhile.
	at := thief.begin(visitor)
	said, _, ok := thief.opens(visitor, thief.request(at, web, alice.who()))
	if !ok || said.(interface{ Door() string }).Door() != "web" {
		t.Fatal("the thief does not pass for the gateway")
	}
	proof := said.(*told).knock.Credential.Proof
	w := alice.who()
	w.prove = func([]byte) []byte { return proof }
	if v := s.asks(web, w); v.Right || v.Code != "credential" {
		t.Errorf("what alice has shown to the thief, at the gateway: %+v", v)
	}
	// Or hands her datagrams on.
	v, err := seal.NewVisitor(s.peer, seal.X25519)
	s.must(err)
	_, challenge, _ := s.opens(stranger, v.Hello())
	if e, _ := v.Read(challenge); e != seal.Challenged {
		t.Fatal("a hello that was handed on is not answered")
	}
	if all := heardFrom(s, stranger, s.request(v, web, alice.who())); len(all) != 1 || all[0].Source != stranger {
		t.Errorf("handed on by the thief, the knock opens to %+v, want to where it came from", all)
	}

	code := s.rescued(mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1}).Codes[0])
	at = thief.begin(visitor)
	said, _, _ = thief.opens(visitor, thief.request(at, web, code))
	stolen := who{Credential: said.(*told).knock.Credential}
	if v := s.asks(web, stolen); !v.Right {
		t.Errorf("a code that was shown to the thief: %+v", v)
	}
	if v := s.asks(web, code); v.Right {
		t.Errorf("the code after that: %+v", v)
	}
}

type told = said // where said is a variable

func heardFrom(s *site, from netip.Addr, d []byte) []knock.Verdict {
	said, _, ok := s.opens(from, d)
	if !ok {
		return nil
	}
	return s.hear(from, said)
}

// A proof is good for what it was made for: another handshake, door, time, address or
// credential it does not show.
func TestAProofIsForOneRequest(t *testing.T) {
	alice, bob := newKey("alice"), newKey("bob")
	s := newSite(t, alice.line("any-address"), bob.line(""))
	other := netip.MustParseAddr("198.51.100.7")
	for name, q := range map[string]seal.Request{
		"another handshake": web,
		"another door":      {Action: seal.Open, Door: "panel"},
		"another action":    {Action: seal.Close, Door: "web"},
		"another time":      {Action: seal.Open, Door: "web", OpenFor: 3600e9},
		"another address":   {Action: seal.Open, Door: "web", Address: other},
	} {
		v := s.begin(visitor)
		proof := alice.sign(seal.Message(v.Transcript(web, alice.who().Credential)))
		at := v
		if name == "another handshake" {
			at = s.begin(visitor)
		}
		w := alice.who()
		w.prove = func([]byte) []byte { return proof }
		all := heardFrom(s, visitor, s.request(at, q, w))
		if len(all) != 1 || all[0].Right || all[0].Code != "credential" {
			t.Errorf("a proof for %s: %+v", name, all)
		}
	}
	// One that was made with the same key for another purpose.
	w := alice.who()
	w.prove = func(message []byte) []byte {
		return ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: ed25519.Sign(alice.PrivateKey, append([]byte("SSHSIG"), message...))})
	}
	if v := s.asks(web, w); v.Right {
		t.Errorf("a signature of something else: %+v", v)
	}
	w = bob.who()
	w.Fingerprint = credential.FingerprintOf(alice.blob())
	if v := s.asks(web, w); v.Right {
		t.Errorf("bob's proof with alice's name: %+v", v)
	}
}
