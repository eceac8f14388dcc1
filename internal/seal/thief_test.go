package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"testing"
)

// Who has recorded a handshake, and gets the gateway's key and the profile secret later,
// reads who the hello is from and no more: without one of the two ephemeral keys, neither
// request nor answer opens with whatever else can be agreed on. With one of them, all does.
func TestARecordingOutlivesTheTheftOfTheKey(t *testing.T) {
	for _, s := range []Suite{Hybrid, X25519} {
		t.Run(s.String(), func(t *testing.T) {
			g, peer := pairOf(t)
			c := converse(t, g, peer, s)
			in, out := newEnvelope(peer.Profile, toGateway), newEnvelope(peer.Profile, toVisitor)
			k, hello := in.open(c["hello"])
			n := map[Suite]int{Hybrid: encHybrid, X25519: encX25519}[s]
			enc := encOf(append(append([]byte(nil), hello[:saltSize]...), hello[saltSize+cookieSize:n+cookieSize]...))
			sealed := hello[n+cookieSize:][:keySize+sealExtra]
			stolen := identity(t, 1)
			seed := [32]byte{1}
			key, err := kems[s].DeriveKeyPair(seed[:])
			if err != nil {
				t.Fatal(err)
			}
			r, err := hpke.NewRecipient(enc, key, kdf, gcm, hpkeInfo("hello", peer.Profile, stolen.Fingerprint()))
			if err != nil {
				t.Fatal(err)
			}
			visitors, err := r.Open([]byte{byte(k)}, sealed)
			if err != nil {
				t.Fatalf("the thief cannot open the hello: %v", err)
			}
			export, err := r.Export(exported, 32)
			if err != nil {
				t.Fatal(err)
			}
			_, challenged := out.open(c["challenge"])
			_, asked := in.open(c["request"])
			opens := func(shared []byte) bool {
				c := newChain(export, shared, helloTranscript(stolen.Fingerprint(), k, enc, sealed), challenged[:saltSize+keySize])
				state, err := aead(c.challengeKey()).Open(nil, once[:], challenged[saltSize+keySize:][:stateSize+sealExtra], nil)
				_, err2 := aead(c.requestKey()).Open(nil, once[:], asked[stateSize:], asked[:stateSize])
				return err == nil || err2 == nil || state != nil
			}
			agree := func(own *ecdh.PrivateKey, with []byte) []byte {
				t.Helper()
				shared, err := ecdhShared(own, with)
				if err != nil {
					t.Fatal(err)
				}
				return shared
			}
			secret, err := stolen.keys[X25519].Bytes()
			if err != nil {
				t.Fatal(err)
			}
			static, err := ecdh.X25519().NewPrivateKey(secret)
			if err != nil {
				t.Fatal(err)
			}
			other, err := ecdh.X25519().GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			gateways := challenged[saltSize : saltSize+keySize]
			for name, shared := range map[string][]byte{
				"nothing": nil, "zeros": make([]byte, 32), "the export": export,
				"the static key and the visitor's":           agree(static, visitors),
				"the static key and the gateway's ephemeral": agree(static, gateways),
				"the static key and the point of the hello":  agree(static, enc[len(enc)-keySize:]),
				"a key of the thief's and the visitor's":     agree(other, visitors),
				"a key of the thief's and the gateway's":     agree(other, gateways),
				"the ephemeral keys, without a private one":  append(append([]byte(nil), visitors...), gateways...),
			} {
				if opens(shared) {
					t.Errorf("a recording opens with %s", name)
				}
			}
			if !opens(agree(g.keys.Load().ephemeral, visitors)) {
				t.Error("with the gateway's ephemeral key it does not open either: the test sees nothing")
			}
		})
	}
}
