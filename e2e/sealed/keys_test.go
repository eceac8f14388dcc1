//go:build linux

package sealed

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
	kind "github.com/doorward/doorward/internal/sealed"
)

func parse(address string) netip.Addr { return netip.MustParseAddr(address) }

func closeAll(door string) control.CloseRequest { return control.CloseRequest{Door: door} }

// do gives an order that must succeed.
func do[R any](s *site, what string, args any) R {
	s.t.Helper()
	reply, err := order[R](s, what, args)
	s.must(err)
	return reply
}

// What each option of a key permits, and the reasons that its owner is told.
func TestWhatKeysMay(t *testing.T) {
	s := newSite(t, "")
	people := map[string]*key{}
	lines := []string{s.alice.line(`one-address,max-open-for="20s"`)}
	for name, options := range map[string]string{
		"here":   `from="192.0.2.0/24"`,
		"there":  `from="203.0.113.0/24"`,
		"panel":  `doors="panel"`,
		"old":    `expiry-time="20200101"`,
		"never":  `schedule="` + time.Now().Add(48*time.Hour).Format("Mon") + ` 00:00-00:01"`,
		"always": `schedule="Mon-Sun 00:00-24:00"`,
		"any":    "any-address",
	} {
		people[name] = newKey(t, name)
		lines = append(lines, people[name].line(options))
	}
	s.keys(lines...)
	s.start()
	for name, want := range map[string]credential.Reason{
		"there": credential.From, "panel": credential.Door, "old": credential.Expired, "never": credential.OutsideHours,
	} {
		if got := s.refusal(s.stranger, people[name]); got != seal.Reason(want) {
			t.Errorf("%s is refused for %d, want %d", name, got, want)
		}
	}
	s.refuses(s.stranger, gate4, "8080")
	for _, name := range []string{"here", "always"} {
		s.opens(s.stranger, gate4, people[name])
	}
	s.has("web", stranger4+" sealed here", stranger4+" sealed always")

	// The old address of alice's dies when she comes from another; of IPv6 it stays.
	if a := s.begin(s.visitor, gate4, seal.X25519).ask(web, s.alice); a.Left > 20*time.Second {
		t.Errorf("alice has %s left, want 20s at most", a.Left)
	}
	if a := s.begin(s.visitor, gate4, seal.X25519).ask(seal.Request{Action: seal.Extend, Door: "web"}, s.alice); a.Status != seal.Opened || a.Left < 18*time.Second {
		t.Errorf("alice extends what she has: %+v", a)
	}
	s.opens(s.visitor, gate6, s.alice)
	s.has("web", stranger4+" sealed here", stranger4+" sealed always", visitor4+" sealed alice", visitor6+" sealed alice")
	s.opens(s.stranger, gate4, s.alice)
	s.has("web", stranger4+" sealed here", stranger4+" sealed always", stranger4+" sealed alice", visitor6+" sealed alice")
	s.refuses(s.visitor, gate4, "8080")
	s.admits(s.visitor, gate6, "8080")

	// Nobody asks for somebody else, or extends what they do not have.
	elsewhere := seal.Request{Action: seal.Open, Door: "web", Address: parse(visitor4)}
	if a := s.begin(s.stranger, gate4, seal.X25519).ask(elsewhere, people["here"]); a.Reason != seal.Reason(credential.OtherAddress) {
		t.Errorf("another's address: %+v", a)
	}
	if a := s.begin(s.visitor, gate4, seal.X25519).ask(seal.Request{Action: seal.Extend, Door: "web"}, people["here"]); a.Reason != seal.NotOpen {
		t.Errorf("extending nothing: %+v", a)
	}
	if a := s.begin(s.visitor, gate4, seal.X25519).ask(seal.Request{Action: seal.Open, Door: "cellar"}, people["here"]); a.Reason != seal.NoDoor {
		t.Errorf("a door that is not there: %+v", a)
	}
	s.refuses(s.visitor, gate4, "8080")
	if a := s.begin(s.stranger, gate4, seal.X25519).ask(elsewhere, people["any"]); a.Status != seal.Opened || a.Source != parse(visitor4) {
		t.Errorf("another's address, by a key that may: %+v", a)
	}
	s.admits(s.visitor, gate4, "8080")
}

