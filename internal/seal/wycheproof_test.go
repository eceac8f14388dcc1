package seal

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"slices"
	"testing"

	"github.com/c2sp/wycheproof"
)

// TestWycheproofX25519 has the function by which both sides agree on a secret judge the
// vectors of the Wycheproof project. Of what RFC 7748 leaves open, a shared secret that is
// all zeros must be refused (section 6.1): it would be the same for everybody.
func TestWycheproofX25519(t *testing.T) {
	text, err := fs.ReadFile(wycheproof.TestVectors, "x25519_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		TestGroups []struct {
			Tests []struct {
				ID                                       int `json:"tcId"`
				Comment, Public, Private, Shared, Result string
				Flags                                    []string
			}
		}
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	agreed, refused := 0, 0
	for _, g := range v.TestGroups {
		for _, test := range g.Tests {
			var raw [3][]byte
			for i, s := range []string{test.Private, test.Public, test.Shared} {
				if raw[i], err = hex.DecodeString(s); err != nil {
					t.Fatalf("%d: %v", test.ID, err)
				}
			}
			own, err := ecdh.X25519().NewPrivateKey(raw[0])
			if err != nil {
				t.Fatalf("%d: %v", test.ID, err)
			}
			shared, err := ecdhShared(own, raw[1])
			zero := bytes.Equal(raw[2], make([]byte, len(raw[2])))
			if zero != slices.Contains(test.Flags, "ZeroSharedSecret") {
				t.Fatalf("%d: flags %q, and the secret is %x", test.ID, test.Flags, raw[2])
			}
			switch {
			case zero && err == nil:
				t.Errorf("%d, %s: a shared secret of zeros is accepted", test.ID, test.Comment)
			case zero:
				refused++
			case err != nil || !bytes.Equal(shared, raw[2]):
				t.Errorf("%d, %s %q: %x, %v, want %x", test.ID, test.Comment, test.Flags, shared, err, raw[2])
			default:
				agreed++
			}
		}
	}
	if agreed < 400 || refused < 10 {
		t.Errorf("%d vectors agree and %d are refused: the file is not what it was", agreed, refused)
	}
}

// TestWycheproofAESGCM has the cipher by which all messages are sealed judge the vectors of
// the Wycheproof project that are of its sizes.
func TestWycheproofAESGCM(t *testing.T) {
	text, err := fs.ReadFile(wycheproof.TestVectors, "aes_gcm_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		TestGroups []struct {
			KeySize, IVSize, TagSize int // in bits
			Tests                    []struct {
				ID                                          int `json:"tcId"`
				Comment, Key, IV, AAD, Msg, CT, Tag, Result string
			}
		}
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	opened, refused := 0, 0
	for _, g := range v.TestGroups {
		if g.KeySize != 256 || g.IVSize != 8*nonceSize || g.TagSize != 8*sealExtra {
			continue
		}
		for _, test := range g.Tests {
			var raw [6][]byte
			for i, s := range []string{test.Key, test.IV, test.AAD, test.Msg, test.CT, test.Tag} {
				if raw[i], err = hex.DecodeString(s); err != nil {
					t.Fatalf("%d: %v", test.ID, err)
				}
			}
			a, sealed := aead(raw[0]), slices.Concat(raw[4], raw[5])
			got, err := a.Open(nil, raw[1], sealed, raw[2])
			switch {
			case test.Result == "valid" && (err != nil || !bytes.Equal(got, raw[3]) || !bytes.Equal(a.Seal(nil, raw[1], raw[3], raw[2]), sealed)):
				t.Errorf("%d, %s: opened as %x, %v, want %x; or it is sealed otherwise", test.ID, test.Comment, got, err, raw[3])
			case test.Result == "valid":
				opened++
			case err == nil:
				t.Errorf("%d, %s: it is opened, and is %s", test.ID, test.Comment, test.Result)
			default:
				refused++
			}
		}
	}
	if opened < 30 || refused < 20 {
		t.Errorf("%d vectors are opened and %d refused: the file is not what it was", opened, refused)
	}
}
