package credential

import (
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

// rsaLine is a line with an RSA key of so many bits.
func rsaLine(bits int) string {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits))
	blob := ssh.Marshal(struct {
		Kind string
		E, N *big.Int
	}{ssh.KeyAlgoRSA, big.NewInt(65537), n.Sub(n, big.NewInt(1))})
	return "ssh-rsa " + base64.StdEncoding.EncodeToString(blob)
}

func TestParse(t *testing.T) {
	text := strings.Join([]string{
		"# people", "", "   ", "\t# more",
		aKey,
		"  " + aKey + "\r",
		"ssh-ed25519\t" + strings.Fields(aKey)[1],
		`Doors="ssh, web",FROM="192.0.2.0/24,!192.0.2.9",expiry-time="20270101",schedule="Mon 08:00-09:00",one-address,any-address,max-open-for="1h",no-touch-required ` + aKey,
		`restrict,pty,command="echo \"a, b\" \\n",no-agent-forwarding,environment="A=B",environment="C=D",permitopen="192.0.2.1:80",tunnel="0" ` + aKey,
		`cert-authority,principals="alice,bob" ` + aKey + " of the company",
		"nonsense",
		rsaLine(2048), rsaLine(8192),
	}, "\n")
	keys, found := Parse([]byte(text), "/etc/doorward/authorized_keys")
	if len(found) != 1 || found[0].Line != 11 {
		t.Errorf("problems are %v, want one in line 11", found)
	}
	if len(keys) != 8 {
		t.Fatalf("%d keys, want 8", len(keys))
	}
	type got struct {
		Line      int
		Name      string
		Authority bool
		Text      string
	}
	var all []got
	for _, k := range keys {
		all = append(all, got{k.Line, k.Name, k.Authority, k.Options.String()})
		if k.Where != "/etc/doorward/authorized_keys" || k.Fingerprint != FingerprintOf(k.Blob) {
			t.Errorf("line %d: where %q and fingerprint %v", k.Line, k.Where, k.Fingerprint)
		}
		again := mustKey(t, k.String())
		again.Where, again.Line = k.Where, k.Line
		if d := cmp.Diff(k, again, cmp.AllowUnexported(Options{}, Addresses{}, pattern{}, Moment{}, Schedule{}, span{}),
			cmp.Comparer(func(a, b pattern) bool { return a == b })); d != "" {
			t.Errorf("line %d is read otherwise from what it is written as (-want +got):\n%s", k.Line, d)
		}
	}
	lines := strings.Split(text, "\n")
	options := func(n int) string { return lines[n-1][:strings.Index(lines[n-1], " ssh-ed25519")] }
	want := []got{{5, "alice@laptop", false, ""}, {6, "alice@laptop", false, ""}, {7, "", false, ""},
		{8, "alice@laptop", false, options(8)}, {9, "alice@laptop", false, options(9)}, {10, "alice@laptop of the company", true, options(10)},
		{12, "", false, ""}, {13, "", false, ""}}
	if d := cmp.Diff(want, all); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
	o := keys[3].Options
	if d := cmp.Diff([]string{"ssh", "web"}, o.Doors); d != "" || !o.OneAddress || !o.AnyAddress || !o.NoTouch || o.Verify || o.MaxOpenFor != time.Hour ||
		o.From == nil || o.Schedule == nil || !o.Expires.In(time.UTC).Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("the options of line 8 are %+v", *o)
	}
	if d := cmp.Diff([]string{"alice", "bob"}, keys[5].Options.Principals); d != "" {
		t.Errorf("principals (-want +got):\n%s", d)
	}
}