// Whoever is locked or revoked has nothing any more, whoever shares their address has what
// they had, and who is to be cut off is out, though the grant that let them in be over.
func TestLock(t *testing.T) {
	s := newSite(t, "")
	bob := newKey(t, "bob")
	s.keys(s.alice.line(`max-open-for="5s"`), bob.line(""))
	s.start()
	s.opens(s.visitor, gate4, s.alice)
	alices := s.comesIn(s.visitor, gate4, "8080")
	s.opens(s.stranger, gate4, bob)
	bobs := s.comesIn(s.stranger, gate4, "8080")
	s.until("whose connections these are", func() error { return s.known(2) })
	s.has("web", stranger4+" sealed bob") // alice's grant is over
	do[kind.Done](s, kind.OrderLock, kind.KeyArgs{Key: "bob"})
	s.has("web")
	s.isIn(bobs, "bob")
	s.refuses(s.stranger, gate4, "8080")
	if got := s.refusal(s.stranger, bob); got != seal.Reason(credential.Locked) {
		t.Errorf("bob is refused for %d", got)
	}
	s.recorded(audit.EventAlarm, stranger4, 1)
	do[kind.Done](s, kind.OrderLock, kind.KeyArgs{Key: "alice", Now: true})
	s.isOut(alices, "alice")
	s.isIn(bobs, "bob")
	do[kind.Done](s, kind.OrderLock, kind.KeyArgs{Key: "bob", Now: true})
	s.isOut(bobs, "bob")

	s.restart()
	for _, k := range []*key{s.alice, bob} {
		if got := s.refusal(s.visitor, k); got != seal.Reason(credential.Locked) {
			t.Errorf("after a restart, %s is refused for %d", k.name, got)
		}
	}
	do[kind.Done](s, kind.OrderUnlock, kind.KeyArgs{Key: "bob"})
	s.opens(s.visitor, gate4, bob)
	do[kind.Done](s, kind.OrderRevoke, kind.KeyArgs{Key: "bob"})
	s.has("web")
	if got := s.refusal(s.visitor, bob); got != seal.Reason(credential.Revoked) {
		t.Errorf("bob is refused for %d", got)
	}
}

// A code counts once, over a restart too, and is not used up while the disk is full.
func TestCodes(t *testing.T) {
	s := newSite(t, "")
	state := s.lab.Path("state")
	s.must(os.Mkdir(state, 0o700))
	_, err := s.server.Run(t.Context(), "mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", state)
	s.must(err)
	s.start()
	var codes []bearer
	for _, printed := range do[kind.Rescue](s, kind.OrderRescue, kind.RescueArgs{Count: 2}).Codes {
		code, err := seal.ParseCode(printed)
		s.must(err)
		codes = append(codes, code)
	}
	carol := newKey(t, "carol")
	invited := guest{carol, do[kind.Invite](s, kind.OrderInvite, kind.InviteArgs{For: "carol", Door: "web"}).Code}

	s.server.Run(t.Context(), "dd", "if=/dev/zero", "of="+state+"/fill", "bs=4k") // until it is full
	s.until("the disk takes nothing more", func() error {                         // not even in the room that the store had
		if _, err := order[kind.Invite](s, kind.OrderInvite, kind.InviteArgs{For: "nobody"}); err == nil {
			return errors.New("it does")
		}
		return nil
	})
	for name, who := range map[string]prover{"code": codes[0], "invite": invited} {
		if got := s.refusal(s.visitor, who); got != seal.Unavailable {
			t.Errorf("the %s, while the disk is full, is refused for %d", name, got)
		}
	}
	if got := s.refusal(s.visitor, carol); got != seal.NotAccepted {
		t.Errorf("carol, whose key could not be enrolled, is refused for %d", got)
	}
	s.refuses(s.visitor, gate4, "8080")
	_, err = s.server.Run(t.Context(), "rm", state+"/fill")
	s.must(err)
	s.until("the code opens when there is room again", func() error {
		if a := s.begin(s.visitor, gate4, seal.X25519).ask(web, codes[0]); a.Status != seal.Opened {
			return fmt.Errorf("it is answered: %+v", a)
		}
		return nil
	})
	s.admits(s.visitor, gate4, "8080")
	s.opens(s.stranger, gate4, invited)
	s.restart()
	for _, who := range []prover{codes[0], invited} {
		s.refusal(s.stranger, who)
	}
	s.opens(s.stranger, gate4, codes[1])
	s.opens(s.stranger, gate4, carol)
}

