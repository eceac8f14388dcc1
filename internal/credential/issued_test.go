package credential

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Whether what a certificate led to may stand follows from By alone, whatever becomes of its
// authority and of its authority's lines.
func TestStandsWithACertificate(t *testing.T) {
	message := []byte("what is asked for")
	ca, visitor, other := newSigner(t, 1), newSigner(t, 2), newSigner(t, 3)
	certificate := func(serial uint64, principals ...string) string {
		t.Helper()
		cert := &ssh.Certificate{Key: visitor.PublicKey(), Serial: serial, KeyId: "alice", CertType: ssh.UserCert,
			ValidPrincipals: principals, ValidBefore: ssh.CertTimeInfinity}
		if err := cert.SignCert(bytes.NewReader(make([]byte, 64)), ca); err != nil {
			t.Fatal(err)
		}
		o := Origins{File: NewKeys([]Key{ca.key(t, `cert-authority,principals="ops,alice"`), ca.key(t, `cert-authority,principals="dev"`)})}
		p, ok := NewRing(o).Certificate(cert.Marshal(), message, visitor.sign(t, message))
		if !ok {
			t.Fatal("the certificate is not accepted")
		}
		return p.By()
	}
	by := certificate(7, "bob", "dev", "ops")
	if most := 256; len(by) > most || len(certificate(1<<64-1, "ops", "alice", "dev")) > most {
		t.Errorf("By has %d bytes, want %d at most", len(by), most)
	}
	if ID(by) != visitor.fingerprint().String() || ID(by) != ID(certificate(8, "alice")) || by == certificate(8, "bob", "dev", "ops") {
		t.Errorf("By is %q, want the identity of the key in front of which the certificate is told", by)
	}
	locked := func(s signer) Origins {
		return Origins{File: NewKeys([]Key{ca.key(t, `cert-authority,principals="ops"`)}), Locked: map[string]bool{s.fingerprint().String(): true}}
	}
	file := func(keys ...Key) Origins { return Origins{File: NewKeys(keys)} }
	numbers := func(first, last uint64) Origins {
		list := &revokedCertificates{serials{ranges: []serialRange{{first, last}}}, nil}
		return Origins{File: NewKeys([]Key{ca.key(t, `cert-authority,principals="ops"`)}),
			Revoked: []*Revocations{{certs: map[Fingerprint]*revokedCertificates{ca.fingerprint(): list}}}}
	}
	for _, c := range []struct {
		name string
		o    Origins
		want bool
	}{
		{"its number is revoked", numbers(7, 7), false},
		{"other numbers are revoked", numbers(8, 9), true},
		{"one of its principals", file(ca.key(t, `cert-authority,principals="ops"`)), true},
		{"another of its principals", file(ca.key(t, `cert-authority,principals="alice,dev"`)), true},
		{"a principal that no line had", file(ca.key(t, `cert-authority,principals="bob"`)), false},
		{"another principal", file(ca.key(t, `cert-authority,principals="alice"`)), false},
		{"the authority is gone", file(other.key(t, `cert-authority,principals="ops"`)), false},
		{"the authority may knock itself", file(ca.key(t, "")), false},
		{"its key may knock itself, without it", file(visitor.key(t, "")), false},
		{"nobody is known", Origins{}, false},
		{"for the door", file(ca.key(t, `cert-authority,principals="ops",doors="web"`)), true},
		{"for another door", file(ca.key(t, `cert-authority,principals="ops",doors="api"`)), false},
		{"for the door by another principal's line", file(ca.key(t, `cert-authority,principals="ops",doors="api"`), ca.key(t, `cert-authority,principals="alice"`)), false},
		{"the line ends later", file(ca.key(t, `cert-authority,principals="ops",expiry-time="20261128"`)), true},
		{"the line is over", file(ca.key(t, `cert-authority,principals="ops",expiry-time="20261127"`)), false},
		{"at its hours", file(ca.key(t, `cert-authority,principals="ops",schedule="Fri 09:00-11:00"`)), true},
		{"outside its hours", file(ca.key(t, `cert-authority,principals="ops",schedule="Fri 11:00-12:00"`)), false},
		{"the authority is locked", locked(ca), false},
		{"its key is locked", locked(visitor), false},
		{"another is locked", locked(other), true},
	} {
		if got := NewRing(c.o).Stands(now, "web", by) != nil; got != c.want {
			t.Errorf("%s: what %q led to stands: %v, want %v", c.name, by, got, c.want)
		}
	}
	for id, want := range map[string]bool{visitor.fingerprint().String(): true, ca.fingerprint().String(): true, other.fingerprint().String(): false, "": false, "alice": false} {
		if got := DependsOn(by, id); got != want {
			t.Errorf("%q depends on %q: %v, want %v", by, id, got, want)
		}
	}
	// What cannot be read is nobody's certificate, and no comment passes for one.
	words := strings.Fields(by)
	stands := func(by string) bool {
		return NewRing(file(ca.key(t, `cert-authority,principals="ops"`), visitor.key(t, ""))).Stands(now, "web", by) != nil
	}
	for _, bent := range []string{"cert:", "cert:7", "cert:7:", words[1][:len(words[1])-2], words[1] + "A", "cert:x" + words[1][len("cert:7"):]} {
		if stands("alice " + bent + " " + ID(by)) {
			t.Errorf("a certificate told as %q stands", bent)
		}
	}
	if name := Name(by); name != "alice" {
		t.Errorf("a comment of %q names its key %q, want alice", by, name)
	}
	if !stands("alice " + ID(by)) {
		t.Error("the key itself, which is in the file, does not stand")
	}
}