func TestLinesThatAreRefused(t *testing.T) {
	blob := strings.Fields(aKey)[1]
	token := newToken(t, ssh.KeyAlgoSKED25519)
	for _, c := range []struct{ line, want string }{
		{"ssh-dss " + blob, "ssh-dss is refused: DSA is too short to be safe; make another key with: ssh-keygen -t ed25519"},
		{"no-pty ssh-dss " + blob, "ssh-dss is refused: DSA is too short to be safe; make another key with: ssh-keygen -t ed25519"},
		{"rsa-sha2-512 " + blob, "rsa-sha2-512 is refused: this names a signature; the key's type is ssh-rsa"},
		{"ssh-ed25519-cert-v01@openssh.com " + blob, `ssh-ed25519-cert-v01@openssh.com is refused: this is a certificate, which its owner shows; what stands here is its authority: cert-authority,principals="..." and the authority's public key`},
		{rsaLine(2047), "an RSA key of 2047 bits is too short to be safe: allowed are 2048 to 8192; better: ssh-keygen -t ed25519"},
		{rsaLine(1024), "an RSA key of 1024 bits is too short to be safe: allowed are 2048 to 8192; better: ssh-keygen -t ed25519"},
		{rsaLine(8193), "an RSA key of 8193 bits takes too long to verify: allowed are 2048 to 8192; better: ssh-keygen -t ed25519"},
		{"ssh-rsa " + base64.StdEncoding.EncodeToString(fields(ssh.KeyAlgoRSA, "\x00\x01\x00\x01", "\x00"+strings.Repeat("\xff", 256))),
			"the ssh-rsa key is not written as OpenSSH writes it: make its .pub file anew with ssh-keygen -y"},
		{"ssh-rsa " + blob, `the key after "ssh-rsa" is of another type, or damaged: copy the whole line of the .pub file`},
		{"ssh-ed25519", `no key after "ssh-ed25519": allowed is a line of a .pub file`},
		{"ssh-ed25519 " + blob[:30], `the key after "ssh-ed25519" is not base64, or is cut short: copy the whole line of the .pub file`},
		{"ssh-ed25519 " + blob[:32], "the ssh-ed25519 key is damaged: copy the whole line of the .pub file"},
		{"ssh-ed25519 AAAA" + strings.Repeat("=", 4), `the key after "ssh-ed25519" is not base64, or is cut short: copy the whole line of the .pub file`},
		{`doors="ssh"`, "no key in the line: allowed is a line of a .pub file, with options before it"},
		{"restrict", "no key in the line: allowed is a line of a .pub file, with options before it"},
		{"backup q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=", "no type of key at the beginning or after the options: allowed are ssh-ed25519, sk-ssh-ed25519@openssh.com, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521, sk-ecdsa-sha2-nistp256@openssh.com and ssh-rsa"},
		{"door=\"ssh\" " + aKey, `option door is not known: allowed are any-address, cert-authority, doors="...", expiry-time="...", from="...", max-open-for="...", no-touch-required, no-verify-required, one-address, principals="...", schedule="...", touch-required and verify-required, and those of sshd that say what a session may do`},
		{"doors=ssh " + aKey, `option doors: its value is not quoted: allowed is doors="..."`},
		{`doors="ssh ` + aKey, `option doors: its value has no end: allowed is doors="..."`},
		{`doors="ssh"x ` + aKey, "option doors: more stands after its value: allowed are a comma and the next option, or a blank and the key"},
		{"doors " + aKey, `option doors has no value: allowed is doors="..."`},
		{"command " + aKey, `option command has no value: allowed is command="..."`},
		{`one-address="yes" ` + aKey, "option one-address has no value: write it alone"},
		{`pty="yes" ` + aKey, "option pty has no value: write it alone"},
		{`doors="ssh",doors="web" ` + aKey, "option doors is given twice: put all of it into one"},
		{`doors="ssh,," ` + aKey, `option doors: "ssh,,": nothing stands before or after a comma: allowed are names of doors, with commas between`},
		{`doors="" ` + aKey, `option doors: "": nothing stands before or after a comma: allowed are names of doors, with commas between`},
		{`doors="ssh", one-address ` + aKey, "nothing stands after a comma between options: put no blank there, and no comma at their end"},
		{`doors="ssh", ` + aKey, "nothing stands after a comma between options: put no blank there, and no comma at their end"},
		{`pty,,doors="ssh" ` + aKey, "nothing stands after a comma between options: put no blank there, and no comma at their end"},
		{`,doors="ssh" ` + aKey, `option here is not known: allowed are any-address, cert-authority, doors="...", expiry-time="...", from="...", max-open-for="...", no-touch-required, no-verify-required, one-address, principals="...", schedule="...", touch-required and verify-required, and those of sshd that say what a session may do`},
		{`from="*.example.com" ` + aKey, `option from: "*.example.com" is no address or network: allowed are 192.0.2.7, 192.0.2.0/24, 2001:db8::/32, 192.0.2.* and these after a !; names are not looked up`},
		{`from="*.de" ` + aKey, `option from: "*.de" is no address or network: allowed are 192.0.2.7, 192.0.2.0/24, 2001:db8::/32, 192.0.2.* and these after a !; names are not looked up`},
		{`from="::ffff:192.0.2.7" ` + aKey, `option from: "::ffff:192.0.2.7" is no address or network: allowed are 192.0.2.7, 192.0.2.0/24, 2001:db8::/32, 192.0.2.* and these after a !; names are not looked up`},
		{`from="fe80::1%eth0" ` + aKey, `option from: "fe80::1%eth0" is no address or network: allowed are 192.0.2.7, 192.0.2.0/24, 2001:db8::/32, 192.0.2.* and these after a !; names are not looked up`},
		{`from="192.0.2.7/24" ` + aKey, "option from: 192.0.2.7/24 has bits set after its prefix: did you mean 192.0.2.0/24, or 192.0.2.7 alone?"},
		{`from="!192.0.2.7" ` + aKey, `option from: "!192.0.2.7" excludes addresses and admits none: put *, before it for all others`},
		{`expiry-time="tomorrow" ` + aKey, `option expiry-time: "tomorrow": allowed is YYYYMMDD or YYYYMMDDHHMM[SS], with Z after it for UTC, as 20270101 or 202701011830Z`},
		{`expiry-time="20270230" ` + aKey, `option expiry-time: "20270230": allowed is YYYYMMDD or YYYYMMDDHHMM[SS], with Z after it for UTC, as 20270101 or 202701011830Z`},
		{`expiry-time="" ` + aKey, `option expiry-time: "": allowed is YYYYMMDD or YYYYMMDDHHMM[SS], with Z after it for UTC, as 20270101 or 202701011830Z`},
		{`schedule="always" ` + aKey, `option schedule: "always": allowed are days (Mon Tue Wed Thu Fri Sat Sun, or Mon-Fri) and hours (00:00-24:00), as "Mon-Fri 08:00-18:00, Sat 09:00-12:00"`},
		{`max-open-for="0" ` + aKey, `option max-open-for: "0": allowed is a second or more, as "90s", "30m" or "8h"`},
		{`max-open-for="-1h" ` + aKey, `option max-open-for: "-1h": allowed is a second or more, as "90s", "30m" or "8h"`},
		{"cert-authority " + aKey, `an authority without principals="...", which says whose certificates count: a gateway has no users' names to compare with`},
		{`principals="alice" ` + aKey, "option principals is for authorities alone: add cert-authority, or remove it"},
		{"verify-required " + aKey, "option verify-required is for security keys (sk-...): a key of type ssh-ed25519 never says that it verified anybody"},
		{aKey + "\x00", "character 94 is NUL: this is no text"},
		{aKey + strings.Repeat(" ", 8192) + "x", "8286 characters: a line has at most 8192"},
		{token.line(t)[:80], `the key after "sk-ssh-ed25519@openssh.com" is not base64, or is cut short: copy the whole line of the .pub file`},
	} {
		keys, found := Parse([]byte(aKey+"\n"+c.line+"\n"+aKey), "keys")
		if len(keys) != 2 || len(found) != 1 {
			t.Errorf("%q: %d keys and problems %v, want the other lines' keys and one problem", c.line, len(keys), found)
			continue
		}
		if want := "keys:2: " + c.want; found[0].String() != want {
			t.Errorf("%q is refused with\n%s, want\n%s", c.line, found[0], want)
		}
	}
}

