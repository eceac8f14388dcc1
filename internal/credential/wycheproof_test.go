package credential

import (
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"math/big"
	"testing"

	"github.com/c2sp/wycheproof"
	"golang.org/x/crypto/ssh"
)

// vectors is a file of test vectors, as far as it is used here.
type vectors struct {
	TestGroups []struct {
		PublicKey struct {
			PK             string `json:"pk"`           // of Ed25519
			Uncompressed   string `json:"uncompressed"` // of ECDSA
			Modulus        string `json:"modulus"`      // of RSA
			PublicExponent string `json:"publicExponent"`
		} `json:"publicKey"`
		Tests []struct {
			ID      int      `json:"tcId"`
			Comment string   `json:"comment"`
			Flags   []string `json:"flags"`
			Msg     string   `json:"msg"`
			Sig     string   `json:"sig"`
			Result  string   `json:"result"` // valid, invalid, or acceptable
		} `json:"tests"`
	} `json:"testGroups"`
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWycheproof has the functions that verify what visitors sign judge the vectors of
// the Wycheproof project, whose keys and signatures were made to be misjudged. They are
// put into SSH's forms, which leaves out what is about other forms.
func TestWycheproof(t *testing.T) {
	ecdsa := func(kind, curve string) (func(*testing.T, string, string) []byte, func([]byte) []byte) {
		return func(t *testing.T, point, _ string) []byte { return fields(kind, curve, string(unhex(t, point))) }, func(sig []byte) []byte {
			half := len(sig) / 2
			return ssh.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])})
		}
	}
	same := func(sig []byte) []byte { return sig }
	rsa := func(t *testing.T, n, e string) []byte {
		return ssh.Marshal(struct {
			Kind string
			E, N *big.Int
		}{ssh.KeyAlgoRSA, new(big.Int).SetBytes(unhex(t, e)), new(big.Int).SetBytes(unhex(t, n))})
	}
	ed25519 := func(t *testing.T, pk, _ string) []byte { return fields(ssh.KeyAlgoED25519, string(unhex(t, pk))) }
	p256, half := ecdsa(ssh.KeyAlgoECDSA256, "nistp256")
	p384, _ := ecdsa(ssh.KeyAlgoECDSA384, "nistp384")
	p521, _ := ecdsa(ssh.KeyAlgoECDSA521, "nistp521")
	for _, c := range []struct {
		file, format string
		key          func(t *testing.T, first, second string) []byte
		sig          func([]byte) []byte
		size         int // of half of the other form; 0: it is the same form
		every        int // how many of the tests are one that is run: P-521 takes long
	}{
		{"ed25519_test.json", ssh.KeyAlgoED25519, ed25519, same, 0, 1},
		{"ecdsa_secp256r1_sha256_p1363_test.json", ssh.KeyAlgoECDSA256, p256, half, 32, 1},
		{"ecdsa_secp384r1_sha384_p1363_test.json", ssh.KeyAlgoECDSA384, p384, half, 48, 2},
		{"ecdsa_secp521r1_sha512_p1363_test.json", ssh.KeyAlgoECDSA521, p521, half, 66, 8},
		{"rsa_signature_2048_sha256_test.json", ssh.KeyAlgoRSASHA256, rsa, same, 0, 1},
		{"rsa_signature_2048_sha512_test.json", ssh.KeyAlgoRSASHA512, rsa, same, 0, 1},
		{"rsa_signature_3072_sha256_test.json", ssh.KeyAlgoRSASHA256, rsa, same, 0, 1},
		{"rsa_signature_4096_sha512_test.json", ssh.KeyAlgoRSASHA512, rsa, same, 0, 1},
	} {
		t.Run(c.file, func(t *testing.T) {
			text, err := fs.ReadFile(wycheproof.TestVectors, c.file)
			if err != nil {
				t.Fatal(err)
			}
			var v vectors
			if err := json.Unmarshal(text, &v); err != nil {
				t.Fatal(err)
			}
			tests, accepted, refused := 0, 0, 0
			for _, g := range v.TestGroups {
				pub := g.PublicKey
				blob := c.key(t, pub.PK+pub.Uncompressed+pub.Modulus, pub.PublicExponent)
				for _, test := range g.Tests {
					sig := unhex(t, test.Sig)
					if c.size > 0 && len(sig) != 2*c.size {
						continue // it is about the length of the other form
					}
					if tests++; tests%c.every != 0 {
						continue
					}
					s, ok := parseSignature(fields(c.format, string(c.sig(sig))))
					got := ok && s.verify(blob, unhex(t, test.Msg))
					if got {
						accepted++
					} else {
						refused++
					}
					if test.Result != "acceptable" && got != (test.Result == "valid") {
						t.Errorf("%d, %s %q: accepted %v, want %s", test.ID, test.Comment, test.Flags, got, test.Result)
					}
				}
			}
			if accepted < 5 || refused < 5 {
				t.Errorf("%d vectors are accepted and %d refused: that is too few to have read them", accepted, refused)
			}
		})
	}
}
