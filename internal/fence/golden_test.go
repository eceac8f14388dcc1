//go:build linux

package fence

import (
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
	gocmp "github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func ports(t testing.TB, specs ...string) []port.Range {
	t.Helper()
	var rs []port.Range
	for _, s := range specs {
		r, err := port.ParseRange(s)
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	return rs
}

func prefixes(specs ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range specs {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func grant(door, source string, d time.Duration) Grant {
	if p, err := netip.ParsePrefix(source); err == nil {
		return Grant{door, p, time.Now().Add(d)}
	}
	a := netip.MustParseAddr(source)
	return Grant{door, netip.PrefixFrom(a, a.BitLen()), time.Now().Add(d)}
}

// left returns the time that a grant has left.
func left(g Grant) time.Duration { return time.Until(g.Until) }

// openIn opens a fence inside the namespace and closes it with the test.
func openIn(t testing.TB, n *nstest.NS, plain bool) *Fence {
	t.Helper()
	var f *Fence
	n.Do(func() (err error) { f, err = open(slog.New(slog.DiscardHandler), plain); return })
	t.Cleanup(func() { f.Close() })
	return f
}

// list returns the table as nft prints it, without counts and the time that grants have
// left. Timeouts are rounded, since grants are given for whole minutes but reach the
// kernel a moment later.
func list(n *nstest.NS) string {
	out := n.Run("nft", "--stateless", "list", "table", "inet", "doorward")
	out = regexp.MustCompile(` # progname .*`).ReplaceAllString(out, "")
	return regexp.MustCompile(` timeout [0-9hms]+`).ReplaceAllStringFunc(out, func(s string) string {
		d, err := time.ParseDuration(strings.TrimPrefix(s, " timeout "))
		if err != nil || d < time.Minute/2 {
			return s
		}
		return " timeout " + strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	})
}

// TestGolden checks what was made by having nft list it.
func TestGolden(t *testing.T) {
	nstest.Need(t, "nft")
	for name, tc := range map[string]struct {
		doors []Door
		give  []Grant
	}{
		"empty": {},
		"drop": {
			doors: []Door{{Name: "ssh", Ports: ports(t, "22/tcp"), Listen: ports(t, "59000/tcp", "59002/tcp", "59001/tcp", "59000/tcp", "59000/udp")}},
			give:  []Grant{grant("ssh", "203.0.113.7", time.Minute), grant("ssh", "::ffff:203.0.113.8", time.Hour), grant("ssh", "2001:db8::7", time.Minute)},
		},
		"reject": {
			doors: []Door{
				{Name: "web", Ports: ports(t, "443/tcp", "443/udp"), Reject: true},
				{Name: "-9_", Ports: ports(t, "1/udp")},
			},
		},
		"single_use": {
			doors: []Door{{Name: "once", Ports: ports(t, "22/tcp"), SingleUse: true}},
			give:  []Grant{grant("once", "192.0.2.77/24", time.Minute)},
		},
		"ranges": {
			doors: []Door{
				{Name: "a", Ports: ports(t, "1-21/tcp", "60000-65535/tcp", "60000-61000/udp")},
				{Name: "b", Ports: ports(t, "22/tcp", "61001-65535/udp", "23-24/tcp")},
			},
		},
		"always": {
			doors: []Door{
				{Name: "all", Ports: ports(t, "22/tcp"), Always: prefixes("0.0.0.0/0", "::/0", "192.0.2.0/24")},
				{Name: "some", Ports: ports(t, "23/tcp"), Always: prefixes("192.0.2.128/25", "192.0.2.0/25", "192.0.2.7/32",
					"::ffff:198.51.100.9/120", "255.255.255.255/32", "2001:db8::/48", "2001:db8:1::/48", "2001:db8:0:9::1/128")},
			},
		},
		"prefixes": {
			doors: []Door{{Name: "ssh", Ports: ports(t, "22/tcp")}, {Name: "vpn", Ports: ports(t, "1194/udp")}},
			give: []Grant{
				grant("ssh", "203.0.113.9/24", time.Minute), grant("ssh", "203.0.113.9/25", time.Minute),
				grant("ssh", "2001:db8::1/64", time.Minute), grant("ssh", "2001:db8::1/61", time.Minute),
				grant("vpn", "0.0.0.0/0", time.Minute), grant("vpn", "::/0", time.Minute),
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := nstest.New(t)
			f := openIn(t, n, false)
			if err := f.Guard(tc.doors); err != nil {
				t.Fatal(err)
			}
			if err := f.Change(Changes{Give: tc.give}); err != nil {
				t.Fatal(err)
			}
			got := list(n)
			file := filepath.Join("testdata", name+".nft")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := gocmp.Diff(string(want), got); d != "" {
				t.Errorf("nft lists a table that differs from %s (-want +got):\n%s", file, d)
			}
			if d := differences(f.wholeOf(wanted), f.wholeOf(shown)); len(d) > 0 {
				t.Errorf("the kernel's table differs from what was written: %q", d)
			}
			if err := f.Check(); err != nil {
				t.Error(err)
			}
			nstest.New(t).Run("nft", "--check", "--file", file) // nft can read it back
		})
	}
}