// Killed while somebody is being enrolled, the gateway has the key and not the invite, or
// the invite and not the key.
func TestKilledWhileEnrolling(t *testing.T) {
	s := newSite(t, "")
	s.start()
	for n, after := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 20 * time.Millisecond} {
		name := fmt.Sprint("guest", n)
		who := guest{newKey(t, name), do[kind.Invite](s, kind.OrderInvite, kind.InviteArgs{For: name}).Code}
		k := s.begin(s.visitor, gate4, seal.X25519)
		k.send(k.request(web, who))
		time.Sleep(after) // any moment will do
		s.restart()
		all := do[kind.Keys](s, kind.OrderKeys, kind.KeysArgs{})
		enrolled := slices.ContainsFunc(all.Keys, func(e kind.KeyEntry) bool { return e.Name == name })
		invited := slices.ContainsFunc(all.Invites, func(e kind.CodeEntry) bool { return e.Name == name })
		if enrolled == invited {
			t.Errorf("killed after %s: enrolled %v, still invited %v", after, enrolled, invited)
		}
		if open := slices.Contains(s.grants("web"), visitor4+" sealed "+name); open && !enrolled {
			t.Errorf("killed after %s: the door is open to somebody who is not known", after)
		}
		if who := prover(who); enrolled {
			s.refusal(s.visitor, who)
			s.opens(s.visitor, gate4, who.(guest).key)
		} else {
			s.opens(s.visitor, gate4, who)
		}
		_, err := s.client().Close(t.Context(), closeAll("web"))
		s.must(err)
	}
}

// Certificates of an authority, and what ends them.
func TestCertificates(t *testing.T) {
	s := newSite(t, "revoked = \"/nowhere\"")
	s.more = fmt.Sprintf("revoked = %q", s.lab.Path("revoked"))
	s.configure()
	ca := newKey(t, "ca")
	signer, err := ssh.NewSignerFromKey(ca.sign)
	s.must(err)
	s.keys(ca.line(`cert-authority,principals="ops",doors="web"`))
	s.write("revoked", "# none\n")
	s.start()
	certify := func(name string, serial uint64, by ssh.Signer, change func(*ssh.Certificate)) bearing {
		k := newKey(t, name)
		c := &ssh.Certificate{Key: k.public, Serial: serial, CertType: ssh.UserCert, KeyId: name, ValidPrincipals: []string{"ops"},
			ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix())}
		if change != nil {
			change(c)
		}
		s.must(c.SignCert(rand.Reader, by))
		return bearing{k, c}
	}
	stranger, err := ssh.NewSignerFromKey(newKey(t, "other ca").sign)
	s.must(err)
	good := certify("good", 5, signer, nil)
	for _, tt := range []struct {
		name string
		who  bearing
		want seal.Reason
	}{
		{"of another authority", certify("foreign", 1, stranger, nil), seal.NotAccepted},
		{"of a host", certify("host", 1, signer, func(c *ssh.Certificate) { c.CertType = ssh.HostCert }), seal.NotAccepted},
		{"expired", certify("late", 1, signer, func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Second).Unix()) }), seal.Reason(credential.CertificateExpired)},
		{"too early", certify("early", 1, signer, func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(time.Hour).Unix()) }), seal.Reason(credential.NotYet)},
		{"for somebody else", certify("dev", 1, signer, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"dev"} }), seal.Reason(credential.Principals)},
		{"for everybody", certify("all", 1, signer, func(c *ssh.Certificate) { c.ValidPrincipals = nil }), seal.Reason(credential.Principals)},
		{"with another's key", bearing{newKey(t, "thief"), good.certificate}, seal.NotAccepted},
	} {
		if got := s.refusal(s.visitor, tt.who); got != tt.want {
			t.Errorf("a certificate %s is refused for %d, want %d", tt.name, got, tt.want)
		}
	}
	s.refuses(s.visitor, gate4, "8080")
	s.opens(s.visitor, gate4, good)
	s.opens(s.visitor, gate4, certify("next", 6, signer, nil))
	s.has("web", visitor4+" sealed good", visitor4+" sealed next")
	s.restart()

	// As ssh-keygen makes a list of those that are revoked.
	for name, text := range map[string]string{"ca.pub": ca.line(""), "spec": "serial: 5\n"} {
		s.write(name, text)
	}
	_, err = s.server.Run(t.Context(), "ssh-keygen", "-q", "-k", "-f", s.lab.Path("krl"), "-s", s.lab.Path("ca.pub"), s.lab.Path("spec"))
	s.must(err)
	s.must(os.Rename(s.lab.Path("krl"), s.lab.Path("revoked")))
	s.reload()
	s.until("the certificate is revoked", func() error {
		if a := s.begin(s.visitor, gate4, seal.X25519).ask(web, good); a.Reason != seal.Reason(credential.Revoked) {
			return fmt.Errorf("it is answered: %+v", a)
		}
		return nil
	})
	s.has("web", visitor4+" sealed next")
}

