package profile

import (
	"strings"
	"testing"
)

// An address with a zone (RFC 4007) is one line of plain text, too: it gets into files of
// ssh's and onto terminals.
func TestZones(t *testing.T) {
	for _, tt := range []struct {
		host string
		ok   bool
	}{
		{"fe80::1%eth0", true},
		{"fe80::1%wlp3s0.7", true},
		{"fe80::1%3", true},
		{"fe80::1%", false},
		{"fe80::1%a b", false},
		{"fe80::1%eth0\n    ProxyCommand touch /tmp/x", false},
		{"fe80::1%eth0\r    ProxyCommand touch /tmp/x", false},
		{"fe80::1%$(touch$IFS/tmp/x)", false},
		{"fe80::1%`id`", false},
		{"fe80::1%x;id", false},
		{"fe80::1%x,*", false},
		{"fe80::1%\x1b]0;x\a", false},
		{"fe80::1%%h", false},
		{"fe80::1%" + strings.Repeat("x", 16), false},
	} {
		if err := CheckHost(tt.host); (err == nil) != tt.ok {
			t.Errorf("CheckHost(%q): %v; want it allowed: %v", tt.host, err, tt.ok)
		}
		v := Invite{Port: 1, Name: "gate", Hosts: []string{tt.host}}
		if _, err := ParseInvite(v.String()); (err == nil) != tt.ok {
			t.Errorf("an invite to %q: %v; want it read: %v", tt.host, err, tt.ok)
		}
	}
}
