package share

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// readBack returns a knock as it reads back from its file.
func readBack(k Knock) Knock {
	k.Made, k.Each = time.Time{}, 0
	return k
}

// TestKnockReadsBack: what is shared is what is read.
func TestKnockReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := example
		k.Touch = rapid.SliceOfNDistinct(rapid.Uint16Min(1), 1, 12, rapid.ID).Draw(t, "touch")
		k.Wait = rapid.Uint16().Draw(t, "wait")
		k.Host = rapid.SampledFrom([]string{"gate.example.org", "192.0.2.1", "2001:db8::1", "a_b"}).Draw(t, "host")
		got, err := ParseKnock("f", []byte(k.Text()))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(readBack(k), *got); d != "" {
			t.Error(d)
		}
	})
}

func TestParseKnockRefuses(t *testing.T) {
	const head = "doorward-knock = 1\nhost = \"gate\"\n"
	tests := []struct{ name, text, err string }{
		{"nothing", "", "f: doorward-knock = 0: this doorward reads version 1"},
		{"a later version", "doorward-knock = 2\nhost = \"gate\"\ntouch = [1]\n", "f: doorward-knock = 2: this doorward reads version 1"},
		{"a script", "#!/bin/sh\nrm -rf /\n", "f:2: not a knock as doorward share writes it"},
		{"a key that is not known", head + "touch = [1]\nrun = \"id\"\n", "f:4: not a knock as doorward share writes it"},
		{"a table", head + "touch = [1]\n[x]\n", "f:4: not a knock as doorward share writes it"},
		{"a word for a number", head + "touch = [\"secret\"]\n", "f:3: not a knock as doorward share writes it"},
		{"an option for a host", "doorward-knock = 1\nhost = \"-oProxyCommand=x\"\ntouch = [1]\n",
			`f: host "-oProxyCommand=x": allowed are names such as gate.example.org and IP addresses`},
		{"no touch", head, "f: touch is missing: the ports of the knock"},
		{"port 0", head + "touch = [0]\n", "f: touch: 0: allowed are 1 to 65535, each once"},
		{"port 65536", head + "touch = [65536]\n", "f: touch: 65536: allowed are 1 to 65535, each once"},
		{"a port twice", head + "touch = [1, 2, 1]\n", "f: touch: 1: allowed are 1 to 65535, each once"},
		{"to wait for no port", head + "touch = [1]\nwait = 65536\n", "f: wait = 65536: allowed are ports, and 0 for none"},
		{"what disturbs a terminal", head + "touch = [1]\nthen = \"\\u001b[31m\"\n",
			"f: door and then are at most 200 printable characters each"},
		{"a private key", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "f: this is a private key, and not a knock"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := ParseKnock("f", []byte(tt.text))
			if err == nil || err.Error() != tt.err || k != nil {
				t.Errorf("got %v, error %v\nwant %s", k, err, tt.err)
			}
		})
	}
}

// TestDecrypt: what Letters encrypts is read with the user's key, and with no other;
// what was cut or is too long is refused.
func TestDecrypt(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(id.Recipient().String() + " alice")
	if err != nil {
		t.Fatal(err)
	}
	ids := func(id *age.X25519Identity) []age.Identity {
		all, err := ParseIdentity([]byte("# alice\n" + id.String() + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	sealed, err := Letters(&example, []User{{"alice", []Key{key}}}, false)
	if err != nil || len(sealed) != 1 || len(sealed[0].Files) != 1 {
		t.Fatalf("%v, %v", sealed, err)
	}
	text := sealed[0].Files[0].Text
	if !Encrypted(text) || Encrypted([]byte(example.Text())) {
		t.Error("Encrypted does not tell an encrypted text from a plain one")
	}
	if clear, err := Decrypt(text, ids(id)); err != nil || string(clear) != example.Text() {
		t.Errorf("got %q, %v", clear, err)
	}
	if _, err := Decrypt(text, ids(other)); !errors.Is(err, ErrNotForUs) {
		t.Errorf("error %v, want %v", err, ErrNotForUs)
	}
	if clear, err := Decrypt(text[:len(text)/2], ids(id)); err == nil {
		t.Errorf("half of it decrypts to %q", clear)
	}
	long, err := Encrypt(strings.Repeat("x", MaxKnock+1), []Key{key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decrypt(long, ids(id)); err == nil || err.Error() != "decrypt: longer than 65536 bytes" {
		t.Errorf("error %v for a text that is too long", err)
	}
}

// FuzzParseKnock checks that a knock that is accepted has only a host, ports and printable
// sentences, and reads back from its Text; and that every error is one short line.
func FuzzParseKnock(f *testing.F) {
	for _, s := range []string{
		example.Text(), "", "doorward-knock = 1\nhost = \"::1\"\ntouch = [1]", "doorward-knock = 1\nhost = 'a'\ntouch = [0x10, 0b1]\nwait = 1_0\n",
		"doorward-knock = 1\nhost = \"a\"\ntouch = [1]\nthen = \"\\\"; id\"", "\"doorward-knock\" = 1.0", "touch = [[1]]", "a.b = 1", "host = {}", "\xff",
		"doorward-knock = 1\nhost = \"" + strings.Repeat("\\u0001", 253) + "\"\ntouch = [1]",
	} {
		f.Add([]byte(s))
	}
	plainForm := regexp.MustCompile(`^[^\x00-\x1f\x7f\x{202a}-\x{202e}]*$`)
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKnock("f", text)
		if err != nil {
			// The longest quotes a host, each byte of which may be written as \x01.
			if bytes.Count([]byte(err.Error()), []byte("\n")) > 0 || len(err.Error()) > 4*253+100 {
				t.Fatalf("error %q", err)
			}
			return
		}
		if !hostForm.MatchString(k.Host) || k.Host[0] == '-' || !plainForm.MatchString(k.Door+k.Then) || len(k.Touch) == 0 {
			t.Fatalf("%q is accepted: %+v", text, k)
		}
		if strings.ContainsAny(k.Door+k.Then, `"\`) {
			return // doorward share writes neither of these
		}
		again, err := ParseKnock("f", []byte(k.Text()))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if d := cmp.Diff(*k, *again); d != "" {
			t.Fatalf("%q: %s", text, d)
		}
	})
}
