package config

import (
	"strings"
	"testing"
)

func TestCheckHost(t *testing.T) {
	for _, good := range []string{
		"gate", "gate.example.org", "GATE_1.example.org", "192.0.2.2", "2001:db8::2", "xn--bcher-kva.example", "1a",
	} {
		if err := CheckHost(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", ".", "gate.", "-oProxyCommand=x", "gate-.example", "a..b", "a b", "a'b", "$(id)", "a;b", "a\nb", "[2001:db8::2]",
		"fe80::1%eth0", "b\u00fccher.example", "gate/22", "gate:22", "gate\u212a", "\u0130", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a",
	} {
		if err := CheckHost(bad); err == nil {
			t.Errorf("%q is accepted as a host", bad)
		}
	}
}
