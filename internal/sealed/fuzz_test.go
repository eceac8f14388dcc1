package sealed

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/knock"
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

// FuzzMarks: whatever marks a store has, they are read without a panic. Who is locked or
// revoked is so under each name, a key is enrolled under its own fingerprint alone, and a
// code that is read is written and read again the same.
func FuzzMarks(f *testing.F) {
	id := newKey("alice").id()
	hash := strings.Repeat("07", 32)
	for _, m := range [][2]string{
		{keyMark + id, newKey("alice").line("")},
		{keyMark + newKey("bob").id(), newKey("alice").line(`from="192.0.2.0/24"`)},
		{lockMark + id, "by operator root (uid 0)"},
		{inviteMark + hash, `{"name":"alice","options":"doors=\"web\"","expires":1800000000,"made":1700000000,"key":"` + id + `"}`},
		{rescueMark + hash, `{"name":"sheet","made":-1}`},
		{rescueMark + "7", `{}`},
		{rescueMark + strings.Repeat("0D", 32), `{"name":"capitals","made":1}`},
		{counterMark + id, "12345678"},
		{horizonMark, "87654321"},
	} {
		f.Add(m[0], []byte(m[1]))
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		l := newLedger([]knock.Mark{{Key: key, Value: value, Common: true}})
		for of, k := range l.keys {
			if k.Fingerprint.String() != of {
				t.Errorf("%q with %q enrols %s as %q", key, value, k.Fingerprint, of)
			}
		}
		if of, is := strings.CutPrefix(key, lockMark); is && l.locked[of] != string(value) {
			t.Errorf("%q with %q locks nobody", key, value)
		}
		if of, is := strings.CutPrefix(key, revokedMark); is && l.revoked[of] != string(value) {
			t.Errorf("%q with %q revokes nobody", key, value)
		}
		for kind, codes := range map[string]map[string]*code{inviteMark: l.invites, rescueMark: l.rescues} {
			for of, c := range codes {
				m := c.mark(kind)
				again := newLedger([]knock.Mark{m})
				if got := again.invites[of]; kind == inviteMark && (got == nil || !bytes.Equal(got.mark(kind).Value, m.Value)) {
					t.Errorf("%q with %q is written as %q, and read as %+v", key, value, m.Value, got)
				}
				if got := again.rescues[of]; kind == rescueMark && (got == nil || !bytes.Equal(got.mark(kind).Value, m.Value)) {
					t.Errorf("%q with %q is written as %q, and read as %+v", key, value, m.Value, got)
				}
			}
		}
	})
}
