package credential

import (
	"fmt"
	"net/netip"
	"strings"
)

// Addresses are those that from= admits: what one of its patterns covers and none of
// those with a "!" does.
type Addresses struct {
	admitted, excluded []pattern
}

// pattern is a network, or a text with * and ? for the address as it is written.
type pattern struct {
	network netip.Prefix
	text    string
}

// Admit says whether an address is one of them. It is not IPv4-mapped and has no zone.
func (a *Addresses) Admit(addr netip.Addr) bool {
	return covered(a.admitted, addr) && !covered(a.excluded, addr)
}

func covered(list []pattern, addr netip.Addr) bool {
	for _, p := range list {
		if p.text == "" && p.network.Contains(addr) || p.text != "" && match(p.text, addr.String()) {
			return true
		}
	}
	return false
}

// parseAddresses reads the value of from=. Its patterns are sshd's (addrmatch.c) but for
// names of hosts: nobody is asked whose address one has.
func parseAddresses(value string) (*Addresses, error) {
	list, err := listed(value, "addresses and networks")
	if err != nil {
		return nil, err
	}
	a := &Addresses{}
	for _, s := range list {
		bare, exclude := strings.CutPrefix(s, "!")
		p, err := parsePattern(bare)
		switch {
		case err != nil:
			return nil, err
		case exclude:
			a.excluded = append(a.excluded, p)
		default:
			a.admitted = append(a.admitted, p)
		}
	}
	if a.admitted == nil {
		return nil, fmt.Errorf("%s excludes addresses and admits none: put *, before it for all others", shown(value))
	}
	return a, nil
}

func parsePattern(s string) (pattern, error) {
	const digits, hex = "0123456789", "0123456789abcdef"
	lower := strings.ToLower(s)
	if strings.ContainsAny(lower, "*?") {
		// An address is all digits and dots, or all hexadecimal digits and colons: what
		// else there is could be a host's name alone, and would match nobody.
		if strings.Trim(lower, digits+".*?") != "" && strings.Trim(lower, hex+":*?") != "" {
			return pattern{}, notAnAddress(s)
		}
		return pattern{text: lower}, nil
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" && !addr.Is4In6() {
		return pattern{network: netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return pattern{}, notAnAddress(s)
	}
	if p != p.Masked() {
		return pattern{}, fmt.Errorf("%s has bits set after its prefix: did you mean %s, or %s alone?", s, p.Masked(), p.Addr())
	}
	return pattern{network: p}, nil
}

func notAnAddress(s string) error {
	return fmt.Errorf("%s is no address or network: allowed are 192.0.2.7, 192.0.2.0/24, 2001:db8::/32, 192.0.2.* and these after a !; names are not looked up",
		shown(s))
}

// match says whether text is what a pattern describes, in which * stands for any
// characters and ? for one. It goes back to the latest * alone, so that its work is
// bounded by the product of both lengths.
func match(pattern, text string) bool {
	p, t, star, from := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
