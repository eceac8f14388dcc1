package config

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/doorward/doorward/internal/tables"
)

// host reads the name or address by which visitors reach the machine.
func host(v tables.Value) string {
	const allowed = `"" for none, and names and addresses such as "gate.example.org"`
	if !v.Given() {
		return ""
	}
	s, ok := v.Text(allowed)
	if !ok || s == "" {
		return ""
	}
	if err := CheckHost(s); err != nil {
		v.Wrong("not the name or address of a machine", allowed)
		return ""
	}
	return s
}

// CheckHost returns an error unless host is the name or the address of a machine. It
// goes into scripts, so nothing is accepted that could mean more than a host.
func CheckHost(host string) error {
	const allowed = "allowed are names such as gate.example.org and IP addresses"
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return fmt.Errorf("host %q: a zone means nothing on another machine", host)
		}
		return nil
	}
	if len(host) > 253 {
		return fmt.Errorf("host %.20q...: longer than 253 characters", host)
	}
	for label := range strings.SplitSeq(host, ".") {
		// RFC 1123, section 2.1, and the underscore that people use anyway.
		bad := strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
		})
		if bad || label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("host %q: %s", host, allowed)
		}
	}
	return nil
}
