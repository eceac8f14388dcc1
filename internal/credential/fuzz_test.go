package credential

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// FuzzLines: whatever text an operator hands over, it is read without a panic, what is
// accepted is written and read again the same, problems are few, and hours end.
func FuzzLines(f *testing.F) {
	f.Add([]byte(aKey))
	f.Add([]byte(`doors="ssh,web",from="192.0.2.0/24,!192.0.2.9,*",expiry-time="202701010000Z" ` + aKey))
	f.Add([]byte(`schedule="Mon-Fri 08:00-18:00, Sat,Sun 22:00-06:00",max-open-for="1h",one-address,any-address ` + aKey + "\r\n"))
	f.Add([]byte(`cert-authority,principals="alice",command="echo \"x\"" ` + aKey))
	f.Add([]byte("# machines\nbackup AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE= doors=\"ssh\"\n"))
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\nssh-dss AAAA"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, found := Parse(text, "text")
		if len(found) > mostProblems+1 {
			t.Errorf("%d problems", len(found))
		}
		for _, k := range keys {
			again, found := Parse([]byte(k.String()), "text")
			if len(found) != 0 || len(again) != 1 || again[0].Fingerprint != k.Fingerprint || again[0].Name != k.Name ||
				again[0].Options.String() != k.Options.String() || again[0].Authority != k.Authority {
				t.Fatalf("%q is written as %q, which has problems %v", text, k.String(), found)
			}
			if s := k.Options.Schedule; s != nil {
				at := time.Unix(1_800_000_000, 0).UTC()
				if turn, ok := s.Turns(at); ok && (!turn.After(at) || s.Covers(turn) == s.Covers(at)) {
					t.Errorf("%q at %s turns at %s, and does not", k.Options.String(), at, turn)
				}
			}
			if a := k.Options.From; a != nil {
				a.Admit(home)
			}
		}
		ParseSecrets(text, "text")
		ParseRevocations(text)
	})
}

// FuzzShown: whatever bytes a visitor shows, or a list of revoked keys has, they are read
// without a panic; there is one way to write what is accepted, and nobody gets in.
func FuzzShown(f *testing.F) {
	authority, visitor := newSigner(f, 1), newSigner(f, 2)
	c := &ssh.Certificate{Key: visitor.PublicKey(), CertType: ssh.UserCert, Serial: 7, KeyId: "id", ValidPrincipals: []string{"alice"},
		ValidBefore: ssh.CertTimeInfinity, Permissions: ssh.Permissions{CriticalOptions: map[string]string{"source-address": "192.0.2.0/24", "verify-required": ""},
			Extensions: map[string]string{"no-touch-required": ""}}}
	if err := c.SignCert(bytes.NewReader(make([]byte, 64)), authority); err != nil {
		f.Fatal(err)
	}
	f.Add(c.Marshal())
	f.Add(visitor.sign(f, []byte("message")))
	f.Add(append(fields(ssh.KeyAlgoSKED25519, string(make([]byte, 64))), 1, 0, 0, 0, 1))
	f.Add(fields(ssh.KeyAlgoECDSA256, string(fields("\x01", "\x01"))))
	f.Add(fields(ssh.KeyAlgoRSASHA512, string(make([]byte, 256))))
	f.Add(krl(krlCertificates, certificatesOf("", krlSerials, numbers(1), krlSerialRange, numbers(2, 9), krlSerialBitmap, append(numbers(7), fields("\x05")...), krlKeyIDs, fields("id")),
		krlKeys, fields("key"), krlSHA1, fields(string(make([]byte, 20))), krlExtension, append(fields("x"), 0, 0, 0, 0, 0)))
	keys := NewKeys([]Key{visitor.key(f, ""), authority.key(f, `cert-authority,principals="alice"`)})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseSignature(b); ok {
			if got := append(fields(s.format, string(s.blob)), s.rest...); !bytes.Equal(got, b) {
				t.Errorf("%x is read as a signature that is written %x", b, got)
			}
		}
		cert, ok := parseCertificate(b)
		if ok && !bytes.HasPrefix(b, cert.signed) {
			t.Errorf("what is signed of %x is said to be %x", b, cert.signed)
		}
		list, err := ParseRevocations(b)
		if (list == nil) == (err == nil) {
			t.Errorf("%x: list %v and error %v", b, list, err)
		}
		if ok {
			list.certificate(cert)
		}
		// A message that nobody signed.
		ring, message := NewRing(Origins{File: keys, Revoked: []*Revocations{list}}), []byte("never signed")
		if _, ok := ring.Key(visitor.fingerprint(), message, b); ok {
			t.Errorf("%x is accepted as a signature", b)
		}
		if _, ok := ring.Certificate(b, message, visitor.sign(t, []byte("another"))); ok {
			t.Errorf("%x is accepted without its key's signature", b)
		}
		if _, ok := ring.Certificate(c.Marshal(), message, b); ok {
			t.Errorf("%x is accepted as a signature of the certificate's key", b)
		}
	})
}
