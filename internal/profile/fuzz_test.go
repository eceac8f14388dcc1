package profile

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzInvite: whatever line somebody hands over, it is read without a panic. What is read is
// written and read again the same, has no more than docs/PROTOCOL.md says, and what it names
// is one word each.
func FuzzInvite(f *testing.F) {
	line := invite.String()
	f.Add(line)
	f.Add(" " + line[:40] + "\r\n  " + line[40:] + "\n")
	f.Add(line + "AAAA")
	f.Add(invitePrefix + "AgAA")
	f.Add(Invite{Port: 1, Name: "gate", Hosts: []string{"fe80::1%eth0"}, OneWay: true, AnySource: true, Expires: time.Unix(1<<32-1, 0)}.String())
	f.Add(Invite{Port: 1, Name: "../x", Door: "-x", Hosts: []string{"fe80::1%a b", "-oProxyCommand=x"}}.String())
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseInvite(text)
		if err != nil {
			return
		}
		if again, err := ParseInvite(v.String()); err != nil || !cmp.Equal(v, again) {
			t.Errorf("%q is read as %+v, which is written and read as %+v, %v", text, v, again, err)
		}
		if got := strings.Join(strings.Fields(text), ""); got != v.String() {
			t.Errorf("%q is read, and would be written as %q", text, v)
		}
		if v.AnySource && !v.OneWay || v.Port == 0 || len(v.Hosts) == 0 {
			t.Errorf("%q is read as %+v", text, v)
		}
		for _, word := range append([]string{v.Name, v.Door}, v.Hosts...) {
			if strings.ContainsAny(word, " \t\r\n\x00\x1b'\"`$;,|&<>\\*?") || strings.HasPrefix(word, "-") {
				t.Errorf("%q names %q", text, word)
			}
		}
	})
}
