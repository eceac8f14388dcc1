package credential

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

// signer is a key of the test's own.
type signer struct{ ssh.Signer }

// newSigner draws one from a seed.
func newSigner(t testing.TB, seed uint64) signer {
	t.Helper()
	b := binary.BigEndian.AppendUint64(make([]byte, 24), seed)
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(b))
	if err != nil {
		t.Fatal(err)
	}
	return signer{s}
}

func (s signer) blob() []byte             { return s.PublicKey().Marshal() }
func (s signer) fingerprint() Fingerprint { return FingerprintOf(s.blob()) }

// key is its line with options.
func (s signer) key(t testing.TB, options string) Key {
	t.Helper()
	return mustKey(t, strings.TrimLeft(options+" ", " ")+Key{Blob: s.blob(), Options: &none}.String())
}

// sign signs a message as a visitor does.
func (s signer) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	sig, err := s.Sign(nil, Signed(message))
	if err != nil {
		t.Fatal(err)
	}
	return ssh.Marshal(sig)
}

// counted makes a ring count what it verifies: formats, and what they came to.
func counted(o Origins) (*Ring, *[]string) {
	r, did := NewRing(o), new([]string)
	r.verify = func(s signature, blob, data []byte) bool {
		ok := s.verify(blob, data)
		*did = append(*did, map[bool]string{true: "right ", false: "wrong "}[ok]+s.format)
		return ok
	}
	return r, did
}

// What a ring does for a knock is the same with one key and with a hundred thousand,
// for a key that it knows and for one that it does not.
func TestOneVerificationForEachKnock(t *testing.T) {
	message := []byte("what is asked for")
	known, strange := newSigner(t, 1), newSigner(t, 2)
	many := make([]Key, 100_000)
	for i := range many {
		blob := fields(ssh.KeyAlgoED25519, string(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(i))))
		many[i] = Key{Blob: blob, Fingerprint: FingerprintOf(blob), Options: &none}
	}
	many[77_777] = known.key(t, "")
	for _, keys := range [][]Key{{known.key(t, "")}, many} {
		ring, did := counted(Origins{File: NewKeys(keys)})
		for _, c := range []struct {
			name  string
			f     Fingerprint
			sig   []byte
			right bool
			want  string
		}{
			{"a known key", known.fingerprint(), known.sign(t, message), true, "right ssh-ed25519"},
			{"a bad signature of a known key", known.fingerprint(), strange.sign(t, message), false, "wrong ssh-ed25519"},
			{"an unknown key", strange.fingerprint(), strange.sign(t, message), false, "wrong ssh-ed25519"},
		} {
			*did = nil
			if _, ok := ring.Key(c.f, message, c.sig); ok != c.right {
				t.Errorf("%d keys, %s: %v, want %v", len(keys), c.name, ok, c.right)
			}
			if d := cmp.Diff([]string{c.want}, *did); d != "" {
				t.Errorf("%d keys, %s: verified (-want +got):\n%s", len(keys), c.name, d)
			}
			allocs := testing.AllocsPerRun(10, func() { ring.Key(c.f, message, c.sig) })
			if allocs > 40 {
				t.Errorf("%d keys, %s: %v allocations, want 40 at most", len(keys), c.name, allocs)
			}
		}
	}
}