// Whatever becomes of the file of keys, nobody gets in who did not before, and who is not
// in it any more is out; what cannot be used is said.
func TestTheFileOfKeysGoesWrong(t *testing.T) {
	s := newSite(t, "")
	bob := newKey(t, "bob")
	s.start()
	file := s.lab.Path("authorized_keys")
	both := func() { s.keys(s.alice.line(""), bob.line("")) }
	alices, bobs := visitor4+" sealed alice", stranger4+" sealed bob"
	for _, tt := range []struct {
		name    string
		spoil   func()
		has     []string
		warning string
	}{
		{"another in its place", func() { s.keys(bob.line("")) }, []string{bobs}, ""},
		{"emptied", func() { s.must(os.Truncate(file, 0)) }, nil, ""},
		{"a broken line", func() { s.keys(s.alice.line(""), "ssh-ed25519 AAAA bob") }, []string{alices}, "authorized_keys:2: "},
		{"deleted", func() { s.must(os.Remove(file)) }, nil, ""},
		{"a directory", func() { s.must(os.Remove(file)); s.must(os.Mkdir(file, 0o700)) }, []string{alices, bobs}, "authorized_keys\""},
		{"writable by others", func() { s.must(os.Chmod(file, 0o666)) }, []string{alices, bobs}, "authorized_keys\""},
		{"somebody else's", func() { s.must(os.Chown(file, 1234, -1)) }, []string{alices, bobs}, "authorized_keys\""},
		{"too large", func() { s.keys(strings.Repeat("# nothing\n", 2_000_000)) }, []string{alices, bobs}, "authorized_keys\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			os.RemoveAll(file)
			both()
			s.reload()
			s.until("alice and bob get in", func() error {
				for from, k := range map[string]*key{visitor4: s.alice, stranger4: bob} {
					host := s.visitor
					if from == stranger4 {
						host = s.stranger
					}
					if a := s.begin(host, gate4, seal.X25519).ask(web, k); a.Status != seal.Opened {
						return fmt.Errorf("%s is answered: %+v", k.name, a)
					}
				}
				return nil
			})
			s.has("web", alices, bobs)
			tt.spoil()
			s.reload()
			if tt.warning != "" {
				s.warns(tt.warning)
			}
			s.has("web", tt.has...)
			if got := s.refusal(s.stranger, newKey(t, "mallory")); got != seal.NotAccepted {
				t.Errorf("mallory is refused for %d", got)
			}
			if !slices.Contains(tt.has, alices) {
				s.refusal(s.visitor, s.alice)
			}
			if !slices.Contains(tt.has, bobs) {
				s.refusal(s.stranger, bob)
			}
		})
	}
}

// The gateway's key is replaced with an overlap, in which visitors learn of it.
func TestTheIdentityIsReplaced(t *testing.T) {
	s := newSite(t, "")
	s.start()
	old := s.peer
	text, err := os.ReadFile(s.lab.Path("sealed.key"))
	s.must(err)
	s.identity(8)
	next := s.peer
	newer, err := os.ReadFile(s.lab.Path("sealed.key"))
	s.must(err)
	s.write("sealed.key", string(newer)+string(text))
	s.peer = old
	s.reload()
	s.until("visitors learn of the new key", func() error {
		if a := s.begin(s.visitor, gate4, seal.Hybrid).ask(web, s.alice); a.Status != seal.Opened || a.Next != next.Fingerprint {
			return fmt.Errorf("they are answered: %+v", a)
		}
		return nil
	})
	s.peer = next
	s.opens(s.visitor, gate4, s.alice)
	s.write("sealed.key", string(newer))
	s.reload()
	s.until("the old key counts no more", func() error {
		s.peer = old
		k := s.dialled(s.visitor, "udp", gate4, seal.X25519)
		k.send(k.v.Hello())
		if b, err := k.read(time.Now().Add(dark)); err == nil {
			return fmt.Errorf("a hello for it is answered with %d bytes", len(b))
		}
		return nil
	})
	s.peer = next
	s.opens(s.visitor, gate4, s.alice)
}