// Whoever hands over the wrong file reads neither its secrets nor thousands of lines.
func TestWrongFiles(t *testing.T) {
	dir := t.TempDir()
	newKey(t, dir, "key", "-t", "ed25519")
	private := read(t, dir, "key")
	keys, found := Parse([]byte(private+aKey), "id_ed25519")
	if len(keys) != 1 || len(found) != 1 ||
		found[0].String() != "id_ed25519:1: a private key, which belongs on no gateway: remove it here, and put in its public key (ssh-keygen -y -f FILE)" {
		t.Errorf("of a private key and a line: %d keys and problems %v", len(keys), found)
	}
	// Its end is missing: the keys after it count.
	keys, found = Parse([]byte(private[:150]+"\n\n# more\none-address "+aKey+"\nwhat\n"), "keys")
	if len(keys) != 1 || len(found) != 2 {
		t.Errorf("of half a private key, a line and a bad one: %d keys and problems %v", len(keys), found)
	}
	out, err := keygen(t, dir, nil, "-e", "-f", "key.pub")
	if err != nil {
		t.Fatal(out)
	}
	if _, found = Parse([]byte(out), "key"); len(found) != 1 || !strings.Contains(found[0].Text, "ssh-keygen -i -f FILE makes of it") {
		t.Errorf("of a key in the form of RFC 4716: %v", found)
	}
	secret := "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="
	for _, line := range []string{"backup " + secret, secret, secret[:43] + " backup", secret + " " + secret, "doors=" + secret, `a,` + secret + `="x" ` + aKey} {
		if _, found = Parse([]byte(line), "secrets"); len(found) != 1 || strings.Contains(found[0].Text, "q83v") {
			t.Errorf("%q: problems %v, want one without the secret", line, found)
		}
	}
	if _, found = Parse([]byte(strings.Repeat("what\n", 100_000)), "book"); len(found) != 51 || found[50].String() != "book: 99950 more lines are refused" {
		t.Errorf("of 100,000 bad lines: %d problems, the last %v", len(found), found[len(found)-1])
	}
}

