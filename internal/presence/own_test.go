//go:build linux

package presence

import (
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
)

func words(a *addresses) []string {
	var all []string
	for p := range maps.Keys(a.single) {
		all = append(all, p.String())
	}
	for _, p := range a.prefixes {
		all = append(all, p.Masked().String())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

const trie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 192.0.2.0
        /24 link UNICAST
Local:
  +-- 0.0.0.0/0 2 0 2
     |-- 127.0.0.0
        /32 link BROADCAST
        /8 host LOCAL
     |-- 192.0.2.1
        /32 host LOCAL
     |-- 198.51.100.0
        /24 host LOCAL tos=8
     |-- 192.0.2.255
        /32 link BROADCAST
Id 100:
  +-- 0.0.0.0/0 2 0 2
     |-- 203.0.113.0
        /24 host LOCAL
     |-- 203.0.113.200
        /32 host LOCAL
        /32 link BROADCAST
`

func TestOwnAddressesOfIPv4(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
		err  string
	}{
		"all":                 {trie, []string{"127.0.0.0/8", "192.0.2.1", "198.51.100.0/24", "203.0.113.200"}, ""},
		"everything":          {"Local:\n |-- 0.0.0.0\n /0 host LOCAL\n", nil, ""},
		"none":                {"", nil, ""},
		"no address":          {"Local:\n /32 host LOCAL\n", nil, `a route that cannot be read: " /32 host LOCAL"`},
		"no length":           {"Local:\n |-- 192.0.2.1\n x host LOCAL\n", nil, `a route that cannot be read: " x host LOCAL"`},
		"too long a length":   {"Local:\n |-- 192.0.2.1\n /33 host LOCAL\n", nil, `a route that cannot be read: " /33 host LOCAL"`},
		"too long an address": {"Local:\n |-- 2001:db8::1\n /32 host LOCAL\n", nil, `a route that cannot be read: " /32 host LOCAL"`},
	} {
		a := &addresses{single: map[netip.Addr]bool{}}
		err := a.readIPv4(strings.NewReader(test.text))
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%s: %v, want %q", name, err, test.err)
			}
			continue
		}
		if d := cmp.Diff(test.want, words(a)); err != nil || d != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, d)
		}
	}
}

func TestOwnAddressesOfIPv6(t *testing.T) {
	line := func(to, bits, flags string) string {
		zero := strings.Repeat("0", 32)
		return strings.Join([]string{to, bits, zero, "00", zero, "00000000", "00000004", "00000000", flags, "      lo\n"}, " ")
	}
	one, nobody := "20010db8000000000000000000000001", strings.Repeat("0", 32)
	for name, test := range map[string]struct {
		text string
		want []string
		err  string
	}{
		"an address":      {line(one, "80", "80200001"), []string{"2001:db8::1"}, ""},
		"a prefix":        {line(one, "40", "80200001"), []string{"2001:db8::/64"}, ""},
		"anycast":         {line(one, "80", "00300001"), []string{"2001:db8::1"}, ""},
		"another's":       {line(one, "80", "00000001"), nil, ""},
		"a proxy's route": {line(nobody, "00", "80200001"), nil, ""},
		"another of one":  {line("2"+nobody[1:], "03", "80200001"), nil, ""},
		"no flags":        {line(one, "80", "x"), nil, "a route that cannot be read: "},
		"no address":      {line("x", "80", "80200001"), nil, "a route that cannot be read: "},
		"too long":        {line(one, "81", "80200001"), nil, "a route that cannot be read: "},
		"cut":             {one + " 80\n", nil, "a route that cannot be read: "},
	} {
		a := &addresses{single: map[netip.Addr]bool{}}
		err := a.readIPv6(strings.NewReader(test.text))
		if test.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), test.err) {
				t.Errorf("%s: %v, want %q", name, err, test.err)
			}
			continue
		}
		if d := cmp.Diff(test.want, words(a)); err != nil || d != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, d)
		}
	}
}

// The kernel's own lists can be read, with one routing table and, after a rule was added,
// with two. Addresses whose packets a transparent proxy receives are not the host's own.
func TestOwnAddressesOfTheKernel(t *testing.T) {
	n, _ := nstest.Gate(t)
	want := []string{"127.0.0.0/8", "127.0.0.1", "192.0.2.1", "198.51.100.0/24", "2001:db8:7::/48", "2001:db8::1", "::1"}
	n.Run("ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo")
	n.Run("ip", "route", "add", "local", "2001:db8:7::/48", "dev", "lo")
	check := func(when string) {
		t.Helper()
		n.Do(func() error {
			a, err := ownAddresses()
			if err != nil {
				return err
			}
			got := slices.DeleteFunc(words(a), func(s string) bool { // the interface's, and what a router answers to
				return strings.HasPrefix(s, "fe80:") || s == "2001:db8::"
			})
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s (-want +got):\n%s", when, d)
			}
			for addr, want := range map[string]bool{"127.9.9.9": true, "198.51.100.200": true, "2001:db8:7:8::9": true, "::1": true,
				"192.0.2.2": false, "2001:db8::2": false, "203.0.113.1": false} {
				if a.has(netip.MustParseAddr(addr)) != want {
					t.Errorf("%s: whether %s is the host's own is wrong, want %v", when, addr, want)
				}
			}
			return nil
		})
	}
	// The kernel adds the local route of an IPv6 address a moment after the address.
	for there := false; !there && t.Context().Err() == nil; runtime.Gosched() {
		n.Do(func() error {
			a, err := ownAddresses()
			there = err != nil || a.has(netip.MustParseAddr("2001:db8::1"))
			return err
		})
	}
	check("one table")
	n.Run("ip", "rule", "add", "fwmark", "1", "lookup", "100")
	n.Run("ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
	n.Run("ip", "-6", "route", "add", "local", "::/0", "dev", "lo", "table", "100")
	n.Run("ip", "route", "add", "local", "192.0.2.0/24", "dev", "lo", "table", "100")
	n.Run("ip", "-6", "route", "add", "local", "2000::/3", "dev", "lo", "table", "100")
	check("beside a transparent proxy")
	// The local routes of an interface in a VRF are in another table like this one.
	n.Run("ip", "route", "add", "local", "203.0.113.200", "dev", "lo", "table", "10")
	want = append(want, "203.0.113.200")
	slices.Sort(want)
	check("with a VRF")
}
