package credential

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// keygen runs ssh-keygen in a directory.
func keygen(t testing.TB, dir string, stdin []byte, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C", "SSH_AUTH_SOCK=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// mustKeygen is keygen, which has to do what it is told.
func mustKeygen(t testing.TB, dir string, args ...string) {
	t.Helper()
	if out, err := keygen(t, dir, nil, args...); err != nil {
		t.Fatalf("ssh-keygen %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// newKey has ssh-keygen make a key and returns its public line.
func newKey(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	mustKeygen(t, dir, append([]string{"-q", "-N", "", "-C", name + "@example", "-f", name}, args...)...)
	return strings.TrimSpace(read(t, dir, name+".pub"))
}

func read(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// signedBy has ssh-keygen sign a message, and returns the signature as it is sent to a
// gateway: the last field of the blob of PROTOCOL.sshsig, section 2.
func signedBy(t testing.TB, dir, key, namespace string, message []byte, args ...string) []byte {
	t.Helper()
	write(t, dir, "message", string(message))
	if err := os.Remove(filepath.Join(dir, "message.sig")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	mustKeygen(t, dir, append([]string{"-Y", "sign", "-q", "-f", key, "-n", namespace}, append(args, "message")...)...)
	block, _ := pem.Decode([]byte(read(t, dir, "message.sig")))
	if block == nil {
		t.Fatal("what ssh-keygen signed is not armored")
	}
	r := reader(block.Bytes[len("SSHSIG")+4:])
	var last []byte
	for len(r) > 0 {
		s, ok := r.str()
		if !ok {
			t.Fatal("ssh-keygen's signature cannot be read")
		}
		last = s
	}
	return last
}

// acceptedByKeygen has ssh-keygen -Y verify judge a signature, put together as the file
// that it would have been in.
func acceptedByKeygen(t testing.TB, dir, pub, namespace string, message, sig []byte) (string, error) {
	t.Helper()
	k := mustKey(t, pub)
	b := append([]byte("SSHSIG"), 0, 0, 0, 1)
	for _, field := range []string{string(k.Blob), namespace, "", sshsigHash, string(sig)} {
		b = appendString(b, field)
	}
	armored := pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: b})
	write(t, dir, "put-together.sig", string(armored))
	write(t, dir, "signers", "alice "+pub+"\n")
	return keygen(t, dir, message, "-Y", "verify", "-f", "signers", "-I", "alice", "-n", namespace, "-s", "put-together.sig")
}

// mustKey reads one line.
func mustKey(t testing.TB, line string) Key {
	t.Helper()
	keys, found := Parse([]byte(line), "keys")
	if len(keys) != 1 || len(found) != 0 {
		t.Fatalf("Parse(%q) has %d keys and problems %v, want one key", line, len(keys), found)
	}
	return keys[0]
}

// ringOf is a ring of lines.
func ringOf(t testing.TB, lines ...string) *Ring {
	t.Helper()
	keys, found := Parse([]byte(strings.Join(lines, "\n")), "keys")
	if len(found) != 0 || len(keys) != len(lines) {
		t.Fatalf("Parse has %d keys of %d lines and problems %v", len(keys), len(lines), found)
	}
	return NewRing(Origins{File: NewKeys(keys)})
}

// keyTypes are what ssh-keygen can make without hardware, each with a key of another
// size or type.
var keyTypes = []struct {
	name, other string
	args        []string
}{
	{"ed25519", "ecdsa256", []string{"-t", "ed25519"}},
	{"ecdsa256", "ecdsa384", []string{"-t", "ecdsa", "-b", "256"}},
	{"ecdsa384", "ecdsa521", []string{"-t", "ecdsa", "-b", "384"}},
	{"ecdsa521", "rsa2048", []string{"-t", "ecdsa", "-b", "521"}},
	{"rsa2048", "rsa3072", []string{"-t", "rsa", "-b", "2048"}},
	{"rsa3072", "ed25519", []string{"-t", "rsa", "-b", "3072"}},
}

// keysOfAllTypes makes one of each: those of RSA take a second.
func keysOfAllTypes(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, k := range keyTypes {
		newKey(t, dir, k.name, k.args...)
	}
	return dir
}

func TestKeysOfOpenSSH(t *testing.T) {
	made := keysOfAllTypes(t)
	t.Run("authorities", func(t *testing.T) { testAuthorities(t, made) })
	message := []byte("what is asked for")
	for _, c := range keyTypes {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			pub, other := strings.TrimSpace(read(t, made, c.name+".pub")), strings.TrimSpace(read(t, made, c.other+".pub"))
			write(t, dir, "key", read(t, made, c.name))
			write(t, dir, "key.pub", pub+"\n")
			k, ring := mustKey(t, pub), ringOf(t, pub, other)
			sig := signedBy(t, dir, "key", Namespace, message)

			p, ok := ring.Key(k.Fingerprint, message, sig)
			if !ok {
				t.Fatal("the signature of ssh-keygen -Y sign is refused")
			}
			if want := c.name + "@example " + k.Fingerprint.String(); p.By() != want {
				t.Errorf("By is %q, want %q", p.By(), want)
			}
			if out, err := keygen(t, dir, nil, "-l", "-f", "key.pub"); err != nil || !strings.Contains(out, p.ID) {
				t.Errorf("ssh-keygen -l says %q and not %s", out, p.ID)
			}
			if out, err := acceptedByKeygen(t, dir, pub, Namespace, message, sig); err != nil {
				t.Errorf("ssh-keygen -Y verify refuses what was put together: %s", out)
			}

			refused := func(what string, f Fingerprint, message, sig []byte) {
				t.Helper()
				if _, ok := ring.Key(f, message, sig); ok {
					t.Errorf("%s is accepted", what)
				}
			}
			refused("a signature in another namespace", k.Fingerprint, message, signedBy(t, dir, "key", "file", message))
			refused("a signature with sha256", k.Fingerprint, message, signedBy(t, dir, "key", Namespace, message, "-O", "hashalg=sha256"))
			refused("a signature for another message", k.Fingerprint, []byte("more"), sig)
			refused("another's signature", mustKey(t, other).Fingerprint, message, sig)
			refused("an unknown key", Fingerprint{1}, message, sig)
			refused("no signature", k.Fingerprint, message, nil)
			refused("a signature with a byte more", k.Fingerprint, message, append(bytes.Clone(sig), 0))
			step := 1
			if costly[k.Type()] || k.Type() == ssh.KeyAlgoRSA {
				step = 4
			}
			for i := 0; i < len(sig); i += step {
				bent := bytes.Clone(sig)
				bent[i] ^= 1 << (i % 8)
				refused(fmt.Sprintf("a signature with byte %d bent", i), k.Fingerprint, message, bent)
				refused(fmt.Sprintf("a signature of %d bytes", i), k.Fingerprint, message, sig[:i])
			}
		})
	}
}

// token is a security key that is made of software.
type token struct {
	kind        string
	key         crypto.Signer
	application string
}

func newToken(t testing.TB, kind string) token {
	t.Helper()
	var key crypto.Signer
	var err error
	if kind == ssh.KeyAlgoSKED25519 {
		_, key, err = ed25519.GenerateKey(rand.Reader)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return token{kind, key, "ssh:test"}
}

// blob is its public key (PROTOCOL.u2f, "SSH U2F Key formats").
func (k token) blob(t testing.TB) []byte {
	t.Helper()
	if pub, ok := k.key.Public().(ed25519.PublicKey); ok {
		return fields(k.kind, string(pub), k.application)
	}
	point, err := k.key.Public().(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return fields(k.kind, "nistp256", string(point), k.application)
}

func (k token) line(t testing.TB) string {
	t.Helper()
	return Key{Blob: k.blob(t), Options: &none, Name: "token"}.String()
}

// sign signs data as an authenticator does (PROTOCOL.u2f, "SSH U2F signatures").
func (k token) sign(t testing.TB, data []byte, flags byte, counter uint32) []byte {
	t.Helper()
	app, hash := sha256.Sum256([]byte(k.application)), sha256.Sum256(data)
	asserted := append(app[:], flags)
	asserted = append(binary.BigEndian.AppendUint32(asserted, counter), hash[:]...)
	var inner []byte
	switch key := k.key.(type) {
	case ed25519.PrivateKey:
		inner = ed25519.Sign(key, asserted)
	case *ecdsa.PrivateKey:
		digest := sha256.Sum256(asserted)
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		inner = ssh.Marshal(struct{ R, S *big.Int }{r, s})
	}
	b := fields(k.kind, string(inner))
	return binary.BigEndian.AppendUint32(append(b, flags), counter)
}

func TestSecurityKeys(t *testing.T) {
	message := []byte("what is asked for")
	for _, kind := range []string{ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256} {
		k := newToken(t, kind)
		dir, pub, f := t.TempDir(), k.line(t), FingerprintOf(k.blob(t))
		for _, c := range []struct {
			name, options string
			flags         byte
			want          Reason // 0: permitted
		}{
			{"touched", "", flagPresent, 0},
			{"not touched", "", 0, Touch},
			{"need not be touched", "no-touch-required ", 0, 0},
			{"touched for nothing", "no-touch-required ", flagPresent, 0},
			{"a PIN was not entered", "verify-required ", flagPresent, Verification},
			{"a PIN was entered", "verify-required ", flagPresent | flagVerified, 0},
			{"a PIN was entered, and nothing touched", "verify-required ", flagVerified, Touch},
		} {
			sig := k.sign(t, Signed(message), c.flags, 7)
			// ssh-keygen does not look at the flags, but they are signed.
			if out, err := acceptedByKeygen(t, dir, pub, Namespace, message, sig); err != nil {
				t.Errorf("%s, %s: ssh-keygen -Y verify refuses it: %s", kind, c.name, out)
			}
			p, ok := ringOf(t, c.options+pub).Key(f, message, sig)
			if !ok {
				t.Errorf("%s, %s: the signature is refused", kind, c.name)
				continue
			}
			if got := reasonOf(p, Ask{}); got != c.want {
				t.Errorf("%s, %s: refused for %v, want %v", kind, c.name, got, c.want)
			}
		}
		sig := k.sign(t, Signed(message), flagPresent, 7)
		for i := range sig {
			bent := bytes.Clone(sig)
			bent[i] ^= 1
			if _, ok := ringOf(t, pub).Key(f, message, bent); ok {
				t.Errorf("%s: byte %d bent is accepted: flags and counter are signed, too", kind, i)
			}
		}
		// A plain signature by the same key is none of the security key's.
		plain := newToken(t, kind)
		plain.key = k.key
		plain.kind = strings.TrimSuffix(strings.TrimPrefix(kind, "sk-"), "@openssh.com")
		if _, ok := ringOf(t, pub).Key(f, message, plain.sign(t, Signed(message), 1, 1)); ok {
			t.Errorf("%s: a signature of another format is accepted", kind)
		}
		k.application = "https://example.com"
		if _, found := Parse([]byte(k.line(t)), "keys"); len(found) != 1 || !strings.Contains(found[0].Text, `"https://example.com"`) {
			t.Errorf("%s: a key for the web has problems %v, want one that names the application", kind, found)
		}
	}
}

// reasonOf asks and returns why not; 0 if it is permitted.
func reasonOf(p *Party, a Ask) Reason {
	if _, refusal := p.Permits(defaults(a)); refusal != nil {
		return refusal.Reason
	}
	return 0
}

// There is one way to write a signature.
func TestSignaturesThatAreWrittenOtherwise(t *testing.T) {
	two := func(r, s string) string { return string(fields(r, s)) }
	for name, c := range map[string]struct {
		sig  []byte
		want bool
	}{
		"as it is written":    {fields(ssh.KeyAlgoECDSA256, two("\x01", "\x01")), true},
		"a leading zero":      {fields(ssh.KeyAlgoECDSA256, two("\x00\x01", "\x01")), false},
		"zero":                {fields(ssh.KeyAlgoECDSA256, two("", "\x01")), false},
		"negative":            {fields(ssh.KeyAlgoECDSA256, two("\x01", "\x80")), false},
		"a third number":      {fields(ssh.KeyAlgoECDSA256, two("\x01", "\x01")+"\x00"), false},
		"more after it":       {fields(ssh.KeyAlgoECDSA256, two("\x01", "\x01"), ""), false},
		"a short RSA number":  {fields(ssh.KeyAlgoRSASHA512, string(make([]byte, 255))), false},
		"SHA-1":               {fields("ssh-rsa", string(make([]byte, 256))), false},
		"DSA":                 {fields("ssh-dss", string(make([]byte, 40))), false},
		"a certificate's":     {fields(ssh.CertAlgoED25519v01, string(make([]byte, 64))), false},
		"no format":           {fields("", string(make([]byte, 64))), false},
		"Ed25519":             {fields(ssh.KeyAlgoED25519, string(make([]byte, 64))), true},
		"Ed25519 of 63 bytes": {fields(ssh.KeyAlgoED25519, string(make([]byte, 63))), false},
		"no flags":            {fields(ssh.KeyAlgoSKED25519, string(make([]byte, 64))), false},
		"flags and counter":   {append(fields(ssh.KeyAlgoSKED25519, string(make([]byte, 64))), 1, 0, 0, 0, 1), true},
		"and more":            {append(fields(ssh.KeyAlgoSKED25519, string(make([]byte, 64))), 1, 0, 0, 0, 1, 0), false},
		"another length":      {append(fields(ssh.KeyAlgoED25519, string(make([]byte, 64))), 0), false},
	} {
		if _, got := parseSignature(c.sig); got != c.want {
			t.Errorf("%s: read %v, want %v", name, got, c.want)
		}
	}
}