func TestSecrets(t *testing.T) {
	coded := func(b byte) string {
		return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(rune(b)), 32)))
	}
	text := "# machines\n" +
		"backup " + coded(1) + "\n" +
		"ci.runner@lab\t" + coded(2) + "  doors=\"web\",max-open-for=\"5m\",schedule=\"Mon 08:00-09:00, Tue 08:00-09:00\"\n"
	list, found := ParseSecrets([]byte(text), "secrets")
	if len(found) != 0 || len(list) != 2 {
		t.Fatalf("%d secrets and problems %v, want 2 and none", len(list), found)
	}
	ring := NewRing(Origins{Secrets: list})
	message := []byte("what is asked for")
	secret := [32]byte([]byte(strings.Repeat("\x02", 32)))
	p, ok := ring.Secret(SecretID(secret), message, SecretProof(secret, message))
	if !ok {
		t.Fatal("the proof is refused")
	}
	if want := fmt.Sprintf("ci.runner@lab secret:%x", SecretID(secret)); p.By() != want {
		t.Errorf("By is %q, want %q", p.By(), want)
	}
	if got := reasonOf(p, Ask{}); got != Door {
		t.Errorf("another door: %v, want %v", got, Door)
	}
	proof := SecretProof(secret, message)
	for i := range proof {
		bent := proof
		bent[i] ^= 1
		if _, ok := ring.Secret(SecretID(secret), message, bent); ok {
			t.Errorf("byte %d bent is accepted", i)
		}
	}
	if _, ok := ring.Secret(SecretID(secret), []byte("more"), proof); ok {
		t.Error("the proof of another message is accepted")
	}
	if _, ok := ring.Secret([16]byte{}, message, SecretProof([32]byte{}, message)); ok {
		t.Error("an identity that nobody has is accepted with a secret of zeros")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got, want := fmt.Sprintf(verb, list[0]), fmt.Sprintf("backup secret:%x", list[0].ID); got != want {
			t.Errorf("a secret prints as %q, want %q", got, want)
		}
	}

	bad := "no machine's secret: allowed is NAME SECRET [OPTIONS], the secret being 32 bytes in base64 (openssl rand -base64 32)"
	for _, c := range []struct{ line, want string }{
		{"backup", bad},
		{coded(3), bad},
		{"backup2 " + coded(3)[:40], bad},
		{"backup2 " + coded(3) + coded(3), bad},
		{"back/up " + coded(3), "the line's first word is no machine's name: allowed are letters, digits, . _ @ and -, 64 characters at most"},
		{coded(4) + " " + coded(3), "the line's first word is no machine's name: allowed are letters, digits, . _ @ and -, 64 characters at most"},
		{"backup2 " + coded(0), "the secret of backup2 is all zeros: draw another (openssl rand -base64 32)"},
		{"backup " + coded(3), "the name backup is that of line 1: give each machine a name of its own"},
		{"backup2 " + coded(1), "the secret is that of line 1: give each machine a secret of its own (openssl rand -base64 32)"},
		{"backup2 " + coded(3) + " verify-required", "backup2: no-touch-required and verify-required are options of security keys: remove them here"},
		{"backup2 " + coded(3) + ` cert-authority,principals="a"`, "backup2: cert-authority and principals are options of authorities, which have a line in the file of keys: remove them here"},
		{"backup2 " + coded(3) + ` doors="web", one-address`, "backup2: nothing stands after a comma between options: put no blank there, and no comma at their end"},
		{"backup2 " + coded(3) + ` one-address doors="web"`, "backup2: more stands after the options: put commas and no blanks between them"},
		{"backup2 " + coded(3) + ` from="there"`, `backup2: option from: "there" is no address or network: allowed are 192.0.2.7, 192.0.2.0/24, 2001:db8::/32, 192.0.2.* and these after a !; names are not looked up`},
	} {
		list, found := ParseSecrets([]byte("backup "+coded(1)+"\n"+c.line+"\n"), "secrets")
		if len(list) != 1 || len(found) != 1 || found[0].String() != "secrets:2: "+c.want {
			t.Errorf("%q: %d secrets and problems\n%v, want\nsecrets:2: %s", c.line, len(list), found, c.want)
		}
		for _, p := range found {
			if strings.Contains(p.Text, coded(3)[:8]) {
				t.Errorf("%q: the problem tells the secret: %v", c.line, p)
			}
		}
	}
}