// A signature that a key cannot have made costs what its format costs, whatever the key
// is: it is verified with nobody's.
func TestNobodysKeys(t *testing.T) {
	for format, blob := range nobodies {
		if k, err := parseBlob(blob); err != nil || !formatOf(k.Type(), format) {
			t.Errorf("nobody's key for %s: %v; it cannot be verified with", format, err)
		}
	}
	for _, bits := range []int{leastRSA, 3072, 4096, mostRSA} {
		s := signature{format: ssh.KeyAlgoRSASHA512, blob: make([]byte, bits/8)}
		if k, err := parseBlob(s.nobody()); err != nil || !s.fits(k) {
			t.Errorf("nobody's RSA key of %d bits: %v; it cannot be verified with", bits, err)
		}
	}
	// A number that is too large for a modulus is verified, too, with nobody's.
	s := signature{format: ssh.KeyAlgoRSASHA512, blob: append(bytes.Repeat([]byte{0xff}, 255), 0xf0)}
	small := append([]byte{0, 0x80}, bytes.Repeat([]byte{1}, 255)...)
	own, err := parseBlob(fields(ssh.KeyAlgoRSA, "\x01\x00\x01", string(small)))
	if err != nil || s.fits(own) {
		t.Errorf("a signature above the modulus fits it: %v", err)
	}
	if k, err := parseBlob(s.nobody()); err != nil || !s.fits(k) {
		t.Errorf("a signature above the modulus does not fit nobody's key: %v", err)
	}
	// So is one that is shorter than the modulus, which other programs pad.
	long := signature{format: ssh.KeyAlgoRSASHA512, blob: make([]byte, 257)}
	if k, err := parseBlob(long.nobody()); err != nil || s.fits(k) {
		t.Errorf("a signature that is shorter than the modulus fits it: %v", err)
	}
	// Whoever signs with nobody's key, which anybody can, is nobody: be it for a key of another
	// type, which it does not fit, or for none. Nobody's P-256 key is the number 1.
	one, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), append(make([]byte, 31), 1))
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := ssh.NewSignerFromKey(one)
	if err != nil || !bytes.Equal(nobody.PublicKey().Marshal(), nobodies[ssh.KeyAlgoECDSA256]) {
		t.Fatalf("the number 1 is not nobody's key: %v", err)
	}
	signed, err := nobody.Sign(cryptorand.Reader, Signed([]byte("message")))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []Fingerprint{mustKey(t, aKey).Fingerprint, FingerprintOf(nobody.PublicKey().Marshal()), {}} {
		if _, ok := ringOf(t, aKey).Key(f, []byte("message"), ssh.Marshal(signed)); ok {
			t.Errorf("nobody's signature is accepted for %v", f)
		}
	}
	base := signature{format: ssh.KeyAlgoED25519}
	f := FingerprintOf(base.nobody())
	ring := NewRing(Origins{})
	ring.verify = func(signature, []byte, []byte) bool { return true }
	message := []byte("what is asked for")
	sig := newSigner(t, 1).sign(t, message)
	if _, ok := ring.Key(f, message, sig); ok {
		t.Error("nobody's key is accepted")
	}
	if _, ok := ring.Key(Fingerprint{}, message, sig); ok {
		t.Error("a key that no line has is accepted")
	}
}

// P-384 and P-521 take long, and are verified only where a key has them.
func TestCostlySignatures(t *testing.T) {
	message := []byte("what is asked for")
	for _, kind := range []string{ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521} {
		sig := fields(kind, string(ssh.Marshal(struct{ R, S *big.Int }{big.NewInt(1), big.NewInt(1)})))
		own := mustKey(t, (Key{Blob: nobodies[kind], Options: &none}).String())
		for _, c := range []struct {
			o    Origins
			want int
		}{
			{Origins{File: NewKeys([]Key{mustKey(t, aKey)})}, 0},
			{Origins{File: NewKeys([]Key{own})}, 1},
			{Origins{Enrolled: NewKeys([]Key{own})}, 1},
		} {
			ring, did := counted(c.o)
			ring.Key(Fingerprint{}, message, sig)
			if len(*did) != c.want {
				t.Errorf("%s: verified %q, want %d", kind, *did, c.want)
			}
		}
	}
}

// A certificate costs two verifications, whoever signed it.
func TestTwoVerificationsForEachCertificate(t *testing.T) {
	message := []byte("what is asked for")
	dir := t.TempDir()
	ca, _ := newKey(t, dir, "ca", "-t", "ed25519"), newKey(t, dir, "key", "-t", "ecdsa")
	blob, sig := certified(t, dir, "ca", "key", "-I", "id", "-n", "alice"), signedBy(t, dir, "key", Namespace, message)
	strange := newSigner(t, 1).sign(t, message)
	known := Origins{File: NewKeys([]Key{mustKey(t, `cert-authority,principals="alice" `+ca)})}
	for _, c := range []struct {
		name string
		o    Origins
		sig  []byte
		want []string
	}{
		{"a good one", known, sig, []string{"right ssh-ed25519", "right ecdsa-sha2-nistp256"}},
		{"of an unknown authority", Origins{File: NewKeys([]Key{newSigner(t, 2).key(t, `cert-authority,principals="alice"`)})}, sig, []string{"right ssh-ed25519", "right ecdsa-sha2-nistp256"}},
		{"shown by another", known, strange, []string{"right ssh-ed25519", "wrong ssh-ed25519"}},
		{"where there is no authority", Origins{File: NewKeys([]Key{mustKey(t, ca)})}, sig, nil},
	} {
		ring, did := counted(c.o)
		ring.Certificate(blob, message, c.sig)
		if d := cmp.Diff(c.want, *did); d != "" {
			t.Errorf("%s: verified (-want +got):\n%s", c.name, d)
		}
	}
}

