package profile

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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

// FuzzProfile: whatever a profile's file has, it is read without a panic. What is read is
// written and read again the same, and what it names is one word each.
func FuzzProfile(f *testing.F) {
	p := sample(f)
	p.Gateway.Bundle = p.Gateway.Bundle[:3] // a long one takes long to fuzz
	f.Add(p.text())
	p.Key, p.OneWay, p.Ports = Key{Agent: "SHA256:x", Certificate: "/c \"q\" \\"}, true, map[string][]string{"": {"22/tcp"}, "web": {"8000-8010/udp"}}
	f.Add(p.text())
	f.Add([]byte("hosts = [\"fe80::1%a b\", \"-oProxyCommand=x\"]\nport = 0\n[key]\nfile = \"\\u001b\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parse(text)
		if err != nil {
			return
		}
		if again, err := parse(p.text()); err != nil || !cmp.Equal(p, again, cmpopts.EquateEmpty()) {
			t.Errorf("%q is read as %+v, which is written and read as %+v, %v", text, p, again, err)
		}
		if p.Port == 0 || len(p.Hosts) == 0 || len(p.Hosts) > mostHosts || len(p.Carriers) == 0 {
			t.Errorf("%q is read as %+v", text, p)
		}
		words := slices.Concat(p.Hosts, p.Doors, slices.Collect(maps.Keys(p.Ports)))
		for _, word := range words {
			if strings.ContainsAny(word, " \t\r\n\x00\x1b'\"`$;,|&<>\\*?") || strings.HasPrefix(word, "-") {
				t.Errorf("%q names %q", text, word)
			}
		}
	})
}
