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
