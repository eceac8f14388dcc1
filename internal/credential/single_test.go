package credential

import (
	"encoding/base64"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// proofOf is a signature in the form of single packets.
func proofOf(t *testing.T, sig []byte) [64]byte {
	t.Helper()
	proof, ok := SingleProof(sig)
	if !ok {
		t.Fatal("the signature has no form for single packets")
	}
	return proof
}

func TestSingle(t *testing.T) {
	message, dir := []byte("what is asked for"), t.TempDir()
	alice, bob := newSigner(t, 1), newSigner(t, 2)
	p256 := mustKey(t, newKey(t, dir, "p256", "-t", "ecdsa"))
	ca := mustKey(t, `cert-authority,principals="alice" `+Key{Blob: bob.blob(), Options: &none}.String())
	text := "backup " + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x05", 32))) + "\n"
	secrets, _ := ParseSecrets([]byte(text), "secrets")
	secret := [32]byte([]byte(strings.Repeat("\x05", 32)))
	ring := NewRing(Origins{File: NewKeys([]Key{p256, ca}), Enrolled: NewKeys([]Key{alice.key(t, "")}), Secrets: secrets})
	begin := func(f Fingerprint) [8]byte { return [8]byte(f[:]) }
	aliceProof, bobProof := proofOf(t, alice.sign(t, message)), proofOf(t, bob.sign(t, message))
	p256Proof := proofOf(t, signedBy(t, dir, "p256", Namespace, message))
	var secretProof, secretAndMore [64]byte
	proof, id := SecretProof(secret, message), SecretID(secret)
	copy(secretProof[:], proof[:])
	secretAndMore = secretProof
	secretAndMore[63] = 1
	for _, c := range []struct {
		name  string
		id    [8]byte
		proof [64]byte
		want  string // its ID; "" for nobody
	}{
		{"an enrolled key", begin(alice.fingerprint()), aliceProof, alice.fingerprint().String()},
		{"a P-256 key", begin(p256.Fingerprint), p256Proof, p256.Fingerprint.String()},
		{"a machine's secret", [8]byte(id[:]), secretProof, secrets[0].Identity()},
		{"a secret's proof and more", [8]byte(id[:]), secretAndMore, ""},
		{"another's signature", begin(alice.fingerprint()), bobProof, ""},
		{"an unknown key", begin(Fingerprint{1}), aliceProof, ""},
		{"an authority", begin(bob.fingerprint()), bobProof, ""},
		{"zeros for a P-256 key", begin(p256.Fingerprint), [64]byte{}, ""},
		{"zeros for an unknown key", [8]byte{}, [64]byte{}, ""},
	} {
		p, ok := ring.Single(c.id, message, c.proof)
		got := ""
		if ok {
			got = p.ID
		}
		if got != c.want {
			t.Errorf("%s: accepted as %q, want %q", c.name, got, c.want)
		}
		if _, ok := ring.Single(c.id, []byte("more"), c.proof); ok {
			t.Errorf("%s: accepted for another message", c.name)
		}
	}
	for name, sig := range map[string][]byte{
		"nothing":        nil,
		"RSA":            fields(ssh.KeyAlgoRSASHA512, string(make([]byte, 256))),
		"a security key": newToken(t, ssh.KeyAlgoSKED25519).sign(t, Signed(message), 1, 1),
	} {
		if _, ok := SingleProof(sig); ok {
			t.Errorf("a signature of %s has a form for single packets", name)
		}
	}
}

// One verification for each single packet, whatever it begins with.
func TestOneVerificationForEachSinglePacket(t *testing.T) {
	p256 := mustKey(t, Key{Blob: nobodies[ssh.KeyAlgoECDSA256], Options: &none}.String())
	alice := newSigner(t, 1)
	ring, did := counted(Origins{File: NewKeys([]Key{p256, alice.key(t, "")})})
	for _, f := range []Fingerprint{p256.Fingerprint, alice.fingerprint(), {1}} {
		for _, proof := range [][64]byte{{}, {1}, proofOf(t, alice.sign(t, []byte("another")))} {
			*did = nil
			if _, ok := ring.Single([8]byte(f[:]), []byte("message"), proof); ok || len(*did) != 1 {
				t.Errorf("%v with %x: accepted %v, verified %q, want one that is wrong", f, proof[:2], ok, *did)
			}
		}
	}
}

func TestStands(t *testing.T) {
	alice, bob, carol := newSigner(t, 1), newSigner(t, 2), newSigner(t, 3)
	secrets, _ := ParseSecrets([]byte("backup "+base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x05", 32)))+"\n"), "secrets")
	secret := secrets[0].Identity()
	keys := Origins{File: NewKeys([]Key{alice.key(t, "")}), Enrolled: NewKeys([]Key{bob.key(t, "")}), Secrets: secrets}
	with := func(change func(*Origins)) Origins {
		o := keys
		change(&o)
		return o
	}
	id := func(s signer) string { return s.fingerprint().String() }
	locked := func(id string) Origins { return with(func(o *Origins) { o.Locked = map[string]bool{id: true} }) }
	authority := with(func(o *Origins) {
		o.File = NewKeys([]Key{alice.key(t, `cert-authority,principals="a"`)})
		o.Revoked = []*Revocations{Revoke(bob.fingerprint())}
	})
	for _, c := range []struct {
		name string
		o    Origins
		id   string
		want bool
	}{
		{"in the file", keys, id(alice), true},
		{"enrolled", keys, id(bob), true},
		{"unknown", keys, id(carol), false},
		{"for the door", with(func(o *Origins) { o.File = NewKeys([]Key{alice.key(t, `doors="web,api"`)}) }), id(alice), true},
		{"for another door", with(func(o *Origins) { o.File = NewKeys([]Key{alice.key(t, `doors="api"`)}) }), id(alice), false},
		{"for it by another line", with(func(o *Origins) { o.File = NewKeys([]Key{alice.key(t, `doors="api"`), alice.key(t, "")}) }), id(alice), true},
		{"locked", locked(id(alice)), id(alice), false},
		{"another is locked", locked(id(bob)), id(alice), true},
		{"revoked", authority, id(bob), false},
		{"an authority itself is no party", Origins{Enrolled: keys.Enrolled}, id(alice), false},
		{"unknown, without a certificate", authority, id(carol), false},
		{"a secret", keys, secret, true},
		{"a locked secret", locked(secret), secret, false},
		{"a secret that is gone", Origins{}, secret, false},
		{"half a secret", keys, secret[:20], false},
		{"a rescue code", Origins{}, "rescue:0102030405060708", true},
		{"a locked rescue code", locked("rescue:0102030405060708"), "rescue:0102030405060708", false},
		{"nothing known", keys, "somebody", false},
		{"nothing", keys, "", false},
	} {
		if got := NewRing(c.o).Stands(now, "web", c.id) != nil; got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
