//go:build linux

package fence

import (
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
	gocmp "github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

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
		return Grant{door, p, d}
	}
	a := netip.MustParseAddr(source)
	return Grant{door, netip.PrefixFrom(a, a.BitLen()), d}
}

// openIn opens a fence inside the namespace and closes it with the test.
func openIn(t testing.TB, n *nstest.NS, plain bool) *Fence {
	t.Helper()
	var f *Fence
	n.Do(func() (err error) { f, err = open(slog.New(slog.DiscardHandler), plain); return })
	t.Cleanup(func() { f.Close() })
	return f
}

func TestGolden(t *testing.T) {
	nstest.Need(t, "nft")
	for name, tc := range map[string]struct {
		doors    []Door
		sessions []Session
		give     []Grant
	}{
		"empty": {},
		"drop":  {doors: []Door{{Name: "ssh", Ports: ports(t, "22/tcp")}}},
	} {
		t.Run(name, func(t *testing.T) {
			n := nstest.New(t)
			f := openIn(t, n, false)
			if err := f.Guard(tc.doors, tc.sessions); err != nil {
				t.Fatal(err)
			}
			if err := f.Change(tc.give, nil); err != nil {
				t.Fatal(err)
			}
			got := n.Run("nft", "list", "table", "inet", "doorward")
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
				t.Errorf("nft lists another table than %s (-want +got):\n%s", file, d)
			}
			if d := f.want.differences(f.base); len(d) > 0 {
				t.Errorf("the kernel shows otherwise than written: %q", d)
			}
			if err := f.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}