// Wherever a file is cut short, by a full disk or because it is just being written, a key or
// a secret has all of its options or does not count.
func TestCutShortIsNotLessRestricted(t *testing.T) {
	const options = `doors="web",from="192.0.2.0/24",max-open-for="5m"`
	secrets := "# machines\nci " + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x02", 32))) + " " + options + "\n"
	keys := "# visitors\n" + newSigner(t, 1).key(t, options).String() + " alice\n"
	counted := 0
	for n := range len(secrets) + 1 {
		list, _ := ParseSecrets([]byte(secrets[:n]), "secrets")
		for _, s := range list {
			if counted++; s.Options.String() != options {
				t.Errorf("cut to %q, the secret has the options %q", secrets[:n], s.Options)
			}
		}
	}
	for n := range len(keys) + 1 {
		list, _ := Parse([]byte(keys[:n]), "keys")
		for _, k := range list {
			if counted++; k.Options.String() != options {
				t.Errorf("cut to %q, the key has the options %q", keys[:n], k.Options)
			}
		}
	}
	if counted < 2 {
		t.Errorf("%d keys and secrets count, want both when nothing is cut", counted)
	}
	_, found := ParseSecrets([]byte(strings.TrimSuffix(secrets, "\n")), "secrets")
	const want = "secrets:2: the line has no end, so the file may be cut short: add a line break, if the options are all there"
	if len(found) != 1 || found[0].String() != want {
		t.Errorf("a secret without the end of its line: %v, want %s", found, want)
	}
}
