package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"testing"

	"pgregory.net/rapid"
)

// What takes no memory makes what crypto/hmac and crypto/hkdf make.
func TestDerive(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { mac(make([]byte, 32), make([]byte, 100), make([]byte, 92)) }); n != 0 {
		t.Errorf("an HMAC takes memory %v times, want none", n)
	}
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "secret")
		salt := rapid.SliceOfN(rapid.Byte(), 0, sha256.BlockSize).Draw(t, "salt")
		context := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "context")
		n := rapid.IntRange(1, 32).Draw(t, "n")
		want, err := hkdf.Key(sha256.New, secret, salt, label+"purpose"+string(context), n)
		if err != nil {
			t.Fatal(err)
		}
		if got := derive(secret, salt, "purpose", n, context); !bytes.Equal(got, want) {
			t.Errorf("derive: %x, and crypto/hkdf %x", got, want)
		}
		h := hmac.New(sha256.New, salt)
		h.Write(secret)
		h.Write(context)
		if got := mac(salt, secret, context); !bytes.Equal(got[:], h.Sum(nil)) {
			t.Errorf("mac: %x, and crypto/hmac %x", got, h.Sum(nil))
		}
	})
}

// What crypto/hpke seals, the gateway opens, and both export the same; what was altered, or
// sealed for anything else, it does not.
func TestRecipient(t *testing.T) {
	for _, s := range []Suite{Hybrid, X25519} {
		id := identity(t, 3)
		public, err := kems[s].NewPublicKey(map[Suite][]byte{X25519: id.bundle[:keySize], Hybrid: id.bundle[keySize:]}[s])
		if err != nil {
			t.Fatal(err)
		}
		rapid.Check(t, func(t *rapid.T) {
			info := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "info")
			text := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "text")
			k := kind(rapid.Byte().Draw(t, "kind"))
			enc, sender, err := hpke.NewSender(public, kdf, gcm, info)
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := sender.Seal([]byte{byte(k)}, text)
			if err != nil {
				t.Fatal(err)
			}
			export, err := sender.Export(exported, 32)
			if err != nil {
				t.Fatal(err)
			}
			r := newRecipient(id.keys[s], info)
			got, exporter := r.open(k, enc, sealed)
			if !bytes.Equal(got, text) {
				t.Fatalf("%s: opened as %x, want %x", s, got, text)
			}
			if got := r.export(exporter, exported); !bytes.Equal(got, export) {
				t.Errorf("%s: exported %x, want %x", s, got, export)
			}
			altered := func(b []byte) []byte {
				b = bytes.Clone(b)
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
				return b
			}
			for what, opened := range map[string]func() ([]byte, []byte){
				"another kind":     func() ([]byte, []byte) { return r.open(k^1, enc, sealed) },
				"an altered enc":   func() ([]byte, []byte) { return r.open(k, altered(enc), sealed) },
				"an altered text":  func() ([]byte, []byte) { return r.open(k, enc, altered(sealed)) },
				"another info":     func() ([]byte, []byte) { return newRecipient(id.keys[s], append(info, 0)).open(k, enc, sealed) },
				"another identity": func() ([]byte, []byte) { return newRecipient(other.keys[s], info).open(k, enc, sealed) },
			} {
				if text, exporter := opened(); text != nil || exporter != nil {
					t.Errorf("%s: what is of %s is opened", s, what)
				}
			}
		})
	}
}

var other, _ = NewIdentity([32]byte{4}) // never changed
