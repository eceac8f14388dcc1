package sealed

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// FuzzIdentity: whatever an identity file has, it is read without a panic, and one that is
// read has a key and a profile secret, of which a new one comes first and the newest stays.
func FuzzIdentity(f *testing.F) {
	fresh, err := NewIdentity(rand.NewChaCha8([32]byte{1}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fresh)
	f.Add([]byte(identityText(7) + identityText(8)))
	f.Add([]byte("key AAAA\nprofile\n"))
	f.Add([]byte("# key\r\n\tprofile AAAAAAAAAAAAAAAAAAAAAA==\nkey x y\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		held, err := ReadIdentity(text)
		if err != nil {
			return
		}
		if len(held.Keys) < 1 || len(held.Keys) > mostKeys || held.Profiles < 1 || held.Profiles > mostProfiles {
			t.Fatalf("%q has %+v", text, held)
		}
		for _, what := range []string{GatewayKey, ProfileSecret} {
			next, err := Renew(text, what, rand.NewChaCha8([32]byte{2}))
			if err == nil {
				renewed, err := ReadIdentity(next)
				if err != nil || len(renewed.Keys)+renewed.Profiles != len(held.Keys)+held.Profiles+1 || what == GatewayKey && renewed.Keys[1] != held.Keys[0] {
					t.Errorf("%q with a new %s is %q: %+v, %v", text, what, next, renewed, err)
				}
			}
			last, ended, err := Retire(text, what)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			left, err := ReadIdentity(last)
			if err != nil || left.Keys[0] != held.Keys[0] || len(left.Keys)+left.Profiles+ended != len(held.Keys)+held.Profiles {
				t.Errorf("%q without older ones of %s is %q: %+v, %v", text, what, last, left, err)
			}
			if ended == 0 && !bytes.Equal(last, text) {
				t.Errorf("%q has no older %s, and becomes %q", text, what, last)
			}
		}
	})
}