func TestOrigins(t *testing.T) {
	message := []byte("what is asked for")
	alice, bob := newSigner(t, 1), newSigner(t, 2)
	ask := func(o Origins, s signer) (Terms, string) {
		t.Helper()
		p, ok := NewRing(o).Key(s.fingerprint(), message, s.sign(t, message))
		if !ok {
			return Terms{}, "not accepted"
		}
		terms, refusal := p.Permits(defaults(Ask{}))
		if refusal != nil {
			return terms, refusal.Reason.String()
		}
		return terms, ""
	}
	one := func(s signer, options ...string) *Keys {
		var list []Key
		for _, o := range options {
			list = append(list, s.key(t, o))
		}
		return NewKeys(list)
	}
	for _, c := range []struct {
		name string
		o    Origins
		who  signer
		want string
	}{
		{"no keys", Origins{}, alice, "not accepted"},
		{"in the file", Origins{File: one(alice, "")}, alice, ""},
		{"enrolled", Origins{File: one(alice, ""), Enrolled: one(bob, "")}, bob, ""},
		{"the file restricts what is enrolled", Origins{File: one(alice, `doors="web"`), Enrolled: one(alice, "")}, alice, "door"},
		{"enrolled authorities are none", Origins{Enrolled: one(alice, `cert-authority,principals="a"`)}, alice, "not accepted"},
		{"an authority may not knock", Origins{File: one(alice, `cert-authority,principals="a"`)}, alice, "not accepted"},
		{"unless it has a line as a key", Origins{File: one(alice, `cert-authority,principals="a"`, "")}, alice, ""},
		{"two lines", Origins{File: one(alice, `doors="web"`, `from="198.51.100.1"`, "")}, alice, ""},
		{"locked", Origins{File: one(alice, ""), Locked: map[string]bool{alice.fingerprint().String(): true}}, alice, "locked"},
		{"another is locked", Origins{File: one(alice, ""), Locked: map[string]bool{bob.fingerprint().String(): true}}, alice, ""},
		{"revoked", Origins{File: one(alice, ""), Revoked: []*Revocations{Revoke(alice.fingerprint())}}, alice, "revoked"},
	} {
		if _, got := ask(c.o, c.who); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCodes(t *testing.T) {
	message := []byte("what is asked for")
	alice, bob := newSigner(t, 1), newSigner(t, 2)
	bound := alice.fingerprint()
	options, err := ParseOptions(`doors="ssh",max-open-for="1h"`)
	if err != nil {
		t.Fatal(err)
	}
	ring := NewRing(Origins{
		Rescues: []Code{{Hash: HashCode([16]byte{1}), Name: "envelope"}, {Hash: HashCode([16]byte{2}), Expires: now}},
		Invites: []Code{{Hash: HashCode([16]byte{3}), Name: "alice", Options: options, Expires: now.AddDate(0, 0, 1)}, {Hash: HashCode([16]byte{4}), Key: &bound}},
		Revoked: []*Revocations{Revoke(bob.fingerprint())},
	})
	p, c, ok := ring.Rescue([16]byte{1})
	if !ok || c.Hash != HashCode([16]byte{1}) || reasonOf(p, Ask{}) != 0 || !strings.HasPrefix(p.By(), "envelope rescue:") {
		t.Errorf("a rescue code: %v, party %+v", ok, p)
	}
	if p, _, ok = ring.Rescue([16]byte{2}); !ok || reasonOf(p, Ask{}) != CodeExpired {
		t.Errorf("an expired rescue code: %v, party %+v, want one that is told so", ok, p)
	}
	for _, b := range []byte{0, 3, 4, 9} {
		if _, _, ok := ring.Rescue([16]byte{b}); ok {
			t.Errorf("code %d is no rescue code, and rescues", b)
		}
	}

	invite := func(code byte, s signer, sig []byte) (*Party, Key, bool) {
		p, _, k, ok := ring.Invite([16]byte{code}, s.blob(), message, sig)
		return p, k, ok
	}
	p, k, ok := invite(3, alice, alice.sign(t, message))
	if !ok || p.By() != "alice "+alice.fingerprint().String() || k.Options != options || k.Name != "alice" || !bytes.Equal(k.Blob, alice.blob()) {
		t.Fatalf("an invite: %v, party %+v, key %+v", ok, p, k)
	}
	if mustKey(t, k.String()).Fingerprint != alice.fingerprint() {
		t.Errorf("the enrolled line is %q", k.String())
	}
	if terms, refusal := p.Permits(defaults(Ask{})); refusal != nil || terms.AtMost.Hours() != 1 {
		t.Errorf("with its invite: %v %v, want an hour: the invite ends, not what it gave", terms, refusal)
	}
	if got := reasonOf(p, Ask{Now: now.AddDate(0, 0, 1)}); got != CodeExpired {
		t.Errorf("with an invite of yesterday: %v, want %v", got, CodeExpired)
	}
	if p, _, ok := invite(3, bob, bob.sign(t, message)); !ok || reasonOf(p, Ask{}) != Revoked {
		t.Errorf("a revoked key is enrolled: %v", ok)
	}
	if _, _, ok := invite(4, alice, alice.sign(t, message)); !ok {
		t.Error("the key that an invite is bound to is refused")
	}
	for name, c := range map[string]struct {
		code byte
		s    signer
		sig  []byte
	}{
		"a key that the invite is not bound to": {4, bob, bob.sign(t, message)},
		"another's signature":                   {3, alice, bob.sign(t, message)},
		"no invite":                             {9, alice, alice.sign(t, message)},
		"a rescue code":                         {1, alice, alice.sign(t, message)},
		"no signature":                          {3, alice, nil},
	} {
		if _, _, ok := invite(c.code, c.s, c.sig); ok {
			t.Errorf("%s enrols", name)
		}
	}
}

// A fingerprint counts as a whole, though keys are found by its beginning.
func TestFingerprintsThatBeginTheSame(t *testing.T) {
	message := []byte("what is asked for")
	alice, bob := newSigner(t, 1), newSigner(t, 2)
	f := alice.fingerprint()
	f[31] ^= 1
	ring := NewRing(Origins{File: NewKeys([]Key{alice.key(t, "")})})
	if _, ok := ring.Key(f, message, alice.sign(t, message)); ok {
		t.Error("a fingerprint with another end is accepted")
	}
	// Two keys with one beginning are both found, as if it had been possible to make them.
	twin := bob.key(t, "")
	copy(twin.Fingerprint[:8], f[:8])
	ring = NewRing(Origins{File: NewKeys([]Key{alice.key(t, ""), twin})})
	if _, ok := ring.Key(twin.Fingerprint, message, bob.sign(t, message)); !ok {
		t.Error("the second of two keys that begin the same is not found")
	}
	if _, ok := ring.Key(alice.fingerprint(), message, alice.sign(t, message)); !ok {
		t.Error("the first of two keys that begin the same is not found")
	}
}

func TestFingerprints(t *testing.T) {
	f := newSigner(t, 1).fingerprint()
	if got, err := ParseFingerprint(f.String()); err != nil || got != f {
		t.Errorf("ParseFingerprint(%s) = %v, %v", f, got, err)
	}
	if want := ssh.FingerprintSHA256(newSigner(t, 1).PublicKey()); f.String() != want {
		t.Errorf("the fingerprint is %s, want %s", f, want)
	}
	for _, s := range []string{"", "SHA256:", f.String() + "=", f.String()[:49], strings.ToLower(f.String()), "MD5:00"} {
		_, err := ParseFingerprint(s)
		if err == nil || !strings.HasSuffix(err.Error(), `is no fingerprint: allowed is what ssh-keygen -l prints, "SHA256:" and 43 characters`) {
			t.Errorf("ParseFingerprint(%q): %v", s, err)
		}
	}
}

// BenchmarkRing measures what a key costs in memory, and a knock in time.
func BenchmarkRing(b *testing.B) {
	message := []byte("what is asked for")
	known := newSigner(b, 1)
	text := []byte(known.key(b, "").String() + "\n")
	for range 99_999 {
		blob := make([]byte, 32)
		for i := range blob {
			blob[i] = byte(rand.Uint32())
		}
		text = append(text, (Key{Blob: fields(ssh.KeyAlgoED25519, string(blob)), Options: &none, Name: "somebody@example.com"}).String()+"\n"...)
	}
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			keys, _ := Parse(text, "keys")
			NewKeys(keys)
		}
	})
	keys, _ := Parse(text, "keys")
	b.Run("memory", func(b *testing.B) {
		var before, after runtime.MemStats
		for b.Loop() {
			runtime.GC()
			runtime.ReadMemStats(&before)
			list, _ := Parse(text, "keys")
			set := NewKeys(list)
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(list)), "B/key")
			runtime.KeepAlive(set)
		}
	})
	ring := NewRing(Origins{File: NewKeys(keys)})
	sig := known.sign(b, message)
	b.Run("known", func(b *testing.B) {
		for b.Loop() {
			ring.Key(known.fingerprint(), message, sig)
		}
	})
	b.Run("unknown", func(b *testing.B) {
		for b.Loop() {
			ring.Key(Fingerprint{}, message, sig)
		}
	})
}

// BenchmarkVerify measures what each format costs, with a key that it fits.
func BenchmarkVerify(b *testing.B) {
	dir := keysOfAllTypes(b)
	message := []byte("what is asked for")
	for _, k := range keyTypes {
		key := mustKey(b, strings.TrimSpace(read(b, dir, k.name+".pub")))
		s, ok := parseSignature(signedBy(b, dir, k.name, Namespace, message))
		if !ok {
			b.Fatal("ssh-keygen's signature is refused")
		}
		for name, blob := range map[string][]byte{"known": key.Blob, "nobody": nil} {
			b.Run(k.name+"/"+name, func(b *testing.B) {
				for b.Loop() {
					s.verify(blob, Signed(message))
				}
			})
		}
	}
}
