package sealed

import (
	"bytes"
	"crypto/ed25519"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// certified is the key with a certificate of an authority's.
func (k key) certified(t testing.TB, by key, serial uint64, id string) who {
	t.Helper()
	public, err := ssh.NewPublicKey(k.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(by.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	c := &ssh.Certificate{Key: public, Serial: serial, KeyId: id, CertType: ssh.UserCert, ValidPrincipals: []string{"ops"},
		ValidBefore: ssh.CertTimeInfinity}
	if err := c.SignCert(bytes.NewReader(make([]byte, 64)), signer); err != nil {
		t.Fatal(err)
	}
	return who{seal.Credential{Kind: seal.Certificate, Public: c.Marshal()}, k.sign}
}

// What a certificate led to ends with it, however it ends, also where the gateway was
// started again since; another one of the same key, and others', stand.
func TestWhatACertificateLedToEndsWithIt(t *testing.T) {
	ca, alice, bob := newKey("ca"), newKey("alice"), newKey("bob")
	line := ca.line(`cert-authority,principals="ops"`)
	const krlOf7 = "SSHKRL\n\x00\x00\x00\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x01\x00\x00\x00\x15" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x20\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x07"
	for _, tt := range []struct {
		name                     string
		keys, revoked            string
		order                    string
		whose                    key
		standsAfter, others, bob bool
	}{
		{name: "nothing has changed", keys: line, revoked: "# none\n", standsAfter: true, others: true, bob: true},
		{name: "its number is revoked", keys: line, revoked: krlOf7, others: true, bob: true},
		{name: "its key is revoked", keys: line, revoked: alice.id() + "\n", bob: true},
		{name: "its authority is revoked", keys: line, revoked: ca.id() + "\n"},
		{name: "its authority is gone", keys: bob.line(""), revoked: "# none\n"},
		{name: "its authority is for others", keys: ca.line(`cert-authority,principals="dev"`), revoked: "# none\n"},
		{name: "an order locks its key", keys: line, revoked: "# none\n", order: OrderLock, whose: alice, bob: true},
		{name: "an order revokes its key", keys: line, revoked: "# none\n", order: OrderRevoke, whose: alice, bob: true},
		{name: "an order locks its authority", keys: line, revoked: "# none\n", order: OrderLock, whose: ca},
		{name: "an order revokes its authority", keys: line, revoked: "# none\n", order: OrderRevoke, whose: ca},
	} {
		s := newSite(t)
		r := s.uses[0].Rule.(Rule)
		r.Revoked = revokedFile
		s.use(knock.Use{Door: "web", Rule: r})
		s.feed(keysFile, line)
		s.feed(revokedFile, "# none\n")
		v := s.asks(web, alice.certified(t, ca, 7, "alice"))
		next := s.asks(web, alice.certified(t, ca, 8, "alice")).By
		neighbour := s.asks(web, bob.certified(t, ca, 9, "bob")).By
		if !v.Right || (Kind{}).Identity(v.By) != (Kind{}).Identity(next) || v.By == next {
			t.Fatalf("%s: %q and %q, want two names of one visitor", tt.name, v.By, next)
		}
		if s.feed(keysFile, tt.keys); tt.order != "" {
			mustOrder[Done](s, tt.order, KeyArgs{Key: tt.whose.id()})
		}
		s.feed(revokedFile, tt.revoked)
		for _, when := range []string{"", ", after a restart"} {
			for by, want := range map[string]bool{v.By: tt.standsAfter, next: tt.others, neighbour: tt.bob} {
				if got := s.kept.Stands(s.now, "web", by) != nil; got != want {
					t.Errorf("%s%s: what %q led to stands: %v, want %v", tt.name, when, by, got, want)
				}
			}
			id := identityText(7)
			s.restart(map[string]string{identityFile: id, keysFile: tt.keys, revokedFile: tt.revoked})
		}
	}
}
