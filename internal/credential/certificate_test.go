package credential

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// certified has ssh-keygen sign key.pub, and returns the certificate as it is sent.
func certified(t testing.TB, dir, authority, key string, args ...string) []byte {
	t.Helper()
	mustKeygen(t, dir, append([]string{"-q", "-s", authority}, append(args, key+".pub")...)...)
	f := strings.Fields(read(t, dir, key+"-cert.pub"))
	blob, err := base64.StdEncoding.DecodeString(f[1])
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func TestCertificatesOfOpenSSH(t *testing.T) {
	message := []byte("what is asked for")
	dir := t.TempDir()
	ca, key := newKey(t, dir, "ca", "-t", "ed25519"), newKey(t, dir, "key", "-t", "ed25519")
	stranger := newKey(t, dir, "stranger", "-t", "ed25519")
	sig := signedBy(t, dir, "key", Namespace, message)
	line := `cert-authority,principals="admins,alice" `
	ring := ringOf(t, line+ca)
	refused := Reason(255) // no certificate of the ring's
	for _, c := range []struct {
		name string
		args []string // of ssh-keygen -s
		ring *Ring    // nil: the usual one
		ask  Ask
		want Reason // 0: permitted
	}{
		{name: "a good one", args: []string{"-n", "alice"}},
		{name: "one of several principals", args: []string{"-n", "bob,admins"}},
		{name: "within its time", args: []string{"-n", "alice", "-V", "20261127000000:20261128000000"}},
		{name: "expired", args: []string{"-n", "alice", "-V", "20261126000000:20261127100000"}, want: CertificateExpired},
		{name: "not yet", args: []string{"-n", "alice", "-V", "20261127100001:20261128000000"}, want: NotYet},
		{name: "another principal", args: []string{"-n", "bob"}, want: Principals},
		{name: "no principal", want: Principals},
		{name: "a host's", args: []string{"-h", "-n", "alice"}, want: refused},
		{name: "of another authority", args: []string{"-n", "alice"}, ring: ringOf(t, line+stranger), want: refused},
		{name: "of a key that may only knock itself", args: []string{"-n", "alice"}, ring: ringOf(t, ca, line+stranger), want: refused},
		{name: "from its address", args: []string{"-n", "alice", "-O", "source-address=192.0.2.0/24"}},
		{name: "from another address", args: []string{"-n", "alice", "-O", "source-address=198.51.100.0/24"}, want: CertificateFrom},
		{name: "a forced command is sshd's", args: []string{"-n", "alice", "-O", "force-command=/bin/true"}},
		{name: "an unknown critical option", args: []string{"-n", "alice", "-O", "critical:only@example.com=yes"}, want: CriticalOption},
		{name: "an unknown extension", args: []string{"-n", "alice", "-O", "extension:more@example.com=yes"}},
		{name: "a PIN that a plain key has not", args: []string{"-n", "alice", "-O", "verify-required"}, want: Verification},
		{name: "the authority's line restricts", args: []string{"-n", "alice"}, ring: ringOf(t, `doors="web",`+line+ca), want: Door},
		{name: "another line of the authority", args: []string{"-n", "alice"},
			ring: ringOf(t, `cert-authority,principals="bob" `+ca, line+ca)},
		{name: "the lines of other principals do not count", args: []string{"-n", "alice"},
			ring: ringOf(t, `cert-authority,principals="bob" `+ca, `doors="web",`+line+ca), want: Door},
	} {
		blob := certified(t, dir, "ca", "key", append([]string{"-I", "alice in person"}, c.args...)...)
		if c.ring == nil {
			c.ring = ring
		}
		p, ok := c.ring.Certificate(blob, message, sig)
		if !ok {
			if c.want != refused {
				t.Errorf("%s: not accepted, want %v", c.name, c.want)
			}
			continue
		}
		if got := reasonOf(p, c.ask); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if by := p.By(); !strings.HasPrefix(by, "alice in person cert:0:") || ID(by) != mustKey(t, key).Fingerprint.String() {
			t.Errorf("%s: By is %q, want the key ID, the certificate and the fingerprint of its key", c.name, by)
		}
	}
}

// Whoever has a certificate has to have its key, and its authority has signed all of it.
func TestCertificatesThatAreBent(t *testing.T) {
	message := []byte("what is asked for")
	dir := t.TempDir()
	ca, _ := newKey(t, dir, "ca", "-t", "ed25519"), newKey(t, dir, "key", "-t", "ecdsa")
	newKey(t, dir, "other", "-t", "ecdsa")
	ring := ringOf(t, `cert-authority,principals="alice" `+ca)
	blob, sig := certified(t, dir, "ca", "key", "-I", "id", "-n", "alice"), signedBy(t, dir, "key", Namespace, message)
	if _, ok := ring.Certificate(blob, message, sig); !ok {
		t.Fatal("the certificate is not accepted as it is")
	}
	if _, ok := ring.Certificate(blob, message, signedBy(t, dir, "other", Namespace, message)); ok {
		t.Error("another key's signature is accepted")
	}
	if _, ok := ring.Certificate(blob, message, signedBy(t, dir, "key", "file", message)); ok {
		t.Error("a signature in another namespace is accepted")
	}
	if _, ok := ring.Certificate(append(bytes.Clone(blob), 0), message, sig); ok {
		t.Error("a byte after the certificate is accepted")
	}
	for i := range blob {
		bent := bytes.Clone(blob)
		bent[i] ^= 1
		if _, ok := ring.Certificate(bent, message, sig); ok {
			t.Errorf("byte %d bent is accepted", i)
		}
		if _, ok := ring.Certificate(blob[:i], message, sig); ok {
			t.Errorf("%d bytes of it are accepted", i)
		}
	}
}

// testAuthorities: each type of key can be an authority, and have a certificate, but
// not with SHA-1.
func testAuthorities(t *testing.T, dir string) {
	message := []byte("what is asked for")
	for _, k := range keyTypes {
		authority, key := k.name, k.other
		ring := ringOf(t, `cert-authority,principals="alice" `+strings.TrimSpace(read(t, dir, authority+".pub")))
		sig := signedBy(t, dir, key, Namespace, message)
		if _, ok := ring.Certificate(certified(t, dir, authority, key, "-I", "id", "-n", "alice"), message, sig); !ok {
			t.Errorf("a certificate for %s by %s is not accepted", key, authority)
		}
	}
	ring := ringOf(t, `cert-authority,principals="alice" `+strings.TrimSpace(read(t, dir, "rsa2048.pub")))
	blob := certified(t, dir, "rsa2048", "ed25519", "-t", "ssh-rsa", "-I", "id", "-n", "alice")
	if _, ok := ring.Certificate(blob, message, signedBy(t, dir, "ed25519", Namespace, message)); ok {
		t.Error("a certificate that was signed with SHA-1 is accepted")
	}
}

// A certificate's security key is touched unless both the authority's line and the
// certificate say that it need not be, and has verified its user if one of them asks.
func TestCertificatesOfSecurityKeys(t *testing.T) {
	message := []byte("what is asked for")
	dir := t.TempDir()
	ca, token := newKey(t, dir, "ca", "-t", "ed25519"), newToken(t, ssh.KeyAlgoSKED25519)
	write(t, dir, "token.pub", token.line(t)+"\n")
	for _, c := range []struct {
		options string
		args    []string
		flags   byte
		want    Reason
	}{
		{"", nil, flagPresent, 0},
		{"", nil, 0, Touch},
		{"no-touch-required,", nil, 0, Touch},
		{"", []string{"-O", "no-touch-required"}, 0, Touch},
		{"no-touch-required,", []string{"-O", "no-touch-required"}, 0, 0},
		{"verify-required,", nil, flagPresent, Verification},
		{"", []string{"-O", "verify-required"}, flagPresent, Verification},
		{"", []string{"-O", "verify-required"}, flagPresent | flagVerified, 0},
	} {
		ring := ringOf(t, c.options+`cert-authority,principals="alice" `+ca)
		blob := certified(t, dir, "ca", "token", append([]string{"-I", "id", "-n", "alice"}, c.args...)...)
		p, ok := ring.Certificate(blob, message, token.sign(t, Signed(message), c.flags, 1))
		if !ok {
			t.Errorf("%q %q: not accepted", c.options, c.args)
			continue
		}
		if got := reasonOf(p, Ask{}); got != c.want {
			t.Errorf("%q %q with flags %d: %v, want %v", c.options, c.args, c.flags, got, c.want)
		}
	}
}

// Who has locked an authority has locked all that it has signed.
func TestLockedAuthority(t *testing.T) {
	message := []byte("what is asked for")
	ca, visitor := newSigner(t, 1), newSigner(t, 2)
	cert := &ssh.Certificate{Key: visitor.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"alice"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(bytes.NewReader(make([]byte, 64)), ca); err != nil {
		t.Fatal(err)
	}
	o := Origins{File: NewKeys([]Key{ca.key(t, `cert-authority,principals="alice"`)})}
	for _, locked := range []signer{ca, visitor} {
		o.Locked = map[string]bool{locked.fingerprint().String(): true}
		if p, ok := NewRing(o).Certificate(cert.Marshal(), message, visitor.sign(t, message)); !ok || reasonOf(p, Ask{}) != Locked {
			t.Errorf("accepted %v, party %+v, want one that is told that it is locked", ok, p)
		}
	}
	o.Locked = map[string]bool{newSigner(t, 3).fingerprint().String(): true}
	if p, ok := NewRing(o).Certificate(cert.Marshal(), message, visitor.sign(t, message)); !ok || reasonOf(p, Ask{}) != 0 {
		t.Errorf("accepted %v, party %+v, want it permitted when another is locked", ok, p)
	}
}

// A critical option is unknown whatever it is called, and one whose value cannot be read
// refuses the certificate.
func TestCriticalOptions(t *testing.T) {
	message := []byte("what is asked for")
	ca, visitor := newSigner(t, 1), newSigner(t, 2)
	ring := NewRing(Origins{File: NewKeys([]Key{ca.key(t, `cert-authority,principals="alice"`)})})
	for _, c := range []struct {
		name, value string
		accepted    bool
		want        Reason
	}{
		{"verify-required", "", true, Verification},
		{"force-command", "true", true, 0},
		{"", "", true, CriticalOption},
		{"from", "192.0.2.0/24", true, CriticalOption},
		{"source-address", "192.0.2.7,198.51.100.0/24", true, 0},
		{"source-address", "198.51.100.0/24", true, CertificateFrom},
		{"source-address", "*", false, 0},
		{"source-address", "!198.51.100.1,192.0.2.7", false, 0},
		{"source-address", "192.0.2.7/24", false, 0},
		{"source-address", "", false, 0},
	} {
		cert := &ssh.Certificate{Key: visitor.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"alice"}, ValidBefore: ssh.CertTimeInfinity,
			Permissions: ssh.Permissions{CriticalOptions: map[string]string{c.name: c.value}}}
		if err := cert.SignCert(bytes.NewReader(make([]byte, 64)), ca); err != nil {
			t.Fatal(err)
		}
		p, ok := ring.Certificate(cert.Marshal(), message, visitor.sign(t, message))
		if ok != c.accepted {
			t.Errorf("%q=%q: accepted %v, want %v", c.name, c.value, ok, c.accepted)
		}
		if ok && reasonOf(p, Ask{}) != c.want {
			t.Errorf("%q=%q: %v, want %v", c.name, c.value, reasonOf(p, Ask{}), c.want)
		}
	}
}

// There is one way to write a certificate: what its authority has signed is what is read.
func TestCertificatesThatAreWrittenOtherwise(t *testing.T) {
	cert := &ssh.Certificate{Key: newSigner(t, 2).PublicKey(), CertType: ssh.UserCert,
		Permissions: ssh.Permissions{CriticalOptions: map[string]string{"force-command": "x"}}}
	if err := cert.SignCert(bytes.NewReader(make([]byte, 64)), newSigner(t, 1)); err != nil {
		t.Fatal(err)
	}
	blob := cert.Marshal()
	option := func(value ...string) []byte {
		return fields(string(fields("force-command", string(fields(value...)))))
	}
	for _, c := range []struct {
		value []string
		want  bool
	}{{[]string{"x"}, true}, {nil, true}, {[]string{""}, false}, {[]string{"x", ""}, false}} {
		other := bytes.Replace(blob, option("x"), option(c.value...), 1)
		if _, got := parseCertificate(other); got != c.want {
			t.Errorf("with a critical option of the values %q: read %v, want %v", c.value, got, c.want)
		}
	}
}

// A grant is for no longer than the certificate.
func TestAGrantEndsWithItsCertificate(t *testing.T) {
	message := []byte("what is asked for")
	dir := t.TempDir()
	ca, _ := newKey(t, dir, "ca", "-t", "ed25519"), newKey(t, dir, "key", "-t", "ed25519")
	ring := ringOf(t, `max-open-for="8h",cert-authority,principals="alice" `+ca)
	blob := certified(t, dir, "ca", "key", "-I", "id", "-n", "alice", "-V", "20261127000000:20261127103000")
	p, ok := ring.Certificate(blob, message, signedBy(t, dir, "key", Namespace, message))
	if !ok {
		t.Fatal("not accepted")
	}
	got, refusal := p.Permits(defaults(Ask{}))
	if want := (Terms{AtMost: 30 * time.Minute}); refusal != nil || got != want {
		t.Errorf("terms are %v and refusal %v, want %v", got, refusal, want)
	}
	_, refusal = p.Permits(defaults(Ask{Now: now.Add(time.Hour)}))
	if want := "your certificate has expired on Fri 2026-11-27 10:30 UTC: get a new one from who issues them"; refusal == nil || refusal.Text() != want {
		t.Errorf("an hour later: %v, want %q", refusal, want)
	}
}

func TestRevokedByOpenSSH(t *testing.T) {
	message := []byte("what is asked for")
	dir := t.TempDir()
	ca, key := newKey(t, dir, "ca", "-t", "ed25519"), newKey(t, dir, "key", "-t", "ed25519")
	other := newKey(t, dir, "other", "-t", "ed25519")
	sig := signedBy(t, dir, "key", Namespace, message)
	origins := Origins{File: NewKeys([]Key{mustKey(t, key), mustKey(t, `cert-authority,principals="alice" `+ca)})}
	revocations := func(name string, list string, args ...string) *Revocations {
		t.Helper()
		write(t, dir, "list", list)
		mustKeygen(t, dir, append([]string{"-q", "-k", "-f", "krl"}, append(args, "list")...)...)
		r, err := ParseRevocations([]byte(read(t, dir, "krl")))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return r
	}
	print := func(line string) string { return mustKey(t, line).Fingerprint.String() }
	numbers := func(n ...uint64) (list string) { // far apart, near each other: all forms of a KRL
		for _, n := range n {
			list += fmt.Sprintf("serial: %d\n", n)
		}
		return list
	}
	for _, c := range []struct {
		name, list string
		args       []string
		serial     uint64
		key, cert  bool // whether they are revoked
	}{
		{"nothing", "", nil, 1, false, false},
		{"the key", key + "\n", nil, 1, true, true},
		{"another key", other + "\n", nil, 1, false, false},
		{"by sha256", "sha256: " + key + "\n", nil, 1, true, true},
		{"by sha1", "sha1: " + key + "\n", nil, 1, true, true},
		{"by fingerprint", "hash: " + print(key) + "\n", nil, 1, true, true},
		{"the authority", ca + "\n", nil, 1, false, true},
		{"a serial", numbers(7), []string{"-s", "ca.pub"}, 7, false, true},
		{"another serial", numbers(6, 8), []string{"-s", "ca.pub"}, 7, false, false},
		{"of another authority", numbers(7), []string{"-s", "other.pub"}, 7, false, false},
		{"a range's begin", "serial: 7-99\n", []string{"-s", "ca.pub"}, 7, false, true},
		{"a range's end", "serial: 1-7\n", []string{"-s", "ca.pub"}, 7, false, true},
		{"beyond a range", "serial: 1-6\nserial: 8-100\n", []string{"-s", "ca.pub"}, 7, false, false},
		{"a list", numbers(1, 1000, 1<<40, 1<<63, 1<<64-1), []string{"-s", "ca.pub"}, 1<<64 - 1, false, true},
		{"a list's middle", numbers(1, 1000, 1<<40, 1<<63), []string{"-s", "ca.pub"}, 1 << 40, false, true},
		{"beside a list", numbers(1, 1000, 1<<40, 1<<63), []string{"-s", "ca.pub"}, 1<<40 + 1, false, false},
		{"a bitmap", numbers(100, 102, 103, 105, 107, 110, 111, 115, 117, 119), []string{"-s", "ca.pub"}, 107, false, true},
		{"a bitmap's gap", numbers(100, 102, 103, 105, 107, 110, 111, 115, 117, 119), []string{"-s", "ca.pub"}, 106, false, false},
		{"a bitmap's first", numbers(100, 102, 103, 105, 107, 110, 111, 115, 117, 119), []string{"-s", "ca.pub"}, 100, false, true},
		{"a bitmap's last", numbers(100, 102, 103, 105, 107, 110, 111, 115, 117, 119), []string{"-s", "ca.pub"}, 119, false, true},
		{"a key ID", "id: alice in person\n", []string{"-s", "ca.pub"}, 7, false, true},
		{"a key ID of all authorities", "id: alice in person\n", []string{"-s", "none"}, 7, false, true},
		{"another key ID", "id: alice\n", []string{"-s", "ca.pub"}, 7, false, false},
		{"no serial is none that can be revoked", "", nil, 0, false, false},
	} {
		origins.Revoked = []*Revocations{nil, Revoke(), revocations(c.name, c.list, c.args...)}
		if c.serial == 0 { // ssh-keygen revokes no 0, but a list of others' may
			list := &revokedCertificates{serials{ranges: []serialRange{{0, 9}}}, nil}
			origins.Revoked = []*Revocations{{certs: map[Fingerprint]*revokedCertificates{anyAuthority: list}}}
		}
		ring := NewRing(origins)
		blob := certified(t, dir, "ca", "key", "-I", "alice in person", "-n", "alice", "-z", fmt.Sprint(c.serial))
		plain, ok := ring.Key(mustKey(t, key).Fingerprint, message, sig)
		cert, ok2 := ring.Certificate(blob, message, sig)
		if !ok || !ok2 {
			t.Fatalf("%s: key %v and certificate %v are accepted, want both: who is revoked is told so", c.name, ok, ok2)
		}
		if got := reasonOf(plain, Ask{}) == Revoked; got != c.key {
			t.Errorf("%s: the key is revoked: %v, want %v", c.name, got, c.key)
		}
		if got := reasonOf(cert, Ask{}) == Revoked; got != c.cert {
			t.Errorf("%s: the certificate is revoked: %v, want %v", c.name, got, c.cert)
		}
		for by, revoked := range map[string]bool{plain.By(): c.key, cert.By(): c.cert} {
			if got := ring.Stands(now, "web", by) != nil; got == revoked {
				t.Errorf("%s: what %q led to stands: %v, want what a knock would be told", c.name, by, got)
			}
		}
		// ssh-keygen -Q says the same.
		if c.serial != 0 {
			_, err := keygen(t, dir, nil, "-Q", "-f", "krl", "key-cert.pub")
			if (err != nil) != c.cert {
				t.Errorf("%s: ssh-keygen -Q says of the certificate: %v, want revoked %v", c.name, err, c.cert)
			}
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		from          string
		admit, refuse []string
	}{
		{"192.0.2.7", []string{"192.0.2.7"}, []string{"192.0.2.8", "2001:db8::7"}},
		{"192.0.2.0/24, 2001:db8::/32", []string{"192.0.2.255", "2001:db8::7"}, []string{"192.0.3.0", "2001:db9::"}},
		{"192.0.2.*", []string{"192.0.2.7"}, []string{"192.0.20.7"}},
		{"192.0.2.?", []string{"192.0.2.7"}, []string{"192.0.2.77"}},
		{"2001:DB8:*", []string{"2001:db8::1"}, []string{"2001:db9::1", "192.0.2.7"}},
		{"*,!192.0.2.0/25", []string{"192.0.2.128", "2001:db8::1"}, []string{"192.0.2.127"}},
		{"!192.0.2.9,192.0.2.0/24", []string{"192.0.2.7"}, []string{"192.0.2.9"}},
		{"*2*7", []string{"192.0.2.7", "2001:db8::7"}, []string{"192.0.2.70"}},
	} {
		a, err := parseAddresses(c.from)
		if err != nil {
			t.Errorf("%s: %v", c.from, err)
			continue
		}
		for _, s := range c.admit {
			if !a.Admit(netip.MustParseAddr(s)) {
				t.Errorf("%s does not admit %s", c.from, s)
			}
		}
		for _, s := range c.refuse {
			if a.Admit(netip.MustParseAddr(s)) {
				t.Errorf("%s admits %s", c.from, s)
			}
		}
	}
}
